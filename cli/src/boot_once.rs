//! `selkie boot-once`

use anyhow::Result;
use clap::Args;
use selkie::ops::boot_once;
use selkie::ops::host::{Access, Host};

use crate::output::{Answer, Output};
use crate::progress::renderer;

/// Boot another root next, once; after that, the default boots again.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Which: a number of `selkie list`, or at least four digits of the root.
    #[arg(required_unless_present = "cancel")]
    id: Option<String>,
    /// Take an earlier call back.
    #[arg(long, conflicts_with_all = ["id", "apply"])]
    cancel: bool,
    /// Reboot into it at once.
    #[arg(long)]
    apply: bool,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let host = Host::running(Access::Write)?;
    let progress = renderer(output);
    let report = match &arguments.id {
        Some(id) => boot_once::run(&host, id, progress.as_ref())?,
        None => boot_once::cancel(&host, progress.as_ref())?,
    };
    output.print(&report, |r| {
        let default = r.default.as_ref().map_or("nothing", |id| id.short());
        match &r.once {
            Some(id) if r.default.as_ref() == Some(id) => format!("{default} is the default: it boots next anyway.\n"),
            Some(id) => {
                format!("{} boots next, once; after that {default} boots again. `selkie boot-once --cancel` undoes this.\n", id.short())
            }
            None => format!("{default} boots next.\n"),
        }
    })?;
    // Told first: there may be no time for it afterwards.
    if arguments.apply {
        selkie::sys::reboot::reboot()?;
    }
    Ok(Answer::Done)
}
