//! Patterns that no automaton can match, such as those with look-arounds: PCRE2 tries each of their ways, for every path. How many there are, from above.

use thiserror::Error;

/// Groups of one pattern. PCRE2 keeps a copy of what all of them hold for each that is open.
const MAX_GROUPS: usize = 32;
/// What may stand behind `\`, beside signs that then mean themselves.
const ESCAPES: &str = "dDsSwWbB";

/// Why nobody can say how long it takes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum BacktrackingError {
    #[error("it has a group of another kind than look-arounds and plain ones")]
    GroupKind,
    #[error("it has more than {MAX_GROUPS} groups")]
    Groups,
    #[error("it repeats a group (expected at most ? behind one)")]
    RepeatedGroup,
    #[error("it has a group that does not begin or does not end")]
    Unbalanced,
    #[error("it has a class of characters that does not end")]
    Class,
    #[error("it has \\{0} (expected one of {ESCAPES}, or a sign, behind \\)")]
    Escape(char),
    #[error("it ends with \\")]
    Backslash,
}

/// The ways of a group: of the alternatives before this one, and of this one so far.
struct Group {
    before: u64,
    this: u64,
}

impl Group {
    const NEW: Self = Self { before: 0, this: 1 };

    fn ways(&self) -> u64 {
        self.before.saturating_add(self.this)
    }

    fn times(&mut self, ways: u64) {
        self.this = self.this.saturating_mul(ways);
    }
}

/// How many ways there are at most through this pattern, as it stands in the policy, on a path of so many bytes. What stands one behind the other
/// multiplies, alternatives add up, and a repetition may end at each byte.
pub(super) fn ways(pattern: &str, longest: u64) -> Result<u64, BacktrackingError> {
    let mut groups = vec![Group::NEW];
    let mut count = 0;
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let item = rest;
        rest = &rest[first.len_utf8()..];
        let times = match first {
            '(' => {
                rest = begin(rest)?;
                count += 1;
                if count > MAX_GROUPS {
                    return Err(BacktrackingError::Groups);
                }
                groups.push(Group::NEW);
                continue;
            }
            '|' => {
                let group = groups.last_mut().ok_or(BacktrackingError::Unbalanced)?;
                *group = Group { before: group.ways(), this: 1 };
                continue;
            }
            ')' => {
                let inner = groups.pop().ok_or(BacktrackingError::Unbalanced)?.ways();
                let (repeated, behind) = repetition(rest);
                rest = behind;
                match repeated {
                    Repetition::Once => inner,
                    Repetition::Optional => inner.saturating_add(1),
                    Repetition::Many => return Err(BacktrackingError::RepeatedGroup),
                }
            }
            _ => {
                rest = if first == '[' { class(rest)? } else { single(first, rest)? };
                let text = &item[..item.len() - rest.len()];
                let (repeated, behind) = repetition(rest);
                rest = behind;
                match repeated {
                    Repetition::Once => 1,
                    Repetition::Optional => 2,
                    // It can end in one place only, and PCRE2 sees that.
                    Repetition::Many if text == "[^/]" && begins_with_slash(behind) => 1,
                    Repetition::Many => longest.max(2),
                }
            }
        };
        groups.last_mut().ok_or(BacktrackingError::Unbalanced)?.times(times);
    }
    match &groups[..] {
        [all] => Ok(all.ways()),
        _ => Err(BacktrackingError::Unbalanced),
    }
}

/// What is behind the beginning of a group, of which the parenthesis was read.
fn begin(rest: &str) -> Result<&str, BacktrackingError> {
    if !rest.starts_with(['?', '*']) {
        return Ok(rest);
    }
    let known = ["?:", "?=", "?!", "?<=", "?<!"].iter().find_map(|kind| rest.strip_prefix(kind));
    known.ok_or(BacktrackingError::GroupKind)
}

/// What is behind a class, of which the bracket was read.
fn class(rest: &str) -> Result<&str, BacktrackingError> {
    let rest = rest.strip_prefix('^').unwrap_or(rest);
    let mut rest = rest.strip_prefix(']').unwrap_or(rest);
    loop {
        let next = rest.chars().next().ok_or(BacktrackingError::Class)?;
        let behind = &rest[next.len_utf8()..];
        rest = match next {
            ']' => return Ok(behind),
            '\\' => single(next, behind)?,
            '[' => named(behind).unwrap_or(behind),
            _ => behind,
        };
    }
}

/// What is behind a class with a name, of which the bracket was read, where that is one: else the bracket means itself.
fn named(rest: &str) -> Option<&str> {
    let sign = rest.chars().next().filter(|sign| [':', '.', '='].contains(sign))?;
    let (name, behind) = rest[1..].split_once(']')?;
    name.ends_with(sign).then_some(behind)
}

