//! Writes an image, from its first byte to its last.

use std::os::unix::ffi::OsStrExt;

use composefs::erofs::format::{
    BLOCK_BITS, COMPOSEFS_FLAGS_HAS_ACL, COMPOSEFS_MAGIC, CompactInodeHeader, ComposefsHeader, DirectoryEntryHeader, ExtendedInodeHeader,
    FEATURE_COMPAT_MTIME, FEATURE_COMPAT_XATTR_FILTER, FormatVersion, InodeLayout, InodeXAttrHeader, MAGIC_V1, Superblock, VERSION,
    XAttrHeader,
};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::LeafContent;
use composefs::tree::RegularFile;
use zerocopy::IntoBytes;

use super::attributes::{ALIGNMENT, Attribute, Attributes, ENTRY};
use super::layout::{BLOCK, Body, CHUNK, Layout, Pieces, SLOT, SUPERBLOCK};
use super::nodes::{Entry, Kind, Node, Nodes};

struct Emitter<'a, 't, H: FsVerityHashValue> {
    nodes: &'a Nodes<'t, H>,
    attributes: &'a Attributes<'t, H>,
    layout: &'a Layout,
    out: Vec<u8>,
}

pub(super) fn emit<'t, H: FsVerityHashValue>(nodes: &Nodes<'t, H>, attributes: &Attributes<'t, H>, layout: &Layout) -> Vec<u8> {
    let mut emitter = Emitter { nodes, attributes, layout, out: Vec::with_capacity(layout.size) };
    emitter.head();
    let mut found = Vec::new();
    for (number, node) in nodes.all.iter().enumerate() {
        attributes.find(nodes, number, &mut found);
        emitter.node(number, node, &found);
    }
    emitter.pad(SLOT);
    debug_assert_eq!(emitter.out.len(), layout.nodes_end);
    attributes.shared.iter().for_each(|attribute| emitter.attribute(attribute));
    emitter.pad(BLOCK);
    for (number, node) in nodes.all.iter().enumerate() {
        emitter.blocks(number, node);
    }
    debug_assert_eq!(emitter.out.len(), layout.size);
    emitter.out
}

