//! The content journal: files that a pull has taken in and the content index does not know yet, so that a pull that is cut goes on from what it has.
//!
//! Records as in the index, one behind the other, appended in batches by those who import, without a sync. What is left of it after a cut is read together with the
//! index; it is folded into that, and removed, when the layers of a pull are complete. A record that is torn or leads to no object counts as absent.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;

use super::table::{MAX, Record, record_size, records_of};
use crate::image_id::Algorithm;
use crate::sys::dir;

/// The name of the journal in the repository.
pub(super) const CONTENT_JOURNAL: &str = "content-journal";

/// Appends to the journal.
pub(in crate::store) struct Journal {
    file: File,
    waiting: Vec<u8>,
}

impl Journal {
    /// Opens the journal of the repository at `repository`, and makes it where there is none. What a cut has torn off a record is taken away.
    pub(in crate::store) fn open<H: FsVerityHashValue>(repository: BorrowedFd<'_>) -> Result<Self> {
        let file = dir::append(repository, CONTENT_JOURNAL, 0o644).context("opening the content journal")?;
        let length = file.metadata().context("opening the content journal")?.len();
        // Only cut after cut makes it so large, with much that stands in it many times.
        let kept = if length >= MAX { 0 } else { length - length % record_size(size_of::<H>()) as u64 };
        if kept < length {
            file.set_len(kept).context("shortening the content journal")?;
        }
        Ok(Self { file, waiting: Vec::new() })
    }

    /// Takes a record, for the next [`flush`](Self::flush).
    pub(in crate::store) fn push(&mut self, record: &Record) {
        record.append_to(&mut self.waiting);
    }

    /// Writes what it has taken.
    pub(in crate::store) fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        // In one piece: others may append, too.
        let written = self.file.write_all(&self.waiting).context("writing the content journal");
        // Not once more behind what may be half of it.
        self.waiting.clear();
        written
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // What is not written costs bytes in the next pull, and nothing else.
        let _ = self.flush();
    }
}

/// What is in the journal. Nothing where there is none; what is larger than an index can be is not read.
pub(super) fn read(repository: BorrowedFd<'_>, algorithm: Algorithm) -> Result<Vec<Record>> {
    let Some(file) = dir::open_file_optional(repository, CONTENT_JOURNAL).context("opening the content journal")? else {
        return Ok(Vec::new());
    };
    let mut bytes = Vec::new();
    File::from(file).take(MAX).read_to_end(&mut bytes).context("reading the content journal")?;
    Ok(records_of(&bytes, algorithm).collect())
}

/// Removes the journal, once the index has it all.
pub(super) fn remove(repository: BorrowedFd<'_>) -> Result<()> {
    dir::remove_file(repository, CONTENT_JOURNAL).context("removing the content journal").map(drop)
}
