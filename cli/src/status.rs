//! `selkie status`

use anyhow::Result;
use clap::Args;
use selkie::config::Policy;
use selkie::deploy::{Cause, FailedBoot, FailedCheck};
use selkie::ops::auto_update::Automatic;
use selkie::ops::host::{Access, Host};
use selkie::ops::status::{self, Deployment, Status};

use crate::output::{Answer, Output, local, table};

/// Show what runs, what boots next, and where one can go back to.
#[derive(Debug, Args)]
pub struct Arguments {}

pub fn run(_arguments: &Arguments, output: &Output) -> Result<Answer> {
    let host = Host::running(Access::Read)?;
    let status = match crate::config::load() {
        Ok(config) => status::run(&host.configured(config)),
        // What the machine is told to do is not known; what it is, is.
        Err(error) => {
            let mut status = status::run(&host);
            status.automatic = None;
            status.problems.push(format!("{error:#}"));
            status
        }
    };
    output.print(&status, human)?;
    Ok(Answer::Done)
}

fn human(status: &Status) -> String {
    let mut text = section("Booted", &status.booted);
    text.extend(status.staged.as_ref().map(|d| section("Boots next", d)));
    text.extend(status.once.as_ref().map(|d| section("Boots next, once", d)));
    text.extend(status.rollback.as_ref().map(|d| section("Rollback", d)));
    text.extend(status.other.iter().map(|d| section("Other", d)));
    text.extend(status.failed.iter().map(|failed| {
        let (version, image) = (failed.os_version.as_deref().unwrap_or("unknown"), failed.image.as_deref().unwrap_or("unknown"));
        format!("Failed: version {version} of {image}, root {}\n{}\n", failed.id.short(), failure(failed))
    }));
    text.extend(status.automatic.as_ref().map(automatic));
    text.extend((!status.foreign_entries.is_empty()).then(|| format!("Entries of others: {}\n", status.foreign_entries.join(", "))));
    text.extend(status.problems.iter().map(|problem| format!("Problem: {problem}\n")));
    text
}

/// What the machine does by itself, in one paragraph.
fn automatic(automatic: &Automatic) -> String {
    let word = |value: serde_json::Result<serde_json::Value>| value.ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    if automatic.policy == Policy::None {
        return "Automatic updates: none\n\n".to_owned();
    }
    let version = automatic.os_version.as_deref().map(|version| format!(", version {version}")).unwrap_or_default();
    let last = match (automatic.outcome, &automatic.last_try) {
        (None, _) => "none yet".to_owned(),
        (Some(outcome), at) => {
            let at = at.as_deref().map(|at| format!(" at {at}")).unwrap_or_default();
            format!("{}{version}{at}", word(serde_json::to_value(outcome)))
        }
    };
    let failed = automatic.error.as_deref().map(|error| format!("{error} (failures in a row: {})", automatic.failures));
    let window = match (automatic.windows.is_empty(), automatic.window_open, &automatic.next_window) {
        (true, ..) => None,
        (false, Some(true), _) => Some("open now".to_owned()),
        (false, _, next) => Some(next.clone().unwrap_or_else(|| "unknown".to_owned())),
    };
    let mut rows = vec![
        ("  Policy", word(serde_json::to_value(automatic.policy))),
        ("  Restarts", word(serde_json::to_value(automatic.reboot))),
        ("  Last try", last),
    ];
    rows.extend(failed.map(|failed| ("  Failed", failed)));
    rows.extend(automatic.next_try.clone().map(|next| ("  Next try", next)));
    rows.extend(window.map(|window| ("  Next window", window)));
    rows.extend(automatic.waiting_since.clone().map(|since| ("  Staged", format!("{since}, waits for a restart"))));
    format!("Automatic updates\n{}\n", table(&rows))
}

/// How a root failed, in indented lines.
pub fn failure(failed: &FailedBoot) -> String {
    let when = failed.at.as_deref().map(|at| format!(" ({})", local(at))).unwrap_or_default();
    match failed.cause {
        Cause::DidNotComeUp => format!("  did not come up: no health result{when}\n"),
        Cause::ChecksFailed => {
            let check = |check: &FailedCheck| {
                let said: String = check.lines.iter().map(|line| format!("    {line}\n")).collect();
                format!("  check {} failed{when}: {}\n{said}", check.name, check.ended)
            };
            failed.checks.iter().map(check).collect()
        }
    }
}

fn section(role: &str, deployment: &Deployment) -> String {
    let unknown = || "unknown".to_owned();
    let verity = deployment.verity_required.map_or_else(unknown, |v| if v { "required" } else { "optional" }.to_owned());
    let number = deployment.number.map_or_else(unknown, |number| number.to_string());
    let rows = table(&[
        ("  Number", if deployment.pinned { format!("{number} (pinned)") } else { number }),
        ("  Image", deployment.image.clone().unwrap_or_else(unknown)),
        ("  Version", deployment.os_version.clone().unwrap_or_else(unknown)),
        ("  Staged", deployment.date.as_deref().map_or_else(unknown, local)),
        ("  Manifest", deployment.manifest_digest.clone().unwrap_or_else(unknown)),
        ("  Root", deployment.id.to_string()),
        ("  fs-verity", verity),
        ("  Sealed", deployment.sealed.map_or_else(unknown, |sealed| if sealed { "yes" } else { "no" }.to_owned())),
    ]);
    format!("{role}\n{rows}\n")
}
