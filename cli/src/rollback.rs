//! `selkie rollback`

use anyhow::Result;
use clap::Args;
use selkie::ops::host::{Access, Host};
use selkie::ops::rollback;

use crate::output::{Answer, Output};
use crate::progress::renderer;

/// Make the root that ran before the one that boots next; or, when an update waits for a reboot, stay on the booted one.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Reboot into it at once.
    #[arg(long)]
    apply: bool,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let host = Host::running(Access::Write)?;
    let report = rollback::run(&host, renderer(output).as_ref())?;
    if arguments.apply {
        selkie::sys::reboot::reboot()?;
    }
    output.print(&report, |r| {
        format!("{} ({}) boots next. Reboot to run it; a second `selkie rollback` undoes this.\n", r.image, r.staged.short())
    })?;
    Ok(Answer::Done)
}
