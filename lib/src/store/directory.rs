//! A directory of the machine, read as if it were the root file system of an image.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use composefs::INLINE_CONTENT_MAX_V0;
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::{Directory, Inode, LeafContent, LeafId, Stat};
use composefs::repository::Repository;
use composefs::tree::{FileSystem, RegularFile};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};

use super::names::MAX_DEPTH;
use super::tree::Tree;
use super::{Store, tree_image, with_repository};
use crate::sys::dir;

/// The extended attribute that images keep.
const CAPABILITIES: &str = "security.capability";

/// What [`Store::read_directory`] found.
#[derive(Debug, Clone)]
pub struct DirectoryTree {
    /// The directory as a root file system.
    pub tree: Tree,
    /// What was passed over because it is mounted there and is not the directory's own.
    pub mounts: Vec<PathBuf>,
}

impl Store {
    /// Reads the directory `root` as a root file system; its files are copied into the repository. What other file systems or files
    /// are mounted on is left out, or empty where it is a directory: so the root of a running build container can be read. The
    /// repository itself is left out, too, should it be in there.
    ///
    /// The tree is no basis for digests: a directory has other times than the layers that it came from.
    pub fn read_directory(&self, root: impl AsFd) -> Result<DirectoryTree> {
        with_repository!(self, repository => read(self, repository, root))
    }
}

fn read<H: FsVerityHashValue>(store: &Store, repository: &Repository<H>, root: impl AsFd) -> Result<DirectoryTree> {
    let found = status(&root, Path::new("")).context("reading the directory")?;
    let mut files = FileSystem::new(stat(&found));
    let own = key(&status(repository.repo_fd(), Path::new("")).context("looking at the repository")?);
    let mut scan = Scan { repository, files: &mut files, known: HashMap::new(), mount: found.stx_mnt_id, mounts: Vec::new(), own };
    let directory = dir::open(&root, ".").context("opening the directory")?;
    let read = scan.directory(&directory, &found, Path::new("/"), 0)?;
    let mounts = scan.mounts;
    files.root = read;
    Ok(DirectoryTree { tree: tree_image::from_filesystem(store, &files)?, mounts })
}

struct Scan<'a, H: FsVerityHashValue> {
    repository: &'a Repository<H>,
    files: &'a mut FileSystem<H>,
    /// Files by device and inode number, for hard links.
    known: HashMap<Key, LeafId>,
    /// The mount that the directory is on.
    mount: u64,
    mounts: Vec<PathBuf>,
    /// The repository that the files are copied into.
    own: Key,
}

impl<H: FsVerityHashValue> Scan<'_, H> {
    fn directory(&mut self, fd: &OwnedFd, found: &Statx, path: &Path, depth: usize) -> Result<Directory<RegularFile<H>>> {
        if depth > MAX_DEPTH {
            bail!("reading {}: it is below more than {MAX_DEPTH} directories", path.display());
        }
        let mut directory = Directory::new(stat(found));
        for name in dir::names(fd).with_context(|| format!("listing {}", path.display()))? {
            let path = path.join(&name);
            if let Some(inode) = self.entry(fd, Path::new(&name), &path, depth).with_context(|| format!("reading {}", path.display()))? {
                directory.insert(&name, inode);
            }
        }
        Ok(directory)
    }

    fn entry(&mut self, parent: &OwnedFd, name: &Path, path: &Path, depth: usize) -> Result<Option<Inode<RegularFile<H>>>> {
        let found = status(parent, name)?;
        let kind = FileType::from_raw_mode(found.stx_mode.into());
        let mounted = found.stx_mnt_id != self.mount;
        if mounted {
            self.mounts.push(path.to_owned());
        }
        Ok(match (kind, mounted) {
            (FileType::Directory, false) if key(&found) == self.own => None,
            (FileType::Directory, true) => Some(Inode::Directory(Box::new(Directory::new(stat(&found))))),
            (FileType::Directory, false) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                Some(Inode::Directory(Box::new(self.directory(&fd, &found, path, depth + 1)?)))
            }
            (_, true) => None,
            (_, false) => Some(Inode::leaf(self.leaf(parent, name, &found, kind)?)),
        })
    }

    fn leaf(&mut self, parent: &OwnedFd, name: &Path, found: &Statx, kind: FileType) -> Result<LeafId> {
        let key = key(found);
        if let Some(known) = self.known.get(&key) {
            return Ok(*known);
        }
        let mut metadata = stat(found);
        let device = rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor);
        let content = match kind {
            FileType::RegularFile => self.regular(parent, name, &mut metadata)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
                LeafContent::Symlink(std::ffi::OsStr::from_bytes(target.as_bytes()).into())
            }
            FileType::CharacterDevice => LeafContent::CharacterDevice(device),
            FileType::BlockDevice => LeafContent::BlockDevice(device),
            FileType::Fifo => LeafContent::Fifo,
            FileType::Socket => LeafContent::Socket,
            other => bail!("it is a {other:?} (expected something that an image can have)"),
        };
        let leaf = self.files.push_leaf(metadata, content);
        self.known.insert(key, leaf);
        Ok(leaf)
    }

    fn regular(&self, parent: &OwnedFd, name: &Path, metadata: &mut Stat) -> Result<LeafContent<RegularFile<H>>> {
        // Should a pipe have taken its place, opening does not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
        let mut value = vec![0; 256];
        if let Ok(length) = rustix::fs::fgetxattr(&file, CAPABILITIES, value.as_mut_slice()) {
            value.truncate(length);
            metadata.xattrs.insert(std::ffi::OsStr::new(CAPABILITIES).into(), value.into());
        }
        let size = file.metadata()?.len();
        if size <= INLINE_CONTENT_MAX_V0 as u64 {
            let mut bytes = Vec::new();
            file.by_ref().take(size).read_to_end(&mut bytes)?;
            return Ok(LeafContent::Regular(RegularFile::Inline(bytes.into())));
        }
        let id = self.repository.ensure_object_from_reader(file.take(size), size)?;
        Ok(LeafContent::Regular(RegularFile::External(id, size)))
    }
}

/// Numbers of device and inode.
type Key = (u32, u32, u64);

fn key(found: &Statx) -> Key {
    (found.stx_dev_major, found.stx_dev_minor, found.stx_ino)
}

/// What is at `name` in `parent`, without following it; `parent` itself where the name is empty.
fn status(parent: impl AsFd, name: &Path) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    rustix::fs::statx(parent, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

fn stat(found: &Statx) -> Stat {
    Stat {
        st_mode: u32::from(found.stx_mode) & 0o7777,
        st_uid: found.stx_uid,
        st_gid: found.stx_gid,
        st_mtim_sec: found.stx_mtime.tv_sec,
        st_mtim_nsec: found.stx_mtime.tv_nsec,
        ..Stat::uninitialized()
    }
}
