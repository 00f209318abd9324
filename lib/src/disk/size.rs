//! How large a root file system has to be for its tree. Pure arithmetic on the numbers of the tree.

use anyhow::Result;

use super::tree::{Node, RootTree};
use super::verity::{BLOCK, trailer_size, tree_offset};
use crate::error::{Failure, FailureKind};

/// 2^20 bytes.
pub(super) const MIB: u64 = 1 << 20;
/// Of ext4's inodes here.
pub(super) const INODE: u64 = 256;
/// Room that a new system gets beyond what upgrades need.
const SLACK: u64 = 512 * MIB;

/// What a tree needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// Blocks of file contents and Merkle trees.
    pub(super) data: u64,
    /// Blocks of directories, long symlinks, extended attributes and extent trees: at most.
    pub(super) metadata: u64,
    /// Inodes.
    pub(super) inodes: u64,
}

impl Need {
    /// Adds up a tree, whose files have these sizes, in its order.
    pub(super) fn of(tree: &RootTree, sizes: &[FileSize]) -> Self {
        let mut need = Self { data: sizes.iter().map(FileSize::blocks).sum(), metadata: 64, inodes: 16 };
        let mut names = 0;
        for (path, entry) in &tree.entries {
            need.inodes += 1;
            need.metadata += u64::from(!entry.attributes.xattrs.is_empty());
            need.metadata += match &entry.node {
                Node::Directory => 2,
                Node::Symlink(target) => u64::from(target.len() >= 60),
                Node::File(..) | Node::Device(_) => 0,
            };
            names += path.file_name().map_or(0, |name| name.len() as u64 + 12);
        }
        // A directory's block may be left half empty by a name that does not fit, and a node of an extent tree holds 340 extents.
        need.metadata += 2 * names.div_ceil(BLOCK as u64);
        need.metadata += sizes.iter().map(|size| size.blocks().div_ceil(32768) / 4).sum::<u64>();
        need
    }

    /// How many inodes a root file system of `size` bytes gets: ext4's usual ratio, and always room for as many again.
    pub(super) fn inodes_in(&self, size: u64) -> u64 {
        (size / 16384).max(2 * self.inodes)
    }

    /// The size of a root file system that has room for the next upgrade too, and some.
    pub(super) fn comfortable(&self) -> u64 {
        let content = 2 * (self.data + self.metadata) * BLOCK as u64 + SLACK;
        // Block and inode bitmaps, the reserve for root and for growing group descriptors: a thirty-second is ample.
        let size = content + content / 32 + journal(u64::MAX);
        (size + self.inodes_in(size) * INODE).next_multiple_of(MIB)
    }

    /// Refuses a size that cannot be enough, whatever the file system itself takes.
    pub(super) fn check(&self, size: u64) -> Result<()> {
        let least = self.least(size);
        if size < least { Err(too_small(least, size).into()) } else { Ok(()) }
    }

    /// What a file system that is meant to have `size` bytes must have at least.
    pub(super) fn least(&self, size: u64) -> u64 {
        (self.data + self.metadata) * BLOCK as u64 + self.inodes_in(size) * INODE + journal(size) + MIB
    }
}

/// The size of the journal of a root file system of `size` bytes: an upgrade writes much, so as much as is useful where there is room.
pub(super) fn journal(size: u64) -> u64 {
    (size / 16 / MIB * MIB).clamp(4 * MIB, 64 * MIB)
}

/// The failure of a root file system that is too small.
pub(super) fn too_small(needed: u64, size: u64) -> Failure {
    let mib = |bytes: u64| bytes.div_ceil(MIB);
    let message = format!("laying out the root file system: too small (need {} MiB, size {} MiB)", mib(needed), size / MIB);
    Failure::new(FailureKind::NoSpace, message).hint("give a larger size, or leave it out to get room for the next upgrade too")
}

/// The numbers of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileSize {
    /// Bytes of content.
    pub(super) bytes: u64,
    /// Blocks of Merkle tree and descriptor, if sealed.
    pub(super) trailer: u64,
}

impl FileSize {
    /// The sizes of all files of a tree, in its order.
    pub(super) fn of_all(tree: &RootTree) -> Result<Vec<Self>> {
        let files = tree.entries.iter().filter_map(|(path, entry)| match &entry.node {
            Node::File(content, seal) => Some((path, (content, seal))),
            _ => None,
        });
        files
            .map(|(path, (content, seal))| {
                let bytes = content.size()?;
                anyhow::ensure!(bytes > 0 || seal.is_none(), "sealing {}: it is empty", path.display());
                let trailer = seal.as_ref().map_or(0, |seal| trailer_size(bytes, seal.algorithm) / BLOCK as u64);
                Ok(Self { bytes, trailer })
            })
            .collect()
    }

    /// Blocks of content.
    pub(super) fn content(&self) -> u64 {
        self.bytes.div_ceil(BLOCK as u64)
    }

    /// The block of the file at which its Merkle tree begins.
    pub(super) fn trailer_at(&self) -> u64 {
        tree_offset(self.bytes) / BLOCK as u64
    }

    /// Blocks in all.
    pub(super) fn blocks(&self) -> u64 {
        self.content() + self.trailer
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Attributes, Content};
    use super::*;
    use crate::image_id::Algorithm;

    fn need(bytes: u64) -> Need {
        Need { data: bytes / BLOCK as u64, metadata: 100, inodes: 1000 }
    }

    #[test]
    fn a_comfortable_size_has_room_for_the_content_twice() {
        for bytes in [0, MIB, 1000 * MIB, 50_000 * MIB] {
            let size = need(bytes).comfortable();
            assert!(size.is_multiple_of(MIB) && size > 2 * bytes + SLACK, "{bytes}: {size}");
            need(bytes).check(size).unwrap();
        }
    }

    #[test]
    fn too_small_is_told_in_numbers() {
        let error = need(100 * MIB).check(90 * MIB).unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.kind, FailureKind::NoSpace);
        assert_eq!(failure.message, "laying out the root file system: too small (need 108 MiB, size 90 MiB)");
    }

    #[test]
    fn sealed_files_count_their_trees() {
        let mut tree = RootTree::new(Attributes::default());
        let content = || Content::Bytes(vec![1; 4097]);
        tree.add_file("a", Attributes::default(), content()).unwrap();
        tree.add_object("b", Attributes::default(), content(), Algorithm::Sha256, None).unwrap();
        let sizes = FileSize::of_all(&tree).unwrap();
        assert_eq!(sizes.iter().map(FileSize::blocks).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(sizes[1].trailer_at(), 16);
        assert_eq!(Need::of(&tree, &sizes).data, 6);
        tree.add_object("c", Attributes::default(), Content::Bytes(vec![]), Algorithm::Sha256, None).unwrap();
        assert!(FileSize::of_all(&tree).is_err());
    }
}
