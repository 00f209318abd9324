//! A layer's tar stream into a split stream and objects: hashed first, then written if it is new.
//!
//! Files of up to [`WHOLE`] are gathered in a buffer, where their digest is known before anything is written; a file that is here already
//! costs no write, no temporary file and no delete. A larger one goes to a temporary file piece by piece while it is hashed. The calling
//! thread takes apart and hashes, a second one writes; between the two are few large buffers, which are used again.

use std::collections::HashSet;
use std::io::BufRead;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use composefs::fsverity::{FsVerityHashValue, FsVerityHasher};
use composefs::repository::Repository;
use composefs::splitstream::SplitStreamWriter;
use composefs_oci::LAYER_CONTENT_TYPE;
use openssl::sha::Sha256;

use super::content::{Journal, Record, Taken, raw};
use super::deposit::{Deposit, Job};
use super::layers::ImportStats;
use super::split::{Parts, Splitter};

/// The largest file that is in memory as a whole.
const WHOLE: u64 = 4 << 20;
/// About how much goes to the writer at a time; whole blocks of fs-verity.
const BATCH: usize = 1 << 20;
/// How many jobs wait for the writer. With the one in its hands and the one being filled, these bound the memory of a layer to 16 MiB.
const WAITING: usize = 2;
/// The library keeps in memory what stays in the stream, until the next file. A quarter of a million directories in a row are fewer bytes than these.
const MAX_INLINE: u64 = 256 << 20;
/// fs-verity's.
const BLOCK: usize = 4096;

/// Reads `tar` to its end: its split stream, which has no name yet, and what it brought. Files for which `keep` says yes, by name in the
/// archive and size, become objects; the others are only hashed. With `contents`, the digests of their contents are taken, too.
pub(super) fn take<H: FsVerityHashValue>(
    repository: &Arc<Repository<H>>,
    tar: &mut impl BufRead,
    keep: impl Fn(&[u8], u64) -> bool,
    contents: bool,
) -> Result<(H, ImportStats, Taken)> {
    let deposit = Deposit::open(repository)?;
    // It is an economy: without it, a pull that is cut fetches more the next time.
    let journal = if contents { Journal::open::<H>(repository.repo_fd()).ok() } else { None };
    let stream = repository.create_stream(LAYER_CONTENT_TYPE)?;
    let (jobs, waiting) = mpsc::sync_channel(WAITING);
    let (emptied, empty) = mpsc::channel();
    let (read, written) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // Moved in, so that the reader learns at once when the writer has failed.
            let (waiting, emptied) = (waiting, emptied);
            deposit.work(&waiting, &emptied)
        });
        let incoming = Incoming {
            deposit: &deposit,
            keep,
            stream,
            jobs,
            empty,
            buffer: Vec::new(),
            files: Vec::new(),
            current: None,
            sent: HashSet::new(),
            reused: 0,
            inline: 0,
            taken: contents.then(Taken::default),
            journal,
        };
        (incoming.read(tar), writer.join())
    });
    // Where the writer failed, that is why the reader could not go on.
    let written = written.map_err(|_| anyhow!("writing objects: the thread panicked"))??;
    let (stream, reused, taken) = read?;
    let stats = ImportStats {
        objects_new: written.objects,
        objects_reused: reused + written.reused,
        bytes_new: written.bytes,
        layers_new: 1,
        layers_reused: 0,
    };
    Ok((stream.done()?, stats, taken))
}

struct Incoming<'d, H: FsVerityHashValue, K> {
    deposit: &'d Deposit<'d, H>,
    keep: K,
    stream: SplitStreamWriter<H>,
    jobs: SyncSender<Job<H>>,
    empty: Receiver<Vec<u8>>,
    /// Whole files that have to be written, and the one that is coming in.
    buffer: Vec<u8>,
    /// Their digests, and where in the buffer they end.
    files: Vec<(H, usize)>,
    current: Option<Current<H>>,
    /// What the writer was given; it may not be there yet.
    sent: HashSet<H>,
    /// Files that were here.
    reused: u64,
    /// Bytes that stay in the stream, since the last file.
    inline: u64,
    /// Files with the digests of their contents, where those are wanted.
    taken: Option<Taken>,
    /// The same on disk, for a pull that is cut.
    journal: Option<Journal>,
}

/// The file that is coming in.
struct Current<H: FsVerityHashValue> {
    hasher: FsVerityHasher<H>,
    content: Option<Sha256>,
    /// Where in the buffer it begins.
    start: usize,
    size: u64,
    keep: bool,
}

impl<H: FsVerityHashValue> Current<H> {
    fn is_whole(&self) -> bool {
        self.size <= WHOLE
    }
}

