//! Finding a delta of an image: by what its registry or layout lists as referring to the manifest. Nothing that is found is believed: what
//! a delta makes is proven, and what it says of itself decides only whether it is tried.

use std::collections::HashMap;

use anyhow::{Context, Result};
use oci_delta::is_delta_artifact;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::{CONTENT, DeltaBlob, MEDIA_TYPE, SOURCE_CONFIG, TAR_DIFF, TO, referrers};
use crate::error::{Failure, FailureKind};
use crate::image::manifest::Layer;
use crate::image::patience::patiently;
use crate::image::reason::Reason;
use crate::image::{From, Source, digest, registry};
use crate::progress::Progress;
use crate::reference::Transport;

/// The most deltas of one image that are looked at.
pub(super) const MOST: usize = 32;

/// A delta that makes an image of one that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDelta {
    /// The digest of the configuration of the image that it starts from.
    pub source_config: String,
    /// What stands for layers, by the digests of these.
    blobs: HashMap<String, DeltaBlob>,
}

impl FoundDelta {
    /// What stands for this layer, where that is less than the layer.
    pub fn blob(&self, layer: &Layer) -> Option<&DeltaBlob> {
        self.blobs.get(&layer.digest).filter(|blob| blob.size < layer.size)
    }

    /// Bytes to fetch for these layers.
    fn cost(&self, layers: &[Layer]) -> u64 {
        layers.iter().map(|layer| self.blob(layer).map_or(layer.size, |blob| blob.size)).sum()
    }
}

impl Source {
    /// Looks for deltas that make this image of one whose configuration is among `configs`: the one by which `layers` cost the fewest bytes, where that
    /// is less than all of them.
    ///
    /// # Errors
    ///
    /// What was found wrong with the list, or with a delta in it, and no other one was of use; [`Unreachable`](FailureKind::Unreachable) after an outage. That
    /// there is no list, or none that can be asked for from here, is no error.
    pub async fn find_delta(&self, layers: &[usize], configs: Vec<String>) -> Result<Option<FoundDelta>> {
        let resolved = &self.resolved;
        let layers: Vec<Layer> = layers.iter().filter_map(|index| resolved.layers.get(*index).cloned()).collect();
        let wanted = Wanted { subject: resolved.manifest_digest.clone(), configs, layers };
        match &self.from {
            From::Layout(layout) => wanted.choose(&layout.index()?, &mut |described| layout.json("delta", described)),
            From::Proxy(_) if resolved.reference.transport() == Transport::Registry => {
                let Ok(repository) = self.repository() else { return Ok(None) };
                let mut referrers = registry::Referrers::of(repository);
                let find = move || {
                    let tag = referrers::tag(&wanted.subject).unwrap_or_default();
                    let Some(list) = referrers.list(&wanted.subject, &tag).map_err(Reason::error)? else { return Ok(None) };
                    let list = ImageIndex::from_reader(list.as_slice()).context("reading what refers to the image")?;
                    wanted.choose(&list, &mut |described| Ok(referrers.read(described.digest().as_ref()).map_err(Reason::error)?))
                };
                tokio::task::spawn_blocking(find).await.context("asking in a thread")?
            }
            From::Proxy(_) => Ok(None),
        }
    }

    /// Like [`find_delta`](Self::find_delta), for who has to know whether there is one: an outage is waited for as where layers are fetched, and each pause is told.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn find_delta_patiently(
        &self,
        layers: &[usize],
        configs: Vec<String>,
        progress: &dyn Progress,
    ) -> Result<Option<FoundDelta>> {
        let is_outage = |error: &anyhow::Error| Failure::is(error, FailureKind::Unreachable);
        patiently(self.options.retries, progress, is_outage, async || self.find_delta(layers, configs.clone()).await).await
    }
}

/// What a delta has to be.
pub(super) struct Wanted {
    pub(super) subject: String,
    pub(super) configs: Vec<String>,
    pub(super) layers: Vec<Layer>,
}

impl Wanted {
    /// The best delta of a list, whose manifests are fetched by `read`.
    pub(super) fn choose(&self, list: &ImageIndex, read: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>>) -> Result<Option<FoundDelta>> {
        let (mut best, mut least, mut wrong) = (None, self.layers.iter().map(|layer| layer.size).sum::<u64>(), None);
        for described in list.manifests().iter().filter(|described| self.may_be(described)).take(MOST) {
            match self.delta(described, read) {
                Ok(found) => {
                    let cost = found.as_ref().map_or(u64::MAX, |found| found.cost(&self.layers));
                    if cost < least {
                        (best, least) = (found, cost);
                    }
                }
                Err(error) => wrong = Some(error.context(format!("reading delta {}", described.digest()))),
            }
        }
        match (best, wrong) {
            (None, Some(error)) => Err(error),
            (best, _) => Ok(best),
        }
    }

    /// Whether what a list says of a delta leaves it possible that it is of use.
    fn may_be(&self, described: &Descriptor) -> bool {
        let config = described.annotations().as_ref().and_then(|annotations| annotations.get(SOURCE_CONFIG));
        described.media_type() == &MediaType::ImageManifest
            && described.artifact_type().as_ref().is_some_and(|found| found.as_ref() == MEDIA_TYPE)
            && config.is_none_or(|config| self.configs.contains(config))
    }

    /// Reads a delta; `None` for one of another image, or from one that is not here.
    fn delta(&self, described: &Descriptor, read: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>>) -> Result<Option<FoundDelta>> {
        let bytes = read(described)?;
        digest::check("its manifest", &bytes, described.digest())?;
        let manifest = ImageManifest::from_reader(bytes.as_slice()).context("reading its manifest")?;
        let of_this = manifest.subject().as_ref().is_some_and(|subject| subject.digest().as_ref() == self.subject);
        let config = manifest.annotations().as_ref().and_then(|annotations| annotations.get(SOURCE_CONFIG));
        let Some(config) = config.filter(|config| self.configs.contains(config)) else { return Ok(None) };
        if !of_this || !is_delta_artifact(&manifest) {
            return Ok(None);
        }
        let blobs = manifest.layers().iter().filter_map(blob).collect();
        Ok(Some(FoundDelta { source_config: config.clone(), blobs }))
    }
}

/// What stands for a layer, with the digest of that.
fn blob(described: &Descriptor) -> Option<(String, DeltaBlob)> {
    let annotations = described.annotations().as_ref()?;
    let to = annotations.get(TO).filter(|_| annotations.get(CONTENT).is_some_and(|content| content == "image-layer"))?;
    let media_type = described.media_type().to_string();
    let known = media_type == TAR_DIFF
        || matches!(described.media_type(), MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd);
    known.then(|| (to.clone(), DeltaBlob { media_type, digest: described.digest().to_string(), size: described.size() }))
}
