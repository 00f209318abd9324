//! `selkie gc`: removes what has no role, by the plan that `upgrade` uses after its work, or only tells it.

use anyhow::Result;
use serde::Serialize;

use super::catch_up;
use super::host::Host;
use super::prune;
use crate::image_id::ImageId;
use crate::progress::Progress;

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
