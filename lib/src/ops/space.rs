//! Whether an image fits, before anything is fetched. What runs and what one goes back to are there already, so only what is missing counts;
//! the bounds are low, so that nothing is refused that would fit.

use anyhow::Result;

use super::host::Host;
use crate::error::{Failure, FailureKind};
use crate::image::Resolved;
use crate::image_id::ImageId;
use crate::reference::ImageReference;
use crate::store::Store;
use crate::system::System;

/// Compressed bytes of the layers that are not here.
pub(super) fn missing(store: &Store, resolved: &Resolved) -> Result<u64> {
    let mut missing = 0;
    for layer in &resolved.layers {
        if !store.has_layer(&layer.diff_id)? {
            missing += layer.size;
        }
    }
    Ok(missing)
}

/// Refuses when not even the compressed layers would fit beside what is there, with the two file system images that are made of them (about
/// as large as those of the booted root).
///
/// # Errors
///
/// [`FailureKind::NoSpace`] with the numbers.
pub(super) fn check_root(host: &Host, store: &Store, booted: &ImageId, image: &ImageReference, missing: u64) -> Result<()> {
    const IMAGES: u64 = 2;
    if missing == 0 {
        return Ok(());
    }
    let images = IMAGES * store.image_size(booted)?.unwrap_or(0);
    let (free, need) = (host.free_bytes()?, missing + images);
    if free >= need {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message = format!(
        "pulling {image}: the root file system has {} MiB free (expected at least {} MiB: {} MiB of layers that are not here yet, and {} MiB for the file system images)",
        mib(free),
        mib(need),
        mib(missing),
        mib(images)
    );
    Err(Failure::new(FailureKind::NoSpace, message)
        .hint("free some space in /var, unpin or stop keeping older roots (`selkie list`), or enlarge the root partition")
        .into())
}

/// Refuses when a kernel like that of the booted root would not fit on the ESP. One that comes in the missing layers is hardly larger than
/// they are: it is compressed already.
///
/// # Errors
///
/// [`FailureKind::NoSpace`] with the numbers.
pub(super) fn check_esp(host: &Host, system: &System, missing: u64) -> Result<()> {
    let Some(entry) = system.entry(&system.booted) else { return Ok(()) };
    let esp = host.boot()?.place();
    esp.check_space(esp.size_of(entry)?.min(missing))
}
