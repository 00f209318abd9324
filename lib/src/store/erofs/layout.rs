//! Where everything in an image is. Pure arithmetic: nothing is written.

use std::os::unix::ffi::OsStrExt;

use composefs::erofs::format::{BLOCK_BITS, BLOCK_SIZE, CompactInodeHeader, DataLayout, ExtendedInodeHeader, Superblock};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::LeafContent;
use composefs::tree::RegularFile;

use super::attributes::{self, Attributes, Found};
use super::inodes::{Inode, Inodes, Kind};
use super::{Problem, Unwritable};

pub(super) const BLOCK: usize = BLOCK_SIZE as usize;
/// Inodes begin at multiples of this; which multiple is their `nid`.
pub(super) const SLOT: usize = 32;
/// Where the superblock is.
pub(super) const SUPERBLOCK: usize = 1024;
/// As much as an inode can say of the size of its attributes.
pub(super) const MAX_ATTRIBUTES: usize = attributes::HEADER + (u16::MAX as usize - 1) * attributes::ALIGNMENT;
/// The reference to a chunk: of a file that overlayfs has elsewhere, to none.
pub(super) const CHUNK: [u8; 4] = [0xff; 4];

pub(super) struct Layout {
    /// Of each inode.
    pub(super) places: Vec<Place>,
    /// Where the last inode ends, and the shared attributes begin.
    pub(super) inodes_end: usize,
    /// Where each shared attribute is.
    pub(super) shared: Vec<usize>,
    pub(super) size: usize,
    pub(super) earliest: (u64, u32),
}

/// Where an inode is.
pub(super) struct Place {
    pub(super) at: usize,
    /// Bytes of its attributes, their header included.
    attributes: usize,
    /// Where its blocks are, if it has any.
    pub(super) blocks: usize,
    /// Whether what it says fits into the short header.
    pub(super) compact: bool,
}

/// The content of an inode.
pub(super) struct Body {
    pub(super) layout: DataLayout,
    pub(super) size: u64,
    pub(super) blocks: usize,
    /// Bytes that follow the inode itself.
    tail: usize,
    /// The field `i_u` of an inode without blocks: the number of a device, or the size of a chunk.
    pub(super) i_u: u32,
}

impl Layout {
    pub(super) fn new<'t, H: FsVerityHashValue>(inodes: &Inodes<'t, H>, attributes: &Attributes<'t, H>) -> Result<Self, Unwritable> {
        let earliest = inodes.earliest();
        let (mut places, mut found) = (Vec::with_capacity(inodes.all.len()), Vec::new());
        let mut at = SUPERBLOCK + size_of::<Superblock>();
        for (number, inode) in inodes.all.iter().enumerate() {
            attributes.find(inodes, number, &mut found);
            let attributes = bytes(&found).map_err(|problem| inodes.wrong(number, problem))?;
            let mut place = Place { at: at.next_multiple_of(SLOT), attributes, blocks: 0, compact: fits_compact(inode, earliest) };
            let body = Body::of(inode, place.head());
            place.at += body.padding(inode, &place);
            at = place.at + place.head() + body.tail;
            places.push(place);
        }
        let inodes_end = at.next_multiple_of(SLOT);
        let mut at = inodes_end;
        let mut shared = Vec::with_capacity(attributes.shared.len());
        for attribute in &attributes.shared {
            shared.push(at);
            at += attribute.size();
        }
        at = at.next_multiple_of(BLOCK);
        for (place, inode) in places.iter_mut().zip(&inodes.all) {
            place.blocks = at;
            at += Body::of(inode, place.head()).blocks * BLOCK;
        }
        Ok(Self { places, inodes_end, shared, size: at, earliest })
    }
}

impl Place {
    /// Bytes of the inode before its content.
    pub(super) fn head(&self) -> usize {
        let header = if self.compact { size_of::<CompactInodeHeader>() } else { size_of::<ExtendedInodeHeader>() };
        header + self.attributes
    }

    /// The size of the attributes, in the words of the field `i_xattr_icount`.
    pub(super) fn xattr_icount(&self) -> u16 {
        match self.attributes {
            0 => 0,
            bytes => (1 + (bytes - attributes::HEADER) / attributes::ALIGNMENT) as u16,
        }
    }
}

