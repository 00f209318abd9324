//! [`TagWatch`]: whether a tag still names the image that it led to, where that came from.

use crate::reference::ImageReference;

use super::Source;
use super::registry::Repository;

/// A tag, at the place where it named an image.
pub struct TagWatch {
    /// That place alone.
    repository: Repository,
    reference: ImageReference,
    /// The manifest or index that the tag named.
    named: String,
}

impl Source {
    /// Finds the place where the tag names what it led to: skopeo does not say from which of several the image came, and one of them may be behind the others. So call it before it
    /// is waited for something else. `None` where nobody says that he has it, or there is no tag. Where there are no mirrors, nothing is asked.
    pub async fn watch_tag(&self) -> Option<TagWatch> {
        let (repository, reference) = (self.repository().ok()?.clone(), self.resolved.reference.clone());
        let named = self.resolved.index_digest.as_ref().unwrap_or(&self.resolved.manifest_digest).clone();
        let find = move || Some(TagWatch { repository: repository.where_tag_names(&reference, &named)?, reference, named });
        tokio::task::spawn_blocking(find).await.ok()?
    }
}

impl TagWatch {
    /// The digest that this place says it has for the tag by now, where that is another and can be found out. Nothing is verified.
    pub async fn moved(self) -> Option<String> {
        let Self { repository, reference, named } = self;
        let now = tokio::task::spawn_blocking(move || repository.digest_of(&reference)).await.ok()?.ok()?;
        (now != named).then_some(now)
    }
}
