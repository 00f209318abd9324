//! `cargo xtask bench`: selkie beside its peers, in one run, on one machine, on one pair of images.
//!
//! Absolute figures drift from hour to hour; what counts are the ratios between contestants whose runs took turns. Every run writes to a directory that did not
//! exist, and nothing is removed before the last one: a file system that frees space is slower.

mod contest;
mod hosts;
mod layouts;
mod meter;
mod pair;
mod report;
mod tools;
mod verdict;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, Programs},
    cli::BenchOptions,
    command::Argv,
    images::Images,
    lab::Lab,
    packages, registry,
    registry::Registry,
    room::{self, GB},
    story::{self, Story, Teller},
};
use contest::Contest;
use hosts::Hosts;
use meter::{Meter, Sample};
use pair::Size;
use report::Figures;
use tools::Bench;

/// Room below the clone: images in every form, and what all contestants write in all runs, of which nothing is removed before the last one.
const NEEDED: u64 = 30 * GB;
/// Of the small images.
const NEEDED_SMALL: u64 = 8 * GB;

/// What takes part and was built here.
#[derive(Debug)]
pub(crate) struct Contestants {
    selkie: PathBuf,
    peers: build::Peers,
}

impl Contestants {
    /// All as they would be shipped.
    fn release(lab: &Lab, no_build: bool, story: &mut Story) -> Result<Self> {
        if no_build {
            return Ok(Self { selkie: lab.file("target/release/selkie"), peers: build::Peers::below(&lab.file("target/release")) });
        }
        let programs = story.step("building selkie (release)", |_| build::release(lab))?;
        let peers = story.step("building composefs-ctl and the floor (release; minutes, the first time)", |_| build::release_peers(lab))?;
        Ok(Self { selkie: programs.selkie, peers })
    }

    /// Peers as the tests have them: built already.
    pub(crate) fn debug(lab: &Lab, programs: &Programs) -> Result<Self> {
        Ok(Self { selkie: programs.selkie.clone(), peers: build::debug_peers(lab)? })
    }
}

/// Measures, prints the tables, and with `--write` puts them into `docs/benchmarks.md`.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    if options.runs == 0 {
        bail!("measuring: 0 runs (expected at least 1; 5 give a median worth having)");
    }
    if options.write && options.small {
        bail!("measuring: --write with --small (expected one of them: figures of small images say little)");
    }
    let lab = Lab::open()?;
    room::check(&lab, "measuring", if options.small { NEEDED_SMALL } else { NEEDED })?;
    let mut story = Story::new("selkie beside its peers");
    story.step("installing what is missing", |tell| packages::install_missing(&lab, tell))?;
    let contestants = Contestants::release(&lab, options.no_build, &mut story)?;
    let images = Images::new(&lab)?;
    let port = registry::choose_port(&lab)?;
    if options.small {
        story.step("making the Debian base image", |tell| images.base(options.base.as_deref(), tell).map(drop))?;
    }
    let registry = Registry::start(&lab, port, false)?;
    let size = if options.small { Size::Small } else { Size::Real };
    let stage = Stage { lab: &lab, images: &images, registry: &registry, contestants: &contestants, base: options.base.as_deref() };
    let text = story.step("measuring", |tell| stage.measure(size, options, tell))?;
    story::line(&text);
    if options.write {
        let path = lab.file("docs/benchmarks.md");
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// What measuring needs.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) images: &'a Images<'a>,
    pub(crate) registry: &'a Registry,
    pub(crate) contestants: &'a Contestants,
    pub(crate) base: Option<&'a str>,
}

impl Stage<'_> {
    /// Measures the small images once, to show that measuring works.
    pub(crate) fn rehearse(&self, tell: &Teller) -> Result<()> {
        let options =
            BenchOptions { runs: 1, write: false, small: true, reuse: false, no_build: false, scratch: None, only: None, base: None };
        self.measure(Size::Small, &options, tell).map(drop)
    }

    fn measure(&self, size: Size, options: &BenchOptions, tell: &Teller) -> Result<String> {
        let Contestants { selkie, peers } = self.contestants;
        let meter = Meter::start(self.registry.port())?;
        let pair = pair::make(self, selkie, size, options.reuse, tell)?;
        let counts = if size == Size::Small { [1, 3] } else { [1, 20] };
        let hosts = Hosts::make(self.lab, &peers.host, &pair, &meter, &counts, tell)?;
        let scratch =
            Scratch { dir: options.scratch.clone().unwrap_or(self.lab.fresh_subdir("bench")?), remove: options.scratch.is_some() };
        let verity = tools::init(&peers.cfsctl, &scratch.directory("verity")?.join("repository"), true).read().is_ok();
        let written_to = Argv::new(["stat", "--file-system", "--format", "%T"]).with([&scratch.dir]).read()?;
        let run = tempfile::tempdir().context("making a directory for podman")?;
        let bench = Bench {
            selkie,
            cfsctl: &peers.cfsctl,
            floor: &peers.floor,
            host: &peers.host,
            pair: &pair,
            hosts: &hosts,
            meter: &meter,
            run: run.path(),
            written_to: written_to.trim(),
            verity,
        };
        let mut contests = contest::all(&pair, &hosts);
        contests.retain(|contest| options.only.as_ref().is_none_or(|only| contest.title.contains(only)));
        let mut figures = Figures::default();
        for run in 1..=options.runs {
            tell.say(format!("run {run} of {}", options.runs));
            one_run(&scratch, &bench, &contests, run, &mut figures)?;
        }
        let text = report::page(&contests, &figures, &bench, options.runs)?;
        // What is made in seconds need not stay.
        let pair = (size == Size::Small).then(|| size.directory().to_owned());
        for done in pair.into_iter().chain(["bench".to_owned()]).chain(counts.map(|count| format!("bench-host-{count}"))) {
            self.lab.fresh_subdir(&done)?;
        }
        Ok(text)
    }
}

/// Where contestants write.
#[derive(Debug)]
struct Scratch {
    dir: PathBuf,
    remove: bool,
}

impl Scratch {
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(dir)
    }

    fn done(&self, dir: &Path) -> Result<()> {
        if !self.remove {
            return Ok(());
        }
        Argv::new(["rm", "--recursive", "--force"]).with([dir]).by_root().read().map(drop)
    }
}

/// Every contestant of every contest once, in an order that turns from run to run, so that none always follows the same other.
fn one_run(scratch: &Scratch, bench: &Bench<'_>, contests: &[Contest], run: usize, figures: &mut Figures) -> Result<()> {
    for contest in contests {
        let count = contest.contestants.len();
        for step in 0..count {
            let contestant = &contest.contestants[(step + run) % count];
            let name = format!("{} by {}", contest.title, contestant.name);
            let dir = scratch.directory(&format!("{run}/{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")))?;
            let sample = contest.measure(contestant, bench, &dir).with_context(|| name.clone())?;
            figures.add(contest, contestant, sample);
            scratch.done(&dir)?;
        }
    }
    Ok(())
}
