//! Where rpm keeps what is installed in an image, for the verbs that ask.

use anyhow::{Context, Result};

use super::changes::Read;
use crate::packages::{self, RpmPackage};
use crate::store::Tree;

/// Directories of the database; distributions of today have the first.
const PLACES: [&str; 2] = ["/usr/lib/sysimage/rpm", "/var/lib/rpm"];
/// Of SQLite.
const DATABASE: &str = "rpmdb.sqlite";
/// Those of other formats: ndb (SUSE), and Berkeley DB (before rpm 4.16).
const OTHERS: [&str; 2] = ["Packages.db", "Packages"];

/// The packages of an image, or why they are not known; `None` where it has no database of rpm.
///
/// # Errors
///
/// The image cannot be read.
pub(super) fn packages(tree: &Tree, read: Read<'_>) -> Result<Option<Result<Vec<RpmPackage>, String>>> {
    for place in PLACES {
        let path = format!("{place}/{DATABASE}");
        if let Some(file) = tree.file(&path)? {
            // Written there by whoever had it open, and not yet to the database.
            if tree.file(format!("{path}-wal"))?.is_some_and(|log| log.size > 0) {
                return Ok(Some(Err(format!(
                    "{path} was not closed: changes are in {path}-wal (any rpm command in the image's build closes it)"
                ))));
            }
            let bytes = read(tree, &file).with_context(|| format!("reading {path}"))?;
            return Ok(Some(bytes.and_then(|bytes| packages::rpm(&bytes).map_err(|error| format!("{path}: {error}")))));
        }
    }
    for path in PLACES.iter().flat_map(|place| OTHERS.map(|name| format!("{place}/{name}"))) {
        if tree.file(&path)?.is_some() {
            return Ok(Some(Err(format!(
                "{path} is a database that selkie does not read (expected {DATABASE}); `rpm -qa` tells its packages"
            ))));
        }
    }
    Ok(None)
}
