//! The root file system: ext4, written by e2fsprogs without privileges, its contents by us.
//!
//! mke2fs makes it empty, dumpe2fs tells which blocks are free, [`blocks`](super::blocks) gives them to files, debugfs writes
//! all metadata while [`fill`](super::fill) writes all data, and e2fsck has the last word. e2fsprogs work on a file of their own
//! that never has data in it; what they wrote is then copied to its place in the image.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};

use super::blocks::{self, Allocator, Extent, Group, Reservation};
use super::e2fs::{E2fs, Format};
use super::fill::{Job, copy_sparsely, fill};
use super::identifiers::Identifiers;
use super::script::{self, Script};
use super::size::{FileSize, MIB, Need, journal, too_small};
use super::tree::{Content, Entry, Node, RootTree, Seal};
use super::verity::BLOCK;
use crate::progress::Progress;

/// The file of the file system without its data.
const METADATA: &str = "root.ext4";

/// A tree and its numbers.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    tree: &'a RootTree,
    sizes: Vec<FileSize>,
    pub(super) need: Need,
}

impl<'a> Plan<'a> {
    /// Measures a tree.
    pub(super) fn new(tree: &'a RootTree) -> Result<Self> {
        let sizes = FileSize::of_all(tree)?;
        let need = Need::of(tree, &sizes);
        Ok(Self { tree, sizes, need })
    }

    /// Bytes of file contents.
    pub(super) fn bytes(&self) -> u64 {
        self.sizes.iter().map(|size| size.bytes).sum()
    }

    /// Writes the file system into `range` of `image`, which has only zeros there. `directory` is one of ours for temporaries.
    pub(super) fn write(&self, place: &Place<'_>, identifiers: &Identifiers, mtime: u64, progress: &dyn Progress) -> Result<()> {
        let size = place.range.end - place.range.start;
        self.need.check(size)?;
        let clock = clock(mtime);
        let metadata = place.metadata(size)?;
        let e2fs = E2fs { directory: place.directory, name: METADATA, clock };
        let (uuid, hash_seed) = (identifiers.root, identifiers.root_hash_seed);
        e2fs.format(&Format { uuid, hash_seed, size, inodes: self.need.inodes_in(size), journal: journal(size) })?;
        let (extents, reservation) = self.allocate(&e2fs.groups()?, size)?;
        let script = script::write(self.tree, &self.sizes, &extents, &reservation, clock)?;
        let jobs = self.jobs(&extents);
        std::thread::scope(|scope| {
            let tree = scope.spawn(|| run(&e2fs, &script).and_then(|()| e2fs.check()));
            let data = fill(place.image, place.range.start, &jobs, progress);
            let tree = tree.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            data.and(tree)
        })?;
        copy_sparsely(&metadata, place.image, place.range.start).context("writing the metadata of the root file system")
    }

    /// Gives blocks to all files, and tells which.
    fn allocate(&self, groups: &[Group], size: u64) -> Result<(Vec<Vec<Extent>>, Reservation)> {
        let free = blocks::free(groups);
        let room: u64 = free.iter().map(|range| range.end - range.start).sum();
        let needed = self.need.data + self.need.metadata;
        if needed > room {
            return Err(too_small(size + (needed - room) * BLOCK as u64 + MIB, size).into());
        }
        let mut blocks = Allocator::new(&free, self.need.metadata);
        let mut place = |file: &FileSize| {
            let mut extents = blocks.take(0, file.content())?;
            extents.extend(blocks.take(file.trailer_at(), file.trailer)?);
            Some(extents)
        };
        let extents = self.sizes.iter().map(&mut place).collect::<Option<_>>().context("placing the files: out of blocks")?;
        Ok((extents, Reservation::new(groups, blocks.taken())))
    }

    fn jobs<'b>(&'b self, extents: &'b [Vec<Extent>]) -> Vec<Job<'b>> {
        let files = self.tree.entries.iter().filter_map(|(path, entry)| file(path, entry));
        let placed = files.zip(&self.sizes).zip(extents);
        placed.map(|(((path, content, seal), size), extents)| Job { path, content, seal, size: *size, extents }).collect()
    }
}

/// Where a file system goes.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// A directory of ours.
    pub(super) directory: &'a Path,
    /// The image, open for writing.
    pub(super) image: &'a File,
    /// The bytes of the image.
    pub(super) range: &'a Range<u64>,
}

impl Place<'_> {
    /// The file in which e2fsprogs work: all holes at first, and mostly so at the end.
    fn metadata(&self, size: u64) -> Result<File> {
        let path = self.directory.join(METADATA);
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("creating {}", path.display()))?;
        file.set_len(size).with_context(|| format!("sizing {}", path.display()))?;
        Ok(file)
    }
}

fn file<'a>(path: &'a Path, entry: &'a Entry) -> Option<(&'a Path, &'a Content, Option<&'a Seal>)> {
    match &entry.node {
        Node::File(content, seal) => Some((path, content, seal.as_ref())),
        _ => None,
    }
}

/// What the clocks of the tools show: 0 means the present to e2fsprogs 1.47.0, and its superblock has 32 bits.
fn clock(mtime: u64) -> u32 {
    mtime.clamp(1, i32::MAX as u64) as u32
}

fn run(e2fs: &E2fs<'_>, script: &Script) -> Result<()> {
    let put = |name: &str, bytes: &[u8]| {
        let path = e2fs.directory.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))
    };
    put(script::EMPTY, b"")?;
    for (name, value) in &script.values {
        put(name, value)?;
    }
    let context = "writing the tree of the root file system";
    e2fs.script(&script.main).context(context)?;
    for request in &script.requests {
        e2fs.request(request.clone()).context(context)?;
    }
    if script.last.is_empty() { Ok(()) } else { e2fs.script(&script.last).context(context) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_never_the_present() {
        assert_eq!([0, 5, u64::MAX].map(clock), [1, 5, 0x7fff_ffff]);
    }
}
