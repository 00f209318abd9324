//! Counting what passed and what failed.

use anyhow::Result;

use crate::story;

/// How many checks passed and failed, and at how many points crash tests stopped a verb.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) cut_points: u64,
}

impl Tally {
    /// Counts one check, and shows its error.
    pub(super) fn count(&mut self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                story::complain(&error);
                self.failed += 1;
            }
        }
    }

    /// Adds what a line of cargo's output counts, if it is such a line: `test result: ok. 3 passed; 0 failed; …`, or `cut points: 12 (upgrade)`,
    /// which a crash test may say in the middle of a line of the test harness.
    pub(super) fn read(&mut self, line: &str) {
        if let Some((_, points)) = line.split_once("cut points: ") {
            let end = points.find(|c: char| !c.is_ascii_digit()).unwrap_or(points.len());
            self.cut_points += points[..end].parse::<u64>().unwrap_or(0);
        }
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let number = |word: &str| {
            let before = counts.split(word).next()?.trim_end();
            before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        self.passed += number("passed;").unwrap_or(0);
        self.failed += number("failed;").unwrap_or(0);
    }
}

/// What cargo printed of the tests that failed: of each program that had some, its name, what they said, and its count. So that it can be shown once more
/// where a log is read from its end.
pub(super) fn failures(output: &str) -> String {
    let (mut program, mut told, mut all) = ("", None::<String>, String::new());
    for line in output.lines() {
        if line.trim_start().starts_with("Running ") || line.trim_start().starts_with("Doc-tests ") {
            (program, told) = (line, None);
        }
        if line == "failures:" && told.is_none() {
            told = Some(format!("{program}\n"));
        }
        if let Some(told) = &mut told {
            told.extend([line, "\n"]);
        }
        if line.starts_with("test result: ") {
            all.extend(told.take());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_found_in_the_output() {
        let well = "     Running tests/a.rs (a)\n\ntest one ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
        let failed = "     Running tests/b.rs (b)\n\ntest two ... FAILED\n\nfailures:\n\n---- two stdout ----\nleft: 1\n\nfailures:\n    two\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        let told = "     Running tests/b.rs (b)\nfailures:\n\n---- two stdout ----\nleft: 1\n\nfailures:\n    two\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";
        assert_eq!(failures(well), "");
        assert_eq!(failures(&format!("{well}{failed}{well}")), told);
    }

    #[test]
    fn cargo_results_are_added_up() {
        let mut tally = Tally::default();
        tally.read("running 12 tests");
        tally.read("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s");
        tally.read("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        tally.read("cut points: 12 (upgrade)");
        tally.read("test rollback_survives_a_stop_after_every_step ... cut points: 3 (rollback)");
        tally.read("the cut points: none");
        assert_eq!(tally, Tally { passed: 13, failed: 2, cut_points: 15 });
    }
}
