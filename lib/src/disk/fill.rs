//! The contents of files: read once, sealed on the way, and written to where the file system expects them. Several at a time.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::blocks::Extent;
use super::size::FileSize;
use super::tree::{Content, Seal};
use super::verity::{BLOCK, Sealer};
use crate::error::{AGAIN, Failure, FailureKind};
use crate::progress::{Event, Progress, Unit};

/// What is read at a time. A multiple of the block.
const CHUNK: usize = 1 << 20;
/// More readers than this do not make a disk faster.
const MOST_WORKERS: usize = 8;

/// One file to write.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// Its path in the tree, for messages.
    pub(super) path: &'a Path,
    pub(super) content: &'a Content,
    pub(super) seal: Option<&'a Seal>,
    pub(super) size: FileSize,
    pub(super) extents: &'a [Extent],
}

/// Writes all files into the file system that begins at byte `offset` of `image`.
///
/// # Errors
///
/// The first one of any file ends all work. [`FailureKind::Corrupt`] when a digest or a length is not the expected one.
pub(super) fn fill(image: &File, offset: u64, jobs: &[Job<'_>], progress: &dyn Progress) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    let total = jobs.iter().map(|job| job.size.bytes).sum();
    let shared = Shared { image, offset, jobs, next: AtomicUsize::new(0), done: AtomicU64::new(0), total, progress };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| shared.work())).collect();
        let ended = workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // All are joined before the first error is told.
        ended.collect::<Vec<_>>().into_iter().collect()
    })
}

struct Shared<'a> {
    image: &'a File,
    offset: u64,
    jobs: &'a [Job<'a>],
    next: AtomicUsize,
    done: AtomicU64,
    total: u64,
    progress: &'a dyn Progress,
}

impl Shared<'_> {
    fn work(&self) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        while let Some(job) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = self.file(job, &mut buffer) {
                self.next.store(self.jobs.len(), Ordering::Relaxed);
                return Err(error).with_context(|| format!("writing {} to the root file system", job.path.display()));
            }
        }
        Ok(())
    }

    fn file(&self, job: &Job<'_>, buffer: &mut [u8]) -> Result<()> {
        let mut reader = job.content.open()?;
        let mut sealer = job.seal.map(|seal| Sealer::new(seal.algorithm));
        let mut position = 0;
        while position < job.size.bytes {
            let count = read_full(&mut reader, buffer).context("reading the content")?;
            let chunk = &buffer[..count];
            if count == 0 || position + count as u64 > job.size.bytes {
                return Err(changed(job.size.bytes, position + count as u64));
            }
            if let Some(sealer) = &mut sealer {
                sealer.update(chunk);
            }
            self.put(job, position, chunk)?;
            position += count as u64;
            self.advance(count as u64);
        }
        if read_full(&mut reader, &mut buffer[..1]).context("reading the content")? > 0 {
            return Err(changed(job.size.bytes, position + 1));
        }
        match (sealer, job.seal) {
            (Some(sealer), Some(seal)) => self.seal(job, sealer, seal),
            _ => Ok(()),
        }
    }

    fn seal(&self, job: &Job<'_>, sealer: Sealer, seal: &Seal) -> Result<()> {
        let sealed = sealer.finish();
        if let Some(expected) = seal.expected.as_ref().filter(|expected| **expected != sealed.digest) {
            let message = format!("sealing {}: fs-verity digest {} (expected {expected})", job.path.display(), sealed.digest);
            return Err(Failure::new(FailureKind::Corrupt, message).hint(AGAIN).into());
        }
        self.put(job, job.size.trailer_at() * BLOCK as u64, &sealed.trailer())
    }

    /// Writes `bytes` at byte `position` of the file, extent by extent. What is all zeros stays a hole of the image.
    fn put(&self, job: &Job<'_>, position: u64, bytes: &[u8]) -> Result<()> {
        let block = BLOCK as u64;
        for extent in job.extents {
            let (start, end) = (extent.logical * block, (extent.logical + extent.length) * block);
            let (from, to) = (position.max(start), (position + bytes.len() as u64).min(end));
            if from < to {
                let piece = &bytes[(from - position) as usize..(to - position) as usize];
                let at = self.offset + extent.physical * block + (from - start);
                write_sparsely(self.image, piece, at).context("writing the content")?;
            }
        }
        Ok(())
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.progress.event(Event::Advance { item: "root file system".to_owned(), done, total: self.total, unit: Unit::Bytes });
    }
}

