//! `selkie pull`: an image from a registry or a layout into a composefs repository.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;

use super::host::Host;
use super::runtime::block_on_kept;
use super::{lasting, prune, seal, space, upgrade};
use crate::error::{Failure, FailureKind};
use crate::image::{Resolved, Source, SourceOptions};
use crate::image_id::{Algorithm, ImageId};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::{Store, StoredImage, Unsynced, Verity, check_tag, wait_for_others};
use crate::sys::{dir, memory};

mod deltas;
mod layers;
mod naming;
mod waiting;

pub(super) use deltas::Delta;
pub(super) use layers::{Fetched, cheapest, fetch_layers, here, known, tell_of_index};
pub use layers::{FetchedLayer, Way};

/// What to pull.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image.
    pub image: ImageReference,
    /// How to reach it.
    pub source: SourceOptions,
    /// Name to keep it under; it lives in the repository as long as this does. The reference itself by default,
    /// with a path from the root.
    pub tag: Option<String>,
}

impl Options {
    fn tag(&self) -> Result<String> {
        let tag = self.tag.clone().unwrap_or_else(|| tag_of(&self.image));
        check_tag(&tag).with_context(|| format!("pulling {}", self.image))?;
        if tag.starts_with(prune::TAG) || tag == upgrade::DOWNLOADED {
            return Err(Failure::new(FailureKind::Usage, format!("pulling {}: tag {tag} is a machine's own", self.image))
                .hint("choose another name")
                .into());
        }
        Ok(tag)
    }
}

/// A pulled image: its five digests by name, and what it took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pulled {
    /// The reference as it was asked for.
    pub reference: String,
    /// Digest of the image index, where there is one.
    pub index_digest: Option<String>,
    /// Digest of the manifest for this architecture.
    pub manifest_digest: String,
    /// The manifest's digest in the repository: another one for an image in Docker's format, which is translated.
    #[serde(skip)]
    pub stored_manifest: String,
    /// Digest of the configuration.
    pub config_digest: String,
    /// fs-verity digest of the root file system as the image has it.
    pub image: ImageId,
    /// fs-verity digest of the root file system that boots: `/boot` and `/sysroot` empty, labels applied.
    pub boot_image: ImageId,
    /// fs-verity algorithm of the repository.
    pub algorithm: Algorithm,
    /// Whether the repository has fs-verity: the kernel checks every object.
    pub verity: bool,
    /// Layers of the image.
    pub layers: u64,
    /// Layers that were not here before.
    pub layers_new: u64,
    /// Objects that were written.
    pub objects_new: u64,
    /// Objects that layers brought again.
    pub objects_reused: u64,
    /// Bytes that were fetched: of layers, which are compressed, of tables of contents, and of deltas.
    pub bytes_fetched: u64,
    /// Bytes of the objects that were written.
    pub bytes_stored: u64,
    /// How each layer came, lowest first.
    pub fetched: Vec<FetchedLayer>,
    /// What the tag names by now, where that is another image than this one and could be found out: the tag moved while this one was being pulled.
    pub moved_to: Option<String>,
}

impl Pulled {
    /// The image as the store has it.
    pub(super) fn stored(&self) -> StoredImage {
        StoredImage {
            image: self.image.clone(),
            boot_image: self.boot_image.clone(),
            manifest_digest: self.stored_manifest.clone(),
            config_digest: self.config_digest.clone(),
        }
    }
}

/// A repository by its place, made where it is not there.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Its directory.
    pub path: PathBuf,
    /// fs-verity algorithm of a new one: that of the image's seal by default, else SHA-256.
    pub algorithm: Option<Algorithm>,
    /// Whether it has to be sealed.
    pub verity: Verity,
}

/// Pulls into a repository anywhere.
///
/// # Errors
///
/// Those of [`run`]; [`FailureKind::StoreMismatch`] for a repository of another algorithm than asked for.
pub fn run_into(repository: &Repository, options: &Options, progress: &Arc<dyn Progress>) -> Result<Pulled> {
    let here = dir::open_path(".").context("opening the working directory")?;
    let open = |algorithm| {
        wait_for_others(&here, &repository.path, progress.as_ref())?;
        Store::open_or_init(&here, &repository.path, algorithm, repository.verity)
    };
    if repository.algorithm.is_some() || repository.path.join("meta.json").exists() {
        let store = open(repository.algorithm)?;
        store.require_writable().with_context(|| format!("opening repository {} to write", repository.path.display()))?;
        return run(&store, options, progress);
    }
    // The image decides; it is resolved once for this and for its layers.
    let tag = options.tag()?;
    let (store, pulled) = block_on_kept(async {
        let source = Source::open(&options.image, &options.source, progress.as_ref()).await?;
        let store = open(seal::sealed_with(source.resolved())?)?;
        let pulled = take(&store, source, progress).await?;
        anyhow::Ok((store, pulled))
    })?;
    keep(&store, pulled, &tag, progress)
}

/// Pulls into the repository of a machine, under its lock.
pub fn run_on_host(host: &Host, options: &Options, progress: &Arc<dyn Progress>) -> Result<Pulled> {
    let _lock = host.lock()?;
    run(&host.store()?, options, progress)
}

/// Pulls and tags.
///
/// # Errors
///
/// [`FailureKind::Usage`] for a tag that a machine keeps its own books with.
pub fn run(store: &Store, options: &Options, progress: &Arc<dyn Progress>) -> Result<Pulled> {
    let tag = options.tag()?;
    let pulled = block_on_kept(async {
        let source = Source::open(&options.image, &options.source, progress.as_ref()).await?;
        take(store, source, progress).await
    })?;
    keep(store, pulled, &tag, progress)
}

