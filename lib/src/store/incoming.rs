//! A layer's tar stream into a split stream and objects: hashed first, then written if it is new.
//!
//! Files of up to [`WHOLE`] are gathered in a buffer, where they are hashed side by side, and their digests are known before anything is written; a
//! file that is here already costs no write, no temporary file and no delete. A larger one goes to a temporary file piece by piece while it is
//! hashed. Of a file that is here already, and whose bytes somebody else has read for the proof of the layer, only the name goes into the stream. The calling thread takes apart and hashes, a second one writes; between the two are few large buffers, which are used again.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs::splitstream::SplitStreamWriter;
use composefs_oci::LAYER_CONTENT_TYPE;
use openssl::sha::Sha256;

use super::bounds::Seen;
use super::content::{ContentDigest, Contents, Journal, Known, Record, Taken};
use super::deposit::{Deposit, Job};
use super::gathered::{self, Gathered, Gathering, Hashed};
use super::layers::{ImportStats, LayerTar, NotOneFile};
use super::merkle::{self, Growing};
use super::split::{Parts, Splitter};

/// The largest file that is in memory as a whole.
const WHOLE: u64 = 4 << 20;
/// About how much goes to the writer at a time; whole blocks of fs-verity.
const BATCH: usize = 1 << 20;
/// How many jobs wait for the writer. With the one in its hands and the one being filled, these bound the memory of a layer to 16 MiB.
const WAITING: usize = 2;

/// Reads `tar` to its end: its split stream, which has no name yet, and what it brought. Files for which `keep` says yes, by name in the
/// archive and size, become objects; the others are only hashed. With `known`, only objects that it may have are looked for, digests of contents that it does not have are taken where they are wanted, and files
/// that are here are looked up there.
pub(super) fn take<H: FsVerityHashValue>(
    repository: &Arc<Repository<H>>,
    tar: &mut impl LayerTar,
    keep: impl Fn(&[u8], u64) -> bool,
    known: Option<&Known>,
) -> Result<(H, ImportStats, Taken)> {
    let deposit = Deposit::open(repository, known.is_some_and(|known| known.doubted))?;
    // It is an economy: without it, a pull that is cut fetches more the next time.
    let journal = wanted(known).and_then(|_| Journal::open::<H>(repository.repo_fd()).ok());
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
            between: Vec::new(),
            current: None,
            sent: HashSet::new(),
            reused: 0,
            seen: Seen::default(),
            known,
            taken: Taken::default(),
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

/// What is known of contents, where their digests are wanted.
fn wanted(known: Option<&Known>) -> Option<&Contents> {
    known.filter(|known| known.digests).map(|known| &*known.contents)
}

struct Incoming<'d, H: FsVerityHashValue, K> {
    deposit: &'d Deposit<'d, H>,
    keep: K,
    stream: SplitStreamWriter<H>,
    jobs: SyncSender<Job<H>>,
    empty: Receiver<Vec<u8>>,
    /// Whole files, each filled up with zeros to whole blocks, and the one that is coming in.
    buffer: Vec<u8>,
    /// The files that are whole, in order.
    files: Vec<Gathered<H>>,
    /// What the stream has before, between and after them.
    between: Vec<u8>,
    current: Option<Current<H>>,
    /// What the writer was given; it may not be there yet.
    sent: HashSet<H>,
    /// Files that were here.
    reused: u64,
    /// What has come so far, within the bounds of a layer.
    seen: Seen,
    known: Option<&'d Known>,
    /// Files with the digests of their contents.
    taken: Taken,
    /// The same on disk, for a pull that is cut.
    journal: Option<Journal>,
}

/// The file that is coming in.
struct Current<H> {
    /// Its name in the archive, where somebody may want to know: of a large file that is to be kept.
    name: Vec<u8>,
    size: u64,
    keep: bool,
    way: Coming<H>,
}

/// How it comes in.
enum Coming<H> {
    /// Nothing has come yet.
    Begun,
    /// As a whole; where in the buffer it begins.
    Whole(usize),
    /// Piece by piece.
    Pieces(Growing<H>, Option<Sha256>),
}

