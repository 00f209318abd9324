//! Deltas of the image that is pulled, from images that are here.

use std::sync::Arc;

use anyhow::Result;

use crate::image::{DeltaBlob, FoundDelta, Layer, Source, SourceFiles};
use crate::ops::delta::Files;
use crate::progress::Progress;
use crate::store::{Store, StoredImage};

/// A delta, and the files that it starts from.
pub(in crate::ops) struct Delta {
    pub(super) found: FoundDelta,
    pub(super) files: Arc<dyn SourceFiles>,
}

impl Delta {
    /// Looks for one by which `layers` cost least. Without one the pull fetches more and nothing is wrong, so trouble is told and is no failure.
    pub(in crate::ops) async fn find(store: &Store, source: &Source, layers: &[usize], progress: &dyn Progress) -> Option<Self> {
        Self::told(Self::choose(store, async |configs| source.find_delta(layers, configs).await).await, source, progress)
    }

    /// The same for who has to know whether there is one: an outage is waited for.
    ///
    /// # Errors
    ///
    /// That is not known; [`Unreachable`](crate::error::FailureKind::Unreachable) after an outage.
    pub(in crate::ops) async fn find_patiently(
        store: &Store,
        source: &Source,
        layers: &[usize],
        progress: &dyn Progress,
    ) -> Result<Option<Self>> {
        Self::choose(store, async |configs| source.find_delta_patiently(layers, configs, progress).await).await
    }

    /// What was found, after trouble is told.
    pub(in crate::ops) fn told(found: Result<Option<Self>>, source: &Source, progress: &dyn Progress) -> Option<Self> {
        found.unwrap_or_else(|error| {
            progress.note(format!("looking for a delta of {}: {error:#}", source.resolved().reference));
            None
        })
    }

    /// The best of those that `find` finds from given configurations whose image is here.
    async fn choose(store: &Store, find: impl AsyncFn(Vec<String>) -> Result<Option<FoundDelta>>) -> Result<Option<Self>> {
        let stored = stored(store)?;
        let mut configs: Vec<String> = stored.iter().map(|image| image.config_digest.clone()).collect();
        while !configs.is_empty() {
            let Some(found) = find(configs.clone()).await? else { break };
            let image = stored.iter().find(|image| image.config_digest == found.source_config);
            // One that lacks something is of no use, and for others to tell.
            if let Some(image) = image.and_then(|image| store.find(&image.manifest_digest).ok().flatten()) {
                let files = Files(store.tree(&image.image)?);
                return Ok(Some(Self { found, files: Arc::new(files) }));
            }
            configs.retain(|config| *config != found.source_config);
        }
        Ok(None)
    }

    /// What stands for a layer, where that is less than the layer.
    pub(in crate::ops) fn blob(&self, layer: &Layer) -> Option<&DeltaBlob> {
        self.found.blob(layer)
    }
}

/// The images that stay here: those that have a tag. Whether all their files are here is a question for the one that is of use.
fn stored(store: &Store) -> Result<Vec<StoredImage>> {
    let mut stored: Vec<StoredImage> = Vec::new();
    for (_, manifest) in store.tags()? {
        // One that is damaged is of no use, and for others to tell.
        stored.extend(store.recorded(&manifest).ok().flatten().filter(|image| !stored.contains(image)));
    }
    Ok(stored)
}
