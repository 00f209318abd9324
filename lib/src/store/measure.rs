//! [`Scratch`]: the images of layers, computed by the code of the store and without storing the files that are in them.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io::BufRead;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::{LAYER_CONTENT_TYPE, layer_content_id};

use super::layers::{self, parse_digest};
use super::tree::{Content, File, Tree};
use super::{Store, Verity, commit, hash, image_id, merge, names, objects, policy, with_repository};
use crate::image_id::{Algorithm, ImageId};
use crate::sys::{dir, scratch};

/// The name of the repository in the scratch directory.
const REPOSITORY: &str = "composefs";

/// A repository in a scratch directory that knows its layers without the contents of their files, and goes away with this value.
///
/// Layers are measured, then committed: merge, recipe and EROFS are the very code of [`Store::commit`], which therefore gives the same
/// images. On disk are tar headers, files of up to 64 bytes, the EROFS images, and those files whose contents were asked for.
#[derive(Debug)]
pub struct Scratch {
    store: Store,
    /// Removed when dropped, which the order of fields puts after the repository's handle.
    _directory: scratch::Scratch,
}

/// Of which files a layer's reading keeps the contents.
#[derive(Debug, Clone)]
pub enum Keep {
    /// What the recipe reads, and what this says of a name in the archive, without a slash at its front. A name is a guess: the file may
    /// have another one in the tree, through a link.
    Names(fn(&Path) -> bool),
    /// Files of these sizes.
    Sizes(BTreeSet<u64>),
}

/// The images of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// The EROFS image of the layers as they are.
    pub image: ImageId,
    /// The EROFS image to boot from.
    pub boot_image: ImageId,
}

/// How [`Scratch::commit`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// The images are there.
    Done(Measured),
    /// The recipe needs contents that were not kept: these layers have to be measured again.
    Unread(Vec<Unread>),
}

/// A layer with contents that were not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Its diff_id.
    pub diff_id: String,
    /// The sizes of these files, as in [`Keep::Sizes`].
    pub sizes: BTreeSet<u64>,
}

impl Scratch {
    /// Makes a scratch directory below `within`.
    pub fn new(within: &Path, algorithm: Algorithm) -> Result<Self> {
        let directory = scratch::Scratch::make(within)?;
        let store = Store::open_or_init(dir::open_path(directory.path())?, REPOSITORY, Some(algorithm), Verity::Never)?;
        Ok(Self { store, _directory: directory })
    }

    /// The repository.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The algorithm of all digests.
    pub fn algorithm(&self) -> Algorithm {
        self.store.algorithm()
    }

    /// Whether the layer was measured.
    pub fn has_layer(&self, diff_id: &str) -> Result<bool> {
        let name = layer_content_id(&parse_digest(diff_id)?);
        with_repository!(self.store, repository => Ok(repository.has_stream(&name)?.is_some()))
    }

    /// Measures a layer: a tar stream as for [`Store::import_layer`]. Memory use is bounded by the layer's headers and small files.
    /// Measuring it again keeps further contents.
    ///
    /// # Errors
    ///
    /// Those of [`Store::import_layer`].
    pub fn measure_layer(&self, diff_id: &str, tar: impl BufRead, keep: Keep) -> Result<()> {
        let digest = parse_digest(diff_id)?;
        with_repository!(self.store, repository => {
            // Without a sync: nothing here outlives this process.
            layers::take(repository, layers::AllBytes(tar), |name, size| keep.keeps(name, size), None)
                .and_then(|(stream, ..)| layers::name(repository, &digest, &stream))
        })
    }

    /// Makes the images of the layers that `config`, an image configuration, names; all were measured.
    ///
    /// # Errors
    ///
    /// Those of [`Store::commit`].
    pub fn commit(&self, config: &[u8]) -> Result<Commit> {
        with_repository!(self.store, repository => commit_layers(repository, config)).context("measuring the image")
    }

    /// The layers that have the contents of `files` which were not kept. Nothing where all were.
    pub fn unread(&self, config: &[u8], files: &[&File]) -> Result<Vec<Unread>> {
        with_repository!(self.store, repository => {
            let mut wanted = Vec::new();
            for file in files {
                if let Content::Object(object) = &file.content {
                    wanted.push((hash(object.hex())?, file.size));
                }
            }
            unread(repository, &commit::layers(repository, config)?, wanted)
        })
    }

    /// Reads the root file system of an image that was committed. The contents of files can be read as long as this scratch directory
    /// is there, if they were kept.
    pub fn tree(&self, image: &ImageId) -> Result<Tree> {
        self.store.tree(image)
    }
}

impl Keep {
    fn keeps(&self, name: &[u8], size: u64) -> bool {
        match self {
            Self::Sizes(sizes) => sizes.contains(&size),
            // A name that cannot be is an error of the merge.
            Self::Names(also) => names::clean(OsStr::from_bytes(name)).is_ok_and(|parts| {
                let path: PathBuf = parts.iter().collect();
                policy::has_name(&path) || also(&path)
            }),
        }
    }
}

fn commit_layers<H: FsVerityHashValue>(repository: &Repository<H>, config: &[u8]) -> Result<Commit> {
    let layers = commit::layers(repository, config)?;
    let tree = merge::merge(repository, &layers)?;
    let unread = unread(repository, &layers, policy::objects(&tree))?;
    if !unread.is_empty() {
        return Ok(Commit::Unread(unread));
    }
    let (image, boot_image) = commit::write_images(repository, repository, tree)?;
    Ok(Commit::Done(Measured { image: image_id(&image)?, boot_image: image_id(&boot_image)? }))
}

/// Which layers have those of the wanted objects that are not here; each object counts for the lowest layer that has it.
fn unread<H: FsVerityHashValue>(repository: &Repository<H>, layers: &[(String, H)], wanted: Vec<(H, u64)>) -> Result<Vec<Unread>> {
    let mut missing = HashMap::new();
    for (id, size) in wanted {
        if !objects::exists(repository, &id)? {
            missing.insert(id, size);
        }
    }
    let mut unread = Vec::new();
    for (diff_id, stream) in layers {
        if missing.is_empty() {
            break;
        }
        let mut sizes = BTreeSet::new();
        let mut layer = repository.open_stream("", Some(stream), Some(LAYER_CONTENT_TYPE))?;
        layer.get_object_refs(|id| sizes.extend(missing.remove(id)))?;
        if !sizes.is_empty() {
            unread.push(Unread { diff_id: diff_id.clone(), sizes });
        }
    }
    Ok(unread)
}
