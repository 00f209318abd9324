//! Where what is damaged can be fetched from.

use std::collections::BTreeSet;

use anyhow::Result;

use super::repository::Look;
use super::target::Target;
use crate::ops::{lasting, prune};
use crate::reference::ImageReference;
use crate::store::Store;

/// A place that may have what is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The image, pinned where that is possible.
    pub(super) reference: ImageReference,
    /// The manifest that is expected there.
    pub(super) manifest: Option<String>,
}

/// The image that was asked for, else where the deployments came from, then where other images with a tag did.
pub(super) fn candidates(target: &Target, store: &Store, asked: Option<&ImageReference>) -> Result<Vec<Candidate>> {
    if let Some(reference) = asked {
        return Ok(vec![Candidate { reference: reference.clone(), manifest: None }]);
    }
    let mut found = Vec::new();
    if let Ok(listing) = target.deployments().and_then(|deployments| deployments.list()) {
        let origins = listing.found.into_iter().filter_map(|deployment| deployment.origin.ok());
        found.extend(origins.filter_map(|origin| Some(candidate(origin.image.parse().ok()?, origin.manifest_digest))));
    }
    let others = store.tags().unwrap_or_default().into_iter().filter(|(tag, _)| !tag.starts_with(prune::TAG));
    found.extend(others.filter_map(|(tag, manifest)| Some(candidate(lasting::reference_of(&tag)?, manifest))));
    let mut seen = BTreeSet::new();
    // A reference that cannot be pinned may be that of several deployments, and name any one of their manifests now.
    found.retain(|candidate: &Candidate| seen.insert((candidate.reference.to_string(), candidate.manifest.clone())));
    Ok(found)
}

fn candidate(reference: ImageReference, manifest: String) -> Candidate {
    let reference = reference.pinned(&manifest).unwrap_or(reference);
    Candidate { reference, manifest: Some(manifest) }
}

impl Candidate {
    /// Whether it may have one of these layers or manifests, by what the repository knows of it.
    pub(super) fn may_have(&self, look: &Look, layers: &BTreeSet<String>, documents: &BTreeSet<String>) -> bool {
        let Some(manifest) = &self.manifest else { return true };
        match look.inspection.layers.get(manifest) {
            Some(known) => documents.contains(manifest) || known.intersection(layers).next().is_some(),
            None => true,
        }
    }
}