async fn take(store: &Store, source: Source, progress: &Arc<dyn Progress>) -> Result<Pulled> {
    if !store.is_sealed() {
        progress.note(
            "the repository has no fs-verity, as its file system or kernel has none: nothing checks files when they are read".to_owned(),
        );
    }
    let pulled = fetch(store, &source, progress).await?;
    source.close().await?;
    Ok(pulled)
}

fn keep(store: &Store, pulled: Pulled, tag: &str, progress: &Arc<dyn Progress>) -> Result<Pulled> {
    store.sync()?;
    store.tag(&pulled.stored_manifest, tag)?;
    store.sync()?;
    progress.step("tag image");
    Ok(pulled)
}

/// Fetches the layers that are missing and commits the image, untagged: until it is tagged, the next garbage collection takes it.
///
/// # Errors
///
/// [`FailureKind::NoSpace`] with numbers where a full file system has cut it.
pub(super) async fn fetch(store: &Store, source: &Source, progress: &Arc<dyn Progress>) -> Result<Pulled> {
    fetch_and_commit(store, source, progress).await.map_err(|error| space::cut_short(error, store, source.resolved()))
}

/// The same into a repository in a scratch directory, which goes with the verb.
///
/// # Errors
///
/// [`FailureKind::NoSpace`] with numbers where that directory is full.
pub(super) async fn fetch_to_scratch(store: &Store, source: &Source, progress: &Arc<dyn Progress>) -> Result<Pulled> {
    fetch_and_commit(store, source, progress).await.map_err(|error| space::scratch_full(error, store, source.resolved()))
}

async fn fetch_and_commit(store: &Store, source: &Source, progress: &Arc<dyn Progress>) -> Result<Pulled> {
    let mut fetched = fetch_layers(store, source, progress).await?;
    let (unsynced, tag) = (fetched.unsynced.take(), fetched.tag.take());
    let resolved = source.resolved();
    // The registry is asked in a thread, and answers while the image is made here: a signal is heard after that.
    let moved = async { tag?.moved().await };
    let (moved_to, stored) = tokio::join!(biased; moved, async { find_or_commit(store, resolved, &fetched, unsynced, progress) });
    if let Some(digest) = &moved_to {
        progress.note(format!("{} names {digest} by now; this is {}, which it named before", resolved.reference, resolved.manifest_digest));
    }
    Ok(Pulled { moved_to, ..report(store, resolved, stored?, fetched) })
}

fn find_or_commit(
    store: &Store,
    resolved: &Resolved,
    fetched: &Fetched,
    unsynced: Option<Unsynced>,
    progress: &Arc<dyn Progress>,
) -> Result<StoredImage> {
    let found = found(store, resolved, fetched)?;
    if let (Some(found), None) = (&found, &unsynced) {
        return Ok(found.clone());
    }
    let unsynced = unsynced.map_or_else(|| store.begin_unsynced(progress.as_ref()), Ok)?;
    let stored = found.map_or_else(|| commit(store, resolved, progress), Ok);
    // Also where the image cannot be made: the layers are good.
    let ended = unsynced.end();
    let stored = stored?;
    ended.map(|()| stored)
}

/// The image, where all of it was here before. What cannot be read of it is made again.
fn found(store: &Store, resolved: &Resolved, fetched: &Fetched) -> Result<Option<StoredImage>> {
    if fetched.stats.layers_new > 0 {
        return Ok(None);
    }
    Ok(store.find(&resolved.oci_manifest()?.0).unwrap_or(None))
}

/// Makes an image of layers that are all here.
pub(super) fn commit(store: &Store, resolved: &Resolved, progress: &Arc<dyn Progress>) -> Result<StoredImage> {
    progress.phase("building the root file system".to_owned());
    // The buffers of layers are free, and the tree and its images need as much again.
    memory::give_back_now();
    let (_, manifest) = resolved.oci_manifest()?;
    let stored = store.commit(&manifest, &resolved.config, None)?;
    progress.step("commit image");
    Ok(stored)
}

fn report(store: &Store, resolved: &Resolved, stored: StoredImage, fetched: Fetched) -> Pulled {
    let stats = &fetched.stats;
    Pulled {
        reference: resolved.reference.to_string(),
        index_digest: resolved.index_digest.clone(),
        manifest_digest: resolved.manifest_digest.clone(),
        stored_manifest: stored.manifest_digest,
        config_digest: resolved.config_digest.clone(),
        image: stored.image,
        boot_image: stored.boot_image,
        algorithm: store.algorithm(),
        verity: store.is_sealed(),
        layers: resolved.layers.len() as u64,
        layers_new: stats.layers_new,
        objects_new: stats.objects_new,
        objects_reused: stats.objects_reused,
        bytes_fetched: fetched.layers.iter().map(|layer| layer.bytes).sum(),
        bytes_stored: stats.bytes_new,
        fetched: fetched.layers,
        moved_to: None,
    }
}

/// A tag made of a reference. Where it cannot be one with its path from the root, only a repair loses by it.
pub(super) fn tag_of(image: &ImageReference) -> String {
    let from_root = lasting::from_root(image).ok().map(|image| lasting::tag_of(&image));
    from_root.filter(|tag| check_tag(tag).is_ok()).unwrap_or_else(|| lasting::tag_of(image))
}
