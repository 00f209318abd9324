//! The repository side of a check: what the store found, and what the deployments need of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::Result;

use super::report::Checked;
use super::target::Target;
use crate::deploy::Listing;
use crate::error::{Failure, FailureKind};
use crate::finding::{Damage, Finding, Kind, Remedy};
use crate::ops::prune;
use crate::progress::Progress;
use crate::store::fsck::{self, Inspect, Inspection, Metadata};
use crate::store::{Alone, Store};

/// What a look at the repository gives.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The repository, where it can be opened.
    pub(super) store: Option<Store>,
    /// While it is repaired, and is no machine's, which has a lock of its own.
    pub(super) alone: Option<Alone>,
    /// Whether what says how it is to be read is not as it should be, wherever it could be opened all the same.
    unreadable: bool,
    /// What the store says.
    pub(super) inspection: Inspection,
    /// What is damaged.
    pub(super) findings: Vec<Finding>,
    /// What was looked at.
    pub(super) checked: Checked,
    /// What could not be looked at, and why.
    pub(super) unchecked: Vec<String>,
    /// Deployments whose images have lost their tags, with their manifests, where the repository has them.
    pub(super) untagged: Vec<(String, Option<String>)>,
}

/// Refuses where a repair would do damage: the file system or the kernel cannot do what the repository needs.
pub(super) fn require_repairable(target: &Target) -> Result<()> {
    let entries = target.boot().and_then(|boot| boot.place().entries()).unwrap_or_default();
    match target.repository()? {
        Some(directory) => fsck::require_repairable(directory, entries.iter().any(|entry| entry.verity_required)),
        None => Ok(()),
    }
}

/// Looks at everything. Changes nothing. What an earlier look found well is not read again.
///
/// # Errors
///
/// There is no repository, it is of a format that is not ours, or the kernel cannot read it.
pub(super) fn check(target: &Target, before: Option<Look>, repair: bool, progress: &Arc<dyn Progress>) -> Result<Look> {
    let mut look = Look::default();
    // What says how it is to be read was made again: it is opened anew.
    let before = before.filter(|before| !before.unreadable);
    let Some(directory) = target.repository()? else {
        let failure = Failure::new(FailureKind::NotFound, "checking the repository: there is none on the root file system");
        return Err(failure.hint("`selkie disk` makes a machine; without its repository there is nothing to repair").into());
    };
    match fsck::check_metadata(directory)? {
        Metadata::Readable(findings) => {
            look.unreadable = !findings.is_empty();
            look.findings = findings;
        }
        Metadata::Damaged(finding) => {
            look.unchecked.push(format!("the repository, as its {} is damaged", finding.name));
            look.findings.push(finding);
            return Ok(look);
        }
    }
    progress.phase("checking the repository".to_owned());
    let (store, alone, known) = before.map_or((None, None, None), |before| (before.store, before.alone, Some(before.inspection)));
    let store = store.map_or_else(|| target.store(progress.as_ref()), Ok)?;
    look.alone = if repair { alone.map_or_else(|| target.alone(&store, progress.as_ref()), |alone| Ok(Some(alone)))? } else { None };
    inspect(target, &store, known.as_ref(), progress, &mut look)?;
    look.store = Some(store);
    Ok(look)
}

fn inspect(target: &Target, store: &Store, known: Option<&Inspection>, progress: &Arc<dyn Progress>, look: &mut Look) -> Result<()> {
    let listing = match target.is_machine() {
        true => target.deployments().and_then(|deployments| deployments.list()),
        false => Ok(Listing::default()),
    };
    let mut options = Inspect { manifests: Vec::new(), kept: target.kept(), all_known: listing.is_ok() };
    let mut found = store.inspect(&options, known, progress.as_ref())?;
    let (objects, bytes) = (found.objects, found.bytes);
    let tags: BTreeSet<String> = store.tags_named()?;
    let boots: HashMap<_, _> = found.boots.iter().map(|(manifest, image)| (image.clone(), manifest.clone())).collect();
    for deployment in listing.unwrap_or_default().found {
        let tag = prune::tag(&deployment.id);
        if tags.contains(&tag) {
            continue;
        }
        let here = boots.get(&deployment.id).cloned();
        let wanted = here.clone().or_else(|| deployment.origin.as_ref().ok().map(|origin| origin.manifest_digest.clone()));
        options.manifests.extend(wanted);
        let remedy = if here.is_some() { Remedy::Rebuild } else { Remedy::Follows };
        let message = "the image of this deployment has no name, and the next garbage collection would take it";
        look.findings.push(Finding::new(Kind::Tag, tag.clone(), Damage::Missing, message, remedy));
        look.untagged.push((tag, here));
    }
    if !options.manifests.is_empty() {
        found = store.inspect(&options, Some(&found), progress.as_ref())?;
    }
    look.findings.append(&mut found.findings);
    let Inspection { images, streams, tags, .. } = found;
    look.checked = Checked { objects, bytes, images, streams, tags, ..Checked::default() };
    look.inspection = found;
    Ok(())
}
