//! What an image's layers make, as they are: for looks at an image, not for booting it.

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::LeafContent;
use composefs::repository::Repository;
use composefs::tree::RegularFile;
use composefs_oci::LAYER_CONTENT_TYPE;
use composefs_oci::tar::{TarItem, get_entry};

use super::layers::{complete_layer, parse_digest};
use super::tree::{Content, NodeKind, Tree};
use super::{ObjectId, Store, commit, merge, tree_image, with_repository};

impl Store {
    /// The tree that the layers of a configuration make. Unlike the trees of the image and the boot image it is not prepared for
    /// anything: `/run`, `/boot` and `/sysroot` have their contents, `/` has its own metadata, and an image without `/usr` has a
    /// tree, too. Nothing is written.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`](crate::error::FailureKind::NotFound) where a layer is not here,
    /// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where the layers make no tree.
    pub fn layers_tree(&self, config: &[u8]) -> Result<Tree> {
        with_repository!(self, repository => {
            let layers = commit::layers(repository, config)?;
            tree_image::from_filesystem(self, &merge::merge(repository, &layers)?)
        })
        .context("putting the layers together")
    }

    /// The size of a layer's uncompressed tar in bytes; `None` where the layer is not here.
    pub fn layer_size(&self, diff_id: &str) -> Result<Option<u64>> {
        let digest = parse_digest(diff_id)?;
        with_repository!(self, repository => {
            let Some(id) = complete_layer(repository, &digest)? else { return Ok(None) };
            let stream = repository.open_stream("", Some(&id), Some(LAYER_CONTENT_TYPE));
            Ok(Some(stream.with_context(|| format!("opening layer {digest}"))?.total_size))
        })
    }

    /// Bytes in the files of a layer that `tree`, which this layer is a part of, has not at their paths: they were removed or replaced.
    /// `None` where the layer is not here.
    pub fn layer_hidden(&self, diff_id: &str, tree: &Tree) -> Result<Option<u64>> {
        let digest = parse_digest(diff_id)?;
        with_repository!(self, repository => match complete_layer(repository, &digest)? {
            Some(id) => hidden(repository, &id, tree).with_context(|| format!("reading layer {digest}")).map(Some),
            None => Ok(None),
        })
    }
}

fn hidden<H: FsVerityHashValue>(repository: &Repository<H>, layer: &H, tree: &Tree) -> Result<u64> {
    let mut reader = repository.open_stream("", Some(layer), Some(LAYER_CONTENT_TYPE))?;
    let mut bytes = 0;
    while let Some(entry) = get_entry(&mut reader)? {
        let TarItem::Leaf(LeafContent::Regular(file)) = entry.item else { continue };
        let content = match &file {
            RegularFile::Inline(bytes) => Content::Inline(bytes.to_vec()),
            RegularFile::External(id, _) | RegularFile::ExternalNoVerity(id, _) => Content::Object(ObjectId::of(id)),
            RegularFile::Sparse(_) => continue,
        };
        // A path that leads in circles leads to nothing.
        let there = tree
            .get_link(&entry.path)
            .ok()
            .flatten()
            .is_some_and(|node| matches!(node.kind, NodeKind::File(file) if file.content == content));
        bytes += if there { 0 } else { file.file_size() };
    }
    Ok(bytes)
}
