//! `selkie delta`: what it takes to make one image of another, so that a host that has the one fetches little of the other.
//!
//! Both images are read into a scratch repository, as a host does it. Files that are the same have the same name there, and the root that a
//! patch names files of is the very tree that a host has. Nothing is published before all of the delta was applied to that tree and gave the
//! layers that the configuration of the new image names.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use super::pull;
use super::runtime::{block_on, is_called_off};
use super::space;
use crate::error::{Failure, FailureKind};
use crate::image::{self, Delta, DeltaBlob, DeltaLayer, OutputKind, OutputOptions, Resolved, Source, SourceOptions};
use crate::image_id::Algorithm;
use crate::progress::{Event, Progress, Unit};
use crate::reference::{ImageReference, Transport};
use crate::store::{self, Store, Verity};
use crate::sys::dir;
use crate::sys::scratch::Scratch;

mod files;
mod known;
mod layer;

pub(super) use files::Files;
use known::Known;
pub use layer::Origins;

/// How many layers are compressed at a time.
const TOGETHER: usize = 2;

/// What to make a delta of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image that hosts have.
    pub from: ImageReference,
    /// The image that they are to get.
    pub to: ImageReference,
    /// How to reach them.
    pub source: SourceOptions,
    /// Where the delta goes; for hosts to find it, to the repository or the layout of `to`. In a registry it can go nowhere else.
    pub output: ImageReference,
    /// How to reach that.
    pub destination: OutputOptions,
    /// Where to keep both images meanwhile.
    pub scratch: PathBuf,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Where it went.
    pub output: String,
    /// Digest of the delta's manifest.
    pub delta_digest: String,
    /// Digest of the manifest of the image that hosts have.
    pub from_digest: String,
    /// Digest of the manifest of the image that they are to get.
    pub to_digest: String,
    /// Bytes of the delta, with its manifest and what it brings along.
    pub size: u64,
    /// Bytes of the layers of `to` that `from` has not, as the registry has them.
    pub size_whole: u64,
    /// Bytes of the tars of those layers, by where they come from.
    pub origins: Origins,
    /// Those layers, lowest first.
    pub layers: Vec<Layer>,
    /// How many layers both have.
    pub layers_same: u64,
    /// Bytes of the blobs that the output had not; for a registry, of all blobs.
    pub bytes_written: u64,
}

/// A layer that the image to start from has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Layer {
    /// Digest of its blob.
    pub digest: String,
    /// Bytes of its blob.
    pub size: u64,
    /// Digest of what stands for it in the delta.
    pub delta_digest: String,
    /// Bytes of that.
    pub delta_size: u64,
    /// Whether that is a patch, and not the layer's own blob because this is smaller.
    pub patch: bool,
    /// Bytes of its tar, by where they come from.
    pub origins: Origins,
}

/// Runs the verb.
///
/// # Errors
///
/// Those of a pull; everything about the output that can be found wrong beforehand, also that hosts would not look there; [`FailureKind::Usage`] where
/// nothing changed from one image to the other, [`FailureKind::Unsuitable`] where they are for different architectures; [`FailureKind::Corrupt`] where the
/// delta does not give the new image. The output is untouched then.
pub fn run(options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    image::check_delta_output(&options.output)?;
    check_place(&options.to, &options.output)?;
    let scratch = Scratch::make(&options.scratch)?;
    block_on(async {
        image::check_named(&options.output, OutputKind::Delta, &options.destination).await?;
        let from = Source::open(&options.from, &options.source, progress.as_ref()).await?;
        let to = Source::open(&options.to, &options.source, progress.as_ref()).await?;
        check(from.resolved(), to.resolved())?;
        let store = Store::open_or_init(dir::open_path(scratch.path())?, store::DIRECTORY, Some(Algorithm::Sha256), Verity::Never)?;
        let stored = pull::fetch_to_scratch(&store, &from, progress).await?.stored();
        let fetched = pull::fetch_layers(&store, &to, progress).await;
        fetched.map_err(|error| space::scratch_full(error, &store, to.resolved()))?;
        let known = Arc::new(Known::list(store.tree(&stored.image)?)?);
        let report = Making { options, from: from.resolved(), to: &to, store, known, scratch: scratch.path() }.run(progress).await?;
        from.close().await?;
        to.close().await?;
        Ok(report)
    })
}

