//! What the patterns of a policy take. The library makes one automaton of all of them, of any size, and follows it for every path, in as many of its states
//! at once as there are ways.
//!
//! It is counted from above, by how the crate `regex-automata` makes automata; tests compare with what the crate says. In brackets is the most of what the
//! policies of Fedora, Red Hat and Debian have, which are of up to 6,800 patterns, and for which the library takes 25 MiB. At the limits it takes 100 MiB, and
//! with paths made for it an hour.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Repetition};
use thiserror::Error;

use super::backtracking::{self, BacktrackingError};

/// Bytes of a pattern (80): its parser takes some hundred times as many for a moment.
const MAX_LENGTH: usize = 4096;
/// States of a pattern (151).
const MAX_STATES: u64 = 2048;
/// Parts of all patterns (61,000), each of 100 to 350 bytes. The library has them in memory all at once.
const MAX_ALL_PARTS: u64 = 250_000;
/// States of all patterns (210,000).
const MAX_ALL_STATES: u64 = 800_000;
/// States that the automaton can be in at once (6,500): where a policy is made for it, each byte of each path takes all of them.
const MAX_AT_ONCE: u64 = 30_000;
/// Patterns that have to be tried way by way (27, such as `%{USERID}`), and the ways of all of them on the longest path of the image (74,000 where that is as long as can be). PCRE2
/// gives up after ten millions for one, as it was built: no label may depend on that.
const MAX_TRIED: usize = 256;
const MAX_WAYS: u64 = 1_000_000;
/// What all paths take: each byte of them each state that the automaton can be in, and each way (10 to 400 thousand millions for 40,000 to 500,000 files). A step is about a
/// nanosecond, where there is no shorter way.
const MAX_STEPS: u64 = 4_000_000_000_000;

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum PatternError {
    #[error("it has {0} bytes (expected at most {MAX_LENGTH})")]
    Long(usize),
    #[error("it takes up to {0} states to match it (expected at most {MAX_STATES})")]
    States(u64),
    #[error("with it, the patterns of the policy have {0} parts (expected at most {MAX_ALL_PARTS})")]
    AllParts(u64),
    #[error("with it, the patterns of the policy take up to {0} states to match them (expected at most {MAX_ALL_STATES})")]
    AllStates(u64),
    #[error("no automaton can match it, and {0}")]
    Untold(#[from] BacktrackingError),
    #[error("it is one of more than {MAX_TRIED} that no automaton can match")]
    Tried,
    #[error("no automaton can match it, and with it there are {0} ways to try for one path (expected at most {MAX_WAYS})")]
    Ways(u64),
}

/// The patterns so far.
#[derive(Debug)]
pub(super) struct Patterns {
    /// Bytes of the longest path that they are for.
    longest: u64,
    parts: u64,
    states: u64,
    /// What each path has to begin with for a pattern, and the states that are behind that.
    behind: Vec<(Vec<u8>, u64)>,
    tried: usize,
    ways: u64,
}

impl Patterns {
    pub(super) fn new(longest: u64) -> Self {
        Self { longest, parts: 0, states: 0, behind: Vec::new(), tried: 0, ways: 0 }
    }

    /// Takes a pattern, as it stands in the policy and as the library frames it.
    pub(super) fn add(&mut self, pattern: &str, framed: &str) -> Result<(), PatternError> {
        if pattern.len() > MAX_LENGTH {
            return Err(PatternError::Long(pattern.len()));
        }
        match parse(framed) {
            Some(hir) => self.add_matched(&hir),
            None => self.add_tried(pattern),
        }
    }

    fn add_matched(&mut self, hir: &Hir) -> Result<(), PatternError> {
        let size = Size::of(hir);
        if size.states > MAX_STATES {
            return Err(PatternError::States(size.states));
        }
        self.parts += size.parts;
        self.states += size.states;
        if self.parts > MAX_ALL_PARTS {
            return Err(PatternError::AllParts(self.parts));
        }
        if self.states > MAX_ALL_STATES {
            return Err(PatternError::AllStates(self.states));
        }
        let mut beginning = Vec::new();
        begin(hir, &mut beginning);
        let behind = size.states.saturating_sub(beginning.len() as u64);
        self.behind.push((beginning, behind));
        Ok(())
    }

    fn add_tried(&mut self, pattern: &str) -> Result<(), PatternError> {
        self.ways = self.ways.saturating_add(backtracking::ways(pattern, self.longest)?);
        self.tried += 1;
        if self.tried > MAX_TRIED {
            return Err(PatternError::Tried);
        }
        if self.ways > MAX_WAYS {
            return Err(PatternError::Ways(self.ways));
        }
        Ok(())
    }

    /// After the last pattern: whether there is a path that too many of them could match, or all paths, of so many bytes, take too long.
    pub(super) fn require_few_at_once(self, bytes: u64) -> Result<(), String> {
        let (states, beginning) = most_at_once(self.behind);
        if states <= MAX_AT_ONCE {
            let steps = states.saturating_add(self.ways).saturating_mul(bytes);
            if steps <= MAX_STEPS {
                return Ok(());
            }
            return Err(format!(
                "for the paths of the image, which have {bytes} bytes, the patterns take up to {steps} steps (expected at most {MAX_STEPS})"
            ));
        }
        let path = String::from_utf8_lossy(&beginning);
        Err(format!(
            "for a path that begins with {path:?}, the patterns can be in {states} states at once (expected at most {MAX_AT_ONCE})"
        ))
    }
}

/// The pattern as the library parses it; `None` where it hands it to PCRE2.
pub(super) fn parse(framed: &str) -> Option<Hir> {
    ParserBuilder::new().unicode(false).utf8(false).line_terminator(0).build().parse(framed).ok()
}

/// What a pattern takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// In memory once it is parsed.
    parts: u64,
    /// While the automaton is made. In the end there are fewer.
    pub(super) states: u64,
}

