//! `selkie loader`

use anyhow::Result;
use clap::{Args, Subcommand};
use selkie::ops::host::{Access, Host};
use selkie::ops::loader::{self, Action, Found, Report};

use crate::output::{Answer, Output, columns};
use crate::progress::renderer;

/// The boot loader on the EFI system partitions.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Replace systemd-boot on every ESP where the image that runs brings a newer one that the firmware accepts.
    Update,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let Verb::Update = arguments.verb;
    let report = loader::run(&Host::running(Access::Write)?, renderer(output).as_ref())?;
    output.print(&report, human)?;
    Ok(if report.problems.is_empty() { Answer::Done } else { Answer::No })
}

/// The report for people.
pub fn human(report: &Report) -> String {
    let row = |found: &Found| {
        let action = match found.action {
            Action::Update => format!("updated to {}", report.offered),
            Action::Current => "current".to_owned(),
            Action::Newer => "newer than that of the image, stays".to_owned(),
            Action::Foreign => "of another system, stays".to_owned(),
            Action::Refused => "older, stays: the firmware would not start that of the image".to_owned(),
        };
        [found.partition.clone(), found.path.clone(), found.version.clone().unwrap_or_else(|| "unknown".to_owned()), action]
    };
    let problems: String = report.problems.iter().map(|problem| format!("Problem: {problem}\n")).collect();
    columns(report.loaders.iter().map(row)) + &problems
}
