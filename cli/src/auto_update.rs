//! `selkie auto-update`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use selkie::deploy::Outcome;
use selkie::ops::auto_update::{self, Action, Next, Options, Report};
use selkie::ops::host::Host;
use selkie::sys::{clock, dir, reboot};

use crate::output::{Answer, Output};
use crate::progress::renderer;
use crate::source::SourceArguments;

/// Do what the configuration says about updates: what selkie-update.service runs.
///
/// `update.policy` says how far it goes: none, check, fetch, stage or apply. Most times nothing is due.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Try now, whatever interval and back-off say.
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let config = crate::config::load()?;
    let options = Options { source: arguments.source.options(), now: arguments.now, clock: clock::seconds, root: PathBuf::from("/") };
    let report = match due(&config.update, &options)? {
        Next::Off => Report::off(),
        next => {
            let host = Host::running(auto_update::access(&next, config.update.policy))?.configured(config);
            auto_update::run(&host, &next, &options, &renderer(output))?
        }
    };
    output.print(&report, human)?;
    match report.restart.action {
        Action::Restart => reboot::reboot()?,
        Action::RestartAnyway => reboot::reboot_anyway()?,
        Action::None | Action::Wait | Action::Leave => {}
    }
    Ok(Answer::Done)
}

/// Read before the machine is opened, because it decides how far that is opened.
fn due(update: &selkie::config::Update, options: &Options) -> Result<Next> {
    auto_update::due(dir::open_path("/").context("opening /")?, "sysroot", update, options)
}

fn human(report: &Report) -> String {
    let image = report.image.as_deref().unwrap_or("the followed image");
    let version = report.os_version.as_deref().map(|version| format!(" (version {version})")).unwrap_or_default();
    let manifest = report.manifest_digest.as_deref().unwrap_or("unknown");
    let next = report.next_try.as_deref().map(|next| format!(" The next try is due at {next}.")).unwrap_or_default();
    let tried = match report.outcome {
        None if report.policy == selkie::config::Policy::None => "update.policy is \"none\": nothing is done.".to_owned(),
        None => "No try is due.".to_owned(),
        Some(Outcome::UpToDate) => format!("{image} is up to date: {manifest}{version}."),
        Some(Outcome::Available) => format!("{image} has an update: {manifest}{version}. `selkie upgrade` takes it."),
        Some(Outcome::Downloaded) => format!("{image} is downloaded: {manifest}{version}. `selkie upgrade` stages it."),
        Some(Outcome::Staged) => format!("{image} is staged: {manifest}{version}."),
        Some(Outcome::FailedBefore) => {
            format!(
                "{image} failed on this machine before, and is left alone: {manifest}{version}. `selkie upgrade --retry` takes it again."
            )
        }
        Some(Outcome::LeftAlone) => {
            format!(
                "Somebody went back from {manifest}{version}, and it is left alone until {image} names another. `selkie upgrade` takes it."
            )
        }
        Some(Outcome::Begun | Outcome::Failed) => format!("{image}: the try has not ended."),
    };
    let because = &report.restart.because;
    let until = report.restart.until.as_deref().map(|until| format!(" (until {until})")).unwrap_or_default();
    let restart = match report.restart.action {
        Action::None => String::new(),
        Action::Restart => format!("Restarting into the staged root: {because}.\n"),
        Action::RestartAnyway => format!("Restarting into the staged root all the same: {because}.\n"),
        Action::Wait => format!("The restart into the staged root waits{until}: {because}.\n"),
        Action::Leave => format!("The staged root waits for a restart by hand: {because}.\n"),
    };
    format!("{tried}{next}\n{restart}")
}
