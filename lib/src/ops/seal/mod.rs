//! `selkie seal`: one more layer that ties an image to the one root that its layers give.
//!
//! The layer holds a unified kernel image with the digest of that root in its command line, and the boot loader, both signed. It lies below
//! `/boot`, which is empty in the root that boots: so the digest stays what it is, whatever is put there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;

use super::pull;
use super::runtime::block_on;
use super::stage::Bootable;
use crate::cmdline::{Cmdline, RootImage};
use crate::error::{Failure, FailureKind};
use crate::image::{self, Derived, OutputKind, OutputOptions, Source, SourceOptions};
use crate::image_id::{Algorithm, ImageId};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::signing::Signer;
use crate::store::{self, Store, StoredImage, Tree, Verity};
use crate::sys::dir;
use crate::sys::scratch::Scratch;

mod annotation;
mod layer;

pub use annotation::{BOOT_IMAGE, RECIPE, algorithm, check_recipe, sealed_root, sealed_with};
use layer::{Ingredients, Made};

/// What to seal, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The finished image.
    pub image: ImageReference,
    /// How to reach it.
    pub source: SourceOptions,
    /// Where the sealed image goes.
    pub output: ImageReference,
    /// How to reach that.
    pub destination: OutputOptions,
    /// Who signs; nobody for machines without Secure Boot.
    pub signer: Option<Signer>,
    /// Kernel arguments besides those of every machine and those that the image brings.
    pub arguments: Vec<String>,
    /// Addons: a name, and the kernel arguments that it brings.
    pub addons: Vec<(String, String)>,
    /// fs-verity algorithm: machines keep their repository in it.
    pub algorithm: Algorithm,
    /// The time that everything made here bears, in seconds since 1970.
    pub mtime: u64,
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
    /// fs-verity digest of the root file system as the layers give it.
    pub image: ImageId,
    /// fs-verity digest of the root file system that boots: the one inside the unified kernel image.
    pub boot_image: ImageId,
    /// The unified kernel image, as a path in the image.
    pub uki: String,
    /// SHA-256 of it before it was signed: the same input gives the same.
    pub unsigned_sha256: String,
    /// Whether it and the boot loader are signed.
    pub signed: bool,
    /// The kernel arguments inside it.
    pub kernel_arguments: String,
    /// Names of the addons.
    pub addons: Vec<String>,
    /// Bytes of the layer, compressed.
    pub layer_size: u64,
}

/// Runs the verb.
///
/// # Errors
///
/// Everything about output and signer that can be found wrong beforehand; an image that cannot boot, is sealed already, or has a unified kernel
/// image of others. The output is untouched then.
pub fn run(options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    image::check_output(&options.output)?;
    layer::check(options)?;
    options.signer.as_ref().map_or(Ok(()), Signer::check)?;
    let scratch = Scratch::make(&options.scratch)?;
    let store = Store::open_or_init(dir::open_path(scratch.path())?, store::DIRECTORY, Some(options.algorithm), Verity::Never)?;
    block_on(async {
        image::check_named(&options.output, OutputKind::Image, &options.destination).await?;
        let source = Source::open_to_copy(&options.image, &options.source, scratch.path(), progress.as_ref()).await?;
        check_recipe(source.resolved())?;
        let pulled = pull::fetch_to_scratch(&store, &source, progress).await?;
        let sealing = Sealing { options, store: &store, source: &source, scratch: scratch.path(), base: pulled.stored() };
        let report = sealing.run(progress).await?;
        source.close().await?;
        Ok(report)
    })
}

/// One run, with the image in the scratch repository.
struct Sealing<'a> {
    options: &'a Options,
    store: &'a Store,
    source: &'a Source,
    scratch: &'a Path,
    base: StoredImage,
}

