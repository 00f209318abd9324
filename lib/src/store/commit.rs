//! From imported layers to an image: merge, EROFS images, configuration, manifest, tag — the tag last.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::{Directory, ImageError, Inode, OciTransformOptions};
use composefs::repository::Repository;
use composefs::tree::FileSystem;
use composefs_boot::BootOps;
use composefs_oci::oci_image::{manifest_identifier, tag_image};
use composefs_oci::{BOOT_IMAGE_REF_KEY_V1, IMAGE_REF_KEY_V1, OciDigest, layer_content_id, sha256_content_digest, write_config_raw};
use oci_spec::image::{ImageConfiguration, ImageManifest};
use serde::Serialize;

use super::layers::parse_digest;
use super::{Store, changeset, erofs, image_id, is_io, merge, objects, policy, tags, unsuitable, with_repository};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;

/// What marks a split stream as a manifest or a configuration. The library has these constants and keeps them to itself.
pub(super) const MANIFEST_CONTENT_TYPE: u64 = u64::from_le_bytes(*b"ocimanif");
pub(super) const CONFIG_CONTENT_TYPE: u64 = u64::from_le_bytes(*b"ociconfg");

/// The directories that a booted root needs to mount on. Their contents are not part of the boot image.
const MOUNT_POINTS: [&str; 2] = ["boot", "sysroot"];

/// An image that is complete in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StoredImage {
    /// The EROFS image of the layers as they are.
    pub image: ImageId,
    /// The EROFS image to boot from: `/boot` and `/sysroot` emptied, SELinux labels from the image's own policy.
    pub boot_image: ImageId,
    /// Digest of the manifest.
    pub manifest_digest: String,
    /// Digest of the configuration.
    pub config_digest: String,
}

impl Store {
    /// Makes an image of layers that are all imported. The bytes of the manifest and the configuration are kept as they
    /// are. With `tag`, the image gets that name at the very end. Repeating it changes nothing.
    ///
    /// The images equal those of `cfsctl` wherever that follows the OCI rules ([`changeset`]); beyond that, `/boot` and
    /// `/sysroot` are made in the boot image where the layers have none.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Corrupt`] where the configuration is not the manifest's, [`FailureKind::NotFound`] where a layer is not
    /// here, [`FailureKind::Unsuitable`] where the layers make no root file system.
    pub fn commit(&self, manifest: &[u8], config: &[u8], tag: Option<&str>) -> Result<StoredImage> {
        tag.map_or(Ok(()), tags::check_tag)?;
        with_repository!(self, repository => commit(repository, manifest, config, tag)).context("storing the image")
    }

    /// The image with this manifest, if it is here with all its parts.
    pub fn find(&self, manifest_digest: &str) -> Result<Option<StoredImage>> {
        self.find_with(manifest_digest, |_| false)
    }

    /// The image that was stored with this manifest, whether or not its EROFS images and its files are still here.
    pub fn recorded(&self, manifest_digest: &str) -> Result<Option<StoredImage>> {
        self.find_with(manifest_digest, |_| true)
    }

    /// Like [`find`](Self::find); images of which `complete` says that they are here with all their objects are not read.
    pub(super) fn find_with(&self, manifest_digest: &str, complete: impl Fn(&ImageId) -> bool) -> Result<Option<StoredImage>> {
        let digest = parse_digest(manifest_digest)?;
        with_repository!(self, repository => find(repository, &digest, complete)).with_context(|| format!("looking for image {digest}"))
    }

    /// The configuration of the image with this manifest, if it is here.
    pub fn config(&self, manifest_digest: &str) -> Result<Option<Vec<u8>>> {
        let digest = parse_digest(manifest_digest)?;
        with_repository!(self, repository => config(repository, &digest)).with_context(|| format!("reading the configuration of {digest}"))
    }
}

fn commit<H: FsVerityHashValue>(repository: &Arc<Repository<H>>, manifest: &[u8], config: &[u8], tag: Option<&str>) -> Result<StoredImage> {
    let manifest_digest = sha256_content_digest(manifest);
    let parsed = ImageManifest::from_reader(manifest).context("reading the manifest")?;
    let config_digest = sha256_content_digest(config);
    if *parsed.config().digest() != config_digest {
        let message = format!("configuration {config_digest} (expected {}, as the manifest says)", parsed.config().digest());
        return Err(Failure::new(FailureKind::Corrupt, message).into());
    }
    let layers = layers(repository, config)?;
    let (image, boot_image) = write_images(repository, repository, merge::merge(repository, &layers)?)?;
    let boot_images = HashMap::from([(Box::from(BOOT_IMAGE_REF_KEY_V1), boot_image.clone())]);
    let refs = layers.iter().map(|(diff_id, stream)| (Box::from(diff_id.as_str()), stream.clone())).collect();
    let (_, config_stream) = write_config_raw(repository, config, refs, None, Some(&image), &boot_images)?;
    write_manifest(repository, manifest, &manifest_digest, (&config_digest, &config_stream), &layers)?;
    if let Some(tag) = tag {
        tag_image(repository, &manifest_digest, tag)?;
    }
    Ok(StoredImage {
        image: image_id(&image)?,
        boot_image: image_id(&boot_image)?,
        manifest_digest: manifest_digest.to_string(),
        config_digest: config_digest.to_string(),
    })
}

