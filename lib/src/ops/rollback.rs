//! `selkie rollback`: the root that ran before boots next. Nothing is fetched, nothing is lost.

use anyhow::{Context, Result};
use serde::Serialize;

use super::host::Host;
use super::prune;
use super::stage::{self, Bootable};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The root that boots next now.
    pub staged: ImageId,
    /// The root that would have booted next.
    pub instead_of: Option<ImageId>,
    /// The reference that its deployment follows.
    pub image: String,
}

/// Runs the verb.
///
/// # Errors
///
/// [`FailureKind::NotFound`] when there is no other root to go to.
pub fn run(host: &Host, progress: &dyn Progress) -> Result<Report> {
    let _lock = host.lock()?;
    let system = host.system()?;
    let target = system.rollback_target().ok_or_else(|| {
        Failure::new(FailureKind::NotFound, "rolling back: there is no other root on this machine")
            .hint("`selkie switch IMAGE` goes to any image, an older one too")
    })?;
    let id = target.clone();
    let origin = system.origin(&id)?;
    let store = host.store()?;
    let stored = prune::stored(&store, &id)?;
    let bootable = Bootable::open(&store, &stored).with_context(|| format!("rolling back to {}", id.short()))?;
    progress.phase(format!("activating {}", id.short()));
    let verity_required = match system.entry(&id) {
        Some(entry) if bootable.seal().is_none() => entry.verity_required,
        _ => bootable.verity_required(&store)?,
    };
    let tries = if system.is_proven(&id) || id == system.booted { None } else { bootable.tries()? };
    let request = stage::entry(&id, verity_required, origin, system.next_serial(), tries);
    stage::activate(host, &bootable, &request, progress)?;
    Ok(Report { staged: id, instead_of: system.default_entry().map(|e| e.image.clone()), image: origin.image.clone() })
}
