//! New objects on their way into the repository: written to a file without a name, sealed where the repository is, linked in under their
//! digest. New ones are not synced, and [`Unsynced`](super::Unsynced) has them in doubt: whoever publishes a name that leads to these objects syncs first. Only what takes the place of a damaged object is, which names may lead to
//! already.

use std::fs::File;
use std::io::{Seek, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender};

use anyhow::{Context, Result, ensure};
use composefs::fsverity::{FsVerityHashValue, enable_verity_maybe_copy, measure_verity};
use composefs::repository::Repository;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::merkle::{PIECE, measure};
use super::objects;
use super::place::place;
use crate::error::{FREE_SPACE, Failure, FailureKind};
use crate::sys::{dir, nameless};

/// Permissions of objects and of the directories that they are in, as the library has them.
const MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;

/// What the writer is given to do, in order.
pub(super) enum Job<H> {
    /// Whole files: the digest of each, and where it is.
    Files(Vec<u8>, Vec<(H, Range<usize>)>),
    /// The next bytes of a file whose digest is not known yet.
    Piece(Vec<u8>),
    /// The last bytes of this file, its digest and its size.
    Last(Vec<u8>, H, u64),
}

/// What the writer did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Objects that are new, and their bytes.
    pub(super) objects: u64,
    pub(super) bytes: u64,
    /// Files that somebody else had brought meanwhile, or that were here although nobody knew before all of them was read.
    pub(super) reused: u64,
}

/// The mark in the chain of an error that a file is larger than what is free: its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a file in it has no room")]
pub struct NoRoom(pub u64);

/// The place of objects.
pub(super) struct Deposit<'r, H: FsVerityHashValue> {
    repository: &'r Repository<H>,
    objects: BorrowedFd<'r>,
    /// Whether what is here is read before it is believed.
    doubted: bool,
}

impl<'r, H: FsVerityHashValue> Deposit<'r, H> {
    pub(super) fn open(repository: &'r Repository<H>, doubted: bool) -> Result<Self> {
        repository.ensure_writable()?;
        let objects = repository.objects_dir().context("opening objects")?.as_fd();
        Ok(Self { repository, objects, doubted })
    }

    /// Whether the object is here, with this size: one that a power cut shortened is not. Where it is doubted, with its bytes, too.
    pub(super) fn has(&self, id: &H, size: u64) -> Result<bool> {
        Ok(objects::size(self.repository, id)? == Some(size) && (!self.doubted || self.is_well(id)))
    }

    /// Whether the bytes of an object are those of its name. What cannot be read is not well.
    fn is_well(&self, id: &H) -> bool {
        let opened = rustix::fs::openat(self.objects, id.to_object_pathname(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let measured = opened.ok().and_then(|file| measure::<H>(File::from(file), &mut vec![0; PIECE]).ok());
        measured.is_some_and(|(found, _)| found == *id)
    }

    /// Refuses a file that cannot fit: else that would be known when the disk is full. What a file system that compresses could make of it is not asked.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NoSpace`] with the numbers, and [`NoRoom`] in its chain.
    pub(super) fn check_room(&self, name: &[u8], size: u64) -> Result<()> {
        let free = dir::free_bytes_of_root(self.objects).context("measuring free space in the repository")?;
        if size <= free {
            return Ok(());
        }
        let message = format!(
            "storing file {:?}: the file system of the repository has {} MiB free (expected at least {} MiB)",
            String::from_utf8_lossy(name),
            free >> 20,
            size.div_ceil(1 << 20)
        );
        Err(anyhow::Error::new(Failure::new(FailureKind::NoSpace, message).hint(FREE_SPACE)).context(NoRoom(size)))
    }

    /// Works until there are no more jobs. Buffers go back to where they can be filled again.
    pub(super) fn work(&self, jobs: &Receiver<Job<H>>, emptied: &Sender<Vec<u8>>) -> Result<Written> {
        let mut written = Written::default();
        let mut growing: Option<File> = None;
        let mut ready = false;
        for job in jobs {
            if !std::mem::replace(&mut ready, true) {
                self.make_directories()?;
            }
            let mut buffer = match job {
                Job::Files(buffer, files) => {
                    for (id, place) in files {
                        let content = &buffer[place];
                        let mut file = self.temporary()?;
                        file.write_all(content).with_context(|| format!("writing object {}", id.to_hex()))?;
                        self.publish(file, &id, content.len() as u64, &mut written)?;
                    }
                    buffer
                }
                Job::Piece(buffer) => {
                    self.append(&mut growing, &buffer)?;
                    buffer
                }
                Job::Last(buffer, id, size) => {
                    self.append(&mut growing, &buffer)?;
                    let file = growing.take().context("writing an object: nothing came before its end")?;
                    if self.has(&id, size)? {
                        written.reused += 1;
                    } else {
                        self.publish(file, &id, size, &mut written)?;
                    }
                    buffer
                }
            };
            buffer.clear();
            // Nobody fills it any more where the reader has ended.
            let _ = emptied.send(buffer);
        }
        Ok(written)
    }

    fn append(&self, growing: &mut Option<File>, bytes: &[u8]) -> Result<()> {
        let file = match growing {
            Some(file) => file,
            None => growing.insert(self.temporary()?),
        };
        file.write_all(bytes).context("writing an object")
    }

    /// All directories at once, instead of an attempt for each object.
    fn make_directories(&self) -> Result<()> {
        for first in 0..=u8::MAX {
            match rustix::fs::mkdirat(self.objects, format!("{first:02x}"), Mode::from_raw_mode(DIRECTORY_MODE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e).with_context(|| format!("making directory objects/{first:02x}")),
            }
        }
        Ok(())
    }

    fn temporary(&self) -> Result<File> {
        nameless::create(self.objects, MODE).context("making a temporary file in objects")
    }

    fn publish(&self, file: File, id: &H, size: u64, written: &mut Written) -> Result<()> {
        let file = if self.repository.is_insecure() { file.into() } else { self.seal(file, id)? };
        if self.link(file, id, size).with_context(|| format!("linking object {}", id.to_hex()))? {
            written.objects += 1;
            written.bytes += size;
        } else {
            written.reused += 1;
        }
        Ok(())
    }

    /// Seals a file. The kernel computes its digest again, and has to find the same.
    fn seal(&self, file: File, id: &H) -> Result<OwnedFd> {
        let doing = || format!("sealing object {}", id.to_hex());
        // A child process may still hold it for a moment; the copy is for that.
        let reopened = nameless::reopen(file).with_context(doing)?;
        let copy = enable_verity_maybe_copy::<H>(self.objects, reopened.as_fd()).with_context(doing)?;
        let sealed = copy.unwrap_or(reopened);
        let found: H = measure_verity(&sealed).with_context(doing)?;
        ensure!(found == *id, "{}: the kernel found digest {} of what was written", doing(), found.to_hex());
        Ok(sealed)
    }

    /// Whether it is new. What has the name and is damaged gives way, in one step: images that have it are in use.
    fn link(&self, file: OwnedFd, id: &H, size: u64) -> Result<bool> {
        match nameless::link(&file, self.objects, &id.to_object_pathname()) {
            Err(Errno::EXIST) if self.has(id, size)? => Ok(false),
            Err(Errno::EXIST) => {
                let mut file = File::from(file);
                file.rewind()?;
                place(self.repository, id, file).map(|()| true)
            }
            linked => Ok(linked.map(|()| true)?),
        }
    }
}
