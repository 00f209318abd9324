//! The root as an image's layers give it, listed for writing it again: what is in it, and which package each file came with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};

use super::plan::Leaf;
use crate::error::{Failure, FailureKind};
use crate::ops::rpm;
use crate::packages;
use crate::store::{Node, NodeKind, Tree};

const DPKG_STATUS: &str = "/var/lib/dpkg/status";
const DPKG_LISTS: &str = "/var/lib/dpkg/info";
const APK: [&str; 2] = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];

/// A root.
pub(super) struct Root {
    pub(super) tree: Tree,
    /// Directories by path, without a slash at the front; the root itself by nothing.
    pub(super) directories: BTreeMap<Vec<u8>, Node>,
    /// All that is no directory, and the same for the plan.
    pub(super) nodes: Vec<Node>,
    pub(super) leaves: Vec<Leaf>,
    /// Why packages are not known, where there is a database of them that was not read.
    pub(super) unread: Option<String>,
}

/// Which package a path came with.
#[derive(Clone)]
struct Owner {
    /// The name of its source.
    source: Rc<str>,
    /// When dpkg or rpm unpacked it, and a number of its own among the packages.
    unpacked: Option<((i64, u32), usize)>,
}

impl Root {
    /// Lists a tree.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unsuitable`] for what cannot be in a layer.
    pub(super) fn list(tree: Tree) -> Result<Self> {
        let doing = "reading which files are of which package";
        let mut owners = owners(&tree).context(doing)?;
        let unread = rpm_owners(&tree, &mut owners).context(doing)?.err();
        let (mut directories, mut nodes, mut leaves, mut owned) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        tree.walk("/", |path, node| {
            let path = relative(path);
            match &node.kind {
                NodeKind::Directory => _ = directories.insert(path, node.clone()),
                NodeKind::Socket => return Err(unsuitable(&path, "is a socket")),
                kind => {
                    let size = if let NodeKind::File(file) = kind { file.size } else { 0 };
                    owned.push(owners.get(&path).cloned());
                    leaves.push(Leaf { path, size, inode: node.inode, owner: None });
                    nodes.push(node.clone());
                }
            }
            Ok(())
        })?;
        let times: Vec<(i64, u32)> = nodes.iter().map(|node| node.mtime).collect();
        for (leaf, owner) in leaves.iter_mut().zip(came_with(&owned, &times)) {
            leaf.owner = owner;
        }
        Ok(Self { tree, directories, nodes, leaves, unread })
    }
}

/// The owners of leaves, without what only has the name of a file of a package: a build made or changed it after the package was unpacked, and
/// the next build does so again. Files of a package bear times of before. Where none of them does, times say nothing.
fn came_with(owned: &[Option<Owner>], times: &[(i64, u32)]) -> Vec<Option<String>> {
    let all = || owned.iter().zip(times).filter_map(|(owner, time)| Some((owner.as_ref()?.unpacked?, *time)));
    let telling: HashSet<usize> = all().filter(|((unpacked, _), time)| time < unpacked).map(|((_, package), _)| package).collect();
    let is_new = |owner: &Owner, time: &(i64, u32)| owner.unpacked.is_some_and(|(at, package)| *time >= at && telling.contains(&package));
    let name = |(owner, time): (&Option<Owner>, &(i64, u32))| {
        owner.as_ref().filter(|owner| !is_new(owner, time)).map(|owner| owner.source.to_string())
    };
    owned.iter().zip(times).map(name).collect()
}

pub(super) fn unsuitable(path: &[u8], found: &str) -> anyhow::Error {
    let shown = String::from_utf8_lossy(path);
    Failure::new(FailureKind::Unsuitable, format!("writing /{shown} into a layer: it {found} (expected what a tar can hold)")).into()
}

fn relative(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec()
}