impl Size {
    /// Patterns are nested at most 250 deep: the parser sees to that.
    pub(super) fn of(hir: &Hir) -> Self {
        let mut parts = 0;
        // The state that says which pattern it is.
        let states = states(hir, &mut parts).saturating_add(1);
        Self { parts, states }
    }
}

fn states(hir: &Hir, parts: &mut u64) -> u64 {
    *parts += 1;
    let mut all = |hirs: &[Hir]| hirs.iter().fold(0_u64, |sum, hir| sum.saturating_add(states(hir, parts)));
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len() as u64,
        // A state may lead to others for many ranges of bytes.
        HirKind::Class(Class::Bytes(class)) => 2 + class.ranges().len() as u64 / 4,
        // Up to twenty sequences of up to four bytes for a range. The library asks for bytes, but a pattern can ask for Unicode.
        HirKind::Class(Class::Unicode(class)) => {
            *parts += class.ranges().len() as u64 / 16;
            2 + 100 * class.ranges().len() as u64
        }
        HirKind::Capture(group) => states(&group.sub, parts),
        HirKind::Concat(hirs) => all(hirs),
        HirKind::Alternation(hirs) => {
            // Literals become a tree of bytes, with a fork at each.
            let literal = hirs.iter().all(|hir| matches!(hir.kind(), HirKind::Literal(_)));
            all(hirs).saturating_mul(if literal { 2 } else { 1 }).saturating_add(2)
        }
        HirKind::Repetition(Repetition { min, max, sub, .. }) => {
            let copies = u64::from(max.unwrap_or(*min).max(1));
            copies.saturating_mul(states(sub, parts).saturating_add(1)).saturating_add(3)
        }
    }
}

/// Adds what every path of this pattern begins with, and says whether there is nothing behind it.
fn begin(hir: &Hir, beginning: &mut Vec<u8>) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => true,
        HirKind::Literal(literal) => {
            beginning.extend_from_slice(&literal.0);
            true
        }
        HirKind::Capture(group) => begin(&group.sub, beginning),
        HirKind::Concat(hirs) => hirs.iter().all(|hir| begin(hir, beginning)),
        HirKind::Class(_) | HirKind::Alternation(_) | HirKind::Repetition(_) => false,
    }
}

