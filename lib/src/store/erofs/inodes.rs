//! The inodes of an image in their order: breadth first and by name, a file with several names where a walk in depth meets it first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use composefs::erofs::format::{FileType, XATTR_SECURITY_SELINUX};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::{LeafContent, LeafId, Stat};
use composefs::tree::{self, Directory, FileSystem, Leaf, RegularFile};

use super::listing::{Entry, Listing};
use super::{Problem, Unwritable};

const WHITEOUT: u64 = 0;
/// Above this, the library divides a file into several chunks.
const MAX_SIZE: u64 = 1 << 43;
const MAX_NAME: usize = 255;
const MAX_TARGET: usize = 4095;

/// All inodes of an image. The number of an inode is its place here; the image has it as `ino`.
pub(super) struct Inodes<'t, H: FsVerityHashValue> {
    pub(super) all: Vec<Inode<'t, H>>,
    /// The entries of all directories, one directory behind the other, each by name.
    pub(super) entries: Vec<Entry<'t>>,
}

pub(super) struct Inode<'t, H: FsVerityHashValue> {
    pub(super) stat: &'t Stat,
    pub(super) kind: Kind<'t, H>,
    links: u32,
}

pub(super) enum Kind<'t, H: FsVerityHashValue> {
    Directory(Listing),
    Leaf(&'t LeafContent<RegularFile<H>>),
    /// What overlayfs would take for a whiteout, and the image has as a character device: an empty file with marks by which overlayfs
    /// shows the device again.
    Escaped,
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
    homes: HashMap<LeafId, &'t Directory<H>>,
    numbered: HashMap<LeafId, u32>,
    /// Entries that came before the number of what they lead to.
    waiting: Vec<(usize, LeafId)>,
    queue: VecDeque<(&'t Directory<H>, u32, u32)>,
    inodes: Inodes<'t, H>,
}

impl<'t, H: FsVerityHashValue> Inodes<'t, H> {
    pub(super) fn collect(tree: &'t FileSystem<H>, stub: &'t Leaf<H>) -> Result<Self, Unwritable> {
        let links = tree.nlinks();
        let mut homes = HashMap::new();
        let directories = 1 + walk(&tree.root, &links, &mut homes);
        let all = Vec::with_capacity(links.len() + directories + STUBS.len());
        let names: usize = links.iter().map(|links| *links as usize).sum();
        let entries = Vec::with_capacity(names + 3 * directories + STUBS.len());
        let (numbered, waiting, queue) = (HashMap::new(), Vec::new(), VecDeque::new());
        let mut collector = Collector { tree, stub, links, homes, numbered, waiting, queue, inodes: Self { all, entries } };
        collector.add_directory(&tree.root, 0);
        while let Some((directory, parent, number)) = collector.queue.pop_front() {
            collector.enter(directory, parent, number)?;
        }
        Ok(collector.finish())
    }

    /// The earliest time of all inodes, which an inode that has it need not say.
    pub(super) fn earliest(&self) -> (u64, u32) {
        self.all.iter().map(Inode::time).min().unwrap_or_default()
    }

    /// What is wrong with an inode, by one of its paths.
    pub(super) fn wrong(&self, number: usize, problem: Problem) -> Unwritable {
        Unwritable { path: self.path(number), problem }
    }

    fn path(&self, mut number: usize) -> PathBuf {
        let mut names = Vec::new();
        while number != 0 {
            let leads = |entry: &Entry<'_>| entry.number as usize == number && ![&b"."[..], b".."].contains(&entry.name);
            let Some(entry) = self.entries.iter().position(leads) else { break };
            names.push(OsStr::from_bytes(self.entries[entry].name));
            let has = |inode: &Inode<'_, H>| matches!(&inode.kind, Kind::Directory(listing) if listing.range().contains(&entry));
            number = self.all.iter().position(has).unwrap_or_default();
        }
        [OsStr::new("/")].into_iter().chain(names.into_iter().rev()).collect()
    }
}

impl<H: FsVerityHashValue> Inode<'_, H> {
    pub(super) fn time(&self) -> (u64, u32) {
        (self.stat.st_mtim_sec as u64, self.stat.st_mtim_nsec)
    }

    pub(super) fn links(&self) -> u32 {
        match &self.kind {
            Kind::Directory(listing) => listing.links,
            _ => self.links,
        }
    }

    pub(super) fn file_type(&self) -> FileType {
        match &self.kind {
            Kind::Directory(_) => FileType::Directory,
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
        let first = self.inodes.entries.len();
        let mut marked = false;
        for (name, child) in self.children(directory, parent, number) {
            let wrong = |problem| Unwritable { path: self.inodes.path(number as usize).join(OsStr::from_bytes(name)), problem };
            check_name(name).map_err(wrong)?;
            let child = match child {
                Child::Known(number) => Some(number),
                Child::Directory(below) => Some(self.add_directory(below, number)),
                Child::Stub => Some(self.add(&self.stub.stat, Kind::Leaf(&self.stub.content), 1)),
                Child::Leaf(leaf) => {
                    check(&self.tree.leaf(leaf).content, self.links[leaf.0]).map_err(wrong)?;
                    let escaped = self.is_whiteout(leaf) && !(number == 0 && self.is_stub(name, leaf));
                    marked |= escaped;
                    self.leaf(directory, leaf, escaped)
                }
            };
            let file_type = child.map_or(FileType::Unknown, |child| self.inodes.all[child as usize].file_type());
            self.inodes.entries.push(Entry { name, number: child.unwrap_or_default(), file_type });
        }
        self.inodes.all[number as usize].kind = Kind::Directory(Listing::new(&self.inodes.entries, first, marked));
        Ok(())
    }

    /// All that a directory has, by name.
    fn children(&self, directory: &'t Directory<H>, parent: u32, number: u32) -> Vec<(&'t [u8], Child<'t, H>)> {
        let mut children: Vec<(&[u8], Child<'t, H>)> = vec![(b".", Child::Known(number)), (b"..", Child::Known(parent))];
        children.extend(directory.sorted_entries().map(|(name, inode)| match inode {
            tree::Inode::Directory(below) => (name.as_bytes(), Child::Directory(below)),
            tree::Inode::Leaf(leaf, _) => (name.as_bytes(), Child::Leaf(*leaf)),
        }));
        if number == 0 {
            let missing = STUBS.iter().filter(|name| directory.lookup(OsStr::from_bytes(&name[..])).is_none());
            children.extend(missing.map(|name| (&name[..], Child::Stub)));
        }
        children.sort_unstable_by_key(|(name, _)| *name);
        children
    }

    fn add(&mut self, stat: &'t Stat, kind: Kind<'t, H>, links: u32) -> u32 {
        self.inodes.all.push(Inode { stat, kind, links });
        (self.inodes.all.len() - 1) as u32
    }

    fn add_directory(&mut self, directory: &'t Directory<H>, parent: u32) -> u32 {
        let number = self.add(&directory.stat, Kind::Directory(Listing::default()), 0);
        self.queue.push_back((directory, parent, number));
        number
    }

    /// The number of a leaf that `directory` has; `None` where it gets it later, in another directory.
    fn leaf(&mut self, directory: &Directory<H>, leaf: LeafId, escaped: bool) -> Option<u32> {
        let links = self.links[leaf.0];
        if links > 1 {
            if let Some(number) = self.numbered.get(&leaf) {
                return Some(*number);
            }
            if !self.homes.get(&leaf).is_some_and(|home| std::ptr::eq(*home, directory)) {
                self.waiting.push((self.inodes.entries.len(), leaf));
                return None;
            }
        }
        let Leaf { stat, content } = self.tree.leaf(leaf);
        let number = self.add(stat, if escaped { Kind::Escaped } else { Kind::Leaf(content) }, links);
        if links > 1 {
            self.numbered.insert(leaf, number);
        }
        Some(number)
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

    fn finish(mut self) -> Inodes<'t, H> {
        for (entry, leaf) in self.waiting {
            // All directories were entered, and with them the home of each leaf.
            let number = self.numbered[&leaf];
            let entry = &mut self.inodes.entries[entry];
            (entry.number, entry.file_type) = (number, self.inodes.all[number as usize].file_type());
        }
        self.inodes
    }
}

/// Finds where a walk in depth, by name, meets each leaf with several names first; and how many directories there are below this one.
fn walk<'t, H: FsVerityHashValue>(directory: &'t Directory<H>, links: &[u32], homes: &mut HashMap<LeafId, &'t Directory<H>>) -> usize {
    let mut directories = 0;
    for (_, inode) in directory.sorted_entries() {
        match inode {
            tree::Inode::Directory(below) => directories += 1 + walk(below, links, homes),
            tree::Inode::Leaf(leaf, _) if links[leaf.0] > 1 => _ = homes.entry(*leaf).or_insert(directory),
            tree::Inode::Leaf(..) => {}
        }
    }
    directories
}

fn check_name(name: &[u8]) -> Result<(), Problem> {
    if name.len() > MAX_NAME { Err(Problem::Name(name.len())) } else { Ok(()) }
}

fn check<H: FsVerityHashValue>(content: &LeafContent<RegularFile<H>>, links: u32) -> Result<(), Problem> {
    match content {
        LeafContent::CharacterDevice(WHITEOUT) if links > 1 => Err(Problem::LinkedWhiteout(links)),
        LeafContent::CharacterDevice(number) | LeafContent::BlockDevice(number) if u32::try_from(*number).is_err() => {
            Err(Problem::Device(*number))
        }
        LeafContent::Regular(RegularFile::External(_, size)) if *size > MAX_SIZE => Err(Problem::Size(*size)),
        LeafContent::Regular(RegularFile::ExternalNoVerity(..) | RegularFile::Sparse(_)) => Err(Problem::NoContent),
        LeafContent::Symlink(target) if !(1..=MAX_TARGET).contains(&target.len()) => Err(Problem::Target(target.len())),
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
