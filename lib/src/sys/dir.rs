//! Durable writes below a directory handle.
//!
//! [`write_durably`] is the one way in which selkie makes a file appear: temporary name in the same directory, write, fsync, rename,
//! fsync. A power cut leaves the old file or the new one, and at most a temporary that [`sweep`] removes.
//!
//! FAT, the file system of an ESP, has no journal, and each step here is what it is because of how Linux' vfat writes (fs/fat in its sources):
//!
//! - A file's name, size and first cluster are in one sector, which is written whole or not; the chain of its clusters is elsewhere, in the
//!   allocation table. fsync of a file or directory writes its own sectors, then the table, and flushes the disk's cache once, at the end:
//!   until then any part of that may be missing. syncfs does not flush.
//! - fsync of the *directory* does not write the size of the files in it. So the fsync of a directory before that of a new file makes the
//!   chain durable before anything points to it.
//! - A rename to a new name makes an entry of size 0 without clusters, and removes the old entry; size and clusters come with the fsync of
//!   the *file*. The directory is synced first: the other way round, both names would lead to the same clusters after a power cut, and
//!   whoever then removed the temporary would free those of the file. So a new file may be there and empty after a power cut, before
//!   [`Pending::publish`] has returned: readers take that for absent.
//! - The clusters of a file are freed when its last handle is closed. A removed or replaced file is held until its name is gone from the
//!   disk; else its name could lead to clusters that are free, and soon those of another file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatVfs};
use rustix::io::Errno;

use crate::error::{Failure, FailureKind};

/// Names of temporaries begin so; nothing else of ours does.
pub const TEMPORARY: &str = ".selkie-tmp-";

/// Opens a directory for reading and for operations relative to it.
pub fn open(parent: impl AsFd, path: impl AsRef<Path>) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(parent, path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory by its path from the working directory.
pub fn open_path(path: impl AsRef<Path>) -> rustix::io::Result<OwnedFd> {
    open(rustix::fs::CWD, path)
}

/// Why a directory that somebody named cannot be used, from the error of opening or making it. What the name is to blame for is [`FailureKind::Usage`], and
/// [`FailureKind::NotFound`] where there is none.
pub fn unusable(doing: String, error: Errno) -> anyhow::Error {
    let (kind, found) = match error {
        Errno::NOENT => (FailureKind::NotFound, "there is no such directory"),
        Errno::NOTDIR => (FailureKind::Usage, "it is no directory"),
        Errno::LOOP => (FailureKind::Usage, "its links lead nowhere (expected a directory)"),
        Errno::NAMETOOLONG => (FailureKind::Usage, "the name is too long"),
        other => return anyhow::Error::new(other).context(doing),
    };
    Failure::new(kind, format!("{doing}: {found}")).hint("name another directory").into()
}

/// Opens a directory; `None` where there is none.
pub fn open_optional(parent: impl AsFd, path: impl AsRef<Path>) -> rustix::io::Result<Option<OwnedFd>> {
    optional(open(parent, path))
}

/// Makes a directory and all that lead to it; those that exist stay as they are. Opens it.
pub fn ensure(parent: impl AsFd, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
    let path = path.as_ref();
    let mut done = std::path::PathBuf::new();
    for part in path.components() {
        done.push(part);
        match rustix::fs::mkdirat(parent.as_fd(), &done, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).with_context(|| format!("making directory {}", done.display())),
        }
    }
    open(parent.as_fd(), path).with_context(|| format!("opening directory {}", path.display()))
}

/// Opens a file for reading; `None` where there is none.
pub fn open_file_optional(parent: impl AsFd, path: impl AsRef<Path>) -> rustix::io::Result<Option<OwnedFd>> {
    optional(rustix::fs::openat(parent, path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))
}

/// Opens a file to append to it, and makes it with `mode` where there is none. For what may be lost: nothing is synced.
pub fn append(parent: impl AsFd, name: &str, mode: u32) -> rustix::io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode))?.into())
}

