//! `selkie rollback`

use std::path::Path;

use anyhow::Result;
use clap::Args;
use selkie::ops::host::{Access, Host};
use selkie::ops::rollback;

use crate::output::{Answer, Output};
use crate::progress::renderer;

/// Make the root that ran before the one that boots next; or, when an update waits for a reboot, stay on the booted one; or go to any other that
/// is here.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Where to go: a number of `selkie list`, or at least four digits of the root.
    id: Option<String>,
    /// Reboot into it at once.
    #[arg(long)]
    apply: bool,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let progress = renderer(output);
    // The way back is open whatever the files say.
    let (config, unreadable) = crate::config::load_or_default(Path::new("/"));
    unreadable.into_iter().for_each(|reason| progress.note(reason));
    let host = Host::running(Access::Write)?.configured(config);
    let report = match &arguments.id {
        Some(id) => rollback::to(&host, id, progress.as_ref())?,
        None => rollback::run(&host, progress.as_ref())?,
    };
    output.print(&report, |r| {
        let undo = if arguments.id.is_some() { "" } else { "; a second `selkie rollback` undoes this" };
        format!("{} ({}) boots next. Reboot to run it{undo}.\n", r.image, r.staged.short())
    })?;
    // Told first: there may be no time for it afterwards.
    if arguments.apply {
        selkie::sys::reboot::reboot()?;
    }
    Ok(Answer::Done)
}
