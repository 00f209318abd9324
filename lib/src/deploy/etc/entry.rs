//! [`Entry`]: one thing in a directory tree, comparable; [`View`]: a tree of them; [`Tree`]: a view of a real directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// A file, directory, link or device with all that makes it what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is, and its contents.
    pub kind: Kind,
    /// Permission bits, set-id bits and the sticky bit.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Extended attributes, without those that an overlay keeps for itself.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory; its children are entries of their own.
    Directory,
    /// A regular file, by the SHA-256 of its contents.
    File([u8; 32]),
    /// A symbolic link with its target.
    Link(OsString),
    /// A device, FIFO or socket: file type and device number.
    Special(u32, u64),
}

impl Entry {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Equal in all but the time of change, which a mere rewriting of the same contents changes too.
    pub fn same(&self, other: &Entry) -> bool {
        let rest = |e: &Entry| (e.mode, e.uid, e.gid);
        self.kind == other.kind && rest(self) == rest(other) && self.xattrs == other.xattrs
    }
}

/// A tree that can be asked for entries by path relative to its root; the root itself is the empty path.
pub trait View {
    /// The entry at `path`. `None` where there is none, or where something on the way is no directory.
    fn entry(&self, path: &Path) -> Result<Option<Entry>>;

    /// The names in the directory at `path`, sorted; none where there is no directory.
    fn names(&self, path: &Path) -> Result<Vec<OsString>>;
}

/// A real directory as a view. Links are never followed.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a>(pub BorrowedFd<'a>);

impl Tree<'_> {
    /// Opens the directory at `path`; `None` where there is none.
    pub(super) fn open_directory(&self, path: &Path) -> rustix::io::Result<Option<OwnedFd>> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    /// Opens what is at `path` without following links; `None` where there is nothing of that kind.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<Option<OwnedFd>> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(self.0, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn read(&self, path: &Path) -> Result<Option<Entry>> {
        let (parent, name) = (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or(".".as_ref()));
        let Some(parent) = self.open(parent, OFlags::PATH | OFlags::DIRECTORY)? else { return Ok(None) };
        let Some(stat) = crate::sys::dir::optional(rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW))? else { return Ok(None) };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => {
                let opened = self.open(path, OFlags::RDONLY)?.context("opening it: it is gone")?;
                Kind::File(digest(File::from(opened))?)
            }
            FileType::Symlink => Kind::Link(OsString::from_vec(rustix::fs::readlinkat(&parent, name, Vec::new())?.into_bytes())),
            other => Kind::Special(other.as_raw_mode(), stat.st_rdev),
        };
        let at = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name);
        let (mode, mtime) = (stat.st_mode & 0o7777, (stat.st_mtime, stat.st_mtime_nsec.cast_signed()));
        Ok(Some(Entry { kind, mode, uid: stat.st_uid, gid: stat.st_gid, mtime, xattrs: xattrs(&at)? }))
    }
}

impl View for Tree<'_> {
    fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        self.read(path).with_context(|| format!("reading {:?}", path.display()))
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let listing = || format!("listing {:?}", path.display());
        let Some(directory) = self.open_directory(path).with_context(listing)? else { return Ok(Vec::new()) };
        crate::sys::dir::names(directory.as_fd()).with_context(listing)
    }
}

fn digest(mut file: File) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finalize().into())
}

/// Attributes with this prefix are how an overlay marks what is in its upper directory.
const OVERLAY_PREFIX: &str = "trusted.overlay.";

fn xattrs(path: &Path) -> rustix::io::Result<BTreeMap<OsString, Vec<u8>>> {
    let names = match read_grown(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Err(Errno::NOTSUP) => Vec::new(),
        other => other?,
    };
    let mut found = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|n| !n.is_empty() && !n.starts_with(OVERLAY_PREFIX.as_bytes())) {
        let name = OsString::from_vec(name.to_vec());
        let value = read_grown(|buffer| rustix::fs::lgetxattr(path, name.as_os_str(), buffer))?;
        found.insert(name, value);
    }
    Ok(found)
}

/// Reads what is at most 64 KiB, as the kernel limits attributes and lists of them.
fn read_grown(read: impl FnOnce(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65536];
    let size = read(&mut buffer)?;
    buffer.truncate(size);
    Ok(buffer)
}
