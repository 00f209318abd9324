//! [`Touched`]: which names an overlay's upper directory says something about. It tells where to look, never what is there:
//! files in an upper may be metadata without contents, and directories may point elsewhere.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::sys::dir;

/// A name that an upper directory has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// The directory stands for itself: it hides the one below it (opaque), or came from elsewhere by a rename (redirect).
    pub own: bool,
    /// What below it was touched.
    pub below: Below,
}

/// What was touched below a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Below {
    /// These names. None for what is no directory.
    Names(BTreeMap<OsString, Touched>),
    /// Anything: a renamed directory, whose contents are partly in the lower layer under another name.
    Anything,
}

impl Default for Below {
    fn default() -> Self {
        Self::Names(BTreeMap::new())
    }
}

/// Walks an upper directory.
pub fn walk(upper: impl AsFd) -> Result<Touched> {
    Ok(Touched { own: false, below: Below::Names(names(upper)?) })
}

fn names(directory: impl AsFd) -> Result<BTreeMap<OsString, Touched>> {
    let mut touched = BTreeMap::new();
    for name in dir::names(directory.as_fd()).context("listing an upper directory")? {
        let child = child(directory.as_fd(), &name).with_context(|| format!("walking {:?}", name.display()))?;
        touched.insert(name, child);
    }
    Ok(touched)
}

fn child(parent: impl AsFd, name: &OsStr) -> Result<Touched> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Touched::default()),
        Err(e) => return Err(e.into()),
    };
    if attribute(&directory, "redirect")?.is_some() {
        return Ok(Touched { own: true, below: Below::Anything });
    }
    let own = attribute(&directory, "opaque")?.is_some_and(|value| value == b"y");
    Ok(Touched { own, below: Below::Names(names(&directory)?) })
}

fn attribute(directory: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; 65536];
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    match rustix::fs::getxattr(&path, format!("trusted.overlay.{name}"), &mut value) {
        Ok(size) => {
            value.truncate(size);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading trusted.overlay.{name}")),
    }
}
