//! One layer as a set of changes, by the rules of the OCI image layer specification ("Layer Filesystem Changeset").
//!
//! Pure: knows paths, names and leaf numbers, no tar and no repository. The layer is collected into a tree of its own, as
//! podman unpacks it into a directory of its own, and laid over the tree below at the end. So the order of a layer's
//! entries matters where an archive's order matters, and does not where the specification says that it must not:
//!
//! - A whiteout `.wh.NAME` and the opaque marker `.wh..wh..opq` hide what lower layers have, never entries of their own
//!   layer, wherever in the archive they stand. They make no directories.
//! - A directory over a directory merges: metadata of the upper one, entries of both. Anything else replaces.
//! - A directory that an entry needs and no layer has is made: root:root, 0755, mtime 0, no xattrs. (podman makes it so, with
//!   the time of unpacking.) One that a lower layer has keeps its metadata, as in containerd and composefs; podman, which
//!   makes it again in the directory of the layer, resets them.
//! - An entry below what is a symbolic link in the same layer goes where the link leads, as it does when tar unpacks in a
//!   chroot. Below what is not a directory in a lower layer, a directory takes its place: a layer unpacked on its own
//!   cannot see that link. Below any other entry of the same layer it is an error.
//! - Of several entries with one name the last counts; a directory that replaces something else starts empty.
//! - A hard link leads to an entry of the same layer, else to one of the layers below as they were before this layer's
//!   whiteouts. It takes the metadata of what it leads to; those in its own header are ignored, as tar does. (podman sets
//!   them on the file; builders write the same metadata in both headers.)
//! - `.`, doubled and trailing slashes in names mean nothing; `..` is resolved within the name, and may not lead out.
//! - Entries below a name that begins with `.wh.` are bookkeeping of AUFS and are ignored.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use composefs::generic_tree::{Directory, FileSystem, Inode, LeafContent, LeafId, Stat};

use super::names::{ChangeError, MAX_DEPTH, PATH_MAX, checked, clean, parts};

/// The kernel follows this many symbolic links in one path.
const MAX_LINKS: usize = 40;

/// What an entry of a layer is.
#[derive(Debug)]
pub(super) enum Change<T> {
    Directory,
    Leaf(LeafContent<T>),
    Hardlink(OsString),
}

/// What one layer changes. Its leaves live in the file system that it will be laid over.
#[derive(Debug, Default)]
pub(super) struct Changeset {
    root: Dir,
    /// The directory of the last entry, if no link led there. Archives have what is in a directory one after the other, so the next entry mostly goes there,
    /// too. What is put into a directory does not change the way to it, where that has no links.
    last: Vec<OsString>,
}

/// A directory of a changeset.
#[derive(Debug, Default)]
struct Dir {
    /// Its metadata, unless only what is in it was named.
    stat: Option<Stat>,
    /// Whether it has to exist, and not just to carry whiteouts.
    real: bool,
    /// Whether it hides all that lower layers have in it.
    opaque: bool,
    whiteouts: BTreeSet<OsString>,
    entries: BTreeMap<OsString, Node>,
}

#[derive(Debug)]
enum Node {
    Dir(Box<Dir>),
    Leaf(LeafId),
}

impl Changeset {
    /// Adds an entry with the given name in the archive. `below` is the tree that this changeset will be laid over.
    pub(super) fn add<T>(&mut self, below: &mut FileSystem<T>, name: &OsStr, stat: Stat, change: Change<T>) -> Result<(), ChangeError> {
        let mut path = clean(name)?;
        let Some(name) = path.pop() else {
            return self.set_root(stat, &change);
        };
        if path.iter().any(|part| part.as_bytes().starts_with(b".wh.")) {
            return Ok(());
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.hide(below, &path, OsStr::from_bytes(hidden));
        }
        let node = match change {
            Change::Directory => None,
            Change::Leaf(content) => Some(new_leaf(below, stat.clone(), content)?),
            Change::Hardlink(target) => Some(self.find_leaf(below, &target)?),
        };
        let at = if self.last == path { std::mem::take(&mut self.last) } else { self.resolve(below, &path)? };
        let dir = self.root.descend(&at, true);
        match node {
            Some(leaf) => _ = dir.entries.insert(name.to_owned(), Node::Leaf(leaf)),
            None => dir.add_directory(name, stat),
        }
        self.last = if at == path { at } else { Vec::new() };
        Ok(())
    }

    /// Lays the changes over a tree.
    pub(super) fn apply<T>(self, below: &mut FileSystem<T>) {
        if let Some(stat) = &self.root.stat {
            below.set_root_stat(stat.clone());
        }
        self.root.apply(&mut below.root);
    }

    fn set_root<T>(&mut self, stat: Stat, change: &Change<T>) -> Result<(), ChangeError> {
        if !matches!(change, Change::Directory) {
            return Err(ChangeError::Root);
        }
        self.root.stat = Some(stat);
        Ok(())
    }

    /// A whiteout or an opaque marker in the directory `path`.
    fn hide<T>(&mut self, below: &FileSystem<T>, path: &[&OsStr], hidden: &OsStr) -> Result<(), ChangeError> {
        let at = match self.resolve(below, path) {
            // Its directory was replaced by this very layer, so nothing of it shows any more.
            Err(ChangeError::NotADirectory(_)) => return Ok(()),
            resolved => resolved?,
        };
        let dir = self.root.descend(&at, false);
        match hidden.as_bytes() {
            b".wh..opq" => dir.opaque = true,
            b"" => {}
            _ => _ = dir.whiteouts.insert(hidden.to_owned()),
        }
        Ok(())
    }

