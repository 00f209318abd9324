//! `cargo xtask test`: format, lints, cargo's tests, then the scenarios; ends with one line of counts.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, Programs, cargo},
    cli::{LabOptions, Suite, TestOptions},
    command::{Argv, is_root},
    digests, disk,
    images::{self, Images},
    lab::Lab,
    packages,
    registry::{self, Registry},
    scenarios::{self, Bench, Scenario, TAG},
    story::{self, Story},
    vm::Accel,
};

/// The feature that builds cfsctl.
const CFSCTL: &str = "selkie-integration/cfsctl";

/// Runs the tests.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    let lab = Lab::open()?;
    let selected = scenarios::select(&options.scenario)?;
    let suite = if options.scenario.is_empty() { options.suite } else { Suite::Vm };
    let mut story = Story::new("Testing selkie");
    let mut tally = Tally::default();
    story.step("installing what is missing", |tell| packages::install_missing(&lab, tell))?;
    if suite != Suite::Vm {
        unit(&lab, &mut story, &mut tally);
    }
    if suite != Suite::Unit
        && let Err(error) = vm(&lab, &options.lab, &selected, &mut story, &mut tally)
    {
        tally.count(Err(error));
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

fn unit(lab: &Lab, story: &mut Story, tally: &mut Tally) {
    let checks: [(&str, Argv); 3] = [
        ("checking the format", cargo(lab, ["fmt", "--all", "--check"])),
        ("checking lints", cargo(lab, ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"])),
        // With the features that the tests are built with, so that nothing is compiled twice.
        ("building selkie, and cfsctl to compare with", cargo(lab, ["build", "--quiet", "--workspace", "--features", CFSCTL])),
    ];
    for (title, argv) in checks {
        tally.count(story.step(title, |_| argv.show()));
    }
    let outcome = story.step("running cargo's tests", |_| cargo_test(lab, tally));
    if let Err(error) = outcome {
        tally.count(Err(error));
    }
}

/// Some tests mount file systems: without root, cargo builds them as the user and runs them by sudo.
fn runner(root: bool) -> Option<String> {
    let target = format!("{}_UNKNOWN_LINUX_GNU", std::env::consts::ARCH.to_uppercase());
    (!root).then(|| format!("CARGO_TARGET_{target}_RUNNER=sudo --preserve-env"))
}

/// Runs all tests that cargo knows, shows their output and counts them.
fn cargo_test(lab: &Lab, tally: &mut Tally) -> Result<()> {
    let argv = Argv::new(["env"])
        .with([format!("SELKIE_CFSCTL={}", lab.file("target/debug/cfsctl").display())])
        .with(runner(is_root()))
        .with(cargo(lab, ["test", "--workspace", "--no-fail-fast", "--features", CFSCTL]).0);
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
}
