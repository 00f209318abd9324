//! Cargo's tests beside everything else.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Child,
    thread::{JoinHandle, sleep},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    cargo_test_argv,
    tally::{Tally, failures},
};
use crate::{
    command::Argv,
    lab::Lab,
    story::{self, Teller},
};

/// Cargo's tests, running while something else does. They use what the lab does not: ports that the kernel chooses, mounts in name spaces of their
/// own, loop devices that losetup chooses, temporary directories.
#[derive(Debug)]
pub(super) struct Beside {
    reader: JoinHandle<Result<Tally>>,
    log: PathBuf,
}

impl Beside {
    /// Starts them, behind everything else that wants the processors, with their output going to a file. Where they fail, that is shown at once.
    pub(super) fn start(lab: &Lab, tell: &Teller) -> Result<Self> {
        let log = lab.log("cargo-test");
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let stderr = file.try_clone().context("opening the log a second time")?;
        let argv = Argv::new(["nice", "-n", "10"]).with(cargo_test_argv(lab).0).dying_with_us();
        let child = argv.command().stdout(file).stderr(stderr).spawn().with_context(|| format!("starting {argv}"))?;
        tell.say(format!("their output goes to {}, and is shown at the end, or at once where they fail", log.display()));
        let read = log.clone();
        Ok(Self { reader: std::thread::spawn(move || outcome(child, &read, &argv)), log })
    }

    /// Waits until they no longer want the processors.
    pub(super) fn wait(&self) {
        while !self.reader.is_finished() {
            sleep(Duration::from_secs(1));
        }
    }

    /// Waits for them, shows their output if all is well, and adds their counts.
    pub(super) fn join(self, tally: &mut Tally) -> Result<()> {
        let Ok(counted) = self.reader.join() else { bail!("waiting for cargo's tests: the thread that reads their output ended early") };
        let counted = counted?;
        if counted.failed == 0 {
            show(&self.log)?;
        } else {
            // It was shown when it happened, long before the end.
            story::line("these of cargo's tests have failed:");
            story::line(&failures(&text(&self.log)?));
        }
        tally.passed += counted.passed;
        tally.failed += counted.failed;
        tally.cut_points += counted.cut_points;
        Ok(())
    }
}

/// What the tests of `child`, whose output goes to `log`, come to.
fn outcome(mut child: Child, log: &Path, argv: &Argv) -> Result<Tally> {
    let status = child.wait().context("waiting for cargo")?;
    let mut tally = Tally::default();
    text(log)?.lines().for_each(|line| tally.read(line));
    if !status.success() {
        story::line("cargo's tests have failed:");
        show(log)?;
        if tally.failed == 0 {
            bail!("running {argv}: {status}");
        }
    }
    Ok(tally)
}

fn show(log: &Path) -> Result<()> {
    story::line(&text(log)?);
    Ok(())
}

fn text(log: &Path) -> Result<String> {
    let bytes = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_beside_are_counted_and_an_end_without_counts_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("log");
        let run = |script: &str| {
            let argv = Argv::new(["sh", "-c", script]);
            let child = argv.command().stdout(File::create(&log).unwrap()).spawn().unwrap();
            outcome(child, &log, &argv)
        };
        assert_eq!(run("echo 'test result: ok. 3 passed; 0 failed;'").unwrap(), Tally { passed: 3, failed: 0, cut_points: 0 });
        assert_eq!(
            run("echo 'test result: FAILED. 3 passed; 1 failed;'; exit 101").unwrap(),
            Tally { passed: 3, failed: 1, cut_points: 0 }
        );
        assert!(run("echo error: no such crate; exit 101").unwrap_err().to_string().contains("exit status: 101"));
    }
}
