//! `cargo xtask bench`: selkie beside its peers, in one run, on one machine, on one pair of images.
//!
//! Absolute figures drift from hour to hour; what counts are the ratios between contestants whose runs took turns. Every run writes to a directory that did not
//! exist, and nothing is removed before the last one: a file system that frees space is slower.

mod contest;
mod meter;
mod pair;
mod report;

use anyhow::{Context, Result, bail};

use crate::{
    build,
    cli::BenchOptions,
    images::Images,
    lab::Lab,
    packages, registry,
    registry::Registry,
    story::{self, Story},
};
use contest::{Bench, Contest};
use meter::{Meter, Sample};
use report::Figures;

/// Measures, prints the tables, and with `--write` puts them into `docs/benchmarks.md`.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    if options.runs == 0 {
        bail!("measuring: 0 runs (expected at least 1; 5 give a median worth having)");
    }
    let lab = Lab::open()?;
    let mut story = Story::new("selkie beside its peers");
    story.step("installing what is missing", |tell| packages::install_missing(&lab, tell))?;
    let programs = story.step("building selkie (release)", |_| build::release(&lab))?;
    let peer = story.step("building composefs-ctl (release; minutes, the first time)", |_| build::release_cfsctl(&lab))?;
    let images = Images::new(&lab)?;
    let port = registry::choose_port(&lab)?;
    story.step("building the images", |tell| {
        let base = options.base.as_deref();
        images.base(base, tell)?;
        images.selkie(base, &programs, tell)?;
        images.releases(port, tell)
    })?;
    let registry = Registry::start(&lab, port, false)?;
    let meter = Meter::start(port)?;
    let pair = story.step("making a pair of images of one layer each", |tell| pair::make(&lab, &images, &registry, tell))?;
    let bench = Bench { lab: &lab, selkie: &programs.selkie, cfsctl: &peer, pair: &pair, meter: &meter };
    let contests = contest::all();
    let mut figures = Figures::new(&contests);
    for run in 1..=options.runs {
        story.step(&format!("run {run} of {}", options.runs), |_| one_run(&bench, &contests, run, &mut figures))?;
    }
    lab.fresh_subdir("bench")?;
    let text = figures.markdown(&pair, options.runs)?;
    story::line(&text);
    if options.write {
        let path = lab.file("docs/benchmarks.md");
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Every contestant of every contest once, in an order that turns from run to run, so that none always follows the same other.
fn one_run(bench: &Bench<'_>, contests: &[Contest], run: usize, figures: &mut Figures) -> Result<()> {
    for contest in contests {
        let count = contest.contestants.len();
        for step in 0..count {
            let contestant = &contest.contestants[(step + run) % count];
            let name = format!("{} by {}", contest.title, contestant.name);
            let dir = bench.lab.subdir(&format!("bench/{run}/{}", name.replace([' ', ',', ':', '>', '/'], "-")))?;
            let sample = contestant.measure(bench, &dir).with_context(|| name.clone())?;
            figures.add(contest, contestant, sample);
        }
    }
    Ok(())
}
