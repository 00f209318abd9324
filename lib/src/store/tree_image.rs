//! From the bytes of an EROFS image to a [`Tree`].

use anyhow::{Context, Result, bail};
use composefs::erofs::reader::{Image, InodeHeader, erofs_to_filesystem};
use composefs::fsverity::{FsVerityHashValue, compute_verity};
use composefs::generic_tree::{Directory, Inode, Leaf, LeafContent, Stat};
use composefs::repository::Repository;
use composefs::tree::{FileSystem, RegularFile};

use super::objects::ObjectId;
use super::tree::{Content, Dir, Entry, File, Node, NodeKind, Tree};
use super::{Store, corrupt, damaged, hash, with_repository};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::sys::dir;

impl Store {
    /// Reads the root file system of an image. The image's bytes are hashed and compared with its id, in sealed and
    /// unsealed repositories alike.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where there is no such image, [`FailureKind::Corrupt`] where its bytes are others.
    pub fn tree(&self, image: &ImageId) -> Result<Tree> {
        with_repository!(self, repository => tree(self, repository, image)).with_context(|| format!("reading image {image}"))
    }

    /// Whether a seal can be in an image as its layers give it: only there is a tree worth making, which costs as much as the image has files.
    ///
    /// # Errors
    ///
    /// Those of [`Self::tree`].
    pub fn may_be_sealed(&self, image: &ImageId) -> Result<bool> {
        let bytes = with_repository!(self, repository => read(repository, image)).with_context(|| format!("reading image {image}"))?;
        // What cannot be read so is left to the reader of trees, which says what is wrong.
        Ok(has_boot_efi(&bytes).unwrap_or(true))
    }
}

/// Whether there is anything at `/boot/EFI`, or may be behind a link.
fn has_boot_efi(image: &[u8]) -> Result<bool> {
    let image = Image::open(image)?.restrict_to_composefs()?;
    let Some(boot) = image.find_child_nid(image.sb.root_nid.get().into(), b"boot")? else { return Ok(false) };
    Ok(!image.inode(boot)?.mode().is_dir() || image.find_child_nid(boot, b"EFI")?.is_some())
}

fn tree<H: FsVerityHashValue>(store: &Store, repository: &Repository<H>, image: &ImageId) -> Result<Tree> {
    // The bytes of the image are given up before the tree is made.
    let filesystem = erofs_to_filesystem::<H>(&read(repository, image)?)?;
    from_filesystem(store, &filesystem)
}

/// The bytes of an image, which are those of its id.
fn read<H: FsVerityHashValue>(repository: &Repository<H>, image: &ImageId) -> Result<Vec<u8>> {
    let id: H = hash(image.hex())?;
    let Some(bytes) = dir::read_optional(repository.repo_fd(), format!("images/{image}")).map_err(damaged)? else {
        return Err(Failure::new(FailureKind::NotFound, "there is no such image in the repository").hint("pull it first").into());
    };
    let found: H = compute_verity(&bytes);
    if found != id {
        let message = format!("its bytes have the digest {} (expected its id)", found.to_hex());
        return Err(corrupt(message).into());
    }
    Ok(bytes)
}

/// The neutral form of a tree whose objects are in `store`.
pub(super) fn from_filesystem<H: FsVerityHashValue>(store: &Store, read: &FileSystem<H>) -> Result<Tree> {
    let links = read.nlinks();
    let leaves = read.leaves.iter().enumerate().map(|(number, leaf)| from_leaf(number, leaf, links[number])).collect::<Result<_>>()?;
    Ok(Tree { store: store.clone(), root: from_directory(&read.root), leaves })
}

fn from_directory<T>(directory: &Directory<T>) -> Dir {
    let entry = |inode: &Inode<T>| match inode {
        Inode::Directory(below) => Entry::Dir(Box::new(from_directory(below))),
        Inode::Leaf(leaf, _) => Entry::Leaf(leaf.0),
    };
    let entries = directory.entries().map(|(name, inode)| (name.to_owned(), entry(inode))).collect();
    Dir { node: from_stat(&directory.stat, NodeKind::Directory, 0, 1), entries }
}

fn from_leaf<H: FsVerityHashValue>(number: usize, leaf: &Leaf<RegularFile<H>>, links: u32) -> Result<Node> {
    let kind = match &leaf.content {
        LeafContent::Regular(file) => NodeKind::File(from_regular(file)?),
        LeafContent::Symlink(target) => NodeKind::Symlink(target.to_os_string()),
        LeafContent::CharacterDevice(number) => NodeKind::CharDevice(*number),
        LeafContent::BlockDevice(number) => NodeKind::BlockDevice(*number),
        LeafContent::Fifo => NodeKind::Fifo,
        LeafContent::Socket => NodeKind::Socket,
    };
    Ok(from_stat(&leaf.stat, kind, number as u64 + 1, links))
}

fn from_regular<H: FsVerityHashValue>(file: &RegularFile<H>) -> Result<File> {
    let content = match file {
        RegularFile::Inline(bytes) => Content::Inline(bytes.to_vec()),
        RegularFile::External(id, _) | RegularFile::ExternalNoVerity(id, _) => Content::Object(ObjectId::of(id)),
        RegularFile::Sparse(_) => bail!("a file has neither bytes nor an object"),
    };
    Ok(File { size: file.file_size(), content })
}

fn from_stat(stat: &Stat, kind: NodeKind, inode: u64, links: u32) -> Node {
    Node {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtim_sec, stat.st_mtim_nsec),
        xattrs: stat.xattrs.iter().map(|(name, value)| (name.to_os_string(), value.to_vec())).collect(),
        kind,
        inode,
        links,
    }
}
