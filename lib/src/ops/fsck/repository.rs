//! The repository side: what the store found, as findings, and their repair.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Result;

use super::report::{Checked, Fetched};
use super::target::Target;
use super::{Key, Options};
use crate::finding::Finding;
use crate::progress::Progress;
use crate::store::Store;

/// What a look at the repository gives.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The repository, where it can be opened.
    pub(super) store: Option<Store>,
    /// What is damaged.
    pub(super) findings: Vec<Finding>,
    /// What was looked at.
    pub(super) checked: Checked,
    /// What could not be looked at, and why.
    pub(super) unchecked: Vec<String>,
}

/// Refuses where a repair would do damage: the file system or the kernel cannot do what the repository needs.
pub(super) fn require_repairable(_target: &Target) -> Result<()> {
    Ok(())
}

/// Looks at everything. Changes nothing.
pub(super) fn check(target: &Target, _progress: &Arc<dyn Progress>) -> Result<Look> {
    Ok(Look { store: Some(target.store()?), ..Look::default() })
}

/// Looks again at what was found, and at all that needs it.
pub(super) fn again(target: &Target, look: &mut Look, _found: &[Finding], progress: &Arc<dyn Progress>) -> Result<Vec<Finding>> {
    *look = check(target, progress)?;
    Ok(std::mem::take(&mut look.findings))
}

/// A repair of the repository under way.
pub(super) struct Repair<'l> {
    look: &'l mut Look,
}

impl<'l> Repair<'l> {
    pub(super) fn new(_target: &Target, look: &'l mut Look, _options: &Options, _progress: &Arc<dyn Progress>) -> Result<Self> {
        Ok(Self { look })
    }

    /// The repository, as soon as it can be opened.
    pub(super) fn store(&self) -> Option<&Store> {
        self.look.store.as_ref()
    }

    /// Repairs findings in this order: why those that are left are left.
    pub(super) fn apply(&mut self, plan: &[&Finding]) -> Result<HashMap<Key, String>> {
        Ok(plan.iter().map(|finding| (super::key(finding), "no way to repair it is known".to_owned())).collect())
    }

    /// Ends the programs that served images: what was fetched.
    pub(super) fn finish(self) -> Result<Vec<Fetched>> {
        Ok(Vec::new())
    }
}