fn changed(expected: u64, found: u64) -> anyhow::Error {
    Failure::new(FailureKind::Corrupt, format!("reading a content: it ends at another byte than {expected} (found {found})"))
        .hint("it was changed while the image was being written; run the same command again")
        .into()
}

/// Fills the buffer unless the reader ends before.
fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match reader.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// Writes all of `from` that is not a hole to `to`, from byte `offset` of it on.
pub(super) fn copy_sparsely(from: &File, to: &File, offset: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut position = 0;
    loop {
        position = match rustix::fs::seek(from, SeekFrom::Data(position)) {
            Ok(data) => data,
            // There is only a hole left.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error).context("looking for data"),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(position)).context("looking for a hole")?;
        while position < end {
            let count = buffer.len().min(usize::try_from(end - position).unwrap_or(usize::MAX));
            from.read_exact_at(&mut buffer[..count], position).context("reading")?;
            write_sparsely(to, &buffer[..count], offset + position).context("writing")?;
            position += count as u64;
        }
    }
}

fn write_sparsely(image: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    const HOLE: usize = 1 << 16;
    let zeros = [0; HOLE];
    let is_hole = |piece: &[u8]| piece == &zeros[..piece.len()];
    let mut from = 0;
    for (i, piece) in bytes.chunks(HOLE).enumerate() {
        if is_hole(piece) {
            let end = i * HOLE;
            image.write_all_at(&bytes[from..end], at + from as u64)?;
            from = end + piece.len();
        }
    }
    image.write_all_at(&bytes[from..], at + from as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_id::Algorithm;
    use crate::progress::{Recorder, Silent};

    fn job<'a>(content: &'a Content, seal: Option<&'a Seal>, extents: &'a [Extent], bytes: u64) -> Job<'a> {
        Job { path: Path::new("f"), content, seal, size: FileSize { bytes, trailer: u64::from(seal.is_some()) }, extents }
    }

    #[test]
    fn contents_go_to_their_extents() {
        let image = tempfile::tempfile().unwrap();
        let content = Content::Bytes([vec![1; BLOCK], vec![2; BLOCK], vec![3; 10]].concat());
        let extent = |logical, physical, length| Extent { logical, physical, length };
        let extents = [extent(0, 5, 1), extent(1, 2, 2)];
        let recorder = Recorder::default();
        fill(&image, 100, &[job(&content, None, &extents, 8202)], &recorder).unwrap();
        let byte = |block: u64| {
            let mut byte = [0];
            image.read_exact_at(&mut byte, 100 + block * BLOCK as u64).unwrap();
            byte[0]
        };
        assert_eq!([byte(5), byte(2), byte(3)], [1, 2, 3]);
        let last = Event::Advance { item: "root file system".to_owned(), done: 8202, total: 8202, unit: Unit::Bytes };
        assert_eq!(recorder.events(), [last]);
    }

    #[test]
    fn what_is_not_as_expected_is_corrupt() {
        let image = tempfile::tempfile().unwrap();
        let content = Content::Bytes(vec![1; 10]);
        let extents = [Extent { logical: 0, physical: 0, length: 1 }];
        let seal = Seal { algorithm: Algorithm::Sha256, expected: Some("ab".repeat(32)) };
        for job in [job(&content, Some(&seal), &extents, 10), job(&content, None, &extents, 9), job(&content, None, &extents, 11)] {
            let error = fill(&image, 0, &[job], &Silent).unwrap_err();
            assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Corrupt);
        }
    }

    #[test]
    fn zeros_are_holes() {
        let image = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; 400_000];
        bytes[70_000] = 7;
        bytes[399_999] = 8;
        write_sparsely(&image, &bytes, 0).unwrap();
        let copy = tempfile::tempfile().unwrap();
        copy_sparsely(&image, &copy, 5000).unwrap();
        for (image, offset) in [(&image, 0), (&copy, 5000)] {
            let mut read = vec![1; 400_000];
            image.read_exact_at(&mut read, offset).unwrap();
            assert!(read == bytes);
        }
        assert!(std::os::unix::fs::MetadataExt::blocks(&image.metadata().unwrap()) * 512 < 200_000);
    }
}
