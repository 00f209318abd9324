//! The machine around the repository: deployments, boot entries, kernels on the ESP, boot counters.

use anyhow::Result;

use super::finding::Finding;
use super::target::Target;
use crate::progress::Progress;
use crate::store::Store;

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

/// Looks at the machine. Changes nothing. `store` is `None` where the repository cannot be opened.
pub(super) fn check(_target: &Target, _store: Option<&Store>) -> Result<Look> {
    Ok(Look::default())
}

/// Repairs one finding of [`check`], after all of the repository were repaired. An error leaves this one as it was; the others are tried
/// all the same. That it worked is known by a second look, which the verb takes when all are done.
pub(super) fn repair(_target: &Target, _store: &Store, finding: &Finding, _progress: &dyn Progress) -> Result<()> {
    anyhow::bail!("no way to repair {} is known", finding.name)
}