impl<H: FsVerityHashValue, K: Fn(&[u8], u64) -> bool> Incoming<'_, H, K> {
    fn read(mut self, tar: &mut impl BufRead) -> Result<(SplitStreamWriter<H>, u64, Taken)> {
        let read = self.read_all(tar);
        // Files that came whole before it broke are of use to the next attempt.
        let sent = self.send_files();
        read.and(sent)?;
        Ok((self.stream, self.reused, self.taken.unwrap_or_default()))
    }

    fn read_all(&mut self, tar: &mut impl BufRead) -> Result<()> {
        let mut splitter = Splitter::new();
        loop {
            let block = tar.fill_buf()?;
            let length = block.len();
            if length == 0 {
                break;
            }
            splitter.push(block, self)?;
            tar.consume(length);
        }
        splitter.finish()
    }

    fn send_files(&mut self) -> Result<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        let (buffer, files) = (self.next_buffer(), std::mem::take(&mut self.files));
        self.send(Job::Files(buffer, files))
    }

    /// The buffer as it is; an empty one takes its place.
    fn next_buffer(&mut self) -> Vec<u8> {
        let empty = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH));
        std::mem::replace(&mut self.buffer, empty)
    }

    fn send(&self, job: Job<H>) -> Result<()> {
        self.jobs.send(job).map_err(|_| anyhow!("writing objects: the thread has ended"))
    }

    /// A large file is never in the buffer as a whole.
    fn piece(&mut self, current: &mut Current<H>, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BATCH - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BATCH {
                self.buffer.chunks(BLOCK).for_each(|block| current.hasher.add_block(block));
                match current.keep {
                    true => {
                        let piece = self.next_buffer();
                        self.send(Job::Piece(piece))?;
                    }
                    false => self.buffer.clear(),
                }
            }
        }
        Ok(())
    }

    /// What becomes of a file that is in the buffer as a whole.
    fn settle(&mut self, id: &H, current: &Current<H>) -> Result<()> {
        if !current.keep || self.sent.contains(id) || self.deposit.has(id, current.size)? {
            self.buffer.truncate(current.start);
            self.reused += 1;
            return Ok(());
        }
        self.sent.insert(id.clone());
        self.files.push((id.clone(), self.buffer.len()));
        Ok(())
    }

    /// What becomes of a file of which all but the rest in the buffer is gone.
    fn settle_large(&mut self, id: &H, current: &Current<H>) -> Result<()> {
        if !current.keep {
            self.buffer.clear();
            self.reused += 1;
            return Ok(());
        }
        let rest = self.next_buffer();
        self.send(Job::Last(rest, id.clone(), current.size))
    }
}

impl<H: FsVerityHashValue, K: Fn(&[u8], u64) -> bool> Parts for Incoming<'_, H, K> {
    fn inline(&mut self, bytes: &[u8]) -> Result<()> {
        self.inline += bytes.len() as u64;
        ensure!(self.inline <= MAX_INLINE, "more than {MAX_INLINE} bytes of headers and small files without another file");
        self.stream.write_inline(bytes);
        Ok(())
    }

    fn begin(&mut self, name: &[u8], size: u64) -> Result<()> {
        if size > WHOLE || self.buffer.len() as u64 + size > BATCH as u64 {
            self.send_files()?;
        }
        let (content, keep) = (self.taken.as_ref().map(|_| Sha256::new()), (self.keep)(name, size));
        self.current = Some(Current { hasher: FsVerityHasher::new(), content, start: self.buffer.len(), size, keep });
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Err(anyhow!("content of no file")) };
        if let Some(content) = &mut current.content {
            content.update(bytes);
        }
        if current.is_whole() {
            self.buffer.extend_from_slice(bytes);
        } else {
            self.piece(&mut current, bytes)?;
        }
        self.current = Some(current);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Err(anyhow!("the end of no file")) };
        self.buffer[current.start..].chunks(BLOCK).for_each(|block| current.hasher.add_block(block));
        let id = current.hasher.digest();
        if let (Some(taken), Some(content)) = (&mut self.taken, current.content.take()) {
            let record = Record { content: content.finish(), object: raw(&id), size: current.size };
            if self.journal.as_mut().is_some_and(|journal| journal.push(&record).is_err()) {
                self.journal = None;
            }
            taken.0.push(record);
        }
        if current.is_whole() {
            self.settle(&id, &current)?;
        } else {
            self.settle_large(&id, &current)?;
        }
        self.inline = 0;
        self.stream.add_external_size(current.size);
        self.stream.write_reference(id)
    }
}
