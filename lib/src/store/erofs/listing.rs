//! What a directory lists, and how that is divided into blocks.

use std::ops::Range;

use composefs::erofs::format::{DirectoryEntryHeader, FileType};

use super::layout::BLOCK;

pub(super) struct Entry<'t> {
    pub(super) name: &'t [u8],
    /// The inode that it leads to, by its number.
    pub(super) number: u32,
    pub(super) file_type: FileType,
}

/// The entries of one directory among those of all.
#[derive(Default)]
pub(super) struct Listing {
    /// Those of each block.
    pub(super) blocks: Vec<Range<usize>>,
    /// Those that follow the inode itself.
    pub(super) tail: Range<usize>,
    pub(super) tail_size: usize,
    /// How many entries are directories: its own, that of the directory above, and those in it.
    pub(super) links: u32,
    /// Whether an escaped whiteout is in it.
    pub(super) marked: bool,
}

impl Listing {
    /// Of the entries from `first` on.
    pub(super) fn new(entries: &[Entry<'_>], first: usize, marked: bool) -> Self {
        let (mut blocks, mut begin, mut size, mut links) = (Vec::new(), first, 0, 0);
        for (number, entry) in entries.iter().enumerate().skip(first) {
            let own = size_of::<DirectoryEntryHeader>() + entry.name.len();
            if size + own > BLOCK {
                blocks.push(begin..number);
                (begin, size) = (number, 0);
            }
            size += own;
            links += u32::from(matches!(entry.file_type, FileType::Directory));
        }
        // More than half a block gets a block of its own.
        if size > BLOCK / 2 {
            blocks.push(begin..entries.len());
            (begin, size) = (entries.len(), 0);
        }
        Self { blocks, tail: begin..entries.len(), tail_size: size, links, marked }
    }

    /// All its entries: there are always two at least.
    pub(super) fn range(&self) -> Range<usize> {
        let first = self.blocks.first().map_or(self.tail.start, |block| block.start);
        first..self.tail.end
    }
}