/// Opens a file that says what it says by being there, and makes it with `mode` where there is none; whether it was made. Nothing is synced.
pub fn open_or_make(parent: impl AsFd, name: &str, mode: u32) -> rustix::io::Result<(File, bool)> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    loop {
        match rustix::fs::openat(parent.as_fd(), name, flags | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode)) {
            Ok(made) => return Ok((made.into(), true)),
            Err(Errno::EXIST) => {}
            Err(other) => return Err(other),
        }
        // Somebody may remove it meanwhile.
        if let Some(found) = optional(rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty()))? {
            return Ok((found.into(), false));
        }
    }
}

/// Bytes that an ordinary write can still use on the file system of `dir`. One that does not know its size, as a tmpfs without a bound, has no end.
pub fn free_bytes(dir: impl AsFd) -> rustix::io::Result<u64> {
    bytes_of(dir, |stat| stat.f_bavail)
}

/// Bytes that a write by root can still use there, who has what is reserved, too.
pub fn free_bytes_of_root(dir: impl AsFd) -> rustix::io::Result<u64> {
    bytes_of(dir, |stat| stat.f_bfree)
}

fn bytes_of(dir: impl AsFd, blocks: impl Fn(&StatVfs) -> u64) -> rustix::io::Result<u64> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok(if stat.f_blocks == 0 { u64::MAX } else { blocks(&stat).saturating_mul(stat.f_frsize) })
}

/// The size of a file in bytes; 0 where there is none.
pub fn file_size(parent: impl AsFd, path: impl AsRef<Path>) -> Result<u64> {
    let path = path.as_ref();
    let stat = optional(rustix::fs::statat(parent, path, AtFlags::empty())).with_context(|| format!("looking at {}", path.display()))?;
    Ok(stat.map_or(0, |stat| stat.st_size as u64))
}

/// Reads a whole file; `None` where there is none.
pub fn read_optional(parent: impl AsFd, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
    let path = path.as_ref();
    let fd = open_file_optional(parent, path).with_context(|| format!("opening {}", path.display()))?;
    let Some(fd) = fd else { return Ok(None) };
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).with_context(|| format!("reading {}", path.display()))?;
    Ok(Some(bytes))
}

/// Writes `bytes` to `name` in the directory `parent` so that it is there whole, or not at all. See [`Pending`].
pub fn write_durably(parent: impl AsFd, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut pending = Pending::create(parent, name, mode)?;
    pending.file().write_all(bytes).with_context(|| format!("writing {name}"))?;
    pending.publish()
}

/// A file that is being written under a temporary name. Dropping it removes it; [`Pending::publish`] makes it live.
#[derive(Debug)]
pub struct Pending {
    parent: OwnedFd,
    temporary: String,
    name: String,
    file: File,
    live: bool,
}

impl Pending {
    /// Starts writing `name` in `parent`. A temporary of an earlier attempt at the same name goes first.
    pub fn create(parent: impl AsFd, name: &str, mode: u32) -> Result<Self> {
        let parent = parent.as_fd().try_clone_to_owned().context("duplicating a directory handle")?;
        let temporary = format!("{TEMPORARY}{name}");
        remove_file(&parent, &temporary)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file =
            rustix::fs::openat(&parent, &temporary, flags, Mode::from_raw_mode(mode)).with_context(|| format!("creating {temporary}"))?;
        Ok(Self { parent, temporary, name: name.to_owned(), file: File::from(file), live: false })
    }

    /// Where to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes durable what was written, still under the temporary name.
    pub fn sync(&self) -> Result<()> {
        sync(&self.parent).with_context(|| format!("syncing the directory of {}", self.temporary))?;
        self.file.sync_all().with_context(|| format!("syncing {}", self.temporary))
    }

    /// Gives it its name: when this returns, a power cut does not undo it, and has no part in what is written or removed after it.
    pub fn publish(mut self) -> Result<()> {
        self.sync()?;
        let replaced = hold(&self.parent, &self.name)?;
        rustix::fs::renameat(&self.parent, &self.temporary, &self.parent, &self.name)
            .with_context(|| format!("renaming {} to {}", self.temporary, self.name))?;
        self.live = true;
        sync(&self.parent).with_context(|| format!("syncing the directory of {}", self.name))?;
        self.file.sync_all().with_context(|| format!("syncing {}", self.name))?;
        drop(replaced);
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.live {
            let _ = remove_file(&self.parent, &self.temporary);
        }
    }
}

