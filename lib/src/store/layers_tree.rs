//! What an image's layers make, as they are: for looks at an image, not for booting it.

use anyhow::{Context, Result};
use composefs_oci::LAYER_CONTENT_TYPE;

use super::layers::{complete_layer, parse_digest};
use super::tree::Tree;
use super::{Store, commit, merge, tree_image, with_repository};

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
}
