//! `selkie untag`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use selkie::ops::standalone::{Standalone, Verb};
use selkie::ops::untag;

use crate::output::{Answer, Output};
use crate::progress::renderer;

/// Remove a tag from a repository that is no machine's. What no other tag leads to goes with the next `selkie gc --repo DIR`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The name that the image was pulled under (`--tag`), or the reference that was pulled.
    tag: String,
    /// The repository, as `selkie pull --repo DIR` makes it.
    #[arg(long, value_name = "DIR")]
    repo: PathBuf,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let repository = Standalone::open(&arguments.repo, Verb::Untag)?;
    let report = untag::run(&repository, &arguments.tag, renderer(output).as_ref())?;
    output.print(&report, |report| {
        let left = if report.left.is_empty() { "none".to_owned() } else { report.left.join(", ") };
        format!(
            "Removed tag {}; left: {left}.\nWhat no tag leads to goes with `selkie gc --repo {}`.\n",
            report.tag,
            arguments.repo.display()
        )
    })?;
    Ok(Answer::Done)
}
