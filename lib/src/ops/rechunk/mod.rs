//! `selkie rechunk`: the same root in other layers, so that the next update moves little.
//!
//! Files are put together by package, where the image knows packages, and what is large or made anew by each build is apart
//! (`plan`). Layers are written as zstd:chunked. Nothing is published before the image was read back, layer by layer as every machine reads
//! it, and its root and its boot image came out the same to the last bit.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use super::runtime::block_on;
use super::{digest, pull, seal};
use crate::error::{Failure, FailureKind};
use crate::image::{self, OutputKind, OutputOptions, Rebuilt, Source, SourceOptions, WrittenLayer};
use crate::image_id::{Algorithm, ImageId};
use crate::progress::{Event, Progress, Unit};
use crate::reference::ImageReference;
use crate::store::{self, Measured, Store, StoredImage, Verity};
use crate::sys::dir;
use crate::sys::scratch::Scratch;

mod layers;
mod plan;
mod root;

use plan::Group;
use root::Root;

/// How many layers are asked for where nobody says.
pub const LAYERS: usize = plan::DEFAULT;
/// How many layers can be asked for.
pub const BOUNDS: std::ops::RangeInclusive<usize> = plan::FEWEST..=plan::MOST;

/// How many layers are compressed at a time.
const TOGETHER: usize = 2;

/// What to write anew, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The finished image.
    pub image: ImageReference,
    /// How to reach it.
    pub source: SourceOptions,
    /// Where the new image goes.
    pub output: ImageReference,
    /// How to reach that.
    pub destination: OutputOptions,
    /// How many layers there may be, within [`BOUNDS`]. Images of one series share layers only if this stays the same.
    pub layers: usize,
    /// Where to keep the image meanwhile.
    pub scratch: PathBuf,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Where it went.
    pub output: String,
    /// Digest of the manifest.
    pub manifest_digest: String,
    /// Digest of the configuration.
    pub config_digest: String,
    /// fs-verity digest of the root file system as the layers give it: proven to be that of the image that was read.
    pub image: ImageId,
    /// fs-verity digest of the root file system that boots: proven likewise.
    pub boot_image: ImageId,
    /// fs-verity algorithm of the two.
    pub algorithm: Algorithm,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// Bytes of all layers, compressed.
    pub size: u64,
    /// How many layers the image had that was read.
    pub layers_before: u64,
    /// Bytes of those.
    pub size_before: u64,
    /// Bytes of the blobs that the output had not; for a registry or a storage, of all blobs.
    pub bytes_written: u64,
}

/// A layer that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Layer {
    /// What is in it.
    pub group: String,
    /// How many files, links and devices; of the last layer, how many directories.
    pub entries: u64,
    /// Digest of the blob.
    pub digest: String,
    /// Digest of the tar.
    pub diff_id: String,
    /// Bytes of the blob.
    pub size: u64,
    /// Bytes of the tar.
    pub tar_size: u64,
    /// Whether single files can be fetched from it.
    pub chunked: bool,
}

/// Runs the verb.
///
/// # Errors
///
/// Those of a pull; everything about the output that can be found wrong beforehand; [`FailureKind::Unsuitable`] for an image whose
/// seal is not its own or that has what no layer can hold; [`FailureKind::Corrupt`] where the new layers give another root. The output is
/// untouched then.
pub fn run(options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    image::check_output(&options.output)?;
    check_layers(options.layers)?;
    let scratch = Scratch::make(&options.scratch)?;
    block_on(async {
        image::check_named(&options.output, OutputKind::Image, &options.destination).await?;
        let source = Source::open(&options.image, &options.source, progress.as_ref()).await?;
        let algorithm = seal::sealed_with(source.resolved())?.unwrap_or(Algorithm::Sha256);
        let store = Store::open_or_init(dir::open_path(scratch.path())?, store::DIRECTORY, Some(algorithm), Verity::Never)?;
        let before = pull::fetch_to_scratch(&store, &source, progress).await?.stored();
        check_seal(&source, &before)?;
        let report = Rechunking { options, source: &source, store: &store, scratch: scratch.path(), before }.run(progress).await?;
        source.close().await?;
        Ok(report)
    })
}

fn check_layers(layers: usize) -> Result<(), Failure> {
    if BOUNDS.contains(&layers) {
        return Ok(());
    }
    let message = format!("reading the call: {layers} layers (expected from {} to {})", BOUNDS.start(), BOUNDS.end());
    Err(Failure::new(FailureKind::Usage, message))
}

/// An image that was derived from a sealed one may have that one's annotations. They would be kept, and no machine would take the image.
fn check_seal(source: &Source, before: &StoredImage) -> Result<()> {
    match seal::sealed_root(source.resolved())? {
        Some(root) if root.id != before.boot_image => {
            let message =
                format!("looking at the seal of the image: it is for {} (expected {}, which its layers give)", root.id, before.boot_image);
            Err(Failure::new(FailureKind::Unsuitable, message).hint("seal the image anew, then rechunk it").into())
        }
        _ => Ok(()),
    }
}

/// One run, with the image in the scratch repository.
struct Rechunking<'a> {
    options: &'a Options,
    source: &'a Source,
    store: &'a Store,
    scratch: &'a Path,
    before: StoredImage,
}

