//! `selkie verify`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use selkie::ops::host::{Access, Host};
use selkie::ops::verify::{self, KernelState, Options, Report};
use selkie::reference::ImageReference;

use crate::output::{Answer, Output};
use crate::progress::renderer;
use crate::source::SourceArguments;

/// Prove that this machine runs what was sealed: firmware, boot loader, kernel arguments, root and manifest are one chain.
///
/// Exit code 0: proven. 1: not proven, and the broken link is named.
#[derive(Debug, Args)]
pub struct Arguments {
    /// An image that must be the one that runs.
    #[arg(long, value_name = "IMAGE")]
    against: Option<ImageReference>,
    /// Read every object of the root and compare it with its digest.
    #[arg(long)]
    deep: bool,
    /// Where a scratch directory is made for an image to compare with that is not sealed; it is removed at the end.
    #[arg(long, env = "TMPDIR", value_name = "DIR", default_value = "/tmp")]
    scratch: PathBuf,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let kernel = KernelState::running()?;
    let host = Host::running(Access::Read)?;
    let options = Options {
        against: arguments.against.clone(),
        source: arguments.source.options(),
        deep: arguments.deep,
        scratch: arguments.scratch.clone(),
    };
    let report = verify::run(&host, &kernel, &options, &renderer(output))?;
    output.print(&report, human)?;
    Ok(if report.proven { Answer::Done } else { Answer::No })
}

fn human(report: &Report) -> String {
    let mark = |holds| if holds { "ok " } else { "BROKEN" };
    let mut text: String = report.links.iter().map(|link| format!("{:<6} {:<13} {}\n", mark(link.holds), link.name, link.found)).collect();
    text.push_str(&match report.broken {
        None => format!("proven: this machine runs {} as it was sealed\n", report.booted),
        Some(link) => format!("not proven: link {link} is broken\n"),
    });
    text
}
