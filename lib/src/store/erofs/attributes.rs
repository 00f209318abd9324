//! Extended attributes: what a file has, what overlayfs wants of it, and which are stored once for all files that have them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;

use composefs::erofs::composefs::OverlayMetacopy;
use composefs::erofs::format::{
    XATTR_FILTER_SEED, XATTR_INDEX_LUSTRE, XATTR_INDEX_POSIX_ACL_ACCESS, XATTR_INDEX_POSIX_ACL_DEFAULT, XATTR_OVERLAY_ESCAPED_PREFIX,
    XATTR_OVERLAY_METACOPY, XATTR_OVERLAY_OPAQUE, XATTR_OVERLAY_OPAQUE_ROOT, XATTR_OVERLAY_PREFIX, XATTR_OVERLAY_REDIRECT,
    XATTR_OVERLAY_WHITEOUT, XATTR_OVERLAY_WHITEOUTS, XATTR_PREFIXES, XATTR_USERXATTR_OPAQUE, XATTR_USERXATTR_WHITEOUT,
    XATTR_USERXATTR_WHITEOUTS,
};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::LeafContent;
use composefs::tree::RegularFile;
use xxhash_rust::xxh32::xxh32;
use zerocopy::IntoBytes;

use super::inodes::{Inodes, Kind};
use super::{Problem, Unwritable};

/// Bytes before the attributes of an inode, of a reference to one that is shared, and before one.
pub(super) const HEADER: usize = 12;
pub(super) const REFERENCE: usize = 4;
pub(super) const ENTRY: usize = 4;
/// Attributes begin at multiples of this.
pub(super) const ALIGNMENT: usize = 4;

/// One attribute of an inode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Attribute<'t, H> {
    /// The digest that overlayfs compares the content's with.
    Metacopy(&'t H),
    /// Where overlayfs finds the content.
    Redirect(&'t H),
    /// One of the image's own, or a mark.
    Named { name: Cow<'t, [u8]>, value: &'t [u8] },
}

impl<H: FsVerityHashValue> Attribute<'_, H> {
    fn name(&self) -> &[u8] {
        match self {
            Self::Metacopy(_) => XATTR_OVERLAY_METACOPY,
            Self::Redirect(_) => XATTR_OVERLAY_REDIRECT,
            Self::Named { name, .. } => name,
        }
    }

    /// The name as it is stored: the number of a prefix that many have, and what follows it. C's mkcomposefs does not know that of Lustre.
    pub(super) fn stored_name(&self) -> (u8, &[u8]) {
        let name = self.name();
        let known = (1..XATTR_PREFIXES.len()).rev().filter(|index| *index != XATTR_INDEX_LUSTRE as usize);
        let found = known.filter_map(|index| Some((index as u8, name.strip_prefix(XATTR_PREFIXES[index])?))).next();
        found.unwrap_or((0, name))
    }

    fn value_length(&self) -> usize {
        match self {
            Self::Metacopy(_) => size_of::<OverlayMetacopy<H>>(),
            // A slash before the name, one in it, and two digits a byte.
            Self::Redirect(_) => 2 + 2 * size_of::<H>(),
            Self::Named { value, .. } => value.len(),
        }
    }

    pub(super) fn value(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Metacopy(id) => Cow::Owned(OverlayMetacopy::new(*id).as_bytes().to_vec()),
            Self::Redirect(id) => Cow::Owned(redirect(*id)),
            Self::Named { value, .. } => Cow::Borrowed(value),
        }
    }

    /// The bytes that it takes where it is stored.
    pub(super) fn size(&self) -> usize {
        (ENTRY + self.stored_name().1.len() + self.value_length()).next_multiple_of(ALIGNMENT)
    }

    /// The bit that is off in an inode's filter where it has an attribute of this name.
    pub(super) fn filter(&self) -> u32 {
        let (prefix, rest) = self.stored_name();
        1 << (xxh32(rest, XATTR_FILTER_SEED + u32::from(prefix)) % u32::BITS)
    }

    /// By name, then by the length of the value, then by the value.
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            // Their digits are in the order of their bytes.
            (Self::Metacopy(own), Self::Metacopy(other)) | (Self::Redirect(own), Self::Redirect(other)) => {
                own.as_bytes().cmp(other.as_bytes())
            }
            _ => self
                .name()
                .cmp(other.name())
                .then_with(|| self.value_length().cmp(&other.value_length()))
                .then_with(|| self.value().cmp(&other.value())),
        }
    }

    fn check(&self) -> Result<(), Problem> {
        let (name, value) = (self.stored_name().1.len(), self.value_length());
        if name > u8::MAX.into() {
            Err(Problem::AttributeName(name))
        } else if value > u16::MAX.into() {
            Err(Problem::AttributeValue(value))
        } else {
            Ok(())
        }
    }
}

/// The path of an object from where objects are: a slash before each of the first two bytes. (The library's own goes by characters, in an image of tens
/// of thousands of files.)
fn redirect<H: FsVerityHashValue>(id: &H) -> Vec<u8> {
    let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
    let mut path = Vec::with_capacity(2 + 2 * size_of::<H>());
    for (number, byte) in id.as_bytes().iter().enumerate() {
        if number < 2 {
            path.push(b'/');
        }
        path.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    path
}

/// An attribute of an inode, and its place in [`Attributes::shared`] where others have it, too.
pub(super) type Found<'t, H> = (Attribute<'t, H>, Option<u32>);