/// Whether hosts that look for a delta of `to` find one in this output. Layouts and archives are carried on by hand, and an image that is in none of the
/// registries may be in any of them by then.
fn check_place(to: &ImageReference, output: &ImageReference) -> Result<(), Failure> {
    let in_registries = [to, output].iter().all(|reference| reference.transport() == Transport::Registry);
    if !in_registries || to.name() == output.name() {
        return Ok(());
    }
    let message = format!("writing {output}: deltas of {to} are looked for in {} and nowhere else (expected a tag there)", to.name());
    let hint = format!("name a tag there, such as {}:delta-FROM-TO; or name TO as hosts do, where they have it from elsewhere", to.name());
    Err(Failure::new(FailureKind::Usage, message).hint(hint))
}

/// Whether there is anything to make.
fn check(from: &Resolved, to: &Resolved) -> Result<()> {
    let (before, after) = (from.architecture()?, to.architecture()?);
    if before != after {
        let message =
            format!("comparing the images: {} is for {before} and {} for {after} (expected the same)", from.reference, to.reference);
        return Err(Failure::new(FailureKind::Unsuitable, message).into());
    }
    if from.manifest_digest == to.manifest_digest {
        let message =
            format!("comparing the images: {} and {} are both {} (expected two)", from.reference, to.reference, to.manifest_digest);
        return Err(Failure::new(FailureKind::Usage, message)
            .hint("name the older image first, and then the one that hosts are to get")
            .into());
    }
    if changed(from, to).is_empty() {
        let message = format!("comparing the images: all layers of {} are in {} (expected one that is not)", to.reference, from.reference);
        return Err(Failure::new(FailureKind::Usage, message).hint("hosts fetch nothing for this update; it needs no delta").into());
    }
    Ok(())
}

/// The indexes of the layers of `to` that `from` has not, each once.
fn changed(from: &Resolved, to: &Resolved) -> Vec<usize> {
    let mut seen: HashSet<&str> = from.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    (0..to.layers.len()).filter(|index| seen.insert(&to.layers[*index].diff_id)).collect()
}

/// One run, with both images in the scratch repository.
struct Making<'a> {
    options: &'a Options,
    from: &'a Resolved,
    to: &'a Source,
    store: Store,
    known: Arc<Known>,
    scratch: &'a Path,
}

