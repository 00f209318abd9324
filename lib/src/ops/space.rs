//! Whether an image fits, before any file of it is fetched. What runs and what one goes back to are there already, so only what is missing counts;
//! the bounds are low, so that nothing is refused that would fit.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Result;

use super::host::Host;
use super::pull::{self, Delta, Way};
use crate::error::{Failure, FailureKind};
use crate::image::{Resolved, Source};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::Store;
use crate::sys::dir;
use crate::system::System;

/// What to do about a pull that has begun. What it wrote stays until the next `gc`, so that is for before.
const MORE_ROOM: &str = "make room, then run the same command again: it goes on from what is there. `selkie gc`, with --repo DIR for a repository in a directory, removes what nothing needs, but \
                         also what this call has fetched";

/// What to do about a scratch directory without room.
const OTHER_SCRATCH: &str = "make room there, or name a directory with more (--scratch or TMPDIR; `selkie disk` has it beside the output), then run the same command again";

/// Compressed bytes of the layers that are not here.
pub(super) fn missing(store: &Store, resolved: &Resolved) -> Result<u64> {
    let layers = pull::known(store, resolved)?;
    Ok(layers.iter().filter(|layer| layer.way != Way::Here).map(|layer| layer.size).sum())
}

/// The error of a pull that a full file system has cut, with what is free and what is missing. One that says so already stays as it is.
pub(super) fn cut_short(error: anyhow::Error, store: &Store, resolved: &Resolved) -> anyhow::Error {
    if !Failure::is_bare_no_space(&error) {
        return error;
    }
    let free = free("the file system of the repository", store);
    let missing = match missing(store, resolved) {
        // The images are what is made last.
        Ok(0) => "all layers are here, and the images of the root file system are not".to_owned(),
        Ok(bytes) => format!("{} MiB of layers, as they are fetched, are not here yet", bytes.div_ceil(1 << 20)),
        Err(error) => format!("what is missing is not known ({error:#})"),
    };
    let message = format!("{}: {free}; {missing}", pulling(&error, resolved));
    Failure::new(FailureKind::NoSpace, message).hint(MORE_ROOM).into()
}

/// The same of a pull into a repository in a scratch directory.
pub(super) fn scratch_full(error: anyhow::Error, store: &Store, resolved: &Resolved) -> anyhow::Error {
    if !Failure::is_bare_no_space(&error) {
        return error;
    }
    let message = format!("{}: {}", pulling(&error, resolved), free("the file system of the scratch directory", store));
    Failure::new(FailureKind::NoSpace, message).hint(OTHER_SCRATCH).into()
}

/// What went wrong, with what was to be done before it, once.
fn pulling(error: &anyhow::Error, resolved: &Resolved) -> String {
    let (pulling, said) = (format!("pulling {}: ", resolved.reference), format!("{error:#}"));
    if said.starts_with(&pulling) { said } else { pulling + &said }
}

fn free(place: &str, store: &Store) -> String {
    match dir::free_bytes(store.dir()) {
        Ok(free) => format!("{place} has {} MiB free", free >> 20),
        Err(error) => format!("how much is free is not known ({error:#})"),
    }
}

/// Refuses when not even what is missing of the layers would fit beside what is there, with the two file system images that are made of them (about
/// as large as those of the booted root). Tables of contents are fetched only where the layers that are `missing` would not fit as a whole, compressed.
///
/// # Errors
///
/// [`FailureKind::NoSpace`] with the numbers; [`FailureKind::Unreachable`] where an outage keeps one from finding out whether less is missing.
pub(super) async fn check_root(
    host: &Host,
    store: &Store,
    (booted, missing): (&ImageId, u64),
    source: &Source,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let fits = |bytes| check_bytes(host, store, booted, &source.resolved().reference, bytes);
    if missing == 0 {
        return Ok(());
    }
    let Err(as_a_whole) = fits(missing) else { return Ok(()) };
    let least = async {
        let least = Least::of(store, source, progress, &fits).await?;
        let Some(index) = least.unknown.filter(|_| fits(least.bytes()).is_err()) else { return anyhow::Ok(least) };
        // That may be an outage, too. A pull would ask for all of the layer: where that comes, there is none, or none any more.
        drop(source.open_layer(index, Arc::clone(progress)).await?);
        Least::of(store, source, progress, &fits).await
    };
    match least.await {
        Ok(least) => fits(least.bytes()),
        Err(error) => Err(error.context(format!("{as_a_whole:#}, and what of them is missing is not known"))),
    }
}

/// The least that has to be stored of the layers that are not here.
struct Least {
    /// Of each such layer, by its place in the image.
    layers: Vec<(usize, u64)>,
    /// A layer that may count for too much, as something about it could not be found out.
    unknown: Option<usize>,
}

impl Least {
    /// By the tables of contents alone where that `fits`: who has no list of deltas, or is not well, need not be asked for one then.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unreachable`] after an outage.
    async fn of(store: &Store, source: &Source, progress: &Arc<dyn Progress>, fits: &impl Fn(u64) -> Result<()>) -> Result<Self> {
        let mut least = Self::by_tables(store, source, progress).await?;
        if fits(least.bytes()).is_err() {
            least.ask_for_delta(store, source, progress.as_ref()).await?;
        }
        Ok(least)
    }

    /// Of a layer that has a table of contents, compressed contents that are not here count; another counts as a whole. One table is in memory at a time.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unreachable`] after an outage.
    async fn by_tables(store: &Store, source: &Source, progress: &Arc<dyn Progress>) -> Result<Self> {
        let (resolved, here) = (source.resolved(), pull::here(store)?);
        let layers = pull::known(store, resolved)?;
        let (mut least, mut counted) = (Self { layers: Vec::new(), unknown: None }, HashSet::new());
        for index in (0..layers.len()).filter(|index| layers[*index].way != Way::Here) {
            let size = resolved.layers[index].size;
            let table = if source.has_table(index) { Some(source.table(index, progress).await?) } else { None };
            let new = match table {
                Some(Ok(table)) => table.bytes_new(&*here, &mut counted),
                Some(Err(reason)) => {
                    reason.failure().map_or(Ok(()), |failure| Err(failure.clone()))?;
                    least.unknown = least.unknown.or(Some(index));
                    size
                }
                None => size,
            };
            least.layers.push((index, new.min(size)));
        }
        Ok(least)
    }

    /// The content index may not know all that is here, so a delta counts where it is less.
    async fn ask_for_delta(&mut self, store: &Store, source: &Source, progress: &dyn Progress) -> Result<()> {
        let missing: Vec<usize> = self.layers.iter().map(|(index, _)| *index).collect();
        let found = Delta::find_patiently(store, source, &missing, progress).await;
        match &found {
            Err(error) if Failure::is(error, FailureKind::Unreachable) => return found.map(|_| ()),
            Err(_) => self.unknown = self.unknown.or(missing.first().copied()),
            Ok(_) => {}
        }
        let Some(delta) = Delta::told(found, source, progress) else { return Ok(()) };
        for (index, bytes) in &mut self.layers {
            *bytes = delta.blob(&source.resolved().layers[*index]).map_or(*bytes, |blob| blob.size.min(*bytes));
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.layers.iter().map(|(_, bytes)| bytes).sum()
    }
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
