//! What no longer has a role goes: entry first, then kernels, deployment, tag, objects. From root to leaf, so that a power cut
//! leaves garbage and never a dangling entry.

use anyhow::Result;

use super::catch_up;
use super::host::Host;
use super::pull::tell_of_index;
use crate::boot::BootEntry;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::store::{GcStats, Store, StoredImage};
use crate::system::System;

/// What will be removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Entries without a role.
    pub entries: Vec<BootEntry>,
    /// Deployments without a role.
    pub deployments: Vec<ImageId>,
    /// Repository tags of roots that are not kept.
    pub tags: Vec<String>,
}

/// The repository tag that keeps a deployment's image.
pub fn tag(id: &ImageId) -> String {
    format!("{TAG}{id}")
}

/// The image of a deployment, by that tag.
///
/// # Errors
///
/// [`FailureKind::Corrupt`] where the repository has lost the tag or a part of the image.
pub(super) fn stored(store: &Store, id: &ImageId) -> Result<StoredImage> {
    let manifest = store.tags()?.into_iter().find(|(name, _)| *name == tag(id)).map(|(_, manifest)| manifest);
    let found = manifest.map_or(Ok(None), |manifest| store.find(&manifest))?;
    found.filter(|found| found.boot_image == *id).ok_or_else(|| {
        Failure::new(FailureKind::Corrupt, format!("looking for the image of deployment {}: it is not whole in the repository", id.short()))
            .hint("`selkie switch IMAGE` fetches what is missing")
            .into()
    })
}

/// Tags that begin so are this machine's bookkeeping.
pub const TAG: &str = "deployment/";

/// A set difference: everything of ours, less what [`System::kept`] names, with `keep` older roots.
pub fn plan(system: &System, tags: &[String], keep: usize) -> Plan {
    let kept = system.kept(keep);
    let gone = |id: &ImageId| !kept.contains(&id);
    Plan {
        entries: system.entries.iter().filter(|e| gone(&e.image)).cloned().collect(),
        deployments: system.deployments.iter().map(|d| &d.id).filter(|id| gone(id)).cloned().collect(),
        tags: tags.iter().filter(|t| t.strip_prefix(TAG).is_some_and(|hex| kept.iter().all(|id| id.hex() != hex))).cloned().collect(),
    }
}

/// Removes what the plan names. The objects stay until [`collect`].
pub fn apply(plan: &Plan, host: &Host, store: &Store, progress: &dyn Progress) -> Result<()> {
    for entry in &plan.entries {
        host.boot()?.place().remove(entry)?;
        progress.step("remove entry");
    }
    host.boot()?.place().sweep()?;
    progress.step("sweep kernels");
    catch_up::follow(host, progress)?;
    // A place that could not follow may still boot them.
    let held = catch_up::held(host)?;
    for id in plan.deployments.iter().filter(|id| !held.contains(id)) {
        host.deployments()?.remove(id)?;
        progress.step("remove deployment");
    }
    host.deployments()?.sweep()?;
    for tag in plan.tags.iter().filter(|tag| held.iter().all(|id| **tag != self::tag(id))) {
        store.untag(tag)?;
        progress.step("remove tag");
    }
    host.sync()
}

/// Removes the objects that neither a tag nor a root with a role leads to. Layers of a pull that was cut short are among them: call it
/// when nothing is going to be resumed.
pub fn collect(system: &System, host: &Host, store: &Store, keep: usize, progress: &dyn Progress) -> Result<GcStats> {
    // Nobody may take a tag away between the question what tags keep and the removal.
    let alone = store.alone(progress)?;
    let collected = alone.gc(&system.kept(keep))?;
    host.sync()?;
    progress.step("collect objects");
    if collected.objects > 0 {
        tell_of_index(alone.forget_what_is_gone(), progress);
    }
    Ok(collected)
}

/// The names of all tags.
pub(super) fn tags(store: &Store) -> Result<Vec<String>> {
    Ok(store.tags()?.into_iter().map(|(tag, _)| tag).collect())
}
