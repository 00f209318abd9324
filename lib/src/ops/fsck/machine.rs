//! The machine around the repository: deployments, boot entries, kernels on the ESP, boot counters.
//!
//! [`facts`] reads, [`decide`](decide::decide) says what is wrong and what would mend it, [`mend`] does that. A repair decides again before each
//! action, so that it never works on what an action before has changed.

mod decide;
mod deployments;
mod entries;
mod facts;
mod kernels;
mod mend;
mod standing;

use anyhow::{Result, bail};

use super::Options;
use super::target::Target;
use crate::finding::Finding;
use crate::progress::Progress;
use crate::store::Store;
use crate::store::fsck::Inspection;
use facts::Facts;

/// What a look at the machine gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// What is damaged.
    pub(super) findings: Vec<Finding>,
    /// Deployments that were looked at.
    pub(super) deployments: u64,
    /// Boot entries of ours that were looked at.
    pub(super) entries: u64,
    /// What could not be looked at, and why.
    pub(super) unchecked: Vec<String>,
}

/// The repository, and what a look at it gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inspected<'r> {
    pub(super) store: &'r Store,
    pub(super) inspection: &'r Inspection,
}

/// Looks at the machine. Changes nothing. `repository` is `None` where the repository cannot be opened.
pub(super) fn check(target: &Target, repository: Option<Inspected<'_>>) -> Result<Look> {
    let facts = Facts::read(target, repository);
    Ok(Look {
        findings: decide::decide(&facts).into_iter().map(|decided| decided.finding).collect(),
        deployments: facts.state.as_ref().map_or(0, |state| state.deployments.len() as u64),
        entries: facts.place.as_ref().map_or(0, |place| place.entries.len() as u64),
        unchecked: facts.unchecked,
    })
}

/// Repairs one finding of [`check`], after all of the repository were repaired. An error leaves this one as it was; the others are tried
/// all the same. That it worked is known by a second look, which the verb takes when all are done.
pub(super) fn repair(
    target: &Target,
    repository: Inspected<'_>,
    finding: &Finding,
    options: &Options,
    progress: &dyn Progress,
) -> Result<()> {
    let facts = Facts::read(target, Some(repository));
    let now = decide::decide(&facts).into_iter().find(|decided| decided.finding.subject() == finding.subject());
    // What was mended before may have mended this, too.
    let Some(now) = now else { return Ok(()) };
    match &now.action {
        Some(action) => mend::Mend { target, store: repository.store, options, facts: &facts, progress }.apply(action),
        None => bail!("{}", now.finding.message),
    }
}
