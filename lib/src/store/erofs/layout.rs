//! Where everything in an image is. Pure arithmetic: nothing is written.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use composefs::erofs::format::{
    BLOCK_BITS, BLOCK_SIZE, CompactInodeHeader, DataLayout, DirectoryEntryHeader, ExtendedInodeHeader, Superblock,
};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::LeafContent;
use composefs::tree::RegularFile;

use super::Unwritable;
use super::attributes::{self, Attribute, Attributes};
use super::nodes::{Entry, Kind, Node, Nodes};

pub(super) const BLOCK: usize = BLOCK_SIZE as usize;
/// Nodes begin at multiples of this, and are known by the multiple.
pub(super) const SLOT: usize = 32;
/// Where the superblock is.
pub(super) const SUPERBLOCK: usize = 1024;
/// Bytes of an entry in a directory besides its name.
const ENTRY: usize = size_of::<DirectoryEntryHeader>();
/// As much as a node can say of the size of its attributes.
const MAX_ATTRIBUTES: usize = attributes::HEADER + (u16::MAX as usize - 1) * attributes::ALIGNMENT;
/// The reference to a chunk: of a file that overlayfs has elsewhere, to none.
pub(super) const CHUNK: [u8; 4] = [0xff; 4];

pub(super) struct Layout {
    pub(super) places: Vec<Place>,
    /// Where the last node ends, and the shared attributes begin.
    pub(super) nodes_end: usize,
    /// Where each shared attribute is.
    pub(super) shared: Vec<usize>,
    pub(super) size: usize,
    pub(super) earliest: (u64, u32),
}

/// Where a node is.
pub(super) struct Place {
    pub(super) at: usize,
    /// Bytes of its attributes, their header included.
    attributes: usize,
    /// Where its blocks are, if it has any.
    pub(super) blocks: usize,
    /// Whether what it says fits into the short header.
    pub(super) compact: bool,
}

/// The content of a node.
pub(super) struct Body {
    pub(super) layout: DataLayout,
    pub(super) size: u64,
    pub(super) blocks: usize,
    /// Bytes that follow the node itself.
    tail: usize,
    /// What the header says of it, where that is not where its blocks are.
    pub(super) detail: u32,
}

impl Layout {
    pub(super) fn new<'t, H: FsVerityHashValue>(nodes: &Nodes<'t, H>, attributes: &Attributes<'t, H>) -> Result<Self, Unwritable> {
        let earliest = nodes.earliest();
        let (mut places, mut found) = (Vec::with_capacity(nodes.all.len()), Vec::new());
        let mut at = SUPERBLOCK + size_of::<Superblock>();
        for (number, node) in nodes.all.iter().enumerate() {
            attributes.find(nodes, number, &mut found);
            let attributes = bytes(&found)?;
            let compact = fits_compact(nodes, node, earliest);
            let head = header(compact) + attributes;
            let body = Body::of(nodes, node, head);
            at = at.next_multiple_of(SLOT);
            at += body.padding(node, at, head);
            places.push(Place { at, attributes, blocks: 0, compact });
            at += head + body.tail;
        }
        let nodes_end = at.next_multiple_of(SLOT);
        let mut at = nodes_end;
        let mut shared = Vec::with_capacity(attributes.shared.len());
        for attribute in &attributes.shared {
            shared.push(at);
            at += attribute.size();
        }
        at = at.next_multiple_of(BLOCK);
        for (place, node) in places.iter_mut().zip(&nodes.all) {
            place.blocks = at;
            at += Body::of(nodes, node, place.head()).blocks * BLOCK;
        }
        Ok(Self { places, nodes_end, shared, size: at, earliest })
    }
}

impl Place {
    /// Bytes of the node before its content.
    pub(super) fn head(&self) -> usize {
        header(self.compact) + self.attributes
    }

    /// The size of the attributes as the header of a node says it.
    pub(super) fn attribute_count(&self) -> u16 {
        match self.attributes {
            0 => 0,
            bytes => (1 + (bytes - attributes::HEADER) / attributes::ALIGNMENT) as u16,
        }
    }
}

/// The bytes of a node's header.
fn header(compact: bool) -> usize {
    if compact { size_of::<CompactInodeHeader>() } else { size_of::<ExtendedInodeHeader>() }
}

/// Whether the short header can say all that there is to say of a node: its time is then that of the superblock.
fn fits_compact<H: FsVerityHashValue>(nodes: &Nodes<'_, H>, node: &Node<'_, H>, earliest: (u64, u32)) -> bool {
    let short = |number: u32| u16::try_from(number).is_ok();
    node.time() == earliest
        && short(nodes.links(node))
        && short(node.stat.st_uid)
        && short(node.stat.st_gid)
        && u32::try_from(Body::of(nodes, node, 0).size).is_ok()
}

