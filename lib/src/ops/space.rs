//! Whether an image fits, before any file of it is fetched. What runs and what one goes back to are there already, so only what is missing counts;
//! the bounds are low, so that nothing is refused that would fit.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Result;

use super::host::Host;
use super::preview::{self, Look};
use super::pull::{self, Way};
use crate::error::{Failure, FailureKind};
use crate::image::{Contents, Layer, LayerPreview, Resolved, Source};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::Store;
use crate::system::System;

/// Compressed bytes of the layers that are not here.
pub(super) fn missing(store: &Store, resolved: &Resolved) -> Result<u64> {
    let layers = pull::known(store, resolved)?;
    Ok(layers.iter().filter(|layer| layer.way != Way::Here).map(|layer| layer.size).sum())
}

/// The least that has to be stored of the layers that are not here. Fetches their tables of contents: of a layer that has one, compressed contents that are not
/// here count. The content index may not know all that is here, so a delta counts where it is less; else a layer counts as a whole.
async fn least(store: &Store, source: &Source, progress: &Arc<dyn Progress>) -> Result<u64> {
    let here: Arc<dyn Contents> = pull::here(store)?;
    let Look { layers: looks, delta, .. } = preview::look(store, source, &here, progress).await?;
    let mut counted = HashSet::new();
    let least = |(layer, look): (&Layer, &Option<LayerPreview>)| {
        let look = look.as_ref()?;
        let delta = delta.as_ref().and_then(|delta| delta.blob(layer)).map(|blob| blob.size);
        look.bytes_new(&*here, &mut counted).into_iter().chain(delta).chain([layer.size]).min()
    };
    Ok(source.resolved().layers.iter().zip(&looks).filter_map(least).sum())
}

/// Refuses when not even what is missing of the layers would fit beside what is there, with the two file system images that are made of them (about
/// as large as those of the booted root). Tables of contents are fetched only where the layers that are `missing` would not fit as a whole, compressed.
///
/// # Errors
///
/// [`FailureKind::NoSpace`] with the numbers.
pub(super) async fn check_root(
    host: &Host,
    store: &Store,
    (booted, missing): (&ImageId, u64),
    source: &Source,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let image = &source.resolved().reference;
    if missing == 0 || check_bytes(host, store, booted, image, missing).is_ok() {
        return Ok(());
    }
    check_bytes(host, store, booted, image, least(store, source, progress).await?)
}

fn check_bytes(host: &Host, store: &Store, booted: &ImageId, image: &ImageReference, missing: u64) -> Result<()> {
    const IMAGES: u64 = 2;
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
/// they are: it is compressed already. Whole layers count, also where parts of them are enough: a kernel may be in the repository and not on the ESP.
///
/// # Errors
///
/// [`FailureKind::NoSpace`] with the numbers.
pub(super) fn check_esp(host: &Host, system: &System, missing: u64) -> Result<()> {
    host.boot()?.place().check_space(kernel(host, system, missing)?)
}

/// Mirrors that will fall behind, with the numbers: that refuses no update.
pub(super) fn short_mirrors(host: &Host, system: &System, missing: u64) -> Result<Vec<String>> {
    let need = kernel(host, system, missing)?;
    let mirrors = host.boot()?.mirrors().iter().filter_map(|mirror| mirror.place.as_ref().ok());
    let short = mirrors.filter_map(|place| Some((place.partition(), place.check_space(need).err()?)));
    Ok(short.map(|(partition, error)| format!("ESP {partition} will fall behind: {error:#}")).collect())
}

fn kernel(host: &Host, system: &System, missing: u64) -> Result<u64> {
    let Some(entry) = system.entry(&system.booted) else { return Ok(0) };
    Ok(host.boot()?.place().size_of(entry)?.min(missing))
}
