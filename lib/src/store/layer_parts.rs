//! A layer that is here, piece by piece: the bytes of its tar that lie between files, and the files.

use std::collections::VecDeque;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::LeafContent;
use composefs::repository::Repository;
use composefs::splitstream::SplitStreamData;
use composefs::tree::RegularFile;
use composefs_oci::LAYER_CONTENT_TYPE;
use composefs_oci::tar::{TarItem, get_entry};

use super::layers::{complete_layer, parse_digest};
use super::tree::{Content, File};
use super::{ObjectId, Store, with_repository};
use crate::error::{Failure, FailureKind};

/// A piece of the tar of a layer.
#[derive(Debug)]
pub enum LayerPart<'a> {
    /// These bytes: headers, padding and small files.
    Bytes(&'a [u8]),
    /// The content of a file, with its path in the layer, which begins with a slash. [`Tree::open`](super::Tree::open) of any tree of this
    /// repository reads it.
    File(PathBuf, File),
}

impl Store {
    /// Hands out the pieces of a layer's tar, in order; together they are the tar. Memory is bounded by the layer's headers and small files.
    ///
    /// # Errors
    ///
    /// Those of `each`; [`FailureKind::NotFound`] where the layer is not here.
    pub fn layer_parts(&self, diff_id: &str, each: impl FnMut(LayerPart<'_>) -> Result<()>) -> Result<()> {
        let digest = parse_digest(diff_id)?;
        with_repository!(self, repository => match complete_layer(repository, &digest)? {
            Some(id) => parts(repository, &id, each).with_context(|| format!("reading layer {digest}")),
            None => Err(Failure::new(FailureKind::NotFound, format!("reading layer {digest}: it is not here")).into()),
        })
    }
}

fn parts<H: FsVerityHashValue>(repository: &Repository<H>, layer: &H, mut each: impl FnMut(LayerPart<'_>) -> Result<()>) -> Result<()> {
    let mut files = files(repository, layer)?;
    let mut stream = repository.open_stream("", Some(layer), Some(LAYER_CONTENT_TYPE))?;
    stream.for_each_chunk(|chunk| match chunk {
        SplitStreamData::Inline(bytes) => each(LayerPart::Bytes(&bytes)),
        SplitStreamData::External(id) => {
            let object = ObjectId::of(&id);
            let (path, size, expected) = files.pop_front().context("an object that is no file")?;
            ensure!(object == expected, "object {object} stands where file {} is", path.display());
            each(LayerPart::File(path, File { size, content: Content::Object(object) }))
        }
    })
}

/// The files of a layer that are objects, in order.
fn files<H: FsVerityHashValue>(repository: &Repository<H>, layer: &H) -> Result<VecDeque<(PathBuf, u64, ObjectId)>> {
    let mut stream = repository.open_stream("", Some(layer), Some(LAYER_CONTENT_TYPE))?;
    let mut files = VecDeque::new();
    while let Some(entry) = get_entry(&mut stream)? {
        if let TarItem::Leaf(LeafContent::Regular(RegularFile::External(id, size))) = entry.item {
            files.push_back((entry.path, size, ObjectId::of(&id)));
        }
    }
    Ok(files)
}