/// The bytes that the attributes of a node take in it.
fn bytes<H: FsVerityHashValue>(found: &[(Attribute<'_, H>, Option<u32>)]) -> Result<usize, Unwritable> {
    if found.is_empty() {
        return Ok(0);
    }
    let each = found.iter().map(|(attribute, shared)| if shared.is_some() { attributes::REFERENCE } else { attribute.size() });
    let bytes = attributes::HEADER + each.sum::<usize>();
    let shared = found.iter().filter(|(_, shared)| shared.is_some()).count();
    if bytes > MAX_ATTRIBUTES || shared > u8::MAX.into() { Err(Unwritable::Attributes(bytes)) } else { Ok(bytes) }
}

impl Body {
    /// The content of a node that has `head` bytes before it.
    pub(super) fn of<H: FsVerityHashValue>(nodes: &Nodes<'_, H>, node: &Node<'_, H>, head: usize) -> Self {
        let plain = |detail| Self { layout: DataLayout::FlatPlain, size: 0, blocks: 0, tail: 0, detail };
        match &node.kind {
            Kind::Directory { first, end, .. } => {
                let pieces = Pieces::of(nodes.entries(*first, *end));
                Self::flat(pieces.blocks.len(), pieces.tail_size)
            }
            Kind::Leaf(LeafContent::Regular(RegularFile::Inline(content))) => match content.len() % BLOCK {
                0 if content.is_empty() => plain(0),
                // More than half a block gets a block of its own.
                tail if tail > BLOCK / 2 => Self { size: content.len() as u64, ..Self::flat(content.len().div_ceil(BLOCK), 0) },
                tail => Self { size: content.len() as u64, ..Self::flat(content.len() / BLOCK, tail) },
            },
            Kind::Leaf(LeafContent::Regular(content)) => {
                let size = content.file_size();
                let tail = if size > 0 { CHUNK.len() } else { 0 };
                Self { layout: DataLayout::ChunkBased, size, blocks: 0, tail, detail: chunk_bits(size) - u32::from(BLOCK_BITS) }
            }
            Kind::Leaf(LeafContent::CharacterDevice(number) | LeafContent::BlockDevice(number)) => plain(*number as u32),
            Kind::Leaf(LeafContent::Fifo | LeafContent::Socket) | Kind::Escaped => plain(0),
            Kind::Leaf(LeafContent::Symlink(target)) => {
                let size = target.as_bytes().len();
                let body =
                    if head + size >= BLOCK { Self::flat(1, 0) } else { Self { layout: DataLayout::FlatInline, ..Self::flat(0, size) } };
                Self { size: size as u64, ..body }
            }
        }
    }

    fn flat(blocks: usize, tail: usize) -> Self {
        let layout = if tail > 0 { DataLayout::FlatInline } else { DataLayout::FlatPlain };
        Self { layout, size: (blocks * BLOCK + tail) as u64, blocks, tail, detail: 0 }
    }

    /// How many bytes a node that could begin `at` begins later, so that what follows its header does not go over the end of a block. A symbolic link and
    /// its node are in one block, for the sake of kernels before 6.12.
    fn padding<H: FsVerityHashValue>(&self, node: &Node<'_, H>, at: usize, head: usize) -> usize {
        let left = |at: usize| at.next_multiple_of(BLOCK) - at;
        if let Kind::Leaf(LeafContent::Symlink(_)) = node.kind {
            return if at % BLOCK + head + self.size as usize > BLOCK { left(at) } else { 0 };
        }
        match left(at + head) {
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

/// How the entries of a directory are divided.
pub(super) struct Pieces {
    /// Those of each block.
    pub(super) blocks: Vec<Range<usize>>,
    /// Those that follow the node itself.
    pub(super) tail: Range<usize>,
    tail_size: usize,
}

impl Pieces {
    pub(super) fn of(entries: &[Entry<'_>]) -> Self {
        let (mut blocks, mut first, mut size) = (Vec::new(), 0, 0);
        for (number, entry) in entries.iter().enumerate() {
            let own = ENTRY + entry.name.len();
            if size + own > BLOCK {
                blocks.push(first..number);
                (first, size) = (number, 0);
            }
            size += own;
        }
        if size > BLOCK / 2 {
            blocks.push(first..entries.len());
            (first, size) = (entries.len(), 0);
        }
        Self { blocks, tail: first..entries.len(), tail_size: size }
    }
}