/// The diff_ids of a configuration with their split streams, lowest first.
pub(super) fn layers<H: FsVerityHashValue>(repository: &Repository<H>, config: &[u8]) -> Result<Vec<(String, H)>> {
    let config = ImageConfiguration::from_reader(config).context("reading the configuration")?;
    let stream = |diff_id: &String| {
        let found = repository.has_stream(&layer_content_id(&parse_digest(diff_id)?))?;
        let missing = || Failure::new(FailureKind::NotFound, format!("layer {diff_id} is not in the repository"));
        Ok((diff_id.clone(), found.ok_or_else(missing)?))
    };
    config.rootfs().diff_ids().iter().map(stream).collect()
}

/// The recipe: from the tree of all layers in `from` to the image and the boot image in `to`. What it reads of files' contents is
/// [`super::policy`]. The image is hashed and written while the boot image is made.
pub(super) fn write_images<H: FsVerityHashValue>(from: &Repository<H>, to: &Repository<H>, mut tree: FileSystem<H>) -> Result<(H, H)> {
    require_usr(&tree)?;
    // The recipe of the library, step by step the same as what computes the digest at build time.
    tree.transform_for_oci(&OciTransformOptions::default()).map_err(|e| unsuitable(format!("preparing the root: {e}")))?;
    let image = make_image(&tree).context("making the image")?;
    thread::scope(|scope| {
        let writer = scope.spawn(move || to.write_image(None, &image));
        let boot_image = boot_image(from, to, tree);
        let image = writer.join().map_err(|_| anyhow!("the thread panicked")).flatten();
        // Where both fail, the first to be written says why: nothing but the disk fails it.
        Ok((image.context("writing the image")?, boot_image?))
    })
}

fn boot_image<H: FsVerityHashValue>(from: &Repository<H>, to: &Repository<H>, mut tree: FileSystem<H>) -> Result<H> {
    empty_mount_points(&mut tree)?;
    policy::require_bounded(&tree, from).context("preparing the boot image")?;
    tree.transform_for_boot(from).map_err(explain)?;
    let boot_image = make_image(&tree).context("making the boot image")?;
    drop(tree);
    to.write_image(None, &boot_image).context("writing the boot image")
}

fn make_image<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Result<Vec<u8>> {
    tree.fsck().context("checking the tree")?;
    Ok(erofs::image(tree).map_err(|e| unsuitable(e.to_string()).hint("change this file in the image"))?)
}

fn require_usr<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Result<(), Failure> {
    let found = match tree.root.lookup(OsStr::new("usr")) {
        Some(Inode::Directory(_)) => return Ok(()),
        Some(Inode::Leaf(..)) => "/usr is not a directory",
        None => "it has no /usr",
    };
    Err(unsuitable(found).hint("the image must be an operating system: begin its Containerfile with a base image of one"))
}

/// Empties `/boot` and `/sysroot`, and makes those that are missing. The library empties them too, but first reads boot
/// entries out of `/boot`, of which we need none, and fails where it cannot read one.
fn empty_mount_points<H: FsVerityHashValue>(tree: &mut FileSystem<H>) -> Result<(), Failure> {
    for name in MOUNT_POINTS {
        match tree.root.get_directory_mut(OsStr::new(name)) {
            Ok(dir) => dir.clear(),
            Err(ImageError::NotFound(_)) => {
                let made = Directory::new(changeset::implied());
                tree.root.insert(OsStr::new(name), Inode::Directory(Box::new(made)));
            }
            Err(_) => {
                let hint = format!("make /{name} an empty directory in the image; it is what a partition is mounted on");
                return Err(unsuitable(format!("/{name} is not a directory")).hint(hint));
            }
        }
    }
    tree.compact();
    Ok(())
}

fn explain(error: anyhow::Error) -> anyhow::Error {
    if is_io(&error) {
        return error.context("preparing the boot image");
    }
    unsuitable(format!("preparing the boot image: {error:#}"))
        .hint("look at /etc/selinux and /usr/lib/modules of the image, which this step reads")
        .into()
}