impl<H: FsVerityHashValue, K: Fn(&[u8], u64) -> bool> Incoming<'_, H, K> {
    fn read(mut self, tar: &mut impl LayerTar) -> Result<(SplitStreamWriter<H>, u64, Taken)> {
        let read = self.read_all(tar);
        // Files that came whole before it broke are of use to the next attempt.
        let settled = self.settle();
        read.and(settled)?;
        Ok((self.stream, self.reused, self.taken))
    }

    fn read_all(&mut self, tar: &mut impl LayerTar) -> Result<()> {
        let mut splitter = Splitter::new();
        loop {
            if let Some((content, size)) = tar.file_here()? {
                let contents = self.contents().context("a file that is here, where nobody knows what is here")?;
                ensure!(splitter.push_object(contents.name(&content, size)?, size, self)?, NotOneFile);
                continue;
            }
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

    /// Hashes the files in the buffer, sends those that are new to the writer, and gets on with the stream.
    fn settle(&mut self) -> Result<()> {
        let files = std::mem::take(&mut self.files);
        let wanted = |id: &H| self.contents().is_some_and(|contents| !contents.knows(id));
        let mut hashed = gathered::hash(&self.buffer, &files, wanted)?.into_iter();
        let (between, mut written, mut new) = (std::mem::take(&mut self.between), 0, Vec::new());
        for Gathered { before, size, content } in files {
            self.stream.write_inline(&between[written..before]);
            written = before;
            match content {
                Gathering::Object(id) => {
                    self.refer(&id, size)?;
                    self.reused += 1;
                }
                Gathering::Buffer(_, keep) => {
                    let file = hashed.next().context("a file without a digest")?;
                    if self.is_new(&file, size, keep)? {
                        new.push((file.id, file.place));
                    }
                }
            }
        }
        self.stream.write_inline(&between[written..]);
        if new.is_empty() {
            self.buffer.clear();
        } else {
            let buffer = self.next_buffer();
            self.send(Job::Files(buffer, new))?;
        }
        self.note();
        Ok(())
    }

    /// Has the stream refer to a file in the buffer; whether that is to be written.
    fn is_new(&mut self, Hashed { id, content, .. }: &Hashed<H>, size: u64, keep: bool) -> Result<bool> {
        content.iter().for_each(|content| self.remember(id, size, *content));
        self.refer(id, size)?;
        // Of most files of a first pull it is known without a look.
        let may_be_here = self.known.is_none_or(|known| known.contents.may_have(id));
        if !keep || self.sent.contains(id) || may_be_here && self.deposit.has(id, size)? {
            self.reused += 1;
            return Ok(false);
        }
        self.sent.insert(id.clone());
        self.known.iter().for_each(|known| known.contents.bring(id));
        Ok(true)
    }

    /// What is known of contents, where their digests are wanted.
    fn contents(&self) -> Option<&Contents> {
        wanted(self.known)
    }

    /// Notes what the content of a file is.
    fn remember(&mut self, id: &H, size: u64, content: ContentDigest) {
        let record = Record { content, object: id.as_bytes().into(), size };
        self.journal.iter_mut().for_each(|journal| journal.push(&record));
        self.taken.records.push(record);
    }

    /// Has the files that were hashed in the journal, so that they are of use to the next attempt, however this one ends.
    fn note(&mut self) {
        if self.journal.as_mut().is_some_and(|journal| journal.flush().is_err()) {
            self.journal = None;
        }
    }

    /// Has the stream refer to a file.
    fn refer(&mut self, id: &H, size: u64) -> Result<()> {
        self.stream.add_external_size(size);
        self.stream.write_reference(id.clone())
    }

    /// The buffer as it is; an empty one takes its place.
    fn next_buffer(&mut self) -> Vec<u8> {
        let empty = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BATCH));
        std::mem::replace(&mut self.buffer, empty)
    }

    fn send(&self, job: Job<H>) -> Result<()> {
        self.jobs.send(job).map_err(|_| anyhow!("writing objects: the thread has ended"))
    }

    /// Makes room in the buffer for a file. One that is not in there as a whole takes room on the disk while it comes, even if it turns out to be here.
    fn make_room(&mut self, Current { name, size, keep, .. }: &Current<H>) -> Result<Coming<H>> {
        let size = *size;
        if *keep && size > WHOLE {
            self.deposit.check_room(name, size)?;
        }
        if self.buffer.len() as u64 + size > BATCH as u64 {
            self.settle()?;
        }
        let pieces = || Coming::Pieces(Growing::new(), self.contents().map(|_| Sha256::new()));
        Ok(if size > WHOLE { pieces() } else { Coming::Whole(self.buffer.len()) })
    }

    /// A large file is never in the buffer as a whole.
    fn piece(&mut self, growing: &mut Growing<H>, keep: bool, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BATCH - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BATCH {
                growing.add(&self.buffer);
                if keep {
                    let piece = self.next_buffer();
                    self.send(Job::Piece(piece))?;
                } else {
                    self.buffer.clear();
                }
            }
        }
        Ok(())
    }

    /// What becomes of a file of which all but the rest in the buffer is gone.
    fn end_large(&mut self, mut growing: Growing<H>, content: Option<Sha256>, size: u64, keep: bool) -> Result<()> {
        growing.add(&self.buffer);
        let id = growing.digest()?;
        if let Some(content) = content {
            self.remember(&id, size, content.finish());
        }
        self.refer(&id, size)?;
        if !keep {
            self.buffer.clear();
            self.reused += 1;
            return Ok(());
        }
        let rest = self.next_buffer();
        self.send(Job::Last(rest, id, size))?;
        self.note();
        Ok(())
    }
}

