//! `cargo xtask test`: format, lints, cargo's tests and the scenarios; ends with one line of counts.
//!
//! Cargo's tests use one processor at a time for the most part, and so does each scenario: they run side by side.

mod beside;
mod tally;

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

use beside::Beside;
use tally::Tally;

use crate::{
    bench,
    build::{self, Programs, TOOLS, cargo},
    cli::{LabOptions, Suite, TestOptions},
    command::{Argv, is_root},
    digests, disk,
    images::{self, Images},
    lab::Lab,
    memory, packages,
    registry::{self, Registry},
    room::{self, GB},
    scenarios::{self, Bench, Scenario, TAG},
    story::{self, Story},
    vm::Accel,
};

/// Room below the clone: a whole run takes about 19 GB of it, most of that for what cargo builds.
pub(crate) const NEEDED: u64 = 24 * GB;
/// Of cargo's tests alone.
const NEEDED_UNIT: u64 = 10 * GB;
/// Of the images and scenarios alone.
const NEEDED_VM: u64 = 20 * GB;

/// Runs the tests.
pub(crate) fn run(options: &TestOptions) -> Result<()> {
    let lab = Lab::open()?;
    let selected = scenarios::select(&options.scenario)?;
    let suite = if options.scenario.is_empty() { options.suite } else { Suite::Vm };
    let needed = match suite {
        Suite::All => NEEDED,
        Suite::Unit => NEEDED_UNIT,
        Suite::Vm => NEEDED_VM,
    };
    room::check_beside_build(&lab, "testing selkie", needed)?;
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
    let running = beside.as_ref().and_then(|beside| beside.as_ref().ok());
    if suite != Suite::Unit
        && let Err(error) = vm(&lab, &options.lab, &selected, running, &mut story, &mut tally)
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

/// Tests make thousands of files and throw them away. Where there is memory enough, that is where they make them: on a disk, syncs and the search for
/// inodes that were not deleted just now take longer than what is tested.
fn temporary_files() -> Option<String> {
    let enough = matches!(memory::available(), Ok(Some(mib)) if mib >= ENOUGH_MEMORY);
    // Containers often have a small one.
    let free = Argv::new(["stat", "--file-system", "--format", "%a %S", SHARED_MEMORY]).read().ok();
    let room = free.and_then(|text| room(&text)).unwrap_or(0);
    (enough && room >= ENOUGH_ROOM).then(|| format!("TMPDIR={SHARED_MEMORY}"))
}

/// In MiB, from a count of blocks and the size of one.
fn room(free: &str) -> Option<u64> {
    let (blocks, size) = free.trim().split_once(' ')?;
    Some(blocks.parse::<u64>().ok()?.checked_mul(size.parse().ok()?)? >> 20)
}

const SHARED_MEMORY: &str = "/dev/shm";
/// In MiB: twice what the tests take.
const ENOUGH_ROOM: u64 = 4 << 10;
/// In MiB: that, and what virtual machines beside the tests need.
const ENOUGH_MEMORY: u64 = 8 << 10;

fn cargo_test_argv(lab: &Lab) -> Argv {
    Argv::new(["env"])
        .with([format!("SELKIE_CFSCTL={}", lab.file("target/debug/cfsctl").display())])
        .with(temporary_files())
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

fn vm(lab: &Lab, options: &LabOptions, selected: &[Scenario], beside: Option<&Beside>, story: &mut Story, tally: &mut Tally) -> Result<()> {
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
    let measured = story.step("measuring pulls beside peers, once, of small images", |tell| {
        let contestants = bench::Contestants::debug(lab, &programs)?;
        bench::Stage { lab, images: &images, registry: &registry, contestants: &contestants, base }.rehearse(tell)
    });
    tally.count(measured);
    let pulled = story.step("pulling v1 on this machine", |_| pull(lab, &programs, &registry))?;
    let disk = story.step("writing the disk image twice, as user nobody", |tell| disk::write(lab, &programs, &registry, tell))?;
    tally.passed += 2;
    let tag = TAG.to_owned();
    let mut lanes = vec![Bench { lab, images: &images, programs: &programs, registry: &registry, tag, disk, pulled: &pulled, accel }];
    let more = scenarios::count()?.min(selected.len());
    if more > 1 {
        story.step("writing disk images for scenarios that run at the same time", |_| more_lanes(&mut lanes, more))?;
    }
    let busy = || beside.into_iter().for_each(Beside::wait);
    let title = format!("running scenarios, up to {} at a time", lanes.len());
    let mut ended = Vec::new();
    story.step(&title, |_| {
        ended = scenarios::run(&lanes, selected, options.keep, &busy);
        Ok(())
    })?;
    for (title, took, outcome) in ended {
        story.add(&title, took);
        tally.count(outcome);
    }
    Ok(())
}

/// Adds lanes with tags of their own until there are `count`.
fn more_lanes(lanes: &mut Vec<Bench<'_>>, count: usize) -> Result<()> {
    while lanes.len() < count {
        let first = &lanes[0];
        let tag = format!("{TAG}-{}", lanes.len() + 1);
        let target = first.registry.for_guest(&tag);
        let name = format!("{}.raw", tag.replace(':', "-"));
        let disk = disk::write_another(first.lab, first.programs, &first.here(), &target, &[], &name)?;
        let lane = Bench { tag, disk, ..first.clone() };
        lanes.push(lane);
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
    fn room_is_counted_in_blocks() {
        assert_eq!(["16384 4096\n", "0 4096", "16384", "x y"].map(room), [Some(64), Some(0), None, None]);
    }
}
