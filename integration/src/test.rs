//! `cargo xtask test`: format, lints, cargo's tests and the scenarios; ends with one line of counts.
//!
//! Cargo's tests use one processor at a time for the most part, and the scenarios wait for guests: together they run side by side.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::JoinHandle,
};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, Programs, TOOLS, cargo},
    cli::{LabOptions, Suite, TestOptions},
    command::{Argv, is_root},
    digests, disk,
    images::{self, Images},
    lab::Lab,
    packages,
    registry::{self, Registry},
    scenarios::{self, Bench, Scenario, TAG},
    story::{self, Story, Teller},
    vm::Accel,
};

/// Runs the tests.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    let lab = Lab::open()?;
    let selected = scenarios::select(&options.scenario)?;
    let suite = if options.scenario.is_empty() { options.suite } else { Suite::Vm };
    let mut story = Story::new("Testing selkie");
    let mut tally = Tally::default();
    story.step("installing what is missing", |tell| packages::install_missing(&lab, tell))?;
    if suite != Suite::Vm {
        checks(&lab, &mut story, &mut tally);
    }
    let beside = match suite {
        Suite::Unit => {
            let outcome = story.step("running cargo's tests", |_| cargo_test(&lab, &mut tally));
            outcome.unwrap_or_else(|error| tally.count(Err(error)));
            None
        }
        Suite::Vm => None,
        Suite::All => Some(story.step("starting cargo's tests, beside what follows", |tell| Beside::start(&lab, tell))),
    };
    if suite != Suite::Unit
        && let Err(error) = vm(&lab, &options.lab, &selected, &mut story, &mut tally)
    {
        tally.count(Err(error));
    }
    if let Some(beside) = beside {
        let outcome = story.step("waiting for cargo's tests", |_| beside.and_then(|beside| beside.join(&mut tally)));
        outcome.unwrap_or_else(|error| tally.count(Err(error)));
    }
    story.table();
    if tally.cut_points > 0 {
        story::line(&format!("\nverbs that write were stopped at {} points", tally.cut_points));
    }
    story::line(&format!("\n{} passed, {} failed", tally.passed, tally.failed));
    if tally.failed > 0 {
        bail!("testing selkie: {} failed", tally.failed);
    }
    Ok(())
}

/// How many checks passed and failed, and at how many points crash tests stopped a verb.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    cut_points: u64,
}