impl<H: FsVerityHashValue, K: Fn(&[u8], u64) -> bool> Parts for Incoming<'_, H, K> {
    type Object = H;

    fn inline(&mut self, bytes: &[u8]) -> Result<()> {
        self.seen.inline(bytes.len() as u64)?;
        if self.between.len() + bytes.len() > BATCH {
            self.settle()?;
        }
        if self.files.is_empty() {
            self.stream.write_inline(bytes);
        } else {
            self.between.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn small(&mut self, content: &[u8]) -> Result<()> {
        if self.contents().is_some() {
            self.taken.add_small(content);
        }
        self.inline(content)
    }

    fn begin(&mut self, name: &[u8], size: u64) -> Result<()> {
        self.seen.file(size).with_context(|| format!("entry {}", String::from_utf8_lossy(name)))?;
        let keep = (self.keep)(name, size);
        let name = if keep && size > WHOLE { name.to_vec() } else { Vec::new() };
        self.current = Some(Current { name, size, keep, way: Coming::Begun });
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Err(anyhow!("content of no file")) };
        if let Coming::Begun = current.way {
            current.way = self.make_room(&current)?;
        }
        match &mut current.way {
            Coming::Begun | Coming::Whole(_) => self.buffer.extend_from_slice(bytes),
            Coming::Pieces(growing, content) => {
                content.iter_mut().for_each(|content| content.update(bytes));
                self.piece(growing, current.keep, bytes)?;
            }
        }
        self.current = Some(current);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(current) = self.current.take() else { return Err(anyhow!("the end of no file")) };
        let (size, keep) = (current.size, current.keep);
        match current.way {
            Coming::Begun => Err(anyhow!("a file without content")),
            Coming::Pieces(growing, content) => self.end_large(growing, content, size, keep),
            Coming::Whole(start) => {
                let size = (self.buffer.len() - start) as u64;
                self.files.push(Gathered { before: self.between.len(), size, content: Gathering::Buffer(start, keep) });
                self.buffer.resize(merkle::padded(self.buffer.len()), 0);
                Ok(())
            }
        }
    }

    fn object(&mut self, object: H) -> Result<()> {
        let Some(current) = self.current.take() else { return Err(anyhow!("an object for no file")) };
        self.files.push(Gathered { before: self.between.len(), size: current.size, content: Gathering::Object(object) });
        Ok(())
    }
}
