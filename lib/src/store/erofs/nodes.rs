//! The nodes of an image in their order: breadth first and by name, a file with several names where a walk in depth meets it first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use composefs::erofs::format::{FileType, XATTR_SECURITY_SELINUX};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::{LeafContent, LeafId, Stat};
use composefs::tree::{Directory, FileSystem, Inode, Leaf, RegularFile};

use super::Unwritable;

const WHITEOUT: u64 = 0;
/// Above this, the library divides a file into several chunks.
const MAX_SIZE: u64 = 1 << 43;
const MAX_NAME: usize = 255;

/// All nodes of an image. A node is known by its number, its place here.
pub(super) struct Nodes<'t, H: FsVerityHashValue> {
    pub(super) all: Vec<Node<'t, H>>,
    /// The entries of all directories, one directory behind the other, each by name.
    pub(super) entries: Vec<Entry<'t>>,
}

pub(super) struct Node<'t, H: FsVerityHashValue> {
    pub(super) stat: &'t Stat,
    pub(super) kind: Kind<'t, H>,
    pub(super) links: u32,
}

pub(super) enum Kind<'t, H: FsVerityHashValue> {
    Directory {
        /// Where its entries are: the first, and the one behind the last.
        first: usize,
        end: usize,
        /// Whether a [`Self::Escaped`] is in it.
        marked: bool,
    },
    Leaf(&'t LeafContent<RegularFile<H>>),
    /// What overlayfs would take for a whiteout, and the image has as a character device: an empty file with marks by which overlayfs
    /// shows the device again.
    Escaped,
}

pub(super) struct Entry<'t> {
    pub(super) name: &'t [u8],
    pub(super) number: u32,
    pub(super) file_type: FileType,
}

/// What the format has as `00` to `ff` in each root: whiteouts for the directories of objects, should a lower layer show them.
pub(super) fn stub<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Leaf<H> {
    let root = &tree.root.stat;
    let label = OsStr::from_bytes(XATTR_SECURITY_SELINUX);
    let xattrs: BTreeMap<_, _> = root.xattrs.get_key_value(label).map(|(name, value)| (name.clone(), value.clone())).into_iter().collect();
    Leaf { stat: Stat { st_mode: 0o644, xattrs, ..root.clone() }, content: LeafContent::CharacterDevice(WHITEOUT) }
}

/// What a directory has, before its numbers are known.
enum Child<'t, H: FsVerityHashValue> {
    Known(u32),
    Directory(&'t Directory<H>),
    Leaf(LeafId),
    Stub,
}

struct Collector<'t, H: FsVerityHashValue> {
    tree: &'t FileSystem<H>,
    stub: &'t Leaf<H>,
    links: Vec<u32>,
    /// Of each leaf with several names, the directory where it is numbered.
    home: HashMap<LeafId, &'t Directory<H>>,
    numbered: HashMap<LeafId, u32>,
    /// Entries that came before the number of what they lead to.
    waiting: Vec<(usize, LeafId)>,
    queue: VecDeque<(&'t Directory<H>, u32, u32)>,
    nodes: Nodes<'t, H>,
}

impl<'t, H: FsVerityHashValue> Nodes<'t, H> {
    pub(super) fn collect(tree: &'t FileSystem<H>, stub: &'t Leaf<H>) -> Result<Self, Unwritable> {
        let links = tree.nlinks();
        let mut home = HashMap::new();
        if links.iter().any(|links| *links > 1) {
            find_homes(&tree.root, &links, &mut home);
        }
        let nodes = Self { all: Vec::with_capacity(links.len()), entries: Vec::with_capacity(links.len()) };
        let (numbered, waiting, queue) = (HashMap::new(), Vec::new(), VecDeque::new());
        let mut collector = Collector { tree, stub, links, home, numbered, waiting, queue, nodes };
        collector.add_directory(&tree.root, 0);
        while let Some((directory, parent, number)) = collector.queue.pop_front() {
            collector.enter(directory, parent, number)?;
        }
        Ok(collector.finish())
    }

