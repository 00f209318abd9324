//! The tar stream of a layer, rebuilt of what is here and what is fetched, in bounded memory. Its last read fails unless its digest is the diff_id.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use openssl::sha::Sha256;

use super::pipe::Sink;
use super::plan::{Plan, brings_its_header, place};
use super::runs::Runs;
use super::split::{self, Entry};
use super::{Contents, Here, State};
use crate::image::ahead::{BLOCK, FileHere, Left};
use crate::image::chunked::{File, Ranged, Table, Trouble, Unpacker, is_skipped, zeros};
use crate::image::digest::Hasher;
use crate::image::manifest::Layer;
use crate::image::reason::Reason;
use crate::progress::{Event, Progress, Unit};

/// Headers and padding of a layer have no more bytes than this, uncompressed.
const MAX_BETWEEN: u64 = 1 << 30;

/// Everything that it takes.
pub(super) struct Rebuild<B> {
    pub(super) layer: Layer,
    pub(super) table: Table,
    pub(super) plan: Plan,
    /// The list of tar headers, compressed, and its size uncompressed, where the plan has no bytes between files.
    pub(super) headers: Option<(Vec<u8>, u64)>,
    pub(super) runs: Runs<B>,
    pub(super) unpacker: Unpacker,
    pub(super) contents: Arc<dyn Contents>,
    pub(super) state: Arc<State>,
    pub(super) progress: Arc<dyn Progress>,
    /// The bytes of which it was told last.
    pub(super) reported: Option<u64>,
}

/// Where the tar goes: counted and hashed.
struct Out<'a> {
    sink: &'a mut Sink,
    hasher: Hasher,
    /// Takes a piece of a file that is here.
    buffer: Box<[u8]>,
}

impl Out<'_> {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.hasher.update(bytes)?;
        self.sink.push(bytes).map_err(|left| Trouble::Receiver(left.into()))
    }

    /// Reads a file that is here, of so many bytes, for the digest of the tar.
    fn hash(&mut self, mut object: impl Read, size: u64) -> Result<(), Trouble> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            let read = match object.read(&mut self.buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|e| Trouble::Blob(format!("reading a file that is here: {e}")))?,
            };
            if read == 0 {
                return Err(Trouble::Blob(format!("a file that is here ends {left} bytes early")));
            }
            self.hasher.update(&self.buffer[..read])?;
            left -= read as u64;
        }
        Ok(())
    }

    /// Leaves out a file, of which all bytes were hashed.
    fn leave_out(&mut self, file: FileHere) -> Result<(), Trouble> {
        self.sink.file(file).map_err(|left| Trouble::Receiver(left.into()))
    }
}

