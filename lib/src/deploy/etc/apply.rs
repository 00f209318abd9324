//! Writes the contents of a fresh upper directory as an overlay reads it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};

use super::entry::{Entry, Kind, Tree};
use super::plan::Action;

/// Carries out `actions` in the empty directory `upper`, taking contents from `local`. Nothing is synced.
///
/// Every file is written whole: with its contents, never as mere metadata that leads to a lower layer.
pub fn apply(actions: &[Action], local: &Tree<'_>, upper: impl AsFd) -> Result<()> {
    let upper = Tree(upper.as_fd());
    for action in actions {
        match action {
            Action::Directory { path, opaque, .. } => make_directory(&upper, path, *opaque).with_context(|| doing("making", path))?,
            Action::Put { path, entry } => put(&upper, local, path, entry).with_context(|| doing("copying", path))?,
            Action::Whiteout { path } => whiteout(&upper, path).with_context(|| doing("hiding", path))?,
        }
    }
    // From the leaves up and last of all: what is made in a directory changes its time, and its mode may forbid it.
    for action in actions.iter().rev() {
        if let Action::Directory { path, entry, .. } = action {
            finish_directory(&upper, path, entry).with_context(|| doing("setting the metadata of", path))?;
        }
    }
    Ok(())
}

fn doing(what: &str, path: &Path) -> String {
    format!("carrying /etc: {what} {:?}", path.display())
}

fn make_directory(upper: &Tree<'_>, path: &Path, opaque: bool) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let place = Place::of(upper, path)?;
    rustix::fs::mkdirat(&place.parent, place.name, Mode::RWXU)?;
    if opaque {
        rustix::fs::lsetxattr(place.path(), "trusted.overlay.opaque", b"y", XattrFlags::empty())?;
    }
    Ok(())
}

fn finish_directory(upper: &Tree<'_>, path: &Path, entry: &Entry) -> Result<()> {
    if path.as_os_str().is_empty() {
        return set_metadata(Place { parent: upper.0.try_clone_to_owned()?, name: Path::new(".") }, entry);
    }
    set_metadata(Place::of(upper, path)?, entry)
}

fn put(upper: &Tree<'_>, local: &Tree<'_>, path: &Path, entry: &Entry) -> Result<()> {
    let place = Place::of(upper, path)?;
    match &entry.kind {
        Kind::Directory => rustix::fs::mkdirat(&place.parent, place.name, Mode::RWXU)?,
        Kind::File(_) => {
            let from = local.open(path, OFlags::RDONLY)?.context("opening it: it is gone")?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = rustix::fs::openat(&place.parent, place.name, flags, Mode::RUSR | Mode::WUSR)?;
            std::io::copy(&mut File::from(from), &mut File::from(to))?;
        }
        Kind::Link(target) => rustix::fs::symlinkat(target, &place.parent, place.name)?,
        Kind::Special(kind, device) => {
            let kind = FileType::from_raw_mode(*kind);
            rustix::fs::mknodat(&place.parent, place.name, kind, Mode::RUSR | Mode::WUSR, *device)?;
        }
    }
    set_metadata(place, entry)
}

fn whiteout(upper: &Tree<'_>, path: &Path) -> Result<()> {
    let place = Place::of(upper, path)?;
    let device = rustix::fs::makedev(0, 0);
    Ok(rustix::fs::mknodat(&place.parent, place.name, FileType::CharacterDevice, Mode::empty(), device)?)
}

/// Owner first: a change of owner takes set-id bits and capabilities away.
fn set_metadata(place: Place<'_>, entry: &Entry) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(&place.parent, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !matches!(entry.kind, Kind::Link(_)) {
        rustix::fs::chmodat(&place.parent, place.name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    for (name, value) in &entry.xattrs {
        rustix::fs::lsetxattr(place.path(), name.as_os_str(), value, XattrFlags::empty())
            .with_context(|| format!("setting attribute {}", name.display()))?;
    }
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(&place.parent, place.name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A name in an open directory.
struct Place<'a> {
    parent: OwnedFd,
    name: &'a Path,
}

impl<'a> Place<'a> {
    fn of(tree: &Tree<'_>, path: &'a Path) -> Result<Self> {
        let parent = path.parent().context("finding its parent: it has none")?;
        let parent = tree.open_directory(parent)?.context("opening its parent: no such directory")?;
        Ok(Self { parent, name: Path::new(path.file_name().context("finding its name: it has none")?) })
    }

    /// For calls that take no directory handle.
    fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.parent.as_fd().as_raw_fd().to_string()).join(self.name)
    }
}

/// Gives a directory the metadata of another: a fresh upper directory shows that of the image's /etc.
pub(super) fn copy_root_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    use super::entry::View;
    let entry = Tree(from).entry(Path::new(""))?.context("reading a directory: it is gone")?;
    finish_directory(&Tree(to), Path::new(""), &entry)
}
