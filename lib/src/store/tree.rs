//! [`Tree`]: the root file system in an EROFS image, to look at without mounting it.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use composefs::fsverity::{FsVerityHashValue, compute_verity};
use composefs::repository::Repository;

use super::content::{self, ContentDigest};
use super::merkle::{PIECE, measure};
use super::names::parts;
use super::objects::ObjectId;
use super::{Store, corrupt, damaged, hash, with_repository};

/// The kernel follows this many symbolic links in one path.
const MAX_LINKS: usize = 40;

/// A root file system, read from its EROFS image.
#[derive(Debug, Clone)]
pub struct Tree {
    pub(super) store: Store,
    pub(super) root: Dir,
    /// All that is no directory, by `inode - 1`.
    pub(super) leaves: Vec<Node>,
}

/// A file, directory, or other thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes, by name.
    pub xattrs: Vec<(OsString, Vec<u8>)>,
    /// What it is.
    pub kind: NodeKind,
    /// Equal for all names of one file (hard links), and different for all others in this tree. 0 for directories.
    pub inode: u64,
    /// How many names it has. 1 for directories.
    pub links: u32,
}

/// What a [`Node`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(File),
    /// A symbolic link with its target.
    Symlink(OsString),
    /// A character device with its number, as in `st_rdev`.
    CharDevice(u64),
    /// A block device with its number, as in `st_rdev`.
    BlockDevice(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes are.
    pub content: Content,
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In the image: files of up to 64 bytes.
    Inline(Vec<u8>),
    /// In an object of the repository.
    Object(ObjectId),
}

/// The bytes of an open file.
#[derive(Debug)]
pub enum Bytes {
    /// From the image.
    Inline(std::io::Cursor<Vec<u8>>),
    /// From an object.
    Object(std::fs::File),
}

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Inline(bytes) => bytes.read(buf),
            Self::Object(file) => file.read(buf),
        }
    }
}

impl Seek for Bytes {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        match self {
            Self::Inline(bytes) => bytes.seek(to),
            Self::Object(file) => file.seek(to),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Dir {
    pub(super) node: Node,
    pub(super) entries: BTreeMap<OsString, Entry>,
}

#[derive(Debug, Clone)]
pub(super) enum Entry {
    Dir(Box<Dir>),
    Leaf(usize),
}

impl Tree {
    /// What is at `path`, following symbolic links as a process would whose root this tree is. `None` where nothing is.
    pub fn get(&self, path: impl AsRef<OsStr>) -> Result<Option<Node>> {
        let path = path.as_ref();
        Ok(self.find(path, true).with_context(|| format!("looking for {}", path.display()))?.map(|found| self.node(&found).clone()))
    }

    /// Like [`Tree::get`], except that a symbolic link at the very end is not followed.
    pub fn get_link(&self, path: impl AsRef<OsStr>) -> Result<Option<Node>> {
        let path = path.as_ref();
        Ok(self.find(path, false).with_context(|| format!("looking for {}", path.display()))?.map(|found| self.node(&found).clone()))
    }

    /// The regular file at `path`, following symbolic links; `None` where there is nothing, or something else.
    pub fn file(&self, path: impl AsRef<OsStr>) -> Result<Option<File>> {
        Ok(self.get(path)?.and_then(|node| if let NodeKind::File(file) = node.kind { Some(file) } else { None }))
    }

    /// What is in the directory at `path`, by name; nothing where it is no directory. Links at `path` are followed, those in
    /// the directory are not.
    pub fn children(&self, path: impl AsRef<OsStr>) -> Result<Vec<(OsString, Node)>> {
        let path = path.as_ref();
        let found = self.find(path, true).with_context(|| format!("listing {}", path.display()))?;
        let Some(Found::Dir(dir)) = found else { return Ok(Vec::new()) };
        Ok(dir.entries.iter().map(|(name, entry)| (name.clone(), self.node(&Found::of(entry)).clone())).collect())
    }

    /// Calls `visit` with everything at and below `path`, a directory before what is in it, names in byte order. Paths
    /// begin with `path` as it was given. Links below `path` are not followed.
    pub fn walk(&self, path: impl AsRef<OsStr>, mut visit: impl FnMut(&Path, &Node) -> Result<()>) -> Result<()> {
        let path = path.as_ref();
        match self.find(path, true).with_context(|| format!("listing {}", path.display()))? {
            Some(found) => self.walk_from(&mut PathBuf::from(path), &found, &mut visit),
            None => Ok(()),
        }
    }