/// Whether the short header can say all that there is to say of an inode: its time is then that of the superblock.
fn fits_compact<H: FsVerityHashValue>(inode: &Inode<'_, H>, earliest: (u64, u32)) -> bool {
    let short = |number: u32| u16::try_from(number).is_ok();
    // Only the layout depends on what is before the content.
    let size = Body::of(inode, 0).size;
    inode.time() == earliest && short(inode.links()) && short(inode.stat.st_uid) && short(inode.stat.st_gid) && u32::try_from(size).is_ok()
}

/// The bytes that the attributes of an inode take beside it.
fn bytes<H: FsVerityHashValue>(found: &[Found<'_, H>]) -> Result<usize, Problem> {
    if found.is_empty() {
        return Ok(0);
    }
    let each = found.iter().map(|(attribute, shared)| if shared.is_some() { attributes::REFERENCE } else { attribute.size() });
    let bytes = attributes::HEADER + each.sum::<usize>();
    let shared = found.iter().filter(|(_, shared)| shared.is_some()).count();
    if shared > u8::MAX.into() {
        Err(Problem::Shared(shared))
    } else if bytes > MAX_ATTRIBUTES {
        Err(Problem::Attributes(bytes))
    } else {
        Ok(bytes)
    }
}

impl Body {
    /// The content of an inode that has `head` bytes before it.
    pub(super) fn of<H: FsVerityHashValue>(inode: &Inode<'_, H>, head: usize) -> Self {
        let plain = |i_u| Self { layout: DataLayout::FlatPlain, size: 0, blocks: 0, tail: 0, i_u };
        match &inode.kind {
            Kind::Directory(listing) => Self::flat(listing.blocks.len(), listing.tail_size),
            Kind::Leaf(LeafContent::Regular(RegularFile::Inline(content))) => {
                let (blocks, tail) = (content.len() / BLOCK, content.len() % BLOCK);
                // More than half a block gets a block of its own.
                let body = if tail > BLOCK / 2 { Self::flat(blocks + 1, 0) } else { Self::flat(blocks, tail) };
                Self { size: content.len() as u64, ..body }
            }
            Kind::Leaf(LeafContent::Regular(content)) => {
                let size = content.file_size();
                let tail = if size > 0 { CHUNK.len() } else { 0 };
                Self { layout: DataLayout::ChunkBased, size, blocks: 0, tail, i_u: chunk_bits(size) - u32::from(BLOCK_BITS) }
            }
            Kind::Leaf(LeafContent::CharacterDevice(number) | LeafContent::BlockDevice(number)) => plain(*number as u32),
            Kind::Leaf(LeafContent::Fifo | LeafContent::Socket) | Kind::Escaped => plain(0),
            Kind::Leaf(LeafContent::Symlink(target)) => {
                let size = target.as_bytes().len();
                let body = if head + size >= BLOCK { Self::flat(1, 0) } else { Self::flat(0, size) };
                Self { size: size as u64, ..body }
            }
        }
    }

    fn flat(blocks: usize, tail: usize) -> Self {
        let layout = if tail > 0 { DataLayout::FlatInline } else { DataLayout::FlatPlain };
        Self { layout, size: (blocks * BLOCK + tail) as u64, blocks, tail, i_u: 0 }
    }

    /// How many bytes an inode that could be at `place` begins later, so that what follows its header does not go over the end of a block. A symbolic link and
    /// its inode are in one block, for the sake of kernels before 6.12.
    fn padding<H: FsVerityHashValue>(&self, inode: &Inode<'_, H>, place: &Place) -> usize {
        let left = |at: usize| at.next_multiple_of(BLOCK) - at;
        if let Kind::Leaf(LeafContent::Symlink(_)) = inode.kind {
            return if place.at % BLOCK + place.head() + self.size as usize > BLOCK { left(place.at) } else { 0 };
        }
        match left(place.at + place.head()) {
            0 => 0,
            left if left < self.tail => left.next_multiple_of(SLOT),
            _ => 0,
        }
    }
}

/// The size of a chunk, as a power of two: one chunk has the whole file.
fn chunk_bits(size: u64) -> u32 {
    u64::BITS.saturating_sub(size.saturating_sub(1).leading_zeros()).max(BLOCK_BITS.into())
}
