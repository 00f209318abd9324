//! `selkie gc`

use anyhow::Result;
use clap::Args;
use selkie::ops::gc::{self, Options, Report};
use selkie::ops::host::{Access, Host};

use crate::output::{Answer, Output, bytes};
use crate::progress::renderer;
use crate::upgrade::KeepArguments;

/// Remove roots that are neither booted, next, previous nor pinned, and the objects that nothing needs.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only tell what would be removed.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    keep: KeepArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let config = crate::config::load()?;
    let host = Host::running(if arguments.dry_run { Access::Read } else { Access::Write })?;
    let options = Options { keep: arguments.keep.keep(&config), dry_run: arguments.dry_run };
    let report = gc::run(&host, options, renderer(output).as_ref())?;
    output.print(&report, human)?;
    Ok(Answer::Done)
}

fn human(report: &Report) -> String {
    let mut text: String = report.entries.iter().map(|entry| format!("entry {entry}\n")).collect();
    text.extend(report.deployments.iter().map(|id| format!("deployment {id}\n")));
    text.extend(report.tags.iter().map(|tag| format!("tag {tag}\n")));
    let verb = if report.dry_run { "Would remove" } else { "Removed" };
    text + &format!("{verb} {} objects, {}.\n", report.objects, bytes(report.bytes))
}
