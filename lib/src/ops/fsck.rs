//! `selkie fsck`: whether everything is there and is what its name says, and with `--repair`, making it so again.
//!
//! Load, decide, apply, and look again: a finding counts as repaired only when a second look did not find it. Nothing damaged is removed
//! before its replacement is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::Result;

use crate::finding;
use crate::image::SourceOptions;
use crate::progress::Progress;
use crate::reference::ImageReference;

mod machine;
mod plan;
mod report;
mod repository;
mod target;

pub use crate::finding::{Damage, Finding, Kind, Outcome, Remedy};
pub use report::{Checked, Fetched, Means, Report, Verdict};
pub use target::Target;

/// What to do.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Repair what can be repaired.
    pub repair: bool,
    /// An image that has what is damaged; where each deployment's own image came from by default.
    pub image: Option<ImageReference>,
    /// How to reach it.
    pub source: SourceOptions,
}

/// Runs the verb. Takes the lock for a repair; a mere look changes nothing.
///
/// # Errors
///
/// Only where the question cannot be asked, or a repair cannot be done here at all: it is refused before anything is looked at. What is
/// damaged is in the report.
pub fn run(target: &Target, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    let _lock = if options.repair {
        repository::require_repairable(target)?;
        Some(target.lock()?)
    } else {
        None
    };
    let mut look = look(target, progress)?;
    let mut fetched = Vec::new();
    if options.repair && !look.findings.is_empty() {
        fetched = repair(target, &mut look, options, progress)?;
    }
    let verdict = verdict(&look);
    Ok(Report { verdict, findings: look.findings, checked: look.checked, unchecked: look.unchecked, fetched })
}

/// Everything that was seen.
struct Look {
    repository: repository::Look,
    findings: Vec<Finding>,
    checked: Checked,
    unchecked: Vec<String>,
}

fn look(target: &Target, progress: &Arc<dyn Progress>) -> Result<Look> {
    let mut repository = repository::check(target, progress)?;
    let mut machine = machine::check(target, repository.store.as_ref())?;
    let mut findings = std::mem::take(&mut repository.findings);
    findings.append(&mut machine.findings);
    let mut unchecked = std::mem::take(&mut repository.unchecked);
    unchecked.append(&mut machine.unchecked);
    let checked = Checked { deployments: machine.deployments, entries: machine.entries, ..repository.checked };
    Ok(Look { repository, findings, checked, unchecked })
}

/// Repairs in the order of the plan, looks again, and notes in each finding what became of it.
fn repair(target: &Target, look: &mut Look, options: &Options, progress: &Arc<dyn Progress>) -> Result<Vec<Fetched>> {
    let plan = plan::plan(&look.findings);
    let mut work = repository::Repair::new(target, &mut look.repository, options, progress)?;
    let mut reasons = work.apply(&plan.repository)?;
    if let Some(store) = work.store() {
        for finding in plan.machine {
            if let Err(error) = machine::repair(target, store, finding, progress.as_ref()) {
                reasons.insert(key(finding), format!("{error:#}"));
            }
        }
    }
    let fetched = work.finish()?;
    let still = again(target, look, progress)?;
    settle(look, &still, &reasons);
    Ok(fetched)
}

/// A second look: at all of the machine, and at what was damaged in the repository with all that it is needed by.
fn again(target: &Target, look: &mut Look, progress: &Arc<dyn Progress>) -> Result<Vec<Finding>> {
    let mut still = repository::again(target, &mut look.repository, &look.findings, progress)?;
    let mut machine = machine::check(target, look.repository.store.as_ref())?;
    still.append(&mut machine.findings);
    Ok(still)
}

/// The name of a finding for tables.
type Key = (Kind, String);

fn key(finding: &Finding) -> Key {
    (finding.kind, finding.name.clone())
}

/// Notes what became of each finding. What only the second look found is added: a repair that did damage must not be silent.
fn settle(look: &mut Look, still: &[Finding], reasons: &HashMap<Key, String>) {
    let there: HashMap<_, _> = still.iter().map(|finding| (finding.subject(), finding)).collect();
    for finding in &mut look.findings {
        finding.outcome = match there.get(&finding.subject()) {
            None => Outcome::Repaired,
            Some(now) => Outcome::Left { reason: reasons.get(&key(finding)).cloned().unwrap_or_else(|| now.message.clone()) },
        };
    }
    let known: HashSet<Key> = look.findings.iter().map(key).collect();
    let new = still.iter().filter(|finding| !known.contains(&key(finding)));
    let left = |finding: &Finding| Finding {
        outcome: Outcome::Left { reason: "it was not found by the first look".to_owned() },
        ..finding.clone()
    };
    let new: Vec<Finding> = new.map(left).collect();
    look.findings.extend(new);
}

fn verdict(look: &Look) -> Verdict {
    let repaired = |finding: &Finding| finding.outcome == Outcome::Repaired;
    match look.findings.iter().all(repaired) && look.unchecked.is_empty() {
        false => Verdict::Damaged,
        true if look.findings.is_empty() => Verdict::Clean,
        true => Verdict::Repaired,
    }
}
