//! References that are kept: what reads them later has another working directory, a timer for example.

use anyhow::{Context, Result};

use crate::error::{Failure, FailureKind};
use crate::reference::ImageReference;

/// The reference as it can be kept: a path in it begins at the root.
///
/// # Errors
///
/// [`FailureKind::Usage`] where no reference can have that path; the working directory is gone.
pub(super) fn from_root(reference: &ImageReference) -> Result<ImageReference> {
    if !reference.is_from_here() {
        return Ok(reference.clone());
    }
    let here = std::env::current_dir().context("finding out the working directory")?;
    Ok(reference.from_root(&here).map_err(Failure::from)?)
}

/// The error of resolving what a machine follows by a record with a path that does not begin at the root, as they were written once: it began at a working
/// directory that nobody knows any more.
pub(super) fn not_found_from_here(error: anyhow::Error, recorded: &ImageReference) -> anyhow::Error {
    let kind = Failure::find(&error).map_or(FailureKind::NotFound, |failure| failure.kind);
    let message = format!("{error:#}: this machine follows {recorded}, a path that does not begin at the root (expected one that does)");
    let hint = format!("follow it by its whole path: selkie switch {}/PATH[:TAG]", recorded.transport().prefix());
    Failure::new(kind, message).hint(hint).into()
}
