//! The EROFS image of a tree: format 1 of composefs, as `mkcomposefs --min-version=1` and the library write it, to the last bit
//! (`tests.rs` compares).
//!
//! The library's writer copies the tree and keeps two allocations for every attribute of every file: 35 MiB and a third of the time of an
//! update, and two images are made each time. This one looks at the tree where it is, keeps some 80 bytes for each entry, and writes the
//! bytes once. The definitions of the format are the library's ([`composefs::erofs::format`]); so is the reader.
//!
//! Layout: superblock; nodes, breadth first, each with its attributes and its small content; attributes that several nodes have; blocks of
//! directories and of what is too large to be in a node.

mod attributes;
mod emit;
mod layout;
mod nodes;
#[cfg(test)]
mod tests;

use composefs::fsverity::FsVerityHashValue;
use composefs::tree::FileSystem;
use thiserror::Error;

use attributes::Attributes;
use layout::Layout;
use nodes::Nodes;

/// What an image cannot hold. Where the library's writer stops the process or writes something else, this is said.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Unwritable {
    #[error("a character device 0:0 with {0} names (overlayfs has one whiteout for each)")]
    LinkedWhiteout(u32),
    #[error("a device with number {0:#x} (expected one of 32 bits)")]
    Device(u64),
    #[error("a file of {0} bytes (expected at most 8 TiB)")]
    Size(u64),
    #[error("a file that has neither bytes nor a digest")]
    NoContent,
    #[error("a name of {0} bytes (expected at most 255)")]
    Name(usize),
    #[error("an extended attribute with a name of {0} bytes (expected at most 255)")]
    AttributeName(usize),
    #[error("an extended attribute with a value of {0} bytes (expected at most 65535)")]
    AttributeValue(usize),
    #[error("extended attributes of {0} bytes on one file (expected at most 262140, and at most 255 that others have, too)")]
    Attributes(usize),
}

/// The bytes of the image of a tree.
pub(super) fn image<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Result<Vec<u8>, Unwritable> {
    let stub = nodes::stub(tree);
    let nodes = Nodes::collect(tree, &stub)?;
    let attributes = Attributes::collect(&nodes)?;
    let layout = Layout::new(&nodes, &attributes)?;
    Ok(emit::emit(&nodes, &attributes, &layout))
}
