//! `selkie lint`

use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgGroup, Args};
use selkie::lint::{CHECKS, Check, Finding, Severity};
use selkie::ops::lint::{self, Options, Report, Target};
use selkie::reference::ImageReference;

use crate::output::{Answer, Output, bytes};
use crate::progress::renderer;
use crate::scratch::ScratchArguments;
use crate::source::SourceArguments;

/// Look for what keeps an image from booting, for faults of security, and for what does not belong on a machine.
///
/// Exit code 0: nothing of weight was found; 1: there are errors (with --fatal-warnings: or warnings). docs/lint.md explains each check.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["image", "rootfs", "list"]))]
pub struct Arguments {
    /// quay.io/acme/os:stable, oci:DIR[:TAG], oci-archive:FILE, containers-storage:NAME or docker-archive:FILE.
    image: Option<ImageReference>,
    /// Look at a directory that has an image's root file system, such as a mounted build container, or / in one that runs.
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Count warnings as errors.
    #[arg(long)]
    fatal_warnings: bool,
    /// Leave a check out, by its id; may be repeated.
    #[arg(long, value_name = "ID")]
    skip: Vec<String>,
    /// List the checks.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    scratch: ScratchArguments,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let target = match (&arguments.image, &arguments.rootfs) {
        (Some(image), _) => Target::Image { image: image.clone(), source: arguments.source.options() },
        (None, Some(directory)) => Target::Rootfs(directory.clone()),
        (None, None) => {
            output.print(&CHECKS, |checks| checks.iter().map(entry).collect())?;
            return Ok(Answer::Done);
        }
    };
    let options = Options { target, scratch: arguments.scratch.directory(), skip: arguments.skip.clone() };
    let report = lint::run(&options, &renderer(output))?;
    output.print(&report, human)?;
    Ok(if report.counts.pass(arguments.fatal_warnings) { Answer::Done } else { Answer::No })
}

/// A check in the list of all.
fn entry(check: &Check) -> String {
    format!("{:<7}  {}\n         {}\n", check.severity, check.id, check.about)
}

/// Paths that are shown of a finding; JSON has all.
const PATHS: usize = 10;

fn human(report: &Report) -> String {
    let mut text = if report.layers.is_empty() { String::new() } else { format!("Layers:\n\n{}\n", layers(report)) };
    // What matters most stands last, above the prompt.
    for (severity, title) in [(Severity::Info, "Notes"), (Severity::Warning, "Warnings"), (Severity::Error, "Errors")] {
        let findings: Vec<&Finding> = report.findings.iter().filter(|finding| finding.severity == severity).collect();
        if !findings.is_empty() {
            text += &format!("{title}:\n\n{}\n", findings.iter().map(|finding| paragraph(finding)).collect::<Vec<_>>().join("\n"));
        }
    }
    if !report.complete {
        text += "The other checks were not made: there is nothing that they could look at.\n";
    }
    let counts = report.counts;
    text + &format!("{}: {} errors, {} warnings, {} notes", report.target, counts.errors, counts.warnings, counts.infos)
}

fn paragraph(finding: &Finding) -> String {
    let mut text = format!("  {}: {}\n", finding.id, finding.what);
    for path in finding.paths.iter().take(PATHS) {
        text += &format!("      {path}\n");
    }
    if finding.paths.len() > PATHS {
        text += "      and others\n";
    }
    text + &format!("    -> {}\n", finding.mend)
}

fn layers(report: &Report) -> String {
    let line = |layer: &selkie::lint::Layer| {
        let unpacked = layer.uncompressed.map_or_else(String::new, bytes);
        let by = layer.created_by.as_deref().unwrap_or_default();
        let by: String = by.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect();
        format!("  {:>11} {unpacked:>11}  {by}\n", bytes(layer.size))
    };
    format!("  {:>11} {:>11}  made by\n", "packed", "unpacked") + &report.layers.iter().map(line).collect::<String>()
}