/// Keeps what is at `name` from being freed; `None` where there is nothing.
fn hold(parent: impl AsFd, name: &str) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    optional(rustix::fs::openat(parent, name, flags, Mode::empty())).with_context(|| format!("opening {name}"))
}

/// Makes the names in a directory durable.
pub fn sync(dir: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::fsync(dir)
}

/// Makes everything on the file system of `dir` durable.
pub fn sync_filesystem(dir: impl AsFd) -> rustix::io::Result<()> {
    rustix::fs::syncfs(dir)
}

/// Removes a file; whether there was one. When this returns, a power cut does not bring it back, and its room is free.
pub fn remove_file(parent: impl AsFd, name: &str) -> Result<bool> {
    let Some(held) = hold(parent.as_fd(), name)? else { return Ok(false) };
    rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::empty()).with_context(|| format!("removing {name}"))?;
    let syncing = || format!("syncing the directory of {name}");
    sync(parent.as_fd()).with_context(syncing)?;
    drop(held);
    sync(parent).with_context(syncing)?;
    Ok(true)
}

/// The names in a directory, sorted, without `.` and `..`.
pub fn names(dir: impl AsFd) -> rustix::io::Result<Vec<std::ffi::OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_owned();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(&name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Removes the temporaries that a crashed write left in `dir`; how many there were.
pub fn sweep(dir: impl AsFd) -> Result<usize> {
    let mut swept = 0;
    for name in names(dir.as_fd()).context("listing a directory")? {
        if let Some(name) = name.to_str().filter(|n| n.starts_with(TEMPORARY)) {
            remove_file(dir.as_fd(), name)?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// `None` for "no such file".
pub fn optional<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_durable_write_is_whole_or_not_there() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open_path(temp.path()).unwrap();
        write_durably(&dir, "a", 0o644, b"one").unwrap();
        write_durably(&dir, "a", 0o644, b"two").unwrap();
        let mut dropped = Pending::create(&dir, "a", 0o644).unwrap();
        dropped.file().write_all(b"three").unwrap();
        drop(dropped);
        assert_eq!(read_optional(&dir, "a").unwrap().as_deref(), Some(b"two".as_slice()));
        assert_eq!(names(&dir).unwrap(), ["a"]);
        assert_eq!(read_optional(&dir, "b").unwrap(), None);
    }

    #[test]
    fn a_temporary_that_was_left_is_no_part_of_the_next_attempt() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open_path(temp.path()).unwrap();
        std::fs::write(temp.path().join("precious"), "precious").unwrap();
        std::fs::hard_link(temp.path().join("precious"), temp.path().join(".selkie-tmp-a")).unwrap();
        std::os::unix::fs::symlink("precious", temp.path().join(".selkie-tmp-b")).unwrap();
        for name in ["a", "b"] {
            write_durably(&dir, name, 0o644, b"x").unwrap();
            assert_eq!(read_optional(&dir, name).unwrap().as_deref(), Some(b"x".as_slice()));
        }
        assert_eq!(read_optional(&dir, "precious").unwrap().as_deref(), Some(b"precious".as_slice()));
        assert_eq!(names(&dir).unwrap(), ["a", "b", "precious"]);
    }

    #[test]
    fn a_file_is_removed_once_and_a_link_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open_path(temp.path()).unwrap();
        write_durably(&dir, "a", 0o644, b"x").unwrap();
        std::os::unix::fs::symlink("a", temp.path().join("link")).unwrap();
        assert_eq!((remove_file(&dir, "link").unwrap(), names(&dir).unwrap()), (true, vec!["a".into()]));
        assert_eq!([remove_file(&dir, "a").unwrap(), remove_file(&dir, "a").unwrap()], [true, false]);
    }

    #[test]
    fn sweep_takes_only_our_temporaries() {
        let temp = tempfile::tempdir().unwrap();
        let dir = open_path(temp.path()).unwrap();
        std::fs::write(temp.path().join(".selkie-tmp-x"), "left").unwrap();
        std::fs::write(temp.path().join(".other"), "kept").unwrap();
        assert_eq!(sweep(&dir).unwrap(), 1);
        assert_eq!(names(&dir).unwrap(), [".other"]);
    }
}
