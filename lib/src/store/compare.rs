//! What differs between two trees of one repository. No file is read: equal objects are equal files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::objects::ObjectId;
use super::tree::{Content, Dir, Entry, Node, NodeKind, Tree};

/// A path that is not the same in two trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// The path, from the root.
    pub path: PathBuf,
    /// How it differs.
    pub what: What,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is only in the second tree.
    Added,
    /// It is only in the first tree.
    Removed,
    /// It is in both, as another kind of thing, or with other contents.
    Changed,
    /// Only owner, mode, or extended attributes differ.
    Attributes,
}

impl Tree {
    /// The paths that differ from this tree to `after`, in byte order. What is in an added or removed directory is listed, too. Times of modification
    /// and the number of names of a file are no difference: they change with every build.
    pub fn changes(&self, after: &Tree) -> Vec<Change> {
        let mut pair = Pair { before: self, after, path: PathBuf::from("/"), changes: Vec::new() };
        pair.directory(Some(&self.root), Some(&after.root));
        pair.changes
    }

    /// All objects that hold files of this tree, with their sizes in bytes.
    pub fn objects(&self) -> BTreeSet<(ObjectId, u64)> {
        let object = |node: &Node| match &node.kind {
            NodeKind::File(file) => match &file.content {
                Content::Object(id) => Some((id.clone(), file.size)),
                Content::Inline(_) => None,
            },
            _ => None,
        };
        self.leaves.iter().filter_map(object).collect()
    }

    fn node_of<'t>(&'t self, entry: &'t Entry) -> &'t Node {
        match entry {
            Entry::Dir(dir) => &dir.node,
            Entry::Leaf(number) => &self.leaves[*number],
        }
    }
}

/// Two trees that are walked side by side.
struct Pair<'t> {
    before: &'t Tree,
    after: &'t Tree,
    path: PathBuf,
    changes: Vec<Change>,
}

impl<'t> Pair<'t> {
    fn directory(&mut self, before: Option<&'t Dir>, after: Option<&'t Dir>) {
        let names = |dir: Option<&'t Dir>| dir.into_iter().flat_map(|dir| dir.entries.keys());
        let all: BTreeSet<_> = names(before).chain(names(after)).collect();
        for name in all {
            self.path.push(Path::new(name));
            self.entry(before.and_then(|dir| dir.entries.get(name)), after.and_then(|dir| dir.entries.get(name)));
            self.path.pop();
        }
    }

    fn entry(&mut self, before: Option<&'t Entry>, after: Option<&'t Entry>) {
        let nodes = (before.map(|entry| self.before.node_of(entry)), after.map(|entry| self.after.node_of(entry)));
        if let Some(what) = difference(nodes.0, nodes.1) {
            self.changes.push(Change { path: self.path.clone(), what });
        }
        let below = |entry: Option<&'t Entry>| entry.and_then(|entry| if let Entry::Dir(dir) = entry { Some(&**dir) } else { None });
        let (before, after) = (below(before), below(after));
        if before.is_some() || after.is_some() {
            self.directory(before, after);
        }
    }
}

fn difference(before: Option<&Node>, after: Option<&Node>) -> Option<What> {
    match (before, after) {
        (None, None) => None,
        (None, Some(_)) => Some(What::Added),
        (Some(_), None) => Some(What::Removed),
        (Some(before), Some(after)) if before.kind != after.kind => Some(What::Changed),
        (Some(before), Some(after)) => {
            let attributes = |node: &'_ Node| (node.mode, node.uid, node.gid, node.xattrs.clone());
            (attributes(before) != attributes(after)).then_some(What::Attributes)
        }
    }
}