/// The attributes that several inodes have.
pub(super) struct Attributes<'t, H> {
    /// In the order in which they are stored.
    pub(super) shared: Vec<Attribute<'t, H>>,
    indices: HashMap<Attribute<'t, H>, u32>,
    /// Whether any inode has an access control list.
    pub(super) access_lists: bool,
}

impl<'t, H: FsVerityHashValue> Attributes<'t, H> {
    pub(super) fn collect(inodes: &Inodes<'t, H>) -> Result<Self, Unwritable> {
        let mut objects: HashMap<&H, bool> = HashMap::with_capacity(inodes.all.len());
        let mut named: HashMap<Attribute<'t, H>, bool> = HashMap::new();
        let mut access_lists = false;
        for number in 0..inodes.all.len() {
            if let Some(id) = object(inodes, number) {
                objects.entry(id).and_modify(|again| *again = true).or_insert(false);
            }
            for attribute in named_of(inodes, number) {
                attribute.check().map_err(|problem| inodes.wrong(number, problem))?;
                access_lists |= [XATTR_INDEX_POSIX_ACL_ACCESS, XATTR_INDEX_POSIX_ACL_DEFAULT].contains(&attribute.stored_name().0);
                named.entry(attribute).and_modify(|again| *again = true).or_insert(false);
            }
        }
        let objects =
            objects.into_iter().filter(|(_, again)| *again).flat_map(|(id, _)| [Attribute::Metacopy(id), Attribute::Redirect(id)]);
        let named = named.into_iter().filter(|(_, again)| *again).map(|(attribute, _)| attribute);
        let mut shared: Vec<_> = named.chain(objects).collect();
        shared.sort_unstable_by(|a, b| b.order(a));
        let indices = shared.iter().cloned().zip(0..).collect();
        Ok(Self { shared, indices, access_lists })
    }

    /// Finds the attributes of an inode, by name.
    pub(super) fn find(&self, inodes: &Inodes<'t, H>, number: usize, found: &mut Vec<Found<'t, H>>) {
        found.clear();
        let index = |attribute: &Attribute<'t, H>| self.indices.get(attribute).copied();
        if let Some(id) = object(inodes, number) {
            let (metacopy, redirect) = (Attribute::Metacopy(id), Attribute::Redirect(id));
            // Whoever has the one has the other.
            let indices = index(&metacopy).map(|first| (first, index(&redirect)));
            found.push((metacopy, indices.map(|(first, _)| first)));
            found.push((redirect, indices.and_then(|(_, second)| second)));
        }
        found.extend(named_of(inodes, number).map(|attribute| {
            let index = index(&attribute);
            (attribute, index)
        }));
        found.sort_by(|(a, _), (b, _)| a.order(b));
    }
}

/// The object that an inode's content is in.
fn object<'t, H: FsVerityHashValue>(inodes: &Inodes<'t, H>, number: usize) -> Option<&'t H> {
    match inodes.all[number].kind {
        Kind::Leaf(LeafContent::Regular(RegularFile::External(id, _))) => Some(id),
        _ => None,
    }
}

/// An inode's attributes besides those that lead to its content: its own, where overlayfs would take them for its own under other names, and marks.
fn named_of<'t, H: FsVerityHashValue>(inodes: &Inodes<'t, H>, number: usize) -> impl Iterator<Item = Attribute<'t, H>> {
    let inode = &inodes.all[number];
    let own = inode.stat.xattrs.iter().map(|(name, value)| {
        let name = name.as_bytes();
        let name = match name.strip_prefix(XATTR_OVERLAY_PREFIX) {
            Some(rest) => Cow::Owned([XATTR_OVERLAY_ESCAPED_PREFIX, rest].concat()),
            None => Cow::Borrowed(name),
        };
        Attribute::Named { name, value }
    });
    let marks: &[(&[u8], &[u8])] = match &inode.kind {
        Kind::Escaped => &ESCAPED,
        Kind::Directory(listing) if listing.marked => &MARKED,
        _ => &[],
    };
    let root: &[(&[u8], &[u8])] = if number == 0 { &ROOT } else { &[] };
    own.chain(marks.iter().chain(root).map(|(name, value)| Attribute::Named { name: Cow::Borrowed(name), value }))
}

/// What marks a whiteout that is the image's own, a directory that has one, and the root, which hides what is below.
const ESCAPED: [(&[u8], &[u8]); 2] = [(XATTR_OVERLAY_WHITEOUT, b""), (XATTR_USERXATTR_WHITEOUT, b"")];
const MARKED: [(&[u8], &[u8]); 4] =
    [(XATTR_OVERLAY_WHITEOUTS, b""), (XATTR_USERXATTR_WHITEOUTS, b""), (XATTR_OVERLAY_OPAQUE, b"x"), (XATTR_USERXATTR_OPAQUE, b"x")];
const ROOT: [(&[u8], &[u8]); 1] = [(XATTR_OVERLAY_OPAQUE_ROOT, b"y")];
