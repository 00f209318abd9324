//! The root as an image's layers give it, listed for writing it again: what is in it, and which package each file came with.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::plan::Leaf;
use crate::error::{Failure, FailureKind};
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
}

impl Root {
    /// Lists a tree.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unsuitable`] for what cannot be in a layer.
    pub(super) fn list(tree: Tree) -> Result<Self> {
        let owners = owners(&tree).context("reading which files are of which package")?;
        let (mut directories, mut nodes, mut leaves) = (BTreeMap::new(), Vec::new(), Vec::new());
        tree.walk("/", |path, node| {
            let path = relative(path);
            match &node.kind {
                NodeKind::Directory => _ = directories.insert(path, node.clone()),
                NodeKind::Socket => return Err(unsuitable(&path, "is a socket")),
                kind => {
                    let size = if let NodeKind::File(file) = kind { file.size } else { 0 };
                    let owner = owners.get(&path).cloned();
                    leaves.push(Leaf { path, size, inode: node.inode, owner });
                    nodes.push(node.clone());
                }
            }
            Ok(())
        })?;
        Ok(Self { tree, directories, nodes, leaves })
    }
}

pub(super) fn unsuitable(path: &[u8], found: &str) -> anyhow::Error {
    let shown = String::from_utf8_lossy(path);
    Failure::new(FailureKind::Unsuitable, format!("writing /{shown} into a layer: it {found} (expected what a tar can hold)")).into()
}

fn relative(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec()
}

/// The source package of every file that a database of packages lists; nothing where there is no database that can be read.
fn owners(tree: &Tree) -> Result<HashMap<Vec<u8>, String>> {
    let aliases = aliases(tree)?;
    let mut owners = HashMap::new();
    if let Some(status) = tree.file(DPKG_STATUS)? {
        let sources = packages::dpkg_sources(&String::from_utf8_lossy(&tree.read(&status)?));
        for (name, node) in tree.children(DPKG_LISTS)? {
            let (Some(package), NodeKind::File(file)) = (name.to_str().and_then(|name| name.strip_suffix(".list")), &node.kind) else {
                continue;
            };
            let owner = sources.get(package).map_or(package, String::as_str);
            let list = tree.read(file)?;
            packages::dpkg_list(&list).for_each(|path| _ = owners.entry(real(&aliases, path)).or_insert_with(|| owner.to_owned()));
        }
    }
    for database in APK {
        if let Some(file) = tree.file(database)? {
            let files = packages::apk_files(&tree.read(&file)?);
            files.into_iter().for_each(|(path, owner)| _ = owners.entry(real(&aliases, &path)).or_insert(owner));
        }
    }
    Ok(owners)
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
