//! The EROFS image of a tree: format 1 of composefs, as the library writes it, to the last bit (`tests.rs` compares), and, as that says,
//! `mkcomposefs --min-version=1`.
//!
//! The library's writer copies the tree and keeps two allocations for every attribute of every file: 35 MiB for each of two images, and, with
//! the merge, a third of the time of an update. This one looks at the tree where it is, keeps some 100 bytes for each entry, and writes the
//! bytes once. The definitions of the format are the library's ([`composefs::erofs::format`]); so is the reader.
//!
//! Layout: composefs' header and the superblock; inodes, breadth first, each with its attributes and its small content; attributes that
//! several inodes have; blocks of directories and of what is too large to be beside its inode.

mod attributes;
mod emit;
mod inodes;
mod layout;
mod listing;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use composefs::fsverity::FsVerityHashValue;
use composefs::tree::FileSystem;
use thiserror::Error;

use attributes::Attributes;
use inodes::Inodes;
use layout::{Layout, MAX_ATTRIBUTES};

/// What an image cannot hold, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {problem}", path.display())]
pub(super) struct Unwritable {
    path: PathBuf,
    problem: Problem,
}

/// What an image cannot hold. Where the library's writer stops the process or writes something else, this is said.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
enum Problem {
    #[error("a character device 0:0 with {0} names (expected one: overlayfs takes it for a whiteout)")]
    LinkedWhiteout(u32),
    #[error("a device with number {0:#x} (expected one of 32 bits)")]
    Device(u64),
    #[error("a file of {0} bytes (expected at most 8 TiB)")]
    Size(u64),
    #[error("a file without content (expected its bytes, or an object whose digest is known)")]
    NoContent,
    #[error("a symbolic link whose target has {0} bytes (expected 1 to 4095)")]
    Target(usize),
    #[error("a name of {0} bytes (expected at most 255)")]
    Name(usize),
    #[error("an extended attribute whose name has {0} bytes behind its prefix (expected at most 255)")]
    AttributeName(usize),
    #[error("an extended attribute with a value of {0} bytes (expected at most 65535)")]
    AttributeValue(usize),
    #[error("extended attributes of {0} bytes (expected at most {MAX_ATTRIBUTES})")]
    Attributes(usize),
    #[error("{0} extended attributes that other files have, too (expected at most 255)")]
    Shared(usize),
    #[error("the image has {found} bytes before this (expected {expected}: a defect of selkie)")]
    Layout { found: usize, expected: usize },
}

/// The bytes of the image of a tree in which every leaf has a name, and every name its leaf ([`FileSystem::fsck`]).
pub(super) fn image<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Result<Vec<u8>, Unwritable> {
    let stub = inodes::stub(tree);
    let inodes = Inodes::collect(tree, &stub)?;
    let attributes = Attributes::collect(&inodes)?;
    let layout = Layout::new(&inodes, &attributes)?;
    emit::emit(&inodes, &attributes, &layout)
}
