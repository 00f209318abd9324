//! `selkie diff`: what an update changes, from one root on this machine to another. Read-only.

use anyhow::{Context, Result};
use serde::Serialize;

use super::host::Host;
use super::{prune, rpm};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::packages::{self, PackageChange, Packages};
use crate::store::{self, Change, Store, Tree, What};
use crate::system::System;

/// Reads a database of packages.
type Reader = fn(&str) -> Packages;

/// Where dpkg and apk keep what is installed, with the reader of each.
const DATABASES: [(&str, Reader); 3] =
    [("/var/lib/dpkg/status", packages::dpkg), ("/lib/apk/db/installed", packages::apk), ("/usr/lib/apk/db/installed", packages::apk)];

/// Which roots: numbers of `selkie list`, or at least four digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The first; the one that runs where none is given.
    pub from: Option<String>,
    /// The second; the one that boots next where none is given.
    pub to: Option<String>,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The first root.
    pub from: Side,
    /// The second.
    pub to: Side,
    /// Packages that are new, gone, or of another version.
    pub packages: Vec<PackageChange>,
    /// Why packages could not be compared, where that is so.
    pub packages_unread: Option<String>,
    /// Paths that differ, from the root, by name.
    pub files: Vec<Change>,
    /// Objects of the second root that the first has not.
    pub new_objects: u64,
    /// Their size in bytes.
    pub new_bytes: u64,
    /// Objects that both have.
    pub shared_objects: u64,
}

impl Report {
    /// How many paths differ so.
    pub fn count(&self, what: What) -> usize {
        self.files.iter().filter(|change| change.what == what).count()
    }
}

/// One of the two roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Side {
    /// fs-verity digest of the root image.
    pub id: ImageId,
    /// Its number on this machine.
    pub number: Option<u64>,
    /// Version, as the image calls it.
    pub os_version: Option<String>,
    /// The kernel, as `uname -r` says; none where the image has not exactly one.
    pub kernel: Option<String>,
}

/// Compares two roots.
///
/// # Errors
///
/// [`FailureKind::NotFound`] where there is no such root, or where none is named and nothing waits for a reboot.
pub fn run(host: &Host, options: &Options) -> Result<Report> {
    let system = host.survey();
    let (from, to) = plan(&system, options)?;
    let store = host.store()?;
    let (before, after) = (open(&store, &from)?, open(&store, &to)?);
    let (packages, packages_unread) = match (installed(&before)?, installed(&after)?) {
        (Ok(before), Ok(after)) => (packages::changes(&before, &after), None),
        (Err(reason), _) | (_, Err(reason)) => (Vec::new(), Some(reason)),
    };
    let (known, wanted) = (before.objects(), after.objects());
    let new: Vec<u64> = wanted.difference(&known).map(|(_, size)| *size).collect();
    Ok(Report {
        packages,
        packages_unread,
        files: before.changes(&after),
        new_objects: new.len() as u64,
        new_bytes: new.iter().sum(),
        shared_objects: (wanted.len() - new.len()) as u64,
        from: side(&system, from, &before),
        to: side(&system, to, &after),
    })
}

/// Which roots are meant.
fn plan(system: &System, options: &Options) -> Result<(ImageId, ImageId), Failure> {
    let named = |asked: &Option<String>| asked.as_deref().map(|asked| system.find(asked)).transpose();
    let from = named(&options.from)?.unwrap_or(&system.booted);
    let next = || {
        system.staged().map(|entry| &entry.image).ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                "comparing roots: nothing waits for a reboot (expected a staged update, or two roots by name)",
            )
            .hint("`selkie list` shows the roots; `selkie upgrade` stages an update")
        })
    };
    let to = named(&options.to)?.map_or_else(next, Ok)?;
    Ok((from.clone(), to.clone()))
}

fn open(store: &Store, id: &ImageId) -> Result<Tree> {
    let stored = prune::stored(store, id)?;
    store.tree(&stored.image).with_context(|| format!("reading root {}", id.short()))
}

fn side(system: &System, id: ImageId, tree: &Tree) -> Side {
    Side {
        number: system.number(&id),
        os_version: system.origin(&id).ok().and_then(|origin| origin.os_version.clone()),
        kernel: store::kernel(tree).ok().map(|kernel| kernel.version),
        id,
    }
}

/// The packages of an image, or why they are not known.
fn installed(tree: &Tree) -> Result<Result<Packages, String>> {
    for (path, read) in DATABASES {
        if let Some(file) = tree.file(path)? {
            let text = tree.read(&file).with_context(|| format!("reading {path}"))?;
            return Ok(Ok(read(&String::from_utf8_lossy(&text))));
        }
    }
    let none = || Err("the image has no database of packages that selkie knows (dpkg, apk, rpm)".to_owned());
    Ok(rpm::packages(tree)?.map_or_else(none, |packages| packages.map(|packages| packages::rpm_versions(&packages))))
}