impl<'t, H: FsVerityHashValue> Emitter<'_, 't, H> {
    fn head(&mut self) {
        let flags = if self.attributes.access_lists { COMPOSEFS_FLAGS_HAS_ACL } else { 0.into() };
        let composefs_version = FormatVersion::V1.composefs_version();
        let header = ComposefsHeader { magic: COMPOSEFS_MAGIC, version: VERSION, flags, composefs_version, ..Default::default() };
        self.out.extend_from_slice(header.as_bytes());
        self.pad(SUPERBLOCK);
        let (time, nanoseconds) = self.layout.earliest;
        let superblock = Superblock {
            magic: MAGIC_V1,
            blkszbits: BLOCK_BITS,
            feature_compat: (FEATURE_COMPAT_MTIME | FEATURE_COMPAT_XATTR_FILTER).into(),
            root_nid: (self.slot(0) as u16).into(),
            inos: (self.nodes.all.len() as u64).into(),
            blocks: ((self.layout.size / BLOCK) as u32).into(),
            build_time: time.into(),
            build_time_nsec: nanoseconds.into(),
            xattr_blkaddr: ((self.layout.nodes_end / BLOCK) as u32).into(),
            ..Default::default()
        };
        self.out.extend_from_slice(superblock.as_bytes());
    }

    fn node(&mut self, number: usize, node: &Node<'t, H>, attributes: &[(Attribute<'t, H>, Option<u32>)]) {
        let place = &self.layout.places[number];
        let body = Body::of(self.nodes, node, place.head());
        self.out.resize(place.at, 0);
        self.header(number, node, &body);
        self.attributes_of(attributes);
        self.tail(node, &body);
    }

    fn header(&mut self, number: usize, node: &Node<'t, H>, body: &Body) {
        let place = &self.layout.places[number];
        let u = if body.blocks > 0 { (place.blocks / BLOCK) as u32 } else { body.detail };
        let xattr_icount = place.attribute_count().into();
        let mode = node.file_type() | node.stat.st_mode;
        let links = self.nodes.links(node);
        if place.compact {
            let header = CompactInodeHeader {
                format: InodeLayout::Compact | body.layout,
                xattr_icount,
                mode,
                nlink: (links as u16).into(),
                size: (body.size as u32).into(),
                u: u.into(),
                ino: (number as u32).into(),
                uid: (node.stat.st_uid as u16).into(),
                gid: (node.stat.st_gid as u16).into(),
                ..Default::default()
            };
            self.out.extend_from_slice(header.as_bytes());
        } else {
            let (time, nanoseconds) = node.time();
            let header = ExtendedInodeHeader {
                format: InodeLayout::Extended | body.layout,
                xattr_icount,
                mode,
                size: body.size.into(),
                u: u.into(),
                ino: (number as u32).into(),
                uid: node.stat.st_uid.into(),
                gid: node.stat.st_gid.into(),
                mtime: time.into(),
                mtime_nsec: nanoseconds.into(),
                nlink: links.into(),
                ..Default::default()
            };
            self.out.extend_from_slice(header.as_bytes());
        }
    }

    fn attributes_of(&mut self, attributes: &[(Attribute<'t, H>, Option<u32>)]) {
        if attributes.is_empty() {
            return;
        }
        let filter: u32 = attributes.iter().map(|(attribute, _)| attribute.filter()).fold(0, |all, bit| all | bit);
        let shared = attributes.iter().filter_map(|(_, shared)| *shared);
        let header = InodeXAttrHeader { name_filter: (!filter).into(), shared_count: shared.clone().count() as u8, ..Default::default() };
        self.out.extend_from_slice(header.as_bytes());
        for place in shared {
            // Counted in words from the block in which they begin.
            let words = (self.layout.shared[place as usize] - self.layout.nodes_end / BLOCK * BLOCK) / ALIGNMENT;
            self.out.extend_from_slice(&(words as u32).to_le_bytes());
        }
        for (attribute, _) in attributes.iter().filter(|(_, shared)| shared.is_none()) {
            self.attribute(attribute);
        }
    }

    fn attribute(&mut self, attribute: &Attribute<'t, H>) {
        let (prefix, name) = attribute.stored_name();
        let value = attribute.value();
        let header = XAttrHeader { name_len: name.len() as u8, name_index: prefix, value_size: (value.len() as u16).into() };
        debug_assert_eq!(header.as_bytes().len(), ENTRY);
        self.out.extend_from_slice(header.as_bytes());
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(&value);
        self.pad(ALIGNMENT);
    }

    /// What follows a node.
    fn tail(&mut self, node: &Node<'t, H>, body: &Body) {
        match &node.kind {
            Kind::Directory { first, end, .. } => {
                let entries = self.nodes.entries(*first, *end);
                self.entries(&entries[Pieces::of(entries).tail]);
            }
            Kind::Leaf(LeafContent::Regular(RegularFile::Inline(content))) => {
                self.out.extend_from_slice(&content[content.len().min(body.blocks * BLOCK)..]);
            }
            Kind::Leaf(LeafContent::Symlink(target)) if body.blocks == 0 => self.out.extend_from_slice(target.as_bytes()),
            Kind::Leaf(LeafContent::Regular(_)) if body.size > 0 => self.out.extend_from_slice(&CHUNK),
            _ => {}
        }
    }

    fn blocks(&mut self, number: usize, node: &Node<'t, H>) {
        let body = Body::of(self.nodes, node, self.layout.places[number].head());
        match &node.kind {
            Kind::Directory { first, end, .. } => {
                let entries = self.nodes.entries(*first, *end);
                for block in Pieces::of(entries).blocks {
                    self.entries(&entries[block]);
                    self.pad(BLOCK);
                }
            }
            Kind::Leaf(LeafContent::Regular(RegularFile::Inline(content))) => {
                self.out.extend_from_slice(&content[..content.len().min(body.blocks * BLOCK)]);
                self.pad(BLOCK);
            }
            Kind::Leaf(LeafContent::Symlink(target)) if body.blocks > 0 => {
                self.out.extend_from_slice(target.as_bytes());
                self.pad(BLOCK);
            }
            _ => {}
        }
    }

    /// Entries of a directory that are stored together: first what each is, then the names.
    fn entries(&mut self, entries: &[Entry<'t>]) {
        let mut name_offset = size_of::<DirectoryEntryHeader>() * entries.len();
        for entry in entries {
            let header = DirectoryEntryHeader {
                inode_offset: (self.slot(entry.number as usize) as u64).into(),
                name_offset: (name_offset as u16).into(),
                file_type: entry.file_type.into(),
                ..Default::default()
            };
            self.out.extend_from_slice(header.as_bytes());
            name_offset += entry.name.len();
        }
        entries.iter().for_each(|entry| self.out.extend_from_slice(entry.name));
    }

    /// What a node is known by in the image.
    fn slot(&self, number: usize) -> usize {
        self.layout.places[number].at / SLOT
    }

    fn pad(&mut self, alignment: usize) {
        self.out.resize(self.out.len().next_multiple_of(alignment), 0);
    }
}