/// The package of every path that a database of packages lists; nothing where there is no database that can be read.
fn owners(tree: &Tree) -> Result<HashMap<Vec<u8>, Owner>> {
    let aliases = aliases(tree)?;
    let mut owners = HashMap::new();
    if let Some(status) = tree.file(DPKG_STATUS)? {
        let sources = packages::dpkg_sources(&String::from_utf8_lossy(&tree.read(&status)?));
        for (number, (name, node)) in tree.children(DPKG_LISTS)?.into_iter().enumerate() {
            let (Some(package), NodeKind::File(file)) = (name.to_str().and_then(|name| name.strip_suffix(".list")), &node.kind) else {
                continue;
            };
            let source = sources.get(package).map_or(package, String::as_str).into();
            let owner = Owner { source, unpacked: Some((node.mtime, number)) };
            let list = tree.read(file)?;
            packages::dpkg_list(&list).into_iter().for_each(|path| _ = owners.entry(real(&aliases, path)).or_insert_with(|| owner.clone()));
        }
    }
    for database in APK {
        if let Some(file) = tree.file(database)? {
            for (path, source) in packages::apk_files(&tree.read(&file)?) {
                owners.entry(real(&aliases, &path)).or_insert_with(|| Owner { source: source.into(), unpacked: None });
            }
        }
    }
    Ok(owners)
}

/// Adds those of rpm's database, or tells why it was not read.
fn rpm_owners(tree: &Tree, owners: &mut HashMap<Vec<u8>, Owner>) -> Result<Result<(), String>> {
    let packages = match rpm::packages(tree, &mut |tree, file| tree.read(file).map(Ok))? {
        None => return Ok(Ok(())),
        Some(Err(reason)) => return Ok(Err(reason)),
        Some(Ok(packages)) => packages,
    };
    let aliases = aliases(tree)?;
    // No number that dpkg's packages have.
    for (number, package) in (usize::MAX / 2..).zip(packages) {
        let unpacked = package.installed.map(|seconds| ((i64::from(seconds), 0), number));
        let owner = Owner { source: package.source.into(), unpacked };
        package.files.iter().for_each(|path| _ = owners.entry(real(&aliases, path)).or_insert_with(|| owner.clone()));
    }
    Ok(Ok(()))
}

/// Where the symbolic links in `/` lead: packages list files by the names that they had before `/bin` and `/usr/bin` became one.
fn aliases(tree: &Tree) -> Result<HashMap<Vec<u8>, Vec<u8>>> {
    let alias = |(name, node): (std::ffi::OsString, Node)| {
        let NodeKind::Symlink(target) = node.kind else { return None };
        let target = target.as_bytes();
        Some((name.as_bytes().to_vec(), target.strip_prefix(b"/").unwrap_or(target).to_vec()))
    };
    Ok(tree.children("/")?.into_iter().filter_map(alias).collect())
}

fn real(aliases: &HashMap<Vec<u8>, Vec<u8>>, path: &[u8]) -> Vec<u8> {
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    match aliases.get(&path[..end]) {
        // The link itself is not where it leads.
        Some(target) if end < path.len() => [target, &path[end..]].concat(),
        _ => path.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_made_did_not_come_with_a_package() {
        let owner = |name: &str, at: i64, number| Some(Owner { source: name.into(), unpacked: Some(((at, 0), number)) });
        let apk = Some(Owner { source: "musl".into(), unpacked: None });
        // Owner, time, and whether it came with the package.
        let table = [
            (owner("bash", 100, 0), 7, true),
            (owner("bash", 100, 0), 100, false),
            (owner("bash", 100, 0), 200, false),
            // All files of this one have the time of the build: what changed cannot be told.
            (owner("perl", 100, 1), 100, true),
            (owner("perl", 100, 1), 101, true),
            (apk, 1000, true),
            (None, 1, false),
        ];
        let (owned, times): (Vec<_>, Vec<_>) = table.iter().map(|(owner, time, _)| (owner.clone(), (*time, 0))).unzip();
        let found: Vec<bool> = came_with(&owned, &times).iter().map(Option::is_some).collect();
        assert!(found.iter().copied().eq(table.iter().map(|(.., expected)| *expected)), "{found:?}");
    }

    #[test]
    fn old_names_lead_where_the_links_lead() {
        let aliases = HashMap::from([(b"bin".to_vec(), b"usr/bin".to_vec())]);
        for (path, expected) in [("bin/sh", "usr/bin/sh"), ("bin", "bin"), ("sbin/sh", "sbin/sh"), ("usr/bin/sh", "usr/bin/sh")] {
            assert_eq!(real(&aliases, path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
