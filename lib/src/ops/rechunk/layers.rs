//! Writing the layers of a plan.
//!
//! Times of directories change with every build, so they are in the last layer alone: every other layer has the directories that lead to its
//! files with their owner and permissions, as some engines take those from the topmost layer that has the directory, and with no time.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Weak;

use anyhow::{Result, bail};

use super::plan::Group;
use super::root::{Root, unsuitable};
use crate::image::{Entry, EntryKind, LayerWriter, WrittenLayer};
use crate::store::{Node, NodeKind};

/// The layer of a group, written to `directory` as long as it is `wanted`.
pub(super) fn write(root: &Root, group: &Group, directory: &Path, wanted: &Weak<()>) -> Result<WrittenLayer> {
    let mut layer = LayerWriter::create(directory)?;
    let (mut written, mut names) = (HashSet::new(), HashMap::<u64, &[u8]>::new());
    for number in &group.leaves {
        if wanted.strong_count() == 0 {
            bail!("nobody waits for it any more");
        }
        let (path, node) = (&root.leaves[*number].path, &root.nodes[*number]);
        for parent in parents(path) {
            if written.insert(parent) {
                layer.add(&Entry { mtime: (0, 0), ..entry(parent, &root.directories[parent], EntryKind::Directory)? }, std::io::empty())?;
            }
        }
        match names.get(&node.inode) {
            Some(first) => layer.add(&entry(path, node, EntryKind::Hardlink(first))?, std::io::empty())?,
            None => add(root, &mut layer, path, node)?,
        }
        names.entry(node.inode).or_insert(path);
    }
    layer.finish()
}

/// The last layer: all directories, with their times.
pub(super) fn write_directories(root: &Root, directory: &Path) -> Result<WrittenLayer> {
    let mut layer = LayerWriter::create(directory)?;
    for (path, node) in &root.directories {
        layer.add(&entry(path, node, EntryKind::Directory)?, std::io::empty())?;
    }
    layer.finish()
}

fn add(root: &Root, layer: &mut LayerWriter, path: &[u8], node: &Node) -> Result<()> {
    let mut content: Box<dyn Read> = Box::new(std::io::empty());
    let kind = match &node.kind {
        NodeKind::File(file) => {
            if file.size > 0 {
                content = Box::new(root.tree.open(file)?);
            }
            EntryKind::File(file.size)
        }
        NodeKind::Symlink(target) => EntryKind::Symlink(target.as_bytes()),
        NodeKind::CharDevice(number) => EntryKind::CharDevice(rustix::fs::major(*number), rustix::fs::minor(*number)),
        NodeKind::BlockDevice(number) => EntryKind::BlockDevice(rustix::fs::major(*number), rustix::fs::minor(*number)),
        NodeKind::Fifo => EntryKind::Fifo,
        NodeKind::Directory | NodeKind::Socket => return Err(unsuitable(path, "is a socket or a directory")),
    };
    layer.add(&entry(path, node, kind)?, content)
}

fn entry<'a>(path: &'a [u8], node: &'a Node, kind: EntryKind<'a>) -> Result<Entry<'a>> {
    let (seconds, nanoseconds) = node.mtime;
    let seconds = u64::try_from(seconds).map_err(|_| unsuitable(path, "has a time before 1970"))?;
    let mut xattrs: Vec<(&[u8], &[u8])> = node.xattrs.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())).collect();
    xattrs.sort_unstable();
    Ok(Entry { path, kind, mode: node.mode, uid: node.uid, gid: node.gid, mtime: (seconds, nanoseconds), xattrs })
}

/// The directories that lead to a path, topmost first, without the root.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}
