//! The physical root of a new machine: repository, first deployment, `/var`.

use std::ffi::OsStr;
use std::fs::DirEntry;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::deploy;
use crate::disk::{Attributes, Content, Device, RootTree};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::origin::Origin;
use crate::record;
use crate::store::{self, File, Node, NodeKind, Store, Tree};

/// Everything below `/sysroot` of the machine that boots `image`.
pub(super) fn tree(store: &Store, image: &Tree, id: &ImageId, origin: &Origin, repository: &Path, mtime: u64) -> Result<RootTree> {
    let directory = |mode| Attributes { mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
    let mut root = RootTree::new(directory(0o755));
    root.add_directory(store::DIRECTORY, directory(0o700))?;
    add_repository(&mut root, store, repository, Path::new(store::DIRECTORY), mtime)?;
    for (path, mode) in deploy::skeleton(id) {
        root.add_directory(&path, directory(mode))?;
    }
    root.add_file(deploy::origin_path(id), directory(0o644), Content::Bytes(record::write(origin)?))?;
    add_var(&mut root, image, repository)?;
    Ok(root)
}

/// Takes the scratch repository over, sealing every object and the metadata that says that everything is sealed.
fn add_repository(root: &mut RootTree, store: &Store, from: &Path, to: &Path, mtime: u64) -> Result<()> {
    let mut entries: Vec<DirEntry> =
        std::fs::read_dir(from).and_then(Iterator::collect).with_context(|| format!("listing {}", from.display()))?;
    entries.sort_by_key(DirEntry::file_name);
    for entry in entries {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().with_context(|| format!("looking at {}", path.display()))?;
        let attributes = |mode| Attributes { mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
        if kind.is_dir() {
            root.add_directory(&to, attributes(0o755))?;
            add_repository(root, store, &path, &to, mtime)?;
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path).with_context(|| format!("reading {}", path.display()))?;
            root.add_symlink(&to, attributes(0o777), target)?;
        } else {
            let digest = object_digest(&to);
            root.add_object(&to, attributes(0o644), Content::File(path), store.algorithm(), digest.as_deref())?;
        }
    }
    Ok(())
}

/// The digest that an object's path spells; none for `meta.json`, which is sealed as it is.
fn object_digest(path: &Path) -> Option<String> {
    let mut parts = path.iter().rev().filter_map(OsStr::to_str);
    let (rest, first, objects) = (parts.next()?, parts.next()?, parts.next()?);
    (objects == "objects").then(|| format!("{first}{rest}"))
}

/// Seeds the one `/var` that all deployments share from the image's, with contents from the scratch repository.
fn add_var(root: &mut RootTree, image: &Tree, repository: &Path) -> Result<()> {
    let target = |path: &Path| Path::new(deploy::VAR).join(path.strip_prefix("/var").unwrap_or(path));
    image.walk("/var", |path, node| add_node(root, repository, &target(path), node).with_context(|| format!("seeding {}", path.display())))
}

fn add_node(root: &mut RootTree, repository: &Path, path: &Path, node: &Node) -> Result<()> {
    let attributes = Attributes {
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        mtime: u64::try_from(node.mtime.0).unwrap_or(0),
        xattrs: node.xattrs.iter().filter(|(name, _)| !name.as_bytes().starts_with(b"trusted.overlay.")).cloned().collect(),
    };
    let number = |device| (rustix::fs::major(device), rustix::fs::minor(device));
    match &node.kind {
        NodeKind::Directory if path == Path::new(deploy::VAR) => Ok(()),
        NodeKind::Directory => root.add_directory(path, attributes),
        NodeKind::File(file) => root.add_file(path, attributes, content(file, repository)),
        NodeKind::Symlink(target) => root.add_symlink(path, attributes, target.clone()),
        NodeKind::CharDevice(device) => {
            let (major, minor) = number(*device);
            root.add_device(path, attributes, Device::Character(major, minor))
        }
        NodeKind::BlockDevice(device) => {
            let (major, minor) = number(*device);
            root.add_device(path, attributes, Device::Block(major, minor))
        }
        NodeKind::Fifo => root.add_device(path, attributes, Device::Fifo),
        NodeKind::Socket => {
            let message = "it is a socket (expected files, directories, symbolic links, devices and named pipes)";
            Err(Failure::new(FailureKind::Unsuitable, message).hint("remove it in the Containerfile: only its listener can make it").into())
        }
    }
}

/// The bytes of a file, unread: what is an object is copied when the image is written, and is compared with its digest there, because the
/// same object moves into the repository of the machine.
fn content(file: &File, repository: &Path) -> Content {
    match &file.content {
        store::Content::Inline(bytes) => Content::Bytes(bytes.clone()),
        store::Content::Object(object) => Content::File(repository.join("objects").join(object.path())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No layer can bring a socket, but the format of the image has them.
    #[test]
    fn a_socket_is_refused_with_advice() {
        let mut root = RootTree::new(Attributes::default());
        let node = Node { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0), xattrs: vec![], kind: NodeKind::Socket, inode: 1, links: 1 };
        let error = add_node(&mut root, Path::new("composefs"), Path::new("socket"), &node).unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!((failure.kind, failure.hint.is_some()), (FailureKind::Unsuitable, true));
    }
}