/// The most states that patterns have together of which a path can have all beginnings, and the longest of these.
fn most_at_once(mut behind: Vec<(Vec<u8>, u64)>) -> (u64, Vec<u8>) {
    behind.sort_unstable();
    // Beginnings of the current one, each with the states of all up to it.
    let mut above: Vec<(&[u8], u64)> = Vec::new();
    let mut most = (0, &[][..]);
    for (beginning, states) in &behind {
        while above.last().is_some_and(|(shorter, _)| !beginning.starts_with(shorter)) {
            above.pop();
        }
        let together = above.last().map_or(0, |(_, states)| *states) + states;
        above.push((beginning, together));
        if together > most.0 {
            most = (together, beginning);
        }
    }
    (most.0, most.1.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(patterns: &mut Patterns, pattern: &str) -> Result<(), PatternError> {
        patterns.add(pattern, &format!("^({pattern}).$"))
    }

    #[test]
    fn a_pattern_is_refused_for_what_becomes_of_it() {
        let states = |states| PatternError::States(states);
        let table = [
            ("/usr(/.*)?".to_owned(), Ok(())),
            ("/var/run/irqbalance[0-9]{0,9}\\.sock".to_owned(), Ok(())),
            ("/x{1000}".to_owned(), Ok(())),
            ("/x{1000}{1000}{100}".to_owned(), Err(states(200_400_409))),
            ("(a{500}){500}".to_owned(), Err(states(502_008))),
            ("(((a{4000000000}){4000000000}){4000000000})".to_owned(), Err(states(u64::MAX))),
            (format!("/{}", "a".repeat(MAX_LENGTH)), Err(PatternError::Long(MAX_LENGTH + 1))),
            // Deeper than the parser of automata goes.
            (format!("{}a{}", "(".repeat(300), ")".repeat(300)), Err(PatternError::Untold(BacktrackingError::Groups))),
            ("/(?!x).*.*.*".to_owned(), Err(PatternError::Ways(4095 * 4095 * 4095))),
            ("/var/run/waydroid-(?!lxc).*".to_owned(), Ok(())),
        ];
        for (pattern, expected) in table {
            assert_eq!(add(&mut Patterns::new(4095), &pattern), expected, "{pattern}");
        }
    }

    /// Adds until one is refused, and tells how many were taken.
    fn taken(pattern: impl Fn(usize) -> String) -> (usize, PatternError) {
        let mut patterns = Patterns::new(4095);
        (0..).find_map(|number| add(&mut patterns, &pattern(number)).err().map(|error| (number, error))).unwrap()
    }

    #[test]
    fn small_patterns_add_up() {
        let table = [
            (taken(|number| format!("/{number}")), (41_666, PatternError::AllParts(250_002))),
            (taken(|_| "/x{500}".to_owned()), (792, PatternError::AllStates(800_137))),
            (taken(|_| "/(?!x)".to_owned()), (MAX_TRIED, PatternError::Tried)),
            (taken(|_| "/(?!x).*".to_owned()), (244, PatternError::Ways(245 * 4095))),
            (taken(|_| "/(?!x).*.*".to_owned()), (0, PatternError::Ways(4095 * 4095))),
        ];
        for (found, expected) in table {
            assert_eq!(found, expected);
        }
    }

    fn at_once(patterns: &[String]) -> Result<(), String> {
        of_bytes(patterns, 1 << 20)
    }

    fn of_bytes(patterns: &[String], bytes: u64) -> Result<(), String> {
        let mut all = Patterns::new(100);
        patterns.iter().for_each(|pattern| add(&mut all, pattern).unwrap());
        all.require_few_at_once(bytes)
    }

    #[test]
    fn what_all_paths_take_is_bounded() {
        // 20,000 states and ways, about.
        for pattern in ["/(?!x).*.*x", "/.*a.{60}N"] {
            let patterns: Vec<String> =
                (0..if pattern.contains('N') { 100 } else { 2 }).map(|n| pattern.replace('N', &n.to_string())).collect();
            assert_eq!(of_bytes(&patterns, 50 << 20), Ok(()), "{pattern}");
            let error = of_bytes(&patterns, 1 << 30).unwrap_err();
            assert!(error.starts_with("for the paths of the image, which have 1073741824 bytes, the patterns take up to "), "{error}");
        }
    }

    #[test]
    fn what_one_path_can_match_is_bounded() {
        let number = |pattern: &str| (0..300).map(|number| pattern.replace('N', &number.to_string())).collect::<Vec<_>>();
        // Each has some 200 states behind what it begins with, which is another directory each time, or the same.
        assert_eq!(at_once(&number("/d/N/.*a.{60}")), Ok(()));
        let error = at_once(&number("/d/.*a.{60}N")).unwrap_err();
        assert!(error.starts_with("for a path that begins with \"/d/\", the patterns can be in "), "{error}");
        // A directory counts for all that is below it.
        let nested = |above: usize, below: usize| [&number("/d/.*a.{60}N")[..above], &number("/d/e/.*a.{60}N")[..below]].concat();
        assert_eq!((at_once(&nested(100, 0)), at_once(&nested(0, 100))), (Ok(()), Ok(())));
        assert!(at_once(&nested(100, 100)).unwrap_err().contains("\"/d/e/\""));
    }
}
