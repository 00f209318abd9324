//! `selkie health`: is this boot a good one? Runs the checks of the image and of the machine; told to apply, it draws the consequences: what failed goes
//! on record, and the machine is restarted until the boot loader goes back to the root before, or once where this root was good before.
//!
//! The checks are run before the machine is opened ([`Host::running`] changes what this process sees), so there are two calls.

mod checks;
mod decide;

pub use checks::{Finding, Kind, Outcome};
pub use decide::{Action, Past, Standing, Verdict, decide};

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde::Serialize;

use super::host::Host;
use crate::boot::Tries;
use crate::calendar;
use crate::deploy::{Cause, Deployments, FailedBoot};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::system::System;

/// What to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// The root below which the folders of checks are.
    pub root: PathBuf,
    /// How long a check may run.
    pub limit: Duration,
    /// Whether a failed unit of systemd makes the boot a bad one.
    pub failed_units: bool,
    /// Whether to run what is to follow a good or a bad boot, too (`green.d`, `red.d`).
    pub follow_up: bool,
}

/// How the boot went, and what follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Whether it was good.
    pub verdict: Verdict,
    /// Every check, in the order in which they ran.
    pub checks: Vec<Finding>,
    /// What follows; unknown until [`apply`].
    pub consequence: Option<Consequence>,
    /// What went wrong beside the checks.
    pub problems: Vec<String>,
}

/// What follows from how a boot went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Consequence {
    /// The root that runs.
    pub booted: ImageId,
    /// Boot counting, while its entry has not proven itself.
    pub tries: Option<Tries>,
    /// What is to be done now.
    pub action: Action,
    /// Why.
    pub because: String,
    /// How often the machine was restarted because of this root, with the one that is due now.
    pub reboots: u32,
}

/// Runs the checks.
///
/// # Errors
///
/// A folder of checks cannot be read. A check that fails is no error.
pub fn check(options: &Options, progress: &dyn Progress) -> Result<Report> {
    let mut checks = run_all(options, &[Kind::Required, Kind::Wanted], progress)?;
    if options.failed_units {
        checks.push(checks::failed_units());
    }
    let verdict = if checks.iter().any(Finding::is_bad) { Verdict::Bad } else { Verdict::Good };
    if options.follow_up {
        let kind = if verdict == Verdict::Good { Kind::Green } else { Kind::Red };
        checks.extend(run_all(options, &[kind], progress)?);
    }
    Ok(Report { verdict, checks, consequence: None, problems: Vec::new() })
}

fn run_all(options: &Options, kinds: &[Kind], progress: &dyn Progress) -> Result<Vec<Finding>> {
    let run = |check: &checks::Check| {
        progress.phase(format!("running {}", check.path.display()));
        checks::run(check, options.limit)
    };
    Ok(checks::find(&options.root, kinds)?.iter().map(run).collect())
}

/// Draws the consequences, up to the restart itself, which is the caller's to do where [`Consequence::action`] says so. `patience` is how long to wait
/// for another selkie process that is changing the machine.
///
/// Whatever cannot be done is among the problems. What is not on record does not restart the machine: the record is what ends that.
pub fn apply(host: &Host, report: &mut Report, patience: Duration, progress: &dyn Progress) {
    let system = host.survey();
    let standing = Standing::of(system.entry(&system.booted));
    let plan = plan(&system, report, standing);
    let mut consequence = plan.consequence.clone();
    if let Err(error) = write(host, &plan, patience, progress) {
        report.problems.push(format!("keeping a record of how this boot went: {error:#}"));
        if consequence.action == Action::Reboot {
            (consequence.action, consequence.because) = (Action::StayUp, "there is no record of it, so restarts would not end".to_owned());
            consequence.reboots -= 1;
        }
    }
    report.consequence = Some(consequence);
}

/// What is written, and what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    consequence: Consequence,
    /// New records: this root where it failed, and roots that never told.
    records: Vec<FailedBoot>,
    /// Whether this root's record goes.
    forget: bool,
}

fn plan(system: &System, report: &Report, standing: Standing) -> Plan {
    let booted = &system.booted;
    let before = system.failed.iter().find(|failed| failed.id == *booted);
    let unreadable = system.failed_unreadable.contains(booted);
    let reboots = before.map_or(0, |failed| failed.reboots);
    let out_of_tries = before.is_some_and(|failed| failed.tries_left == Some(0));
    let (action, because) = decide(report.verdict, standing, (!unreadable).then_some(Past { reboots, out_of_tries }));
    let reboots = reboots.saturating_add(u32::from(action == Action::Reboot));
    let mut records = silent(system);
    if report.verdict == Verdict::Bad {
        records.push(FailedBoot {
            at: now(),
            boot_id: boot_id(),
            reboots,
            checks: report.checks.iter().filter(|check| check.is_bad()).map(Finding::record).collect(),
            ..system.failure(booted, Cause::ChecksFailed)
        });
    }
    let tries = if let Standing::OnTrial(tries) = standing { Some(tries) } else { None };
    let consequence = Consequence { booted: booted.clone(), tries, action, because: because.to_owned(), reboots };
    let forget = report.verdict == Verdict::Good && (before.is_some() || unreadable);
    Plan { consequence, records, forget }
}

/// Records that are due of roots that never told how they are. Whoever removes their entries writes them down first.
pub(super) fn silent(system: &System) -> Vec<FailedBoot> {
    let due = system.failed.iter().filter(|failed| failed.at.is_none());
    due.map(|failed| FailedBoot { at: now(), ..failed.clone() }).collect()
}

fn now() -> Option<String> {
    calendar::rfc3339(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn write(host: &Host, plan: &Plan, patience: Duration, progress: &dyn Progress) -> Result<()> {
    if plan.records.is_empty() && !plan.forget {
        return Ok(());
    }
    let _lock = host.lock_within(patience)?;
    let deployments: &Deployments = host.deployments()?;
    for record in &plan.records {
        deployments.record_failed(record)?;
        progress.step("record failed boot");
    }
    if plan.forget {
        deployments.forget_failed(&plan.consequence.booted)?;
        progress.step("forget failed boot");
    }
    Ok(())
}

/// The boot that runs, as the kernel names it.
pub(super) fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}