/// Whether there is a slash on every way.
fn begins_with_slash(rest: &str) -> bool {
    rest.strip_prefix('/').is_some_and(|behind| repetition(behind).0 == Repetition::Once)
}

/// What is behind one character.
fn single(first: char, rest: &str) -> Result<&str, BacktrackingError> {
    if first != '\\' {
        return Ok(rest);
    }
    let escaped = rest.chars().next().ok_or(BacktrackingError::Backslash)?;
    if escaped.is_ascii_alphanumeric() && !ESCAPES.contains(escaped) {
        return Err(BacktrackingError::Escape(escaped));
    }
    Ok(&rest[escaped.len_utf8()..])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repetition {
    Once,
    Optional,
    Many,
}

/// How often what was read can occur, and what is behind that.
fn repetition(rest: &str) -> (Repetition, &str) {
    let (repeated, behind) = match rest.chars().next() {
        Some('?') => (Repetition::Optional, &rest[1..]),
        Some('*' | '+') => (Repetition::Many, &rest[1..]),
        Some('{') => match rest.split_once('}') {
            // Else the brace means itself.
            Some((count, behind)) if count[1..].bytes().all(|byte| byte.is_ascii_digit() || byte == b',') && count.len() > 1 => {
                (Repetition::Many, behind)
            }
            _ => return (Repetition::Once, rest),
        },
        _ => return (Repetition::Once, rest),
    };
    // As few as possible, or without a way back.
    (repeated, behind.strip_prefix(['?', '+']).unwrap_or(behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_counted() {
        const MANY: u64 = 4095;
        let ways = |pattern: &str| ways(pattern, MANY);
        let table = [
            ("/var/run/waydroid-(?!lxc).*", MANY),
            ("/run/user/%{USERID}/gnupg(/.*)?", MANY + 1),
            ("/run/user/%{USERID}/gnupg/S\\.gpg-agent.*", MANY),
            ("/srv/(?!backup)[^/]+/[^/]*/x", 1),
            ("/srv/(?!backup)[^/]+", MANY),
            ("/(?<!a)b?", 2),
            ("(a|b|c(?=d))(?:e|f)", 6),
            ("(?!a).*b.*", MANY * MANY),
            ("(?!a).*?b.{3,9}+", MANY * MANY),
            ("(?!a)[]*)]x{y}[^]\\]([:alpha:]]\\*{", 1),
            // The slash may be left out.
            ("(?!a)[^/]*/?", 2 * MANY),
            ("(?!a)[^/]*/*", MANY * MANY),
            // A bracket that begins no name of a class.
            ("(?!a)[[:]b]", 1),
            ("(?!a)[[:alpha]b*]", MANY),
            ("(?!a)[[:alpha:]b]*", MANY),
            ("", 1),
        ];
        for (pattern, expected) in table {
            assert_eq!(ways(pattern), Ok(expected), "{pattern}");
        }
        assert_eq!(ways(&format!("(?!a){}", ".*".repeat(100))), Ok(u64::MAX));
        assert_eq!(ways(&format!("(?!a){}", "a?".repeat(30))), Ok(1 << 30));
    }

    #[test]
    fn what_has_ways_without_end_is_refused() {
        use BacktrackingError::*;
        let ways = |pattern: &str| ways(pattern, 4095);
        let table = [
            ("(?!a)(.*)*", RepeatedGroup),
            ("(?!a)(a|a)+b", RepeatedGroup),
            ("(?!a)[[:]?(a|aa)*bb]", RepeatedGroup),
            ("(?!a)[[.]?(a|aa)*bb]", RepeatedGroup),
            ("(?!a)(a){2}", RepeatedGroup),
            ("(?!a){2,}", RepeatedGroup),
            ("(a)(?1)", GroupKind),
            ("(?R)", GroupKind),
            ("(?i)(?!a)", GroupKind),
            ("(*LIMIT_MATCH=9)", GroupKind),
            ("(a)\\1", Escape('1')),
            ("\\Qa", Escape('Q')),
            ("[\\x{41}]", Escape('x')),
            ("(?!a", Unbalanced),
            ("a)|(?!b)(c", Unbalanced),
            ("a)", Unbalanced),
            ("[a", Class),
            ("[[:alpha:", Class),
            ("a\\", Backslash),
        ];
        for (pattern, expected) in table {
            assert_eq!(ways(pattern), Err(expected), "{pattern}");
        }
        assert_eq!(ways(&"(a)".repeat(33)), Err(Groups));
        assert_eq!(ways(&"(a)".repeat(32)), Ok(1));
    }
}
