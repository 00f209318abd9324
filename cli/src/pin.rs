//! `selkie pin` and `selkie unpin`

use anyhow::Result;
use clap::Args;
use selkie::ops::host::{Access, Host};
use selkie::ops::pin;

use crate::output::{Answer, Output};
use crate::progress::renderer;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Which: a number of `selkie list`, or at least four digits of the root. The booted one by default.
    id: Option<String>,
}

pub fn run(arguments: &Arguments, pinned: bool, output: &Output) -> Result<Answer> {
    let host = Host::running(Access::Write)?;
    let report = pin::run(&host, arguments.id.as_deref(), pinned, renderer(output).as_ref())?;
    output.print(&report, |r| {
        let what = if r.pinned { "stays until it is unpinned" } else { "is not pinned" };
        format!("{} {what}.\n", r.id.short())
    })?;
    Ok(Answer::Done)
}
