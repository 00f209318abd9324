//! `selkie untag`: takes a name away from an image in a repository of no machine. What no other name leads to goes with the next collection.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;

use super::pull;
use super::standalone::Standalone;
use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::store::check_tag;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The tag that is gone.
    pub tag: String,
    /// Digest of the manifest that it led to; `None` where it led to none.
    pub manifest_digest: Option<String>,
    /// The tags that are left, by name.
    pub left: Vec<String>,
}

/// Removes a tag, wherever it leads: that of this name, else that of this reference.
///
/// # Errors
///
/// [`FailureKind::NotFound`] where there is no such tag, with those that there are; [`FailureKind::Usage`] for a name that none can have.
pub fn run(repository: &Standalone, tag: &str, progress: &dyn Progress) -> Result<Report> {
    check_tag(tag)?;
    let store = repository.store(progress)?;
    let there = store.tags_named()?;
    let Some(tag) = meant(tag, &there) else {
        let there: Vec<String> = there.into_iter().collect();
        let expected = if there.is_empty() { "there are none".to_owned() } else { format!("expected one of {}", there.join(", ")) };
        let message = format!("removing tag {tag} from {}: there is no such tag ({expected})", repository.path().display());
        return Err(Failure::new(FailureKind::NotFound, message).hint("name one of the tags that are there").into());
    };
    let manifest_digest = store.tags()?.into_iter().find_map(|(name, manifest)| (name == tag).then_some(manifest));
    store.untag(&tag)?;
    progress.step("remove tag");
    Ok(Report { tag, manifest_digest, left: store.tags_named()?.into_iter().collect() })
}

/// The tag of this name, or the one that a pull of this reference makes where nobody names it.
fn meant(tag: &str, there: &BTreeSet<String>) -> Option<String> {
    let of_reference = || Some(pull::tag_of(&tag.parse().ok()?));
    if there.contains(tag) { Some(tag.to_owned()) } else { of_reference().filter(|tag| there.contains(tag)) }
}
