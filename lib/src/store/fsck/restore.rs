//! Puts back what a check found damaged. Everything is first made in a scratch repository by the code that made it in the first place;
//! only what is wanted, and has the digest of its name, then takes its place.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use composefs::erofs::reader::erofs_to_filesystem;
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::LeafContent;
use composefs::repository::Repository;
use composefs::tree::RegularFile;
use composefs_oci::tar::{TarItem, get_entry};
use composefs_oci::{BOOT_IMAGE_REF_KEY_V1, LAYER_CONTENT_TYPE, sha256_content_digest, write_config_raw};

use super::contents::{self, CONFIG, LAYER, MANIFEST};
use super::links::links;
use super::stream::Stream;
use super::{Inspection, LayerWants};
use crate::progress::Progress;
use crate::store::measure::{Keep, Scratch};
use crate::store::objects::ObjectId;
use crate::store::place::{ObjectWriter, Placing, link, place};
use crate::store::{Handle, Store, commit, hash, merge, with_repository};

/// A repair of a repository.
pub struct Restore {
    store: Store,
    scratch: Scratch,
    /// The sizes of the damaged objects, as far as an image says them.
    sizes: HashMap<ObjectId, u64>,
    good: HashSet<ObjectId>,
    /// Streams that are well with all that is in them.
    hashed: HashSet<String>,
}

/// Puts back single objects.
pub struct Writer(Store);

impl Writer {
    /// Begins to put back an object.
    pub fn begin(&self, object: &ObjectId) -> Result<Box<dyn ObjectWriter>> {
        Ok(with_repository!(self.0, repository => Box::new(Placing::begin(repository, &hash(object.hex())?)?) as Box<dyn ObjectWriter>))
    }
}

/// A damaged file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// The object with its content.
    pub object: ObjectId,
    /// Its path in the archive.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// Runs an expression on both repositories, which are of one algorithm.
macro_rules! with_both {
    ($restore:expr, $real:ident, $scratch:ident => $body:expr) => {
        match (&$restore.store.0, &$restore.scratch.store().0) {
            (Handle::Sha256($real), Handle::Sha256($scratch)) => $body,
            (Handle::Sha512($real), Handle::Sha512($scratch)) => $body,
            _ => anyhow::bail!("the scratch repository is of another algorithm"),
        }
    };
}

impl Restore {
    /// Begins a repair of what `found` says, with a scratch directory in `within`.
    pub fn new(store: &Store, found: &Inspection, within: &Path) -> Result<Self> {
        let wanted: BTreeSet<&ObjectId> = found.wants.layers.values().flat_map(|layer| &layer.objects).collect();
        let sizes = if wanted.is_empty() {
            HashMap::new()
        } else {
            with_repository!(store, repository => sizes(repository, found, &wanted)).context("reading the sizes of damaged objects")?
        };
        let scratch = Scratch::new(within, store.algorithm())?;
        Ok(Self { store: store.clone(), scratch, sizes, good: found.good.clone(), hashed: found.hashed.clone() })
    }

    /// Reads a layer, as [`Store::import_layer`] does, and puts back what is wanted of it.
    ///
    /// # Errors
    ///
    /// Those of reading it; what is damaged is then as it was.
    pub fn layer(&self, diff_id: &str, tar: impl BufRead, wants: &LayerWants, progress: &dyn Progress) -> Result<()> {
        let sizes: Option<BTreeSet<u64>> = wants.objects.iter().map(|id| self.sizes.get(id).copied()).collect();
        let keep = sizes.filter(|_| !wants.all).map_or(Keep::Names(|_| true), Keep::Sizes);
        self.scratch.measure_layer(diff_id, tar, keep)?;
        with_both!(self, real, scratch => take_layer(real, scratch, diff_id, wants, &|id| self.good.contains(&id), progress))
    }

    /// Whether a layer is not here with all that is in it.
    pub fn lacks(&self, diff_id: &str) -> bool {
        !self.hashed.contains(&format!("{LAYER}{diff_id}"))
    }

    /// The damaged files of a layer whose stream is well: each with its path in the archive and its size. Nothing where the stream is not.
    ///
    /// # Errors
    ///
    /// The stream cannot be read.
    pub fn files(&self, diff_id: &str, wants: &LayerWants) -> Result<Vec<DamagedFile>> {
        if wants.stream {
            return Ok(Vec::new());
        }
        with_repository!(self.store, repository => files(repository, diff_id, wants))
            .with_context(|| format!("reading the stream of layer {diff_id}"))
    }

    /// What puts back single objects.
    pub fn writer(&self) -> Writer {
        Writer(self.store.clone())
    }

    /// Makes the images, the configuration and the manifest of an image again, whose layers are all well, and puts back those that are not.
    pub fn image(&self, manifest: &[u8], config: &[u8], progress: &dyn Progress) -> Result<()> {
        with_both!(self, real, scratch => take_image(real, scratch, (manifest, config), &|id| self.good.contains(&id), progress))
            .context("building the images again")
    }

    /// The manifest and the configuration of an image, as the repository has them.
    pub fn documents(&self, manifest_digest: &str) -> Result<(Vec<u8>, Vec<u8>)> {
        with_repository!(self.store, repository => documents(repository, manifest_digest))
            .with_context(|| format!("reading manifest {manifest_digest} in the repository"))
    }
}

