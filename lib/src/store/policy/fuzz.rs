//! A target of the look at a policy: see [`crate::fuzz`].

use regex_automata::nfa::thompson::{Compiler, Config, WhichCaptures};

use super::patterns::{Patterns, Size, parse};

/// The most bytes of a state while an automaton is made, with those for what leads from it to others.
const STATE: u64 = 40;

/// Patterns, one a line: those that are taken make automata that are no larger than what was counted.
pub(crate) fn patterns(bytes: &[u8]) {
    let mut patterns = Patterns::new(crate::store::names::PATH_MAX as u64);
    let mut states = 0;
    let mut hirs = Vec::new();
    for pattern in String::from_utf8_lossy(bytes).lines() {
        let framed = format!("^({pattern}).$");
        if patterns.add(pattern, &framed).is_ok()
            && let Some(hir) = parse(&framed)
        {
            states += Size::of(&hir).states;
            hirs.push(hir);
        }
    }
    let counted = usize::try_from((states + 8) * STATE).expect("a bound");
    let config = Config::new().which_captures(WhichCaptures::None).nfa_size_limit(Some(counted));
    let made = Compiler::new().configure(config).build_many_from_hir(&hirs);
    assert!(made.is_ok(), "{made:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_automaton_is_larger_than_what_was_counted() {
        let words = [
            "",
            "a",
            "abc",
            ".",
            "[^/]",
            "[acegikmoqsuwy]",
            "\\W",
            "(a|b)",
            "(ab|cd|ce)",
            "(ab|c.|)",
            "(\u{e9}|\u{e8}|\u{4e00})",
            "(?u:\u{e9}|.)",
            "(?i)\u{e9}a",
            "(?u:[\u{80}-\u{10ffff}])",
            "()",
            "(()|a)",
            "\\b",
            "$",
        ];
        let times =
            ["", "?", "??", "*", "*?", "+", "{0}", "{1}", "{7}", "{0,}", "{1,}", "{2,}", "{5,}?", "{0,1}", "{0,6}", "{3,9}?", "{3,3}"];
        for word in words {
            for inner in times {
                for outer in times {
                    patterns(format!("/(?:(?:{word}){inner}){outer}").as_bytes());
                    patterns(format!("/(?:(?:{word}){inner}{word}|x{word}){outer}\n{word}").as_bytes());
                }
            }
        }
    }
}