/// Stores the manifest's own bytes. (The library's writer serialises a parsed manifest again, which changes its digest.)
pub(super) fn write_manifest<H: FsVerityHashValue>(
    repository: &Arc<Repository<H>>,
    manifest: &[u8],
    digest: &OciDigest,
    (config_digest, config_stream): (&OciDigest, &H),
    layers: &[(String, H)],
) -> Result<H> {
    let mut stream = repository.create_stream(MANIFEST_CONTENT_TYPE)?;
    stream.add_named_stream_ref(&format!("config:{config_digest}"), config_stream);
    for (diff_id, layer) in layers {
        stream.add_named_stream_ref(diff_id, layer);
    }
    stream.write_external(manifest)?;
    repository.write_stream(stream, &manifest_identifier(digest), None)
}

fn find<H: FsVerityHashValue>(
    repository: &Repository<H>,
    manifest_digest: &OciDigest,
    complete: impl Fn(&ImageId) -> bool,
) -> Result<Option<StoredImage>> {
    let Some(stream) = repository.has_stream(&manifest_identifier(manifest_digest))? else { return Ok(None) };
    let Some((manifest, mut refs)) = read_json(repository, &stream, MANIFEST_CONTENT_TYPE)? else { return Ok(None) };
    let parsed = ImageManifest::from_reader(&manifest[..]).context("reading the manifest")?;
    let config_digest = parsed.config().digest();
    let Some(config_stream) = refs.remove(format!("config:{config_digest}").as_str()) else { return Ok(None) };
    let Some((config, mut refs)) = read_json(repository, &config_stream, CONFIG_CONTENT_TYPE)? else { return Ok(None) };
    let (Some(image), Some(boot_image)) = (refs.remove(IMAGE_REF_KEY_V1), refs.remove(BOOT_IMAGE_REF_KEY_V1)) else { return Ok(None) };
    let whole = sha256_content_digest(&manifest) == *manifest_digest && sha256_content_digest(&config) == *config_digest;
    let mut unseen = Vec::new();
    for image in [&image, &boot_image] {
        if !complete(&image_id(image)?) {
            unseen.push(image);
        }
    }
    if !whole || !are_complete(repository, &unseen)? {
        return Ok(None);
    }
    // What is left are the layers, through which garbage collection finds the objects of the images.
    for layer in refs.values() {
        if !objects::exists(repository, layer)? {
            return Ok(None);
        }
    }
    Ok(Some(StoredImage {
        image: image_id(&image)?,
        boot_image: image_id(&boot_image)?,
        manifest_digest: manifest_digest.to_string(),
        config_digest: config_digest.to_string(),
    }))
}

fn config<H: FsVerityHashValue>(repository: &Repository<H>, manifest_digest: &OciDigest) -> Result<Option<Vec<u8>>> {
    let Some(stream) = repository.has_stream(&manifest_identifier(manifest_digest))? else { return Ok(None) };
    let Some((manifest, mut refs)) = read_json(repository, &stream, MANIFEST_CONTENT_TYPE)? else { return Ok(None) };
    let manifest = ImageManifest::from_reader(&manifest[..]).context("reading the manifest")?;
    let config = refs.remove(format!("config:{}", manifest.config().digest()).as_str());
    let read = config.map_or(Ok(None), |stream| read_json(repository, &stream, CONFIG_CONTENT_TYPE));
    Ok(read?.map(|(bytes, _)| bytes))
}

type Json<H> = (Vec<u8>, HashMap<Box<str>, H>);

/// The one object of a stream, and what the stream refers to; `None` where an object is gone.
pub(super) fn read_json<H: FsVerityHashValue>(repository: &Repository<H>, id: &H, content_type: u64) -> Result<Option<Json<H>>> {
    if !objects::exists(repository, id)? {
        return Ok(None);
    }
    let mut stream = repository.open_stream("", Some(id), Some(content_type))?;
    let mut object = None;
    stream.get_object_refs(|id| object = Some(id.clone()))?;
    let Some(object) = object else { return Ok(None) };
    if !objects::exists(repository, &object)? {
        return Ok(None);
    }
    Ok(Some((repository.read_object(&object)?, stream.into_named_refs())))
}

/// Whether EROFS images have their names and all objects of their files.
fn are_complete<H: FsVerityHashValue>(repository: &Repository<H>, images: &[&H]) -> Result<bool> {
    let mut wanted = HashSet::new();
    for image in images {
        let name = image.to_hex();
        let named = rustix::fs::statat(repository.repo_fd(), format!("images/{name}"), rustix::fs::AtFlags::empty());
        if crate::sys::dir::optional(named).context("looking for the image")?.is_none() {
            return Ok(false);
        }
        wanted.extend(repository.objects_for_image(&name)?);
    }
    for object in wanted {
        if !objects::exists(repository, &object)? {
            return Ok(false);
        }
    }
    Ok(true)
}