impl Tally {
    /// Counts one check, and shows its error.
    fn count(&mut self, outcome: Result<()>) {
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
    fn read(&mut self, line: &str) {
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

fn checks(lab: &Lab, story: &mut Story, tally: &mut Tally) {
    let checks: [(&str, Argv); 4] = [
        ("checking the format", cargo(lab, ["fmt", "--all", "--check"])),
        ("checking lints", cargo(lab, ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"])),
        // With the features that the tests are built with, so that nothing is compiled twice.
        ("building selkie, and tools that look at what it did", cargo(lab, ["build", "--quiet", "--workspace", "--features", TOOLS])),
        ("building cargo's tests", cargo(lab, ["test", "--quiet", "--workspace", "--no-run", "--features", TOOLS])),
    ];
    for (title, argv) in checks {
        tally.count(story.step(title, |_| argv.show()));
    }
}

/// Some tests mount file systems: without root, cargo builds them as the user and runs them by sudo.
fn runner(root: bool) -> Option<String> {
    let target = format!("{}_UNKNOWN_LINUX_GNU", std::env::consts::ARCH.to_uppercase());
    (!root).then(|| format!("CARGO_TARGET_{target}_RUNNER=sudo --preserve-env"))
}

fn cargo_test_argv(lab: &Lab) -> Argv {
    Argv::new(["env"])
        .with([format!("SELKIE_CFSCTL={}", lab.file("target/debug/cfsctl").display())])
        .with(runner(is_root()))
        .with(cargo(lab, ["test", "--workspace", "--no-fail-fast", "--features", TOOLS]).0)
}

/// Runs all tests that cargo knows, shows their output and counts them.
fn cargo_test(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let argv = cargo_test_argv(lab);
    let mut child = argv.command().stdout(Stdio::piped()).spawn().with_context(|| format!("starting {argv}"))?;
    let stdout = child.stdout.take().context("reading cargo's output")?;
    let before = tally.failed;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("reading cargo's output")?;
        tally.read(&line);
        story::line(&line);
    }
    let status = child.wait().context("waiting for cargo")?;
    if !status.success() && tally.failed == before {
        bail!("running {argv}: {status}");
    }
    Ok(())
}

/// Cargo's tests, running while something else does. They use what the lab does not: ports that the kernel chooses, mounts in name spaces of their
/// own, loop devices that losetup chooses, temporary directories.
#[derive(Debug)]
struct Beside {
    reader: JoinHandle<Result<Tally>>,
    log: PathBuf,
}

impl Beside {
    /// Starts them, behind everything else that wants the processors, with their output going to a file. Where they fail, that is shown at once.
    fn start(lab: &Lab, tell: &Teller) -> Result<Self> {
        let log = lab.log("cargo-test");
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let stderr = file.try_clone().context("opening the log a second time")?;
        let argv = Argv::new(["nice", "-n", "10"]).with(cargo_test_argv(lab).0).dying_with_us();
        let child = argv.command().stdout(file).stderr(stderr).spawn().with_context(|| format!("starting {argv}"))?;
        tell.say(format!("their output goes to {}, and is shown at the end, or at once where they fail", log.display()));
        let read = log.clone();
        Ok(Self { reader: std::thread::spawn(move || outcome(child, &read, &argv)), log })
    }

    /// Waits for them, shows their output if all is well, and adds their counts.
    fn join(self, tally: &mut Tally) -> Result<()> {
        let Ok(counted) = self.reader.join() else { bail!("waiting for cargo's tests: the thread that reads their output ended early") };
        let counted = counted?;
        if counted.failed == 0 {
            show(&self.log)?;
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
    let text = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    let mut tally = Tally::default();
    String::from_utf8_lossy(&text).lines().for_each(|line| tally.read(line));
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
    let text = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    story::line(&String::from_utf8_lossy(&text));
    Ok(())
}

fn vm(lab: &Lab, options: &LabOptions, selected: &[Scenario], story: &mut Story, tally: &mut Tally) -> Result<()> {
    let programs = story.step("building selkie (release)", |_| build::release(lab))?;
    let images = Images::new(lab)?;
    let port = registry::choose_port(lab)?;
    let base = options.base.as_deref();
    story.step("making the Debian base image", |tell| images.base(base, tell).map(drop))?;
    story.step("building images", |tell| {
        images.selkie(base, &programs, tell)?;
        images.releases(port, tell)?;
        images.example_web(images::LAB_WEB, images::AGENT, tell)
    })?;
    let linted = story.step("looking for what is wrong with them", |tell| images.lint(&programs, &[images::DEBIAN, images::LAB_WEB], tell));
    tally.count(linted);
    let accel = story.step("finding out how virtual machines run here", |tell| {
        let accel = Accel::choose(lab, options.accel, &images.kernel(images::DEBIAN)?)?;
        tell.say(accel.to_string());
        Ok(accel)
    })?;
    let registry = story.step("starting a registry and pushing v1", |_| {
        let registry = Registry::start(lab, port, options.keep)?;
        images.push(&images::release("v1"), &registry.here(TAG)).map(|()| registry)
    })?;
    let digests = story.step("computing the digests of one tree, from every builder and transport", |tell| {
        digests::check(lab, &programs, &registry, tell)
    });
    tally.count(digests);
    let pulled = story.step("pulling v1 on this machine", |_| pull(lab, &programs, &registry))?;
    let disk = story.step("writing the disk image twice, as user nobody", |tell| disk::write(lab, &programs, &registry, tell))?;
    tally.passed += 2;
    let bench = Bench { lab, images: &images, programs: &programs, registry, disk: &disk, pulled, accel };
    for scenario in selected {
        let outcome = story.step(&format!("scenario {}", scenario.name), |tell| (scenario.run)(&bench, tell));
        if outcome.is_ok() && !options.keep {
            let _ = std::fs::remove_dir_all(lab.dir.join("vm").join(scenario.name));
        }
        tally.count(outcome.with_context(|| format!("scenario {}", scenario.name)));
    }
    Ok(())
}

/// `selkie pull --json` into a new repository that cfsctl's rules apply to; the result is what it prints.
fn pull(lab: &Lab, programs: &Programs, registry: &Registry) -> Result<serde_json::Value> {
    let repo = lab.fresh_subdir("repo")?;
    let argv = Argv::new([&programs.selkie]).with(["pull", &registry.here(TAG), "--tls-verify=false", "--json", "--repo"]).with([&repo]);
    let text = argv.read()?;
    serde_json::from_str(&text).with_context(|| format!("reading the output of {argv}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
