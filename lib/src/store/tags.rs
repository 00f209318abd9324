//! Tags: names of images, and what garbage collection starts from.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use composefs_oci::oci_image::{has_manifest, list_refs, tag_image};

use super::fsck::is_temporary;
use super::layers::parse_digest;
use super::{Store, with_repository};
use crate::error::{Failure, FailureKind};
use crate::sys::dir;

/// Where tags are, seen from the repository.
const REFS: &str = "streams/refs/oci";

impl Store {
    /// All tags with the digests of their manifests, sorted by name.
    pub fn tags(&self) -> Result<Vec<(String, String)>> {
        let refs = with_repository!(self, repository => list_refs(repository)).context("listing tags")?;
        let mut tags: Vec<_> = refs.into_iter().map(|(name, digest)| (name, digest.to_string())).collect();
        tags.sort();
        Ok(tags)
    }

    /// The names of all tags, wherever they lead.
    pub fn tags_named(&self) -> Result<BTreeSet<String>> {
        tag_names(self.dir())
    }

    /// Gives an image a name, and takes it from the image that had it. Not durable before [`Store::sync`].
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where the image is not here, [`FailureKind::Usage`] for a name that cannot be one.
    pub fn tag(&self, manifest_digest: &str, tag: &str) -> Result<()> {
        check_tag(tag)?;
        let digest = parse_digest(manifest_digest)?;
        with_repository!(self, repository => {
            if has_manifest(repository, &digest)?.is_none() {
                return Err(Failure::new(FailureKind::NotFound, format!("tagging {tag}: no image {digest} in the repository")).into());
            }
            tag_image(repository, &digest, tag)
        })
        .with_context(|| format!("tagging {digest} as {tag}"))
    }

    /// Takes a name away; whether there was such a tag. Durable when it returns. Its image is left to the next garbage collection, if no other tag
    /// leads to it.
    pub fn untag(&self, tag: &str) -> Result<bool> {
        check_tag(tag)?;
        let Some(refs) = dir::open_optional(self.dir(), REFS).context("opening the tags")? else { return Ok(false) };
        dir::remove_file(refs, &encoded(tag)).with_context(|| format!("removing tag {tag}"))
    }
}

/// The names of all tags of the repository in this directory, wherever they lead, also where it cannot be opened as one.
pub fn tag_names(repository: impl AsFd) -> Result<BTreeSet<String>> {
    let Some(refs) = dir::open_optional(repository, REFS).context("opening the tags")? else { return Ok(BTreeSet::new()) };
    let names = dir::names(refs).context("listing the tags")?;
    Ok(names.iter().filter(|name| !is_temporary(name)).map(|name| decoded(&name.to_string_lossy())).collect())
}

/// Refuses names that cannot be those of an image in a repository: `@` at the start means a digest in the tools of this format, and what is written under a temporary name
/// is removed once it is found.
///
/// # Errors
///
/// [`FailureKind::Usage`] for one that cannot.
pub fn check_tag(tag: &str) -> Result<(), Failure> {
    let found = match tag {
        "" => "it is empty",
        "." | ".." => "it is a directory",
        _ if tag.starts_with('@') => "it begins with @, which is kept for digests",
        _ if is_temporary(OsStr::new(tag)) => "it begins like the names of what is being written, which are removed",
        _ if tag.contains('\0') => "it has a zero byte",
        _ if encoded(tag).len() > 255 => "it is longer than 255 bytes",
        _ => return Ok(()),
    };
    Err(Failure::new(FailureKind::Usage, format!("reading tag {tag:?}: {found} (expected a name)")))
}

/// The file name of a tag, as composefs-oci encodes it.
pub(super) fn encoded(tag: &str) -> String {
    tag.replace('%', "%25").replace('/', "%2F")
}

/// The tag of a file name.
pub(super) fn decoded(name: &str) -> String {
    name.replace("%2F", "/").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_stored_are_refused() {
        for bad in ["", ".", "..", "@sha256:aa", "a\0b", &"/".repeat(86), ".selkie-tmp-os", ".tmp-os", ".symlink-os"] {
            assert!(check_tag(bad).is_err(), "{bad}");
        }
        for good in ["os", "quay.io/acme/os:stable", "a%b", "deploy/ab@cd", ".os", "os/.tmp-x"] {
            check_tag(good).unwrap();
        }
    }
}
