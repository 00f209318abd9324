//! `selkie gc`

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use selkie::ops::gc::{self, Options, Report, Swept};
use selkie::ops::host::{Access, Host};
use selkie::ops::standalone::{Standalone, Verb};

use crate::output::{Answer, Output, bytes};
use crate::progress::renderer;
use crate::upgrade::KeepArguments;

/// Remove roots that are neither booted, next, previous nor pinned, and the objects that nothing needs. With --repo, what no tag leads to.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only tell what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Collect in a repository that is no machine's, as `selkie pull --repo DIR` makes it, on any machine: all tags stay.
    #[arg(long, value_name = "DIR", conflicts_with = "keep")]
    repo: Option<PathBuf>,
    #[command(flatten)]
    keep: KeepArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    if let Some(repo) = &arguments.repo {
        return run_in(repo, arguments.dry_run, output);
    }
    let config = crate::config::load()?;
    let host = Host::running(if arguments.dry_run { Access::Read } else { Access::Write })?;
    let options = Options { keep: arguments.keep.keep(&config), dry_run: arguments.dry_run };
    let report = gc::run(&host, options, renderer(output).as_ref())?;
    output.print(&report, human)?;
    Ok(Answer::Done)
}

fn run_in(repo: &Path, dry_run: bool, output: &Output) -> Result<Answer> {
    let swept = gc::run_in(&Standalone::open(repo, Verb::Gc)?, dry_run, renderer(output).as_ref())?;
    output.print(&swept, human_in)?;
    Ok(Answer::Done)
}

fn human_in(swept: &Swept) -> String {
    let verb = if swept.dry_run { "Would remove" } else { "Removed" };
    let kept = match swept.tags.len() {
        0 => "no tag is there".to_owned(),
        1 => "1 tag stays".to_owned(),
        count => format!("{count} tags stay"),
    };
    let leftovers = if swept.leftovers > 0 { format!(", {} leftovers", swept.leftovers) } else { String::new() };
    format!(
        "{verb} {} objects, {}, with {} names of images and {} of streams{leftovers}; {kept}.\n",
        swept.objects,
        bytes(swept.bytes),
        swept.images,
        swept.streams
    )
}

fn human(report: &Report) -> String {
    let mut text: String = report.entries.iter().map(|entry| format!("entry {entry}\n")).collect();
    text.extend(report.deployments.iter().map(|id| format!("deployment {id}\n")));
    text.extend(report.tags.iter().map(|tag| format!("tag {tag}\n")));
    let verb = if report.dry_run { "Would remove" } else { "Removed" };
    text + &format!("{verb} {} objects, {}.\n", report.objects, bytes(report.bytes))
}
