//! `selkie gc`: removes what has no role, by the plan that `upgrade` uses after its work, or only tells it. In a repository of no machine, what no tag leads to.

use anyhow::Result;
use serde::Serialize;

use super::catch_up;
use super::host::Host;
use super::prune;
use super::pull::tell_of_index;
use super::standalone::Standalone;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::store::fsck::Collected;

/// What to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// How many older roots stay besides those with a role.
    pub keep: usize,
    /// Only tell what would be removed.
    pub dry_run: bool,
}

/// What was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Whether this is only a plan.
    pub dry_run: bool,
    /// Boot entries, by file name.
    pub entries: Vec<String>,
    /// Deployments, with their local changes of /etc.
    pub deployments: Vec<ImageId>,
    /// Repository tags.
    pub tags: Vec<String>,
    /// Objects in the repository.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
}

/// Runs the verb. Takes the lock, except to tell what would be removed: that changes nothing on the disk.
///
/// # Errors
///
/// Something cannot be read: what is not seen is not absent, so nothing is removed then.
pub fn run(host: &Host, options: Options, progress: &dyn Progress) -> Result<Report> {
    let _lock = if options.dry_run { None } else { Some(host.lock()?) };
    if !options.dry_run {
        catch_up::begin(host, progress)?;
    }
    let system = host.system()?;
    let store = host.store()?;
    let plan = prune::plan(&system, &prune::tags(&store)?, options.keep);
    let collected = if options.dry_run {
        store.garbage(&plan.tags, &system.kept(options.keep))?
    } else {
        prune::apply(&plan, host, &store, progress)?;
        prune::collect(&system, host, &store, options.keep, progress)?
    };
    Ok(Report {
        dry_run: options.dry_run,
        entries: plan.entries.into_iter().map(|entry| entry.file).collect(),
        deployments: plan.deployments,
        tags: plan.tags,
        objects: collected.objects,
        bytes: collected.bytes,
    })
}

/// What was removed from a repository of no machine, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Swept {
    /// Whether this is only a plan.
    pub dry_run: bool,
    /// Objects.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Names of EROFS images.
    pub images: u64,
    /// Names of layers, configurations and manifests.
    pub streams: u64,
    /// What writes that were stopped have left, and references that are no tags and lead nowhere.
    pub leftovers: u64,
    /// The tags, all of which stay, by name.
    pub tags: Vec<String>,
}

/// Runs the verb on a repository of no machine. Waits until nobody else has it open, except to tell what would be removed.
///
/// # Errors
///
/// [`FailureKind::Corrupt`] where what a tag leads to is damaged; nothing was removed then.
pub fn run_in(repository: &Standalone, dry_run: bool, progress: &dyn Progress) -> Result<Swept> {
    let store = repository.store(progress)?;
    let collected = if dry_run {
        store.collectable(progress)
    } else {
        store.require_writable()?;
        let alone = store.alone(progress)?;
        let collected = alone.collect(progress);
        if collected.as_ref().is_ok_and(|collected| collected.objects > 0) {
            tell_of_index(alone.forget_what_is_gone(), progress);
        }
        collected
    };
    let Collected { objects, bytes, images, streams, leftovers } = collected.map_err(|error| match Failure::find(&error) {
        Some(failure) if failure.kind == FailureKind::Corrupt => {
            let message = format!("{}: {error:#}", repository.path().display());
            repository.repairable(Failure { message, ..failure }).into()
        }
        _ => error,
    })?;
    Ok(Swept { dry_run, objects, bytes, images, streams, leftovers, tags: store.tags_named()?.into_iter().collect() })
}