    /// The leaf that a hard link leads to.
    fn find_leaf<T>(&self, below: &FileSystem<T>, target: &OsStr) -> Result<LeafId, ChangeError> {
        let missing = || ChangeError::LinkTarget(target.to_owned());
        let mut path = clean(target)?;
        let name = path.pop().ok_or_else(|| ChangeError::LinkToDirectory(target.to_owned()))?;
        let at = self.resolve(below, &path)?;
        match self.root.find(&at).and_then(|dir| dir.entries.get(name)) {
            Some(Node::Leaf(leaf)) => return Ok(*leaf),
            Some(Node::Dir(dir)) if dir.real => return Err(ChangeError::LinkToDirectory(target.to_owned())),
            _ => {}
        }
        let parent: std::path::PathBuf = at.iter().collect();
        let dir = below.root.get_directory_opt(parent.as_os_str()).ok().flatten().ok_or_else(missing)?;
        match dir.lookup(name) {
            Some(Inode::Leaf(leaf, _)) => Ok(*leaf),
            Some(Inode::Directory(_)) => Err(ChangeError::LinkToDirectory(target.to_owned())),
            None => Err(missing()),
        }
    }

    /// Where a directory is, after following the symbolic links of this layer. It need not exist.
    fn resolve<T>(&self, below: &FileSystem<T>, path: &[&OsStr]) -> Result<Vec<OsString>, ChangeError> {
        let mut todo: VecDeque<OsString> = path.iter().map(|part| (*part).to_owned()).collect();
        let mut at: Vec<OsString> = Vec::with_capacity(todo.len());
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let Some(Node::Leaf(leaf)) = self.root.find(&at).and_then(|dir| dir.entries.get(&part)) else {
                at.push(checked(&part)?.to_owned());
                continue;
            };
            let LeafContent::Symlink(target) = &below.leaf(*leaf).content else {
                at.push(part);
                return Err(ChangeError::NotADirectory(at.iter().collect::<std::path::PathBuf>().into_os_string()));
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(ChangeError::Links);
            }
            if target.as_bytes().starts_with(b"/") {
                at.clear();
            }
            for part in parts(target).rev() {
                todo.push_front(part.to_owned());
            }
        }
        if at.len() > MAX_DEPTH { Err(ChangeError::TooDeep) } else { Ok(at) }
    }
}

impl Dir {
    /// The directory at `path` in this changeset.
    fn find(&self, path: &[OsString]) -> Option<&Dir> {
        path.iter().try_fold(self, |dir, part| match dir.entries.get(part) {
            Some(Node::Dir(below)) => Some(&**below),
            _ => None,
        })
    }

    /// The directory at `path`, made if need be. `path` was resolved, so nothing but directories is in the way.
    fn descend(&mut self, path: &[OsString], real: bool) -> &mut Dir {
        path.iter().fold(self, |dir, part| {
            let node = dir.entries.entry(part.clone()).or_insert_with(|| Node::Dir(Box::default()));
            if let Node::Leaf(_) = node {
                *node = Node::Dir(Box::new(Dir { opaque: true, ..Dir::default() }));
            }
            let Node::Dir(below) = node else { unreachable!("a leaf was replaced by a directory above") };
            below.real |= real;
            below
        })
    }

    fn add_directory(&mut self, name: &OsStr, stat: Stat) {
        match self.entries.get_mut(name) {
            Some(Node::Dir(dir)) => {
                dir.stat = Some(stat);
                dir.real = true;
            }
            existing => {
                let dir = Dir { stat: Some(stat), real: true, opaque: existing.is_some(), ..Dir::default() };
                self.entries.insert(name.to_owned(), Node::Dir(Box::new(dir)));
            }
        }
    }

    fn apply<T>(self, below: &mut Directory<T>) {
        if self.opaque {
            below.clear();
        }
        for name in &self.whiteouts {
            below.remove(name);
        }
        for (name, node) in self.entries {
            match node {
                Node::Leaf(leaf) => _ = below.insert(&name, Inode::leaf(leaf)),
                Node::Dir(dir) => dir.apply_in(below, &name),
            }
        }
    }

    /// Lays this directory over what `parent` has as `name`.
    fn apply_in<T>(mut self, parent: &mut Directory<T>, name: &OsStr) {
        let stat = self.stat.take();
        if !matches!(parent.lookup(name), Some(Inode::Directory(_))) {
            if !self.real {
                return;
            }
            let made = Directory::new(stat.clone().unwrap_or_else(implied));
            parent.insert(name, Inode::Directory(Box::new(made)));
        }
        if let Ok(below) = parent.get_directory_mut(name) {
            if let Some(stat) = stat {
                below.stat = stat;
            }
            self.apply(below);
        }
    }
}

/// The metadata of a directory that no layer describes.
pub(super) fn implied() -> Stat {
    Stat { st_mode: 0o755, ..Stat::uninitialized() }
}

fn new_leaf<T>(below: &mut FileSystem<T>, stat: Stat, content: LeafContent<T>) -> Result<LeafId, ChangeError> {
    if let LeafContent::Symlink(target) = &content
        && (target.is_empty() || target.len() > PATH_MAX || target.as_bytes().contains(&0))
    {
        return Err(ChangeError::SymlinkTarget);
    }
    Ok(below.push_leaf(stat, content))
}
