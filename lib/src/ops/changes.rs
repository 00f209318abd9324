//! What differs between two roots, for whoever runs them: packages, kernel, files, and how much has to start anew.

use anyhow::{Context, Result};
use serde::Serialize;

use super::rpm;
use crate::kargs;
use crate::packages::{self, PackageChange, Packages};
use crate::store::{self, Change, File, NodeKind, Tree, What};

/// Reads a database of packages.
type Reader = fn(&str) -> Packages;

/// Where dpkg and apk keep what is installed, with the reader of each.
const DATABASES: [(&str, Reader); 3] =
    [("/var/lib/dpkg/status", packages::dpkg), ("/lib/apk/db/installed", packages::apk), ("/usr/lib/apk/db/installed", packages::apk)];

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changes {
    /// The kernels.
    pub kernel: Kernels,
    /// How much has to start anew.
    pub reboot: Reboot,
    /// Packages that are new, gone, or of another version.
    pub packages: Vec<PackageChange>,
    /// Why packages could not be compared, where that is so.
    pub packages_unread: Option<String>,
    /// Paths that differ, from the root, by name.
    pub files: Vec<Change>,
}

impl Changes {
    /// How many paths differ so.
    pub fn count(&self, what: What) -> usize {
        self.files.iter().filter(|change| change.what == what).count()
    }
}

/// The kernels of two roots, as `uname -r` says; none where an image has not exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kernels {
    /// That of the first.
    pub before: Option<String>,
    /// That of the second.
    pub after: Option<String>,
}

/// How much has to start anew for the second root to run after the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// Nothing: the files are the same.
    None,
    /// User space: the kernel, its initramfs and the image's kernel arguments stay the same.
    Soft,
    /// The machine.
    Full,
}

/// Reads files of a tree, or tells why one that is not here cannot be had.
pub(super) type Read<'a> = &'a mut dyn FnMut(&Tree, &File) -> Result<Result<Vec<u8>, String>>;

/// Compares two trees.
pub(super) fn between(before: &Tree, after: &Tree, read: Read<'_>) -> Result<Changes> {
    let (packages, packages_unread) = match (installed(before, read)?, installed(after, read)?) {
        (Ok(before), Ok(after)) => (packages::changes(&before, &after), None),
        (Err(reason), _) | (_, Err(reason)) => (Vec::new(), Some(reason)),
    };
    let version = |tree| store::kernel(tree).ok().map(|kernel| kernel.version);
    let files = before.changes(after);
    Ok(Changes {
        kernel: Kernels { before: version(before), after: version(after) },
        reboot: reboot(before, after, files.is_empty())?,
        packages,
        packages_unread,
        files,
    })
}

fn reboot(before: &Tree, after: &Tree, same: bool) -> Result<Reboot> {
    if same {
        return Ok(Reboot::None);
    }
    let boots = |tree: &Tree| Ok::<_, anyhow::Error>((store::kernel(tree).ok(), arguments(tree)?));
    let (before, after) = (boots(before)?, boots(after)?);
    Ok(if before.0.is_some() && before == after { Reboot::Soft } else { Reboot::Full })
}

/// The files with the image's own kernel arguments.
fn arguments(tree: &Tree) -> Result<Vec<(std::ffi::OsString, NodeKind)>> {
    Ok(tree.children(kargs::DIRECTORY)?.into_iter().map(|(name, node)| (name, node.kind)).collect())
}

/// The packages of an image, or why they are not known.
fn installed(tree: &Tree, read: Read<'_>) -> Result<Result<Packages, String>> {
    for (path, parse) in DATABASES {
        if let Some(file) = tree.file(path)? {
            let text = read(tree, &file).with_context(|| format!("reading {path}"))?;
            return Ok(text.map(|text| parse(&String::from_utf8_lossy(&text))).map_err(|reason| format!("reading {path}: {reason}")));
        }
    }
    let none = || Err("the image has no database of packages that selkie knows (dpkg, apk, rpm)".to_owned());
    Ok(rpm::packages(tree, read)?.map_or_else(none, |packages| packages.map(|packages| packages::rpm_versions(&packages))))
}
