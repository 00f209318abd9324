//! Writes an image as an `oci-archive:` file: a tar of an image layout. It appears whole or not at all, and nothing is written twice: blobs
//! go into the tar as they come.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use tar::EntryType;

use super::blob::Expected;
use super::layer_tar::{END, header, padding};
use super::layout_writer::{LAYOUT_VERSION, with_entry};
use super::output::{Sink, check_writable, name, parent, pour};
use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::sys::dir;
use crate::sys::lock::Lock;

/// Permissions of the archive.
const MODE: u32 = 0o644;

/// Whether a file of this name can be written.
///
/// # Errors
///
/// [`FailureKind::Usage`] where there is something of that name: an archive is never changed, nor written over.
pub(super) fn check(path: &str) -> Result<()> {
    name(path)?;
    if std::fs::symlink_metadata(path).is_ok() {
        let message = format!("writing {path}: it exists");
        return Err(Failure::new(FailureKind::Usage, message).hint("remove it, or give another name").into());
    }
    check_writable(&parent(path)?, path)
}

/// An archive that is being written. Dropping it before [`publish`](Self::publish) removes it.
pub(super) struct ArchiveWriter {
    path: String,
    pending: dir::Pending,
    written: BTreeSet<String>,
    progress: Arc<dyn Progress>,
    /// On the temporary file, whose name another process that writes the same archive would use too.
    _lock: Lock,
}

impl ArchiveWriter {
    /// Starts writing, under a temporary name in the same directory.
    pub(super) fn create(path: &str, progress: Arc<dyn Progress>) -> Result<Self> {
        let (directory, name) = (parent(path)?, name(path)?);
        let busy = format!("another selkie process is writing {path}");
        let writing = || format!("writing {path}");
        // What an earlier attempt left is held until the new file has a lock of its own: starting to write takes the old one away.
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let left = rustix::fs::openat(&directory, format!("{}{name}", dir::TEMPORARY), flags, Mode::empty());
        let left = dir::optional(left).with_context(writing)?.map(|left| Lock::on(left, &busy)).transpose()?;
        let mut pending = dir::Pending::create(directory, name, MODE).with_context(writing)?;
        let lock = Lock::on(pending.file().try_clone().with_context(writing)?.into(), &busy)?;
        drop(left);
        let mut this = Self { path: path.to_owned(), pending, written: BTreeSet::new(), progress, _lock: lock };
        this.file("oci-layout", LAYOUT_VERSION)?;
        Ok(this)
    }

    /// Ends the archive with its index and gives it its name.
    pub(super) fn publish(mut self, entry: Value, tag: Option<&str>) -> Result<()> {
        let index = with_entry(&self.path, None, entry, tag)?;
        self.file("index.json", &index)?;
        self.write(&END)?;
        // Somebody else may have written it meanwhile.
        check(&self.path)?;
        self.pending.publish().with_context(|| format!("writing {}", self.path))?;
        self.progress.step("publish image");
        Ok(())
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        // No time: the same image is the same archive.
        self.write(&header(path, EntryType::Regular, 0o644, bytes.len() as u64, 0)?)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        self.write(&padding(size).collect::<Vec<u8>>())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.pending.file().write_all(bytes).with_context(|| format!("writing {}", self.path))
    }
}

impl Sink for ArchiveWriter {
    fn has(&mut self, expected: &Expected) -> Result<bool> {
        Ok(self.written.contains(&expected.digest))
    }

    fn put(&mut self, expected: &Expected, reader: &mut impl Read) -> Result<u64> {
        let size = expected.size.with_context(|| format!("writing blob {}: its size is not known", expected.digest))?;
        let path = format!("blobs/{}", expected.digest.replace(':', "/"));
        self.write(&header(&path, EntryType::Regular, 0o644, size, 0)?)?;
        let written = pour(reader, self.pending.file())?;
        self.pad(size)?;
        self.written.insert(expected.digest.clone());
        Ok(written)
    }
}