impl Making<'_> {
    async fn run(self, progress: &Arc<dyn Progress>) -> Result<Report> {
        let to = self.to.resolved();
        let (mut layers, mut blobs) = (Vec::new(), HashMap::new());
        for (index, patch, origins) in self.patches(changed(self.from, to), progress).await? {
            let blob = self.smaller(index, patch, progress).await?;
            layers.push(report(&to.layers[index], &blob, origins));
            blobs.insert(to.layers[index].diff_id.as_str(), blob);
        }
        let delta = Delta::new(self.from, to, described(to, &blobs), self.scratch)?;
        progress.phase("proving the delta".to_owned());
        image::prove_delta(&delta, &self.known.files).await.map_err(unproven)?;
        let written = delta.write(&self.options.output, &self.options.destination, progress).await?;
        Ok(Report {
            output: self.options.output.to_string(),
            delta_digest: written.manifest_digest,
            from_digest: self.from.manifest_digest.clone(),
            to_digest: to.manifest_digest.clone(),
            size: delta.size(),
            size_whole: layers.iter().map(|layer| layer.size).sum(),
            origins: layers.iter().fold(Origins::default(), |all, layer| all.with(&layer.origins)),
            layers_same: to.layers.iter().filter(|layer| !blobs.contains_key(layer.diff_id.as_str())).count() as u64,
            layers,
            bytes_written: written.bytes_written,
        })
    }

    /// Writes the patches of these layers, some at a time, and gives them back in order.
    async fn patches(&self, layers: Vec<usize>, progress: &Arc<dyn Progress>) -> Result<Vec<(usize, DeltaBlob, Origins)>> {
        progress.phase("comparing the images".to_owned());
        let (total, wanted) = (layers.len() as u64, Arc::new(()));
        let (mut writing, mut waiting) = (JoinSet::new(), layers.into_iter());
        let mut written = Vec::new();
        loop {
            while writing.len() < TOGETHER {
                let Some(index) = waiting.next() else { break };
                let (store, known, scratch) = (self.store.clone(), Arc::clone(&self.known), self.scratch.to_owned());
                let (layer, wanted) = (self.to.resolved().layers[index].clone(), Arc::downgrade(&wanted));
                writing.spawn_blocking(move || {
                    let patch = layer::write(&store, &known, &layer.diff_id, &scratch, &wanted);
                    let (blob, origins) = patch.with_context(|| format!("writing the patch of layer {}", layer.digest))?;
                    anyhow::Ok((index, blob, origins))
                });
            }
            let Some(patch) = writing.join_next().await else { break };
            written.push(patch.context("writing in a thread")??);
            progress.event(Event::Advance { item: "layers".to_owned(), done: written.len() as u64, total, unit: Unit::Items });
        }
        written.sort_by_key(|(index, ..)| *index);
        Ok(written)
    }

    /// The patch, or the layer's own blob where that is no larger and whoever applies the delta can read it.
    async fn smaller(&self, index: usize, patch: DeltaBlob, progress: &Arc<dyn Progress>) -> Result<DeltaBlob> {
        let layer = &self.to.resolved().layers[index];
        if patch.size < layer.size || !self.to.has_blobs() {
            return Ok(patch);
        }
        let mut reader = self.to.open_blob(index, Arc::clone(progress)).await?;
        let whole = tokio::task::block_in_place(|| DeltaBlob::whole(self.scratch, layer, &mut reader));
        let whole = whole.with_context(|| format!("reading layer {}", layer.digest))?;
        let read =
            || image::apply_delta(whole.open(self.scratch)?, &whole.media_type, &self.known.files, &layer.diff_id, &mut std::io::sink());
        // Some readers know less of gzip and zstd than others.
        Ok(if tokio::task::block_in_place(read).is_ok() { whole } else { patch })
    }
}

/// The layers for which there are blobs, each digest once. One tar may be in several layers, compressed in different ways.
fn described(to: &Resolved, blobs: &HashMap<&str, DeltaBlob>) -> Vec<DeltaLayer> {
    let mut seen = HashSet::new();
    let new = to.layers.iter().filter_map(|layer| Some((layer, blobs.get(layer.diff_id.as_str())?)));
    let once = new.filter(|(layer, _)| seen.insert(layer.digest.as_str()));
    once.map(|(layer, blob)| DeltaLayer { layer: layer.clone(), blob: blob.clone() }).collect()
}

fn unproven(error: anyhow::Error) -> anyhow::Error {
    if is_called_off(&error) {
        return error;
    }
    let message = format!("proving the delta: {error:#}");
    Failure::new(FailureKind::Corrupt, message).hint("nothing was published; this is a bug of selkie").into()
}

fn report(layer: &image::Layer, blob: &DeltaBlob, origins: Origins) -> Layer {
    let patch = blob.digest != layer.digest;
    let DeltaBlob { digest, size, .. } = blob.clone();
    Layer { digest: layer.digest.clone(), size: layer.size, delta_digest: digest, delta_size: size, patch, origins }
}