    /// The entries of a directory, its own among them.
    pub(super) fn entries(&self, first: usize, end: usize) -> &[Entry<'t>] {
        &self.entries[first..end]
    }

    /// How many names a node has; a directory has one in each directory below, too.
    pub(super) fn links(&self, node: &Node<'t, H>) -> u32 {
        match node.kind {
            Kind::Directory { first, end, .. } => {
                let directories = self.entries(first, end).iter().filter(|entry| matches!(entry.file_type, FileType::Directory));
                directories.count() as u32
            }
            _ => node.links,
        }
    }

    /// The earliest time of all nodes, which a node that has it need not say.
    pub(super) fn earliest(&self) -> (u64, u32) {
        self.all.iter().map(Node::time).min().unwrap_or_default()
    }
}

impl<H: FsVerityHashValue> Node<'_, H> {
    pub(super) fn time(&self) -> (u64, u32) {
        (self.stat.st_mtim_sec as u64, self.stat.st_mtim_nsec)
    }

    pub(super) fn file_type(&self) -> FileType {
        match &self.kind {
            Kind::Directory { .. } => FileType::Directory,
            Kind::Escaped | Kind::Leaf(LeafContent::Regular(_)) => FileType::RegularFile,
            Kind::Leaf(LeafContent::CharacterDevice(_)) => FileType::CharacterDevice,
            Kind::Leaf(LeafContent::BlockDevice(_)) => FileType::BlockDevice,
            Kind::Leaf(LeafContent::Fifo) => FileType::Fifo,
            Kind::Leaf(LeafContent::Socket) => FileType::Socket,
            Kind::Leaf(LeafContent::Symlink(_)) => FileType::Symlink,
        }
    }
}

impl<'t, H: FsVerityHashValue> Collector<'t, H> {
    fn enter(&mut self, directory: &'t Directory<H>, parent: u32, number: u32) -> Result<(), Unwritable> {
        let first = self.nodes.entries.len();
        let mut escaped = false;
        for (name, child) in self.children(directory, parent, number) {
            if name.len() > MAX_NAME {
                return Err(Unwritable::Name(name.len()));
            }
            let child = match child {
                Child::Known(number) => Some(number),
                Child::Directory(below) => Some(self.add_directory(below, number)),
                Child::Stub => Some(self.add(&self.stub.stat, Kind::Leaf(&self.stub.content), 1)),
                Child::Leaf(leaf) => {
                    let marks = self.is_whiteout(leaf) && !(number == 0 && self.is_stub(name, leaf));
                    escaped |= marks;
                    self.leaf(directory, leaf, marks)?
                }
            };
            let file_type = child.map_or(FileType::Unknown, |child| self.nodes.all[child as usize].file_type());
            self.nodes.entries.push(Entry { name, number: child.unwrap_or_default(), file_type });
        }
        self.nodes.all[number as usize].kind = Kind::Directory { first, end: self.nodes.entries.len(), marked: escaped };
        Ok(())
    }