impl Sealing<'_> {
    async fn run(&self, progress: &Arc<dyn Progress>) -> Result<Report> {
        let root = RootImage::new(self.base.boot_image.clone(), true);
        let whole = self.store.tree(&self.base.image)?;
        let stale = refuse_other_seals(&whole, &root.id)?;
        let ingredients = Ingredients {
            boot: &self.store.tree(&root.id)?,
            whole: &whole,
            architecture: &self.source.resolved().architecture()?,
            root: &root,
        };
        progress.phase("sealing".to_owned());
        let made = layer::make(&ingredients, self.options, self.scratch)?;
        if let Some(dropped) = stale.and_then(|stale| dropped(&stale, &made)) {
            progress.note(format!("the seal of the base image had kernel arguments that this one has not: {dropped}"));
        }
        let created = Some(self.options.mtime).filter(|mtime| *mtime > 0);
        let derived = Derived::new(self.source.resolved(), &made.layer(), &annotation::annotations(&root), created)?;
        let sealed = self.prove(&derived, &made, &root).await?;
        let destination = &self.options.destination;
        let written = image::write(self.source, &derived, &self.options.output, destination, self.scratch, progress).await?;
        Ok(Report {
            output: self.options.output.to_string(),
            manifest_digest: written.manifest_digest,
            config_digest: derived.config_digest.clone(),
            image: sealed.image,
            boot_image: sealed.boot_image,
            uki: layer::UKI.to_owned(),
            unsigned_sha256: made.unsigned_sha256,
            signed: self.options.signer.is_some(),
            kernel_arguments: made.arguments.to_string(),
            addons: self.options.addons.iter().map(|(name, _)| name.clone()).collect(),
            layer_size: derived.layer.size,
        })
    }

    /// Takes the sealed image in as a machine would, before anyone else sees it: it must boot the root that it names.
    async fn prove(&self, derived: &Derived, made: &Made, root: &RootImage) -> Result<StoredImage> {
        self.store.import_layer(&derived.layer.diff_id, made.tar.as_slice()).context("importing the layer with the kernel")?;
        let stored = self.store.commit(&derived.manifest, &derived.config, None)?;
        let bootable = Bootable::open(self.store, &stored).context("looking at the sealed image as a machine would")?;
        match bootable.seal() {
            Some(seal) if seal.root == *root && stored.boot_image == root.id => Ok(stored),
            _ => {
                let message = format!("proving the seal: the sealed image boots {} (expected {root})", stored.boot_image);
                Err(Failure::new(FailureKind::Corrupt, message).into())
            }
        }
    }
}

/// An image that was derived from a sealed one has a unified kernel image of ours, for another root: that is replaced, and its
/// kernel arguments are told. Nothing else is.
fn refuse_other_seals(whole: &Tree, boot_image: &ImageId) -> Result<Option<Cmdline>> {
    let mut replaced = None;
    for (path, _, uki) in store::ukis(whole)? {
        let roots = uki.root_images().unwrap_or_default();
        if roots.iter().any(|root| root.id == *boot_image) {
            let message = format!("sealing: {path} names this very root already: the image is sealed");
            return Err(Failure::new(FailureKind::Unsuitable, message)
                .hint("to seal it with other arguments or another key, seal the image that it was made from")
                .into());
        }
        if roots.is_empty() || path != layer::UKI {
            let message = format!("sealing: {path} is a unified kernel image of another tool (expected none)");
            return Err(Failure::new(FailureKind::Unsuitable, message)
                .hint(format!("machines could boot it instead of the sealed root: remove it in the Containerfile (RUN rm {path})"))
                .into());
        }
        replaced = Some(Cmdline::parse(uki.cmdline.as_deref().unwrap_or_default()));
    }
    Ok(replaced)
}

/// The kernel arguments that go with a seal which is replaced; for people.
fn dropped(stale: &Cmdline, made: &Made) -> Option<String> {
    let stale = stale.without_root_image();
    let gone: Vec<&str> = stale.args().filter(|old| !made.arguments.args().any(|new| new == *old)).collect();
    (!gone.is_empty()).then(|| gone.join(" "))
}
