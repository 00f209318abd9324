//! `selkie upgrade`

use anyhow::Result;
use clap::Args;
use selkie::config::Config;
use selkie::ops::host::{Access, Host};
use selkie::ops::pull::Pulled;
use selkie::ops::upgrade::{self, Options, Outcome, Report, Until};

use crate::changes::{self, SHOWN};
use crate::output::{Answer, Output, bytes};
use crate::progress::renderer;
use crate::source::SourceArguments;

/// Fetch what the followed reference names now and make it the root that boots next.
///
/// An image that failed on this machine before is left alone: exit code 1.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Only ask: exit code 0 if there is something newer, 1 if not. Tells what taking it would cost and change; nothing is written.
    #[arg(long, conflicts_with_all = ["download_only", "apply"])]
    check: bool,
    /// Fetch everything, and leave what boots next as it is.
    #[arg(long, conflicts_with = "apply")]
    download_only: bool,
    /// Reboot into it at once.
    #[arg(long)]
    apply: bool,
    /// Take it although it failed on this machine before.
    #[arg(long)]
    retry: bool,
    #[command(flatten)]
    keep: KeepArguments,
    #[command(flatten)]
    source: SourceArguments,
}

/// How many roots stay.
#[derive(Debug, Args)]
pub struct KeepArguments {
    /// Older roots that stay besides the booted, the next, the previous and the pinned ones, as long as there is room (default: `keep` of the
    /// configuration, else 0).
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
}

impl KeepArguments {
    /// What was said on the command line, else in the configuration.
    pub fn keep(&self, config: &Config) -> usize {
        self.keep.unwrap_or(config.keep)
    }
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let until = match (arguments.check, arguments.download_only) {
        (true, _) => Until::Preview,
        (_, true) => Until::Download,
        _ => Until::Stage,
    };
    let config = crate::config::load()?;
    let (keep, retry) = (arguments.keep.keep(&config), arguments.retry);
    let options = Options { image: None, source: arguments.source.options(), until, keep, retry };
    let report = carry_out(&options, config, arguments.apply, output)?;
    let no = report.outcome == Outcome::FailedBefore || until.only_reads() && report.outcome != Outcome::Available;
    Ok(if no { Answer::No } else { Answer::Done })
}

/// What `upgrade` and `switch` share.
pub fn carry_out(options: &Options, config: Config, apply: bool, output: &Output) -> Result<Report> {
    let access = if options.until.only_reads() { Access::Read } else { Access::Write };
    let host = Host::running(access)?.configured(config);
    let report = upgrade::run(&host, options, &renderer(output))?;
    output.print(&report, human)?;
    // Told first: there may be no time for it afterwards.
    if apply && report.reboot_needed {
        selkie::sys::reboot::reboot()?;
    }
    Ok(report)
}

fn human(report: &Report) -> String {
    let version = report.version.as_deref().map(|v| format!(" (version {v})")).unwrap_or_default();
    let fetched = report.pulled.as_ref().map(fetched).unwrap_or_default();
    let (image, to) = (&report.image, &report.to_manifest);
    match report.outcome {
        Outcome::UpToDate if report.reboot_needed => format!("{image} is up to date: {to}{version} waits for a reboot\n"),
        Outcome::UpToDate => format!("{image} is up to date: {to}{version}\n"),
        Outcome::Available => {
            let now = report.from_manifest.as_deref().unwrap_or("unknown");
            let preview = report.preview.as_ref().map(|preview| changes::preview(Vec::new(), preview, SHOWN));
            format!("{image} has an update: {to}{version}\nnow: {now}\n{}", preview.unwrap_or_default())
        }
        Outcome::Downloaded => {
            format!("{fetched}{image} is downloaded: {to}{version}\nRun `selkie upgrade` to make it the root that boots next.\n")
        }
        Outcome::Staged => format!("{fetched}{image} boots next: {to}{version}\nReboot to run it; `selkie rollback` undoes this.\n"),
        Outcome::FailedBefore => {
            let why = report.failed.as_ref().map(crate::status::failure).unwrap_or_default();
            format!(
                "{image} failed on this machine before, and is left alone: {to}{version}\n{why}`selkie upgrade --retry` takes it again.\n"
            )
        }
        Outcome::Followed => format!("This machine follows {image} from now on; it is on that already.\n"),
    }
}

fn fetched(pulled: &Pulled) -> String {
    format!("{}Fetched {} in {} new layers.\n", crate::pull::layers(&pulled.fetched), bytes(pulled.bytes_fetched), pulled.layers_new)
}
