//! `selkie rollback`: the root that ran before, or any other on this machine, boots next. Nothing is fetched, nothing is lost.

use anyhow::{Context, Result};
use serde::Serialize;

use super::catch_up;
use super::host::Host;
use super::prune;
use super::stage::{self, Bootable};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::system::System;

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

/// Goes back to the root that ran before, or stays on the booted one where another waits for a reboot.
///
/// # Errors
///
/// [`FailureKind::NotFound`] when there is no other root to go to.
pub fn run(host: &Host, progress: &dyn Progress) -> Result<Report> {
    go(host, progress, |system| {
        system.rollback_target().ok_or_else(|| {
            Failure::new(FailureKind::NotFound, "rolling back: there is no other root on this machine")
                .hint("`selkie switch IMAGE` goes to any image, an older one too")
        })
    })
}

/// Goes to the generation that `asked` names ([`System::find`]), older or newer.
///
/// # Errors
///
/// [`FailureKind::NotFound`] where there is none of that name, [`FailureKind::Usage`] where several are.
pub fn to(host: &Host, asked: &str, progress: &dyn Progress) -> Result<Report> {
    go(host, progress, |system| system.find(asked))
}

fn go(host: &Host, progress: &dyn Progress, target: impl FnOnce(&System) -> Result<&ImageId, Failure>) -> Result<Report> {
    let _lock = host.lock()?;
    catch_up::begin(host, progress)?;
    let system = host.system()?;
    let id = target(&system)?.clone();
    let origin = system.origin(&id)?;
    let store = host.store()?;
    let stored = prune::stored(&store, &id)?;
    let bootable = Bootable::open(&store, &stored).with_context(|| format!("rolling back to {}", id.short()))?;
    progress.phase(format!("activating {}", id.short()));
    let verity_required = match system.entry(&id) {
        Some(entry) if bootable.seal().is_none() => entry.verity_required,
        _ => bootable.verity_required(&store)?,
    };
    let tries = if system.is_proven(&id) || id == system.booted { None } else { bootable.tries(host.config().tries)? };
    note_what_is_left(host, &system, &id, progress)?;
    let request = stage::entry(&id, verity_required, origin, system.next_serial(), tries);
    stage::activate(host, &bootable, &request, progress)?;
    Ok(Report { staged: id, instead_of: system.default_entry().map(|e| e.image.clone()), image: origin.image.clone() })
}

/// Somebody goes to another release than the one that boots next on purpose: automatic updates leave that one alone from now on. Before the entry is written, because what happened and
/// was not noted would be undone by the next of them; what is noted and did not happen changes nothing while that release boots next.
fn note_what_is_left(host: &Host, system: &System, target: &ImageId, progress: &dyn Progress) -> Result<()> {
    let deployments = host.deployments()?;
    let other = system.default_entry().map(|entry| &entry.image).filter(|next| *next != target);
    if let Some(left) = other.and_then(|id| system.origin(id).ok()) {
        deployments.leave_alone(&left.manifest_digest)?;
        progress.step("note release that is left");
    }
    if deployments.take_again(&system.origin(target)?.manifest_digest)? {
        progress.step("take release again");
    }
    Ok(())
}