impl Rechunking<'_> {
    async fn run(&self, progress: &Arc<dyn Progress>) -> Result<Report> {
        let base = self.source.resolved();
        progress.phase("arranging the layers".to_owned());
        let root = Arc::new(Root::list(self.store.layers_tree(&base.config)?)?);
        if root.leaves.iter().all(|leaf| leaf.owner.is_none()) {
            let reason = root.unread.as_deref().unwrap_or("the image has no database of packages that selkie reads (dpkg, apk, rpm)");
            progress.note(format!("{reason}: files are arranged by directory"));
        }
        let groups = plan::groups(&root.leaves, self.options.layers);
        let written = write_layers(&root, groups, self.scratch, progress).await?;
        let layers: Vec<Layer> = written.iter().map(|(written, group, entries)| layer(written, group, *entries)).collect();
        let described: Vec<(WrittenLayer, String)> = written.into_iter().map(|(written, group, _)| (written, group)).collect();
        let rebuilt = Rebuilt::new(base, &described, "selkie rechunk", self.scratch)?;
        let staged = rebuilt.open(&self.options.output, &self.options.source)?;
        self.prove(&staged, progress).await?;
        let written = rebuilt.write(&staged, &self.options.output, &self.options.destination, progress).await?;
        Ok(Report {
            output: self.options.output.to_string(),
            manifest_digest: written.manifest_digest,
            config_digest: rebuilt.config_digest.clone(),
            image: self.before.image.clone(),
            boot_image: self.before.boot_image.clone(),
            algorithm: self.store.algorithm(),
            size: layers.iter().map(|layer| layer.size).sum(),
            layers,
            layers_before: base.layers.len() as u64,
            size_before: base.layers.iter().map(|layer| layer.size).sum(),
            bytes_written: written.bytes_written,
        })
    }

    /// Reads the new image as a machine would, before anyone else sees it: it must be the same root, and boot the same root.
    async fn prove(&self, staged: &Source, progress: &Arc<dyn Progress>) -> Result<()> {
        let scratch = store::Scratch::new(self.scratch, self.store.algorithm())?;
        let found = digest::measure(staged, &scratch, |_| false, progress).await.context("reading back what was written")?;
        Ok(compare(&self.before, &found)?)
    }
}

/// Whether what was read back is what was there before.
fn compare(before: &StoredImage, found: &Measured) -> Result<(), Failure> {
    for (what, found, expected) in [("image", &found.image, &before.image), ("boot image", &found.boot_image, &before.boot_image)] {
        if found != expected {
            let message = format!("proving the new layers: their {what} is {found} (expected {expected}, as before)");
            return Err(Failure::new(FailureKind::Corrupt, message).hint("nothing was published; this is a bug of selkie"));
        }
    }
    Ok(())
}

/// A layer, what is in it, and how many entries.
type Written = (WrittenLayer, String, u64);

/// Writes all layers, some at a time, the directories last; lowest first.
async fn write_layers(root: &Arc<Root>, groups: Vec<Group>, scratch: &Path, progress: &Arc<dyn Progress>) -> Result<Vec<Written>> {
    let (total, wanted) = (groups.len() as u64 + 1, Arc::new(()));
    let mut writing = JoinSet::new();
    let mut layers: Vec<(usize, Written)> = Vec::new();
    let done = |layers: &mut Vec<(usize, Written)>, layer| {
        layers.push(layer);
        progress.event(Event::Advance { item: "layers".to_owned(), done: layers.len() as u64, total, unit: Unit::Items });
    };
    for (number, group) in groups.into_iter().map(Some).chain([None]).enumerate() {
        if writing.len() == TOGETHER {
            let Some(written) = writing.join_next().await else { continue };
            done(&mut layers, written.context("writing in a thread")??);
        }
        let (root, scratch, still_wanted) = (Arc::clone(root), scratch.to_owned(), Arc::downgrade(&wanted));
        writing.spawn_blocking(move || Ok::<_, anyhow::Error>((number, write_layer(&root, group, &scratch, &still_wanted)?)));
    }
    while let Some(written) = writing.join_next().await {
        done(&mut layers, written.context("writing in a thread")??);
    }
    layers.sort_by_key(|(number, _)| *number);
    Ok(layers.into_iter().map(|(_, written)| written).collect())
}

/// `wanted` is gone when the verb was called off.
fn write_layer(root: &Root, group: Option<Group>, scratch: &Path, wanted: &Weak<()>) -> Result<Written> {
    match group {
        Some(group) => {
            let written = layers::write(root, &group, scratch, wanted).with_context(|| format!("writing the layer of {}", group.name))?;
            Ok((written, group.name, group.leaves.len() as u64))
        }
        None => {
            let written = layers::write_directories(root, scratch).context("writing the layer of the directories")?;
            Ok((written, "directories".to_owned(), root.directories.len() as u64))
        }
    }
}

fn layer(written: &WrittenLayer, group: &str, entries: u64) -> Layer {
    Layer {
        group: group.to_owned(),
        entries,
        digest: written.layer.digest.clone(),
        diff_id: written.layer.diff_id.clone(),
        size: written.layer.size,
        tar_size: written.tar_size,
        chunked: !written.annotations.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_other_root_is_an_error() {
        let id = |digit: &str| digit.repeat(64).parse::<ImageId>().unwrap();
        let (a, b) = (id("a"), id("b"));
        let before = StoredImage { image: a.clone(), boot_image: b.clone(), manifest_digest: String::new(), config_digest: String::new() };
        let found = |image: &ImageId, boot_image: &ImageId| Measured { image: image.clone(), boot_image: boot_image.clone() };
        assert_eq!(compare(&before, &found(&a, &b)), Ok(()));
        for (found, what) in [(found(&b, &b), "image"), (found(&a, &a), "boot image"), (found(&b, &a), "image")] {
            let failure = compare(&before, &found).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Corrupt);
            assert!(failure.message.starts_with(&format!("proving the new layers: their {what} is ")), "{failure}");
        }
    }
}
