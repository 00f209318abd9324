//! `selkie digest`: the digests of an image, computed from its layers as a host would and without storing it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::runtime::block_on;
use super::seal;
use crate::image::{Source, SourceOptions};
use crate::image_id::{Algorithm, ImageId};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::{Commit, Keep, Measured, Scratch, Unread};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image.
    pub image: ImageReference,
    /// How to reach it.
    pub source: SourceOptions,
    /// fs-verity algorithm of the two images; by default the one that a sealed image was sealed with, else SHA-256.
    pub algorithm: Option<Algorithm>,
    /// Where a scratch directory is made, which is gone afterwards. It holds headers and file names, not the files.
    pub scratch: PathBuf,
}

/// The five digests of an image by name. The names of [`Pulled`](super::pull::Pulled), and the same values as when it is pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Digests {
    /// The reference as it was asked for.
    pub reference: String,
    /// Digest of the image index, where there is one.
    pub index_digest: Option<String>,
    /// Digest of the manifest for this architecture.
    pub manifest_digest: String,
    /// Digest of the configuration.
    pub config_digest: String,
    /// fs-verity digest of the root file system as the image has it.
    pub image: ImageId,
    /// fs-verity digest of the root file system that boots: `/boot` and `/sysroot` empty, labels applied.
    pub boot_image: ImageId,
    /// fs-verity algorithm of the two.
    pub algorithm: Algorithm,
}

/// Runs the verb.
///
/// # Errors
///
/// Those of a pull, with the same kinds.
pub fn run(options: &Options, progress: &Arc<dyn Progress>) -> Result<Digests> {
    block_on(async {
        let source = Source::open(&options.image, &options.source, progress.as_ref()).await?;
        let scratch = scratch(&source, options.algorithm, &options.scratch)?;
        let measured = measure(&source, &scratch, |_| false, progress).await?;
        let resolved = source.resolved();
        let digests = Digests {
            reference: resolved.reference.to_string(),
            index_digest: resolved.index_digest.clone(),
            manifest_digest: resolved.manifest_digest.clone(),
            config_digest: resolved.config_digest.clone(),
            image: measured.image,
            boot_image: measured.boot_image,
            algorithm: scratch.algorithm(),
        };
        source.close().await?;
        Ok(digests)
    })
}

/// A scratch directory below `within` for an image, with the algorithm that was asked for or that the image was sealed with.
pub(super) fn scratch(source: &Source, asked: Option<Algorithm>, within: &Path) -> Result<Scratch> {
    // By another recipe the boot image would be another, whatever the algorithm.
    seal::check_recipe(source.resolved())?;
    let algorithm = match asked {
        Some(asked) => asked,
        None => seal::sealed_with(source.resolved())?.unwrap_or(Algorithm::Sha256),
    };
    Scratch::new(within, algorithm)
}

/// Measures all layers and commits them. Contents of files whose names `keep` likes, as in [`Keep::Names`], can be read afterwards.
pub(super) async fn measure(source: &Source, scratch: &Scratch, keep: fn(&Path) -> bool, progress: &Arc<dyn Progress>) -> Result<Measured> {
    let resolved = source.resolved();
    progress.phase(format!("measuring {}", resolved.reference));
    for (index, layer) in resolved.layers.iter().enumerate() {
        if !scratch.has_layer(&layer.diff_id)? {
            measure_layer(source, scratch, index, Keep::Names(keep), progress).await?;
        }
    }
    progress.phase("building the root file system".to_owned());
    let unread = match scratch.commit(&resolved.config)? {
        Commit::Done(measured) => return Ok(measured),
        Commit::Unread(unread) => unread,
    };
    measure_again(source, scratch, &unread, progress).await?;
    match scratch.commit(&resolved.config)? {
        Commit::Done(measured) => Ok(measured),
        Commit::Unread(_) => bail!("measuring {}: contents that were kept are not in the scratch directory any more", resolved.reference),
    }
}

/// Measures layers again to keep contents that [`measure`] has not kept.
pub(super) async fn measure_again(source: &Source, scratch: &Scratch, unread: &[Unread], progress: &Arc<dyn Progress>) -> Result<()> {
    let layers = &source.resolved().layers;
    for Unread { diff_id, sizes } in unread {
        let index = layers.iter().position(|layer| layer.diff_id == *diff_id);
        let index = index.with_context(|| format!("measuring layer {diff_id} again: the image has no such layer"))?;
        measure_layer(source, scratch, index, Keep::Sizes(sizes.clone()), progress).await?;
    }
    Ok(())
}

async fn measure_layer(source: &Source, scratch: &Scratch, index: usize, keep: Keep, progress: &Arc<dyn Progress>) -> Result<()> {
    let resolved = source.resolved();
    let layer = &resolved.layers[index];
    let reader = source.open_layer(index, Arc::clone(progress)).await?;
    let measured = tokio::task::block_in_place(|| scratch.measure_layer(&layer.diff_id, reader, keep));
    measured.with_context(|| {
        format!("measuring {}: reading layer {} ({} of {})", resolved.reference, layer.digest, index + 1, resolved.layers.len())
    })
}
