//! What there is to label: as many paths as names, each as long as it is.

use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::{Inode, LeafContent};
use composefs::tree::{Directory, FileSystem, Leaf, RegularFile};

/// Where each name of a file gets another label, the library copies the file for it. About so many bytes are a copy without what hangs on it.
const COPY: u64 = 256;
/// The most bytes of such copies. A quarter of a million names of plain files, or as much as a few hundred with large attributes.
const MAX_COPIES: u64 = 64 << 20;

/// The paths of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Paths {
    /// Bytes of all of them, and of the longest.
    pub(super) bytes: u64,
    pub(super) longest: u64,
}

impl Paths {
    pub(super) fn of<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Self {
        let mut paths = Self::default();
        paths.add(&tree.root, 0);
        paths
    }

    fn add<H: FsVerityHashValue>(&mut self, directory: &Directory<H>, above: u64) {
        for (name, inode) in directory.entries() {
            let length = above + 1 + name.len() as u64;
            self.bytes += length;
            self.longest = self.longest.max(length);
            if let Inode::Directory(below) = inode {
                self.add(below, length);
            }
        }
    }
}

/// Refuses files with so many names that copies of them would fill the memory.
pub(super) fn require_few_copies<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Result<(), String> {
    let further = tree.nlinks().into_iter().map(|names| u64::from(names.saturating_sub(1)));
    let copies =
        tree.leaves.iter().zip(further).fold(0_u64, |all, (leaf, further)| all.saturating_add(further.saturating_mul(weight(leaf))));
    if copies <= MAX_COPIES {
        return Ok(());
    }
    Err(format!(
        "with a label for each of their names, files with several names take {} MiB (expected at most {} MiB)",
        copies >> 20,
        MAX_COPIES >> 20
    ))
}

fn weight<H: FsVerityHashValue>(leaf: &Leaf<H>) -> u64 {
    let attributes: usize = leaf.stat.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let content = match &leaf.content {
        LeafContent::Regular(RegularFile::Inline(content)) => content.len(),
        LeafContent::Symlink(target) => target.len(),
        _ => 0,
    };
    COPY + attributes as u64 + content as u64
}