impl<B: Ranged + Clone + Send + 'static> Rebuild<B> {
    /// Rebuilds it. What went wrong here, and not with whoever reads, is in the state before the error is returned.
    pub(super) fn run(mut self, sink: &mut Sink) -> io::Result<()> {
        let rebuilt = Hasher::like(&self.layer.diff_id).map_err(Trouble::Receiver).and_then(|hasher| {
            let mut out = Out { sink, hasher, buffer: vec![0; BLOCK].into() };
            self.parts(&mut out)?;
            self.judge(&out.hasher.finish()?)
        });
        match rebuilt {
            Ok(()) => {
                // Chunks of zeros need not be read, and may be the last.
                self.tell(self.plan.bytes());
                Ok(())
            }
            Err(Trouble::Blob(reason)) => Err(self.failed(reason.into())),
            Err(Trouble::Line(failure)) => Err(self.failed(failure.into())),
            Err(Trouble::Receiver(error)) if error.is::<Left>() => Err(io::ErrorKind::BrokenPipe.into()),
            Err(Trouble::Receiver(error)) => Err(io::Error::other(error.to_string())),
        }
    }

    fn failed(&self, reason: Reason) -> io::Error {
        self.state.fail(reason.clone());
        reason.error()
    }

    fn judge(&self, found: &str) -> Result<(), Trouble> {
        if found == self.layer.diff_id {
            return Ok(());
        }
        let message = format!("what was rebuilt by its table of contents has the diff_id {found} (expected {})", self.layer.diff_id);
        Err(Trouble::Blob(message))
    }

    fn parts(&mut self, out: &mut Out<'_>) -> Result<(), Trouble> {
        let table = std::mem::replace(&mut self.table, Table::empty());
        let here = std::mem::take(&mut self.plan.here);
        let files = table.files().iter().zip(here).filter(|(file, _)| file.size > 0);
        match (self.headers.take(), self.plan.between) {
            (Some(list), None) => self.by_list(list, files, out),
            (_, between) => {
                let (mut floor, mut left) = (0, MAX_BETWEEN);
                for (file, here) in files {
                    let Some(place) = place(file) else { continue };
                    self.between(floor..place.start, &mut left, out)?;
                    if brings_its_header(file, here) {
                        self.state.found_header(file.size);
                    }
                    self.file(file, here, out)?;
                    floor = place.end;
                }
                self.between(floor..between.unwrap_or(floor).max(floor), &mut left, out)
            }
        }
    }

    /// With what stands between `files` from the list of tar headers, compressed, and its size uncompressed.
    fn by_list<'t>(
        &mut self,
        list: (Vec<u8>, u64),
        files: impl Iterator<Item = (&'t File, bool)>,
        out: &mut Out<'_>,
    ) -> Result<(), Trouble> {
        let (mut files, mut floor, mut left, mut before) = (files.peekable(), 0, MAX_BETWEEN, Sha256::new());
        split::read(&list.0, list.1, &mut |entry| match entry {
            Entry::Bytes(bytes) => {
                if files.peek().is_some_and(|(file, here)| brings_its_header(file, *here)) {
                    before.update(&bytes);
                }
                out.push(&bytes)
            }
            Entry::File(size) => match files.next() {
                Some((file, here)) if file.size == size => {
                    let place = place(file).ok_or_else(|| unequal("no bytes of a file", &format!("{size}")))?;
                    let listed = std::mem::take(&mut before).finish();
                    if brings_its_header(file, here) {
                        self.compare(floor..place.start, &mut left, listed)?;
                        self.state.found_header(size);
                    }
                    floor = place.end;
                    self.file(file, here, out)
                }
                Some((file, _)) => Err(unequal(&format!("{} bytes", file.size), &format!("{size}"))),
                None => Err(unequal("no more files", "one more")),
            },
        })?;
        files.next().map_or(Ok(()), |_| Err(unequal("one more file", "no more")))
    }

    /// Compares what the blob has before a file with the digest of what the list of tar headers has there.
    fn compare(&mut self, span: Range<u64>, left: &mut u64, listed: [u8; 32]) -> Result<(), Trouble> {
        let mut found = Sha256::new();
        if !span.is_empty() {
            let mut reader = self.runs.read(span)?;
            *left -= self.unpacker.all(&mut reader, *left, &mut |bytes| {
                found.update(bytes);
                Ok(())
            })?;
        }
        if found.finish() == listed {
            return Ok(());
        }
        Err(Trouble::Blob("its list of tar headers has something else before a file than the blob".to_owned()))
    }

    fn between(&mut self, span: Range<u64>, left: &mut u64, out: &mut Out<'_>) -> Result<(), Trouble> {
        if span.is_empty() {
            return Ok(());
        }
        let mut reader = self.runs.read(span)?;
        *left -= self.unpacker.all(&mut reader, *left, &mut |bytes| out.push(bytes))?;
        Ok(())
    }

    fn file(&mut self, file: &File, here: bool, out: &mut Out<'_>) -> Result<(), Trouble> {
        if here {
            return self.here(file, out);
        }
        for chunk in &file.chunks {
            if is_skipped(chunk) {
                zeros(chunk, &mut |bytes| out.push(bytes))?;
            } else {
                let mut reader = self.runs.read(chunk.offset..chunk.end)?;
                self.unpacker.piece(&mut reader, chunk, &mut |bytes| out.push(bytes))?;
            }
        }
        self.report();
        Ok(())
    }

    /// A file that is here.
    fn here(&self, file: &File, out: &mut Out<'_>) -> Result<(), Trouble> {
        let sha256 = file.digest.ok_or_else(|| Trouble::Blob("a file without a digest".to_owned()))?;
        match self.contents.open(&sha256, file.size).map_err(|e| Trouble::Blob(format!("{e:#}")))? {
            Here::Small(bytes) => out.push(&bytes),
            Here::File(object) => {
                out.hash(object, file.size)?;
                out.leave_out(FileHere { sha256, size: file.size })
            }
        }
    }

    /// Says how far it is, in bytes that are fetched, where that has changed.
    fn report(&mut self) {
        self.tell(self.runs.done());
    }

    fn tell(&mut self, done: u64) {
        let total = self.plan.bytes();
        if self.reported.replace(done) == Some(done) {
            return;
        }
        self.progress.event(Event::Advance { item: self.layer.digest.clone(), done, total, unit: Unit::Bytes });
    }
}

fn unequal(found: &str, expected: &str) -> Trouble {
    Trouble::Blob(format!("its table of contents has {found} where its list of tar headers has {expected}"))
}