    /// All that a directory has, by name.
    fn children(&self, directory: &'t Directory<H>, parent: u32, number: u32) -> Vec<(&'t [u8], Child<'t, H>)> {
        let mut children: Vec<(&[u8], Child<'t, H>)> = vec![(b".", Child::Known(number)), (b"..", Child::Known(parent))];
        children.extend(directory.sorted_entries().map(|(name, inode)| match inode {
            Inode::Directory(below) => (name.as_bytes(), Child::Directory(below)),
            Inode::Leaf(leaf, _) => (name.as_bytes(), Child::Leaf(*leaf)),
        }));
        if number == 0 {
            let missing = STUBS.iter().filter(|name| directory.lookup(OsStr::from_bytes(&name[..])).is_none());
            children.extend(missing.map(|name| (&name[..], Child::Stub)));
        }
        children.sort_unstable_by_key(|(name, _)| *name);
        children
    }

    fn add(&mut self, stat: &'t Stat, kind: Kind<'t, H>, links: u32) -> u32 {
        self.nodes.all.push(Node { stat, kind, links });
        (self.nodes.all.len() - 1) as u32
    }

    fn add_directory(&mut self, directory: &'t Directory<H>, parent: u32) -> u32 {
        let number = self.add(&directory.stat, Kind::Directory { first: 0, end: 0, marked: false }, 0);
        self.queue.push_back((directory, parent, number));
        number
    }

    /// The number of a leaf that `directory` has; `None` where it gets it later, in another directory.
    fn leaf(&mut self, directory: &Directory<H>, leaf: LeafId, marked: bool) -> Result<Option<u32>, Unwritable> {
        let links = self.links[leaf.0];
        if links > 1 {
            if let Some(number) = self.numbered.get(&leaf) {
                return Ok(Some(*number));
            }
            if !self.home.get(&leaf).is_some_and(|home| std::ptr::eq(*home, directory)) {
                self.waiting.push((self.nodes.entries.len(), leaf));
                return Ok(None);
            }
        }
        let Leaf { stat, content } = self.tree.leaf(leaf);
        check(content, links)?;
        let number = self.add(stat, if marked { Kind::Escaped } else { Kind::Leaf(content) }, links);
        if links > 1 {
            self.numbered.insert(leaf, number);
        }
        Ok(Some(number))
    }

    fn is_whiteout(&self, leaf: LeafId) -> bool {
        matches!(self.tree.leaf(leaf).content, LeafContent::CharacterDevice(WHITEOUT))
    }

    /// Whether the root has this whiteout just as the format would add it.
    fn is_stub(&self, name: &[u8], leaf: LeafId) -> bool {
        let (found, own) = (&self.tree.leaf(leaf).stat, &self.stub.stat);
        let of = |stat: &'t Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtim_sec, stat.st_mtim_nsec, &stat.xattrs);
        STUBS.iter().any(|stub| stub == name) && of(found) == of(own)
    }

    fn finish(mut self) -> Nodes<'t, H> {
        for (entry, leaf) in self.waiting {
            let number = self.numbered[&leaf];
            let entry = &mut self.nodes.entries[entry];
            (entry.number, entry.file_type) = (number, self.nodes.all[number as usize].file_type());
        }
        self.nodes
    }
}

/// Finds where a walk in depth, by name, meets each leaf with several names first.
fn find_homes<'t, H: FsVerityHashValue>(directory: &'t Directory<H>, links: &[u32], homes: &mut HashMap<LeafId, &'t Directory<H>>) {
    for (_, inode) in directory.sorted_entries() {
        match inode {
            Inode::Directory(below) => find_homes(below, links, homes),
            Inode::Leaf(leaf, _) if links[leaf.0] > 1 => _ = homes.entry(*leaf).or_insert(directory),
            Inode::Leaf(..) => {}
        }
    }
}

fn check<H: FsVerityHashValue>(content: &LeafContent<RegularFile<H>>, links: u32) -> Result<(), Unwritable> {
    match content {
        LeafContent::CharacterDevice(WHITEOUT) if links > 1 => Err(Unwritable::LinkedWhiteout(links)),
        LeafContent::CharacterDevice(number) | LeafContent::BlockDevice(number) if u32::try_from(*number).is_err() => {
            Err(Unwritable::Device(*number))
        }
        LeafContent::Regular(RegularFile::External(_, size)) if *size > MAX_SIZE => Err(Unwritable::Size(*size)),
        LeafContent::Regular(RegularFile::ExternalNoVerity(..) | RegularFile::Sparse(_)) => Err(Unwritable::NoContent),
        _ => Ok(()),
    }
}

/// The names of the stubs.
static STUBS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut names = [[0; 2]; 256];
    let mut number = 0;
    while number < names.len() {
        names[number] = [digits[number / 16], digits[number % 16]];
        number += 1;
    }
    names
};
