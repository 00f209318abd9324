//! What writes that were stopped leave in a repository.

use std::ffi::OsStr;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;

use super::finding;
use crate::finding::{Damage, Finding, Kind, Remedy};
use crate::sys::dir;

/// How names begin that are never final: ours, and those of composefs.
const TEMPORARY: [&str; 3] = [dir::TEMPORARY, ".tmp-", ".symlink-"];
/// Where such files can be, besides the directories of objects.
const PLACES: [&str; 6] = [".", "images", "images/refs", "streams", "streams/refs", "streams/refs/oci"];

/// Whether a file of this name is never final.
pub(in crate::store) fn is_temporary(name: &OsStr) -> bool {
    TEMPORARY.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
}

/// Leftovers outside of the directories of objects.
pub(super) fn leftovers<H: FsVerityHashValue>(repository: &Repository<H>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for place in PLACES {
        let Some(directory) = dir::open_optional(repository.repo_fd(), place).with_context(|| format!("opening {place}"))? else {
            continue;
        };
        for name in dir::names(&directory).with_context(|| format!("listing {place}"))? {
            if is_temporary(&name) {
                let path = std::path::Path::new(place).join(&name);
                let path = path.strip_prefix(".").unwrap_or(&path).to_string_lossy().into_owned();
                findings.push(finding(Kind::Leftover, path, Damage::Leftover, "a write that was stopped has left it", Remedy::Remove));
            }
        }
    }
    Ok(findings)
}
