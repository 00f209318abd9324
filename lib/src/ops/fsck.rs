//! `selkie fsck`: whether everything is there and is what its name says, and with `--repair`, making it so again.
//!
//! Load, decide, apply, and look again: a finding counts as repaired only when a later look did not find it. Nothing damaged is removed
//! before its replacement is there. A repair may show more (what a stream that came back needs), so there are a few rounds of it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::pull;
use crate::finding;
use crate::image::SourceOptions;
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::Store;

mod machine;
mod plan;
mod repair;
mod report;
mod repository;
mod sources;
mod target;

pub use crate::finding::{Damage, Finding, Kind, Outcome, Remedy};
pub use report::{Checked, Fetched, Means, Report, Verdict};
pub use target::Target;

/// Damaged metadata hides the streams, a damaged stream its objects; then there is nothing more to be hidden.
const ROUNDS: usize = 4;

/// What to do.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Repair what can be repaired.
    pub repair: bool,
    /// An image that has what is damaged; where each deployment's own image came from by default.
    pub image: Option<ImageReference>,
    /// How to reach it.
    pub source: SourceOptions,
    /// Where to keep what is built before it takes its place.
    pub scratch: PathBuf,
}

/// Runs the verb. Takes the lock for a repair, and has a repository of no machine to itself; a mere look changes nothing.
///
/// # Errors
///
/// Only where the question cannot be asked, or a repair cannot be done here at all: it is refused before anything is looked at. What is
/// damaged is in the report.
pub fn run(target: &Target, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    let _lock = if options.repair {
        repository::require_repairable(target)?;
        target.lock()?
    } else {
        None
    };
    let mut look = look(target, None, options.repair, progress)?;
    let mut ledger = Ledger::default();
    ledger.enter(&look);
    for _ in 0..ROUNDS {
        if !options.repair || look.findings.is_empty() {
            break;
        }
        let before: HashSet<Key> = look.findings.iter().map(key).collect();
        ledger.repaired(repair_all(target, &look, options, progress)?);
        look = self::look(target, Some(look), options.repair, progress)?;
        ledger.enter(&look);
        if look.findings.iter().map(key).collect::<HashSet<Key>>() == before {
            break;
        }
    }
    if let Some(store) = look.repository.store.as_ref().filter(|_| options.repair) {
        pull::tell_of_index(rebuild_index(store), progress.as_ref());
    }
    Ok(ledger.close(look, options.repair))
}

/// Makes the content index again where it is lost; whether it was.
fn rebuild_index(store: &Store) -> Result<bool> {
    Ok(store.lacks_content_index()? && store.rebuild_content_index()?)
}

/// Everything that was seen.
struct Look {
    repository: repository::Look,
    findings: Vec<Finding>,
    checked: Checked,
    unchecked: Vec<String>,
}

/// Looks at everything; at what an earlier look found well in the repository only for what it leads to.
fn look(target: &Target, before: Option<Look>, repair: bool, progress: &Arc<dyn Progress>) -> Result<Look> {
    let mut repository = repository::check(target, before.map(|before| before.repository), repair, progress)?;
    let mut machine = if target.is_machine() { machine::check(target, inspected(&repository))? } else { machine::Look::default() };
    let mut findings = std::mem::take(&mut repository.findings);
    findings.append(&mut machine.findings);
    let mut unchecked = std::mem::take(&mut repository.unchecked);
    unchecked.append(&mut machine.unchecked);
    let checked = Checked { deployments: machine.deployments, entries: machine.entries, ..repository.checked };
    Ok(Look { repository, findings, checked, unchecked })
}

/// Repairs in the order of the plan.
fn repair_all(target: &Target, look: &Look, options: &Options, progress: &Arc<dyn Progress>) -> Result<repair::Done> {
    let plan = plan::plan(&look.findings);
    let mut done = repair::repair(target, &look.repository, &plan.repository, options, progress)?;
    if let Some(inspected) = inspected(&look.repository) {
        for finding in plan.machine {
            if let Err(error) = machine::repair(target, inspected, finding, options, progress.as_ref()) {
                done.reasons.insert(key(finding), format!("{error:#}"));
            }
        }
    }
    Ok(done)
}

fn inspected(repository: &repository::Look) -> Option<machine::Inspected<'_>> {
    let store = repository.store.as_ref()?;
    Some(machine::Inspected { store, inspection: &repository.inspection })
}

/// The name of a finding for tables.
type Key = (Kind, String);

fn key(finding: &Finding) -> Key {
    (finding.kind, finding.name.clone())
}

/// Everything that any look has found, and what was done about it.
#[derive(Default)]
struct Ledger {
    findings: Vec<Finding>,
    known: HashSet<Key>,
    reasons: HashMap<Key, String>,
    fetched: Vec<Fetched>,
    checked: Checked,
}

impl Ledger {
    fn enter(&mut self, look: &Look) {
        self.findings.extend(look.findings.iter().filter(|finding| self.known.insert(key(finding))).cloned());
        self.checked = self.checked.or_more(&look.checked);
    }

    fn repaired(&mut self, done: repair::Done) {
        self.reasons.extend(done.reasons);
        self.fetched.extend(done.fetched);
    }

    /// The report: what the last look still found is left.
    fn close(mut self, last: Look, repair: bool) -> Report {
        let still: HashMap<_, _> = last.findings.iter().map(|finding| (finding.subject(), finding)).collect();
        for finding in self.findings.iter_mut().filter(|_| repair) {
            finding.outcome = match still.get(&finding.subject()) {
                None => Outcome::Repaired,
                Some(now) => Outcome::Left { reason: self.reasons.remove(&key(finding)).unwrap_or_else(|| now.message.clone()) },
            };
        }
        let verdict = match (last.findings.is_empty(), last.unchecked.is_empty()) {
            (false, _) => Verdict::Damaged,
            (true, false) => Verdict::Unchecked,
            (true, true) if self.findings.is_empty() => Verdict::Clean,
            (true, true) => Verdict::Repaired,
        };
        Report { verdict, findings: self.findings, checked: self.checked, unchecked: last.unchecked, fetched: self.fetched }
    }
}