    /// The bytes of a file. They are compared with the object's digest, also where the kernel does not do that.
    pub fn read(&self, file: &File) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(file)?.read_to_end(&mut bytes).context("reading a file of the image").map_err(damaged)?;
        if let Content::Object(object) = &file.content {
            with_repository!(self.store, repository => verify(repository, object, &bytes))?;
        }
        Ok(bytes)
    }

    /// The SHA-256 of a file, which is read piece by piece. Its bytes are compared with the object's digest as by [`Tree::read`].
    pub fn digest(&self, file: &File) -> Result<ContentDigest> {
        let mut piece = vec![0; PIECE];
        if let Content::Object(object) = &file.content {
            with_repository!(self.store, repository => measured(repository, object, self.open(file)?, &mut piece))?;
        }
        Ok(content::digest(self.open(file)?, &mut piece).context("reading a file of the image").map_err(damaged)?.0)
    }

    /// Opens a file. In an unsealed repository nothing checks its bytes: use [`Tree::read`] for what gets executed.
    pub fn open(&self, file: &File) -> Result<Bytes> {
        match &file.content {
            Content::Inline(bytes) => Ok(Bytes::Inline(std::io::Cursor::new(bytes.clone()))),
            Content::Object(object) => {
                let fd = with_repository!(self.store, repository => repository.open_object(&hash(object.hex())?));
                Ok(Bytes::Object(fd.with_context(|| format!("opening object {object}")).map_err(damaged)?.into()))
            }
        }
    }

    fn node<'t>(&'t self, found: &Found<'t>) -> &'t Node {
        match found {
            Found::Dir(dir) => &dir.node,
            Found::Leaf(number) => &self.leaves[*number],
        }
    }

    fn walk_from(&self, path: &mut PathBuf, found: &Found<'_>, visit: &mut impl FnMut(&Path, &Node) -> Result<()>) -> Result<()> {
        visit(path, self.node(found))?;
        let Found::Dir(dir) = found else { return Ok(()) };
        for (name, entry) in &dir.entries {
            path.push(name);
            self.walk_from(path, &Found::of(entry), visit)?;
            path.pop();
        }
        Ok(())
    }

    fn find(&self, path: &OsStr, follow_last: bool) -> Result<Option<Found<'_>>> {
        let mut todo: VecDeque<OsString> = parts(path).map(OsStr::to_owned).collect();
        let mut dirs = vec![&self.root];
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                dirs.truncate((dirs.len() - 1).max(1));
                continue;
            }
            match dirs.last().and_then(|dir| dir.entries.get(&part)) {
                None => return Ok(None),
                Some(Entry::Dir(dir)) => dirs.push(dir),
                Some(Entry::Leaf(number)) => match &self.leaves[*number].kind {
                    NodeKind::Symlink(target) if follow_last || !todo.is_empty() => {
                        links += 1;
                        if links > MAX_LINKS {
                            bail!("symbolic links lead in circles");
                        }
                        if target.as_bytes().starts_with(b"/") {
                            dirs.truncate(1);
                        }
                        parts(target).rev().for_each(|part| todo.push_front(part.to_owned()));
                    }
                    _ if todo.is_empty() => return Ok(Some(Found::Leaf(*number))),
                    _ => return Ok(None),
                },
            }
        }
        Ok(dirs.last().map(|dir| Found::Dir(dir)))
    }
}

enum Found<'t> {
    Dir(&'t Dir),
    Leaf(usize),
}

impl<'t> Found<'t> {
    fn of(entry: &'t Entry) -> Self {
        match entry {
            Entry::Dir(dir) => Self::Dir(dir),
            Entry::Leaf(number) => Self::Leaf(*number),
        }
    }
}

fn verify<H: FsVerityHashValue>(_: &Repository<H>, object: &ObjectId, bytes: &[u8]) -> Result<()> {
    named(object, &compute_verity::<H>(bytes))
}

/// The same for bytes that are read piece by piece.
fn measured<H: FsVerityHashValue>(_: &Repository<H>, object: &ObjectId, from: Bytes, piece: &mut [u8]) -> Result<()> {
    named(object, &measure::<H>(from, piece).with_context(|| format!("reading object {object}")).map_err(damaged)?.0)
}

/// Refuses an object of another digest than its name.
fn named<H: FsVerityHashValue>(object: &ObjectId, found: &H) -> Result<()> {
    if found.to_hex() == object.hex() {
        return Ok(());
    }
    let message = format!("object {object} has the digest {} (expected its name)", found.to_hex());
    Err(corrupt(message).into())
}
