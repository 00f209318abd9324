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

use super::attributes::{ALIGNMENT, Attribute, Attributes, Found};
use super::inodes::{Inode, Inodes, Kind};
use super::layout::{BLOCK, Body, CHUNK, Layout, SLOT, SUPERBLOCK};
use super::listing::Entry;
use super::{Problem, Unwritable};

struct Emitter<'a, 't, H: FsVerityHashValue> {
    inodes: &'a Inodes<'t, H>,
    attributes: &'a Attributes<'t, H>,
    layout: &'a Layout,
    out: Vec<u8>,
}

pub(super) fn emit<'t, H: FsVerityHashValue>(
    inodes: &Inodes<'t, H>,
    attributes: &Attributes<'t, H>,
    layout: &Layout,
) -> Result<Vec<u8>, Unwritable> {
    let mut emitter = Emitter { inodes, attributes, layout, out: Vec::with_capacity(layout.size) };
    emitter.head();
    let mut found = Vec::new();
    for (number, inode) in inodes.all.iter().enumerate() {
        attributes.find(inodes, number, &mut found);
        emitter.fill(layout.places[number].at).map_err(|problem| inodes.wrong(number, problem))?;
        emitter.inode(number, inode, &found);
    }
    emitter.fill(layout.inodes_end).map_err(|problem| inodes.wrong(0, problem))?;
    attributes.shared.iter().for_each(|attribute| emitter.attribute(attribute));
    emitter.pad(BLOCK);
    for (number, inode) in inodes.all.iter().enumerate() {
        emitter.blocks(number, inode);
    }
    emitter.fill(layout.size).map_err(|problem| inodes.wrong(0, problem))?;
    Ok(emitter.out)
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
            root_nid: (self.nid(0) as u16).into(),
            inos: (self.inodes.all.len() as u64).into(),
            blocks: ((self.layout.size / BLOCK) as u32).into(),
            build_time: time.into(),
            build_time_nsec: nanoseconds.into(),
            xattr_blkaddr: ((self.layout.inodes_end / BLOCK) as u32).into(),
            ..Default::default()
        };
        self.out.extend_from_slice(superblock.as_bytes());
    }

    fn inode(&mut self, number: usize, inode: &Inode<'t, H>, attributes: &[Found<'t, H>]) {
        let body = Body::of(inode, self.layout.places[number].head());
        self.header(number, inode, &body);
        self.attributes_of(attributes);
        self.tail(inode, &body);
    }

    fn header(&mut self, number: usize, inode: &Inode<'t, H>, body: &Body) {
        let place = &self.layout.places[number];
        let u = if body.blocks > 0 { (place.blocks / BLOCK) as u32 } else { body.i_u };
        let xattr_icount = place.xattr_icount().into();
        let mode = inode.file_type() | inode.stat.st_mode;
        let links = inode.links();
        if place.compact {
            let header = CompactInodeHeader {
                format: InodeLayout::Compact | body.layout,
                xattr_icount,
                mode,
                nlink: (links as u16).into(),
                size: (body.size as u32).into(),
                u: u.into(),
                ino: (number as u32).into(),
                uid: (inode.stat.st_uid as u16).into(),
                gid: (inode.stat.st_gid as u16).into(),
                ..Default::default()
            };
            self.out.extend_from_slice(header.as_bytes());
        } else {
            let (time, nanoseconds) = inode.time();
            let header = ExtendedInodeHeader {
                format: InodeLayout::Extended | body.layout,
                xattr_icount,
                mode,
                size: body.size.into(),
                u: u.into(),
                ino: (number as u32).into(),
                uid: inode.stat.st_uid.into(),
                gid: inode.stat.st_gid.into(),
                mtime: time.into(),
                mtime_nsec: nanoseconds.into(),
                nlink: links.into(),
                ..Default::default()
            };
            self.out.extend_from_slice(header.as_bytes());
        }
    }

    fn attributes_of(&mut self, attributes: &[Found<'t, H>]) {
        if attributes.is_empty() {
            return;
        }
        let filter: u32 = attributes.iter().map(|(attribute, _)| attribute.filter()).fold(0, |all, bit| all | bit);
        let shared = attributes.iter().filter_map(|(_, shared)| *shared);
        let header = InodeXAttrHeader { name_filter: (!filter).into(), shared_count: shared.clone().count() as u8, ..Default::default() };
        self.out.extend_from_slice(header.as_bytes());
        for place in shared {
            // Counted in words from the block in which they begin.
            let words = (self.layout.shared[place as usize] - self.layout.inodes_end / BLOCK * BLOCK) / ALIGNMENT;
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
        self.out.extend_from_slice(header.as_bytes());
        self.out.extend_from_slice(name);
        self.out.extend_from_slice(&value);
        self.pad(ALIGNMENT);
    }

    /// What follows an inode.
    fn tail(&mut self, inode: &Inode<'t, H>, body: &Body) {
        match &inode.kind {
            Kind::Directory(listing) => self.entries(&self.inodes.entries[listing.tail.clone()]),
            Kind::Leaf(LeafContent::Regular(RegularFile::Inline(content))) => {
                self.out.extend_from_slice(&content[content.len().min(body.blocks * BLOCK)..]);
            }
            Kind::Leaf(LeafContent::Symlink(target)) if body.blocks == 0 => self.out.extend_from_slice(target.as_bytes()),
            Kind::Leaf(LeafContent::Regular(_)) if body.size > 0 => self.out.extend_from_slice(&CHUNK),
            _ => {}
        }
    }

    fn blocks(&mut self, number: usize, inode: &Inode<'t, H>) {
        let body = Body::of(inode, self.layout.places[number].head());
        match &inode.kind {
            Kind::Directory(listing) => {
                for block in &listing.blocks {
                    self.entries(&self.inodes.entries[block.clone()]);
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
                inode_offset: (self.nid(entry.number as usize) as u64).into(),
                name_offset: (name_offset as u16).into(),
                file_type: entry.file_type.into(),
                ..Default::default()
            };
            self.out.extend_from_slice(header.as_bytes());
            name_offset += entry.name.len();
        }
        entries.iter().for_each(|entry| self.out.extend_from_slice(entry.name));
    }

    fn nid(&self, number: usize) -> usize {
        self.layout.places[number].at / SLOT
    }

    /// Zeros up to a place of the layout, which must not be passed yet.
    fn fill(&mut self, to: usize) -> Result<(), Problem> {
        if self.out.len() > to {
            return Err(Problem::Layout { found: self.out.len(), expected: to });
        }
        self.out.resize(to, 0);
        Ok(())
    }

    fn pad(&mut self, alignment: usize) {
        self.out.resize(self.out.len().next_multiple_of(alignment), 0);
    }
}
