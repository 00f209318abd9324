//! References that are kept: what reads them later has another working directory, a timer for example.

use anyhow::{Context, Result};

use crate::error::{Failure, FailureKind};
use crate::reference::{ImageReference, Transport};

/// The reference as it can be kept: a path in it begins at the root.
///
/// # Errors
///
/// [`FailureKind::Usage`] where no reference can have that path; the working directory is gone.
pub(super) fn from_root(reference: &ImageReference) -> Result<ImageReference> {
    if !reference.is_from_here() {
        return Ok(reference.clone());
    }
    let here = std::env::current_dir().context("finding out the working directory")?;
    Ok(reference.from_root(&here).map_err(Failure::from)?)
}

/// The error of resolving what a machine follows by a record with a path that does not begin at the root, as they were written once: it began at a working
/// directory that nobody knows any more. Where something is there, the error is of that.
pub(super) fn not_found_from_here(error: anyhow::Error, recorded: &ImageReference) -> anyhow::Error {
    if !Failure::is(&error, FailureKind::NotFound) {
        return error;
    }
    let message = format!("{error:#}: this machine follows {recorded}, a path that does not begin at the root (expected one that does)");
    let hint = format!("follow it by its whole path: selkie switch {}/PATH[:TAG]", recorded.transport().prefix());
    Failure::new(FailureKind::NotFound, message).hint(hint).into()
}

/// The name that an image gets in a repository where nobody names it: its reference. `@` is reserved there; before a digest it is an underscore, and elsewhere, in
/// paths and storages, it is written as in an address.
pub(super) fn tag_of(image: &ImageReference) -> String {
    let reference = image.to_string();
    match image.transport() {
        Transport::Registry => reference.replace('@', "_"),
        _ => reference.replace('%', "%25").replace('@', "%40"),
    }
}

/// The reference that a name in a repository was made of, where it may have been made of one. Underscores are in names, too: a digest is at the end.
pub(super) fn reference_of(tag: &str) -> Option<ImageReference> {
    let reference: ImageReference = match digest_at_end(tag) {
        Some((name, digest)) => format!("{name}@{digest}").parse().ok()?,
        None => tag.parse().ok()?,
    };
    match reference.transport() {
        Transport::Registry => Some(reference),
        _ => tag.replace("%40", "@").replace("%25", "%").parse().ok(),
    }
}

/// What is before the digest at the end of a name, and that.
fn digest_at_end(tag: &str) -> Option<(&str, &str)> {
    const DIGESTS: [(&str, usize); 2] = [("sha256:", 64), ("sha512:", 128)];
    DIGESTS.iter().find_map(|(algorithm, digits)| {
        let (name, digest) = tag.split_at_checked(tag.len().checked_sub(algorithm.len() + digits)?)?;
        let hex = digest.strip_prefix(algorithm)?;
        hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).then_some((name.strip_suffix('_')?, digest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_again_in_tags() {
        let [sha256, sha512] = [("sha256", 32), ("sha512", 64)].map(|(algorithm, bytes)| format!("{algorithm}:{}", "ab".repeat(bytes)));
        let table = [
            ("r.io/os:v1", "r.io/os:v1"),
            ("r.io/my_app/os__x:v_1", "r.io/my_app/os__x:v_1"),
            ("localhost:5000/my_app@{256}", "localhost:5000/my_app_{256}"),
            ("r.io/a_b/my__app:v_1@{512}", "r.io/a_b/my__app:v_1_{512}"),
            // It only looks like one.
            ("r.io/os_sha256:v1", "r.io/os_sha256:v1"),
            ("r.io/os_sha256@{256}", "r.io/os_sha256_{256}"),
            ("r.io/os_sha512:sha256@{256}", "r.io/os_sha512:sha256_{256}"),
            ("oci:/srv/my_sha256/a@b:v1", "oci:/srv/my_sha256/a%40b:v1"),
            ("oci:/srv/os_{256}", "oci:/srv/os_{256}"),
            ("oci-archive:/srv/100%/%40.tar:r.io/my_app@x", "oci-archive:/srv/100%25/%2540.tar:r.io/my_app%40x"),
            ("containers-storage:[vfs@/a_b+/c]localhost/my_app@{256}", "containers-storage:[vfs%40/a_b+/c]localhost/my_app%40{256}"),
            ("docker-archive:/srv/ä@{256}", "docker-archive:/srv/ä%40{256}"),
        ];
        for (reference, tag) in
            table.map(|pair| <[&str; 2]>::from(pair).map(|text| text.replace("{256}", &sha256).replace("{512}", &sha512)).into())
        {
            let reference: ImageReference = str::parse(&reference).unwrap();
            assert_eq!(tag_of(&reference), tag);
            assert!(crate::store::check_tag(&tag).is_ok() && !tag.contains('@'), "{tag}");
            assert_eq!(reference_of(&tag), Some(reference), "{tag}");
        }
        for tag in ["mine", "my_app", "", "_", "ä", &format!("_{sha256}"), &format!("my_app_{sha256}")] {
            assert_eq!(reference_of(tag), None, "{tag}");
        }
    }
}