fn files<H: FsVerityHashValue>(repository: &Repository<H>, diff_id: &str, wants: &LayerWants) -> Result<Vec<DamagedFile>> {
    let name = format!("{LAYER}{diff_id}");
    let mut wanted: BTreeSet<&ObjectId> = wants.objects.iter().collect();
    let mut files = Vec::new();
    let mut stream = repository.open_stream(&name, None, Some(LAYER_CONTENT_TYPE))?;
    while let Some(entry) = get_entry(&mut stream)? {
        if let TarItem::Leaf(LeafContent::Regular(RegularFile::External(id, size))) = entry.item {
            let object = ObjectId::of(&id);
            if wanted.remove(&object) {
                files.push(DamagedFile { object, path: entry.path, size });
            }
        }
    }
    Ok(files)
}

fn take_layer<H: FsVerityHashValue>(
    real: &Repository<H>,
    scratch: &Repository<H>,
    diff_id: &str,
    wants: &LayerWants,
    is_good: &dyn Fn(ObjectId) -> bool,
    progress: &dyn Progress,
) -> Result<()> {
    let name = format!("{LAYER}{diff_id}");
    let mut objects: Vec<H> = wants.objects.iter().map(|object| hash(object.hex())).collect::<Result<_>>()?;
    if wants.all {
        let id = scratch.has_stream(&name)?.context("looking for the stream that was just made")?;
        objects.extend(Stream::<H>::read(contents::open(scratch, &id)?)?.objects.into_iter().filter(|id| !is_good(ObjectId::of(id))));
    }
    for id in objects {
        if crate::store::objects::exists(scratch, &id)? {
            place(real, &id, contents::open(scratch, &id)?)?;
            progress.step("restore object");
        }
    }
    if wants.stream {
        let id = scratch.has_stream(&name)?.context("looking for the stream that was just made")?;
        put_stream(real, scratch, &name, &id, progress)?;
    }
    Ok(())
}

/// The object of a stream first, the name last.
fn put_stream<H: FsVerityHashValue>(
    real: &Repository<H>,
    scratch: &Repository<H>,
    name: &str,
    id: &H,
    progress: &dyn Progress,
) -> Result<()> {
    place(real, id, contents::open(scratch, id)?)?;
    progress.step("restore stream");
    link(real, &format!("streams/{name}"), id)?;
    progress.step("name stream");
    Ok(())
}

fn take_image<H: FsVerityHashValue>(
    real: &Arc<Repository<H>>,
    scratch: &Arc<Repository<H>>,
    (manifest, config): (&[u8], &[u8]),
    is_good: &dyn Fn(ObjectId) -> bool,
    progress: &dyn Progress,
) -> Result<()> {
    let layers = commit::layers(real, config)?;
    let (image, boot_image) = commit::write_images(real, scratch, merge::merge(real, &layers)?)?;
    let refs = layers.iter().map(|(diff_id, stream)| (Box::from(diff_id.as_str()), stream.clone())).collect();
    let boot_images = HashMap::from([(Box::from(BOOT_IMAGE_REF_KEY_V1), boot_image.clone())]);
    let (config_digest, config_stream) = write_config_raw(scratch, config, refs, None, Some(&image), &boot_images)?;
    let manifest_digest = sha256_content_digest(manifest);
    let manifest_stream = commit::write_manifest(scratch, manifest, &manifest_digest, (&config_digest, &config_stream), &layers)?;
    let there = links(real, "images")?;
    for id in HashSet::from([&image, &boot_image]) {
        let named = there.get(&id.to_hex()).is_some_and(|link| link.as_ref().is_ok_and(|target| target == id));
        if !named || !is_good(ObjectId::of(id)) {
            place(real, id, contents::open(scratch, id)?)?;
            progress.step("restore image");
            link(real, &format!("images/{}", id.to_hex()), id)?;
            progress.step("name image");
        }
    }
    let there = links(real, "streams")?;
    for (name, id) in [(format!("{CONFIG}{config_digest}"), config_stream), (format!("{MANIFEST}{manifest_digest}"), manifest_stream)] {
        for object in Stream::<H>::read(contents::open(scratch, &id)?)?.objects {
            if !is_good(ObjectId::of(&object)) {
                place(real, &object, contents::open(scratch, &object)?)?;
                progress.step("restore object");
            }
        }
        let well = there.get(&name).is_some_and(|link| link.as_ref().is_ok_and(|target| is_good(ObjectId::of(target))));
        if !well {
            put_stream(real, scratch, &name, &id, progress)?;
        }
    }
    Ok(())
}

fn documents<H: FsVerityHashValue>(repository: &Repository<H>, digest: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let stream = repository.has_stream(&format!("{MANIFEST}{digest}"))?.context("it is not there")?;
    let manifest = contents::document(repository, &stream)?;
    let parsed = oci_spec::image::ImageManifest::from_reader(&manifest[..]).context("reading it")?;
    let config = repository.has_stream(&format!("{CONFIG}{}", parsed.config().digest()))?.context("its configuration is not there")?;
    Ok((manifest, contents::document(repository, &config)?))
}

/// The sizes of objects, by the images that have files in them.
fn sizes<H: FsVerityHashValue>(
    repository: &Repository<H>,
    found: &Inspection,
    wanted: &BTreeSet<&ObjectId>,
) -> Result<HashMap<ObjectId, u64>> {
    let mut sizes = HashMap::new();
    for id in links(repository, "images")?.into_values().flatten() {
        if !found.good.contains(&ObjectId::of(&id)) {
            continue;
        }
        let tree = erofs_to_filesystem::<H>(&contents::read_whole(contents::open(repository, &id)?)?)?;
        for leaf in &tree.leaves {
            if let LeafContent::Regular(RegularFile::External(id, size) | RegularFile::ExternalNoVerity(id, size)) = &leaf.content {
                let id = ObjectId::of(id);
                if wanted.contains(&id) {
                    sizes.insert(id, *size);
                }
            }
        }
    }
    Ok(sizes)
}
