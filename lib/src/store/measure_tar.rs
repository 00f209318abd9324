//! A layer's tar stream into a split stream, without its files: each is measured as it goes by.
//!
//! What is written equals, byte for byte, what composefs-oci's `tar::split_async` writes for the same layer: headers, padding and
//! files of up to 64 bytes as they are, for each larger file its fs-verity digest. Only of what follows the end of the archive, which nobody
//! reads, no more is kept than asked for. The merge therefore cannot tell one from the other; `tests/digest.rs` compares the two.

use std::io::{self, Read};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use composefs::INLINE_CONTENT_MAX_V0;
use composefs::fsverity::{FsVerityHashValue, FsVerityHasher};
use composefs::repository::Repository;
use composefs::splitstream::SplitStreamWriter;
use composefs_oci::LAYER_CONTENT_TYPE;
use tar_core::HEADER_SIZE;
use tar_core::parse::{ParseEvent, ParsedEntry, Parser};

/// What is read at a time of a file; whole blocks of fs-verity.
const PIECE: usize = 16 * BLOCK;
const BLOCK: usize = 4096;
/// Contents of what is no file stay in memory. No program writes any, so a mebibyte, as for the headers of one entry, is generous.
const MAX_ODD: u64 = 1 << 20;

/// Reads `tar` to its end and writes its split stream. The contents of files for which `keep` says yes, by name in the archive and
/// size, become objects too. Of what follows the end of the archive `tail` bytes are kept, in memory.
pub(super) fn split<H: FsVerityHashValue>(
    repository: &Arc<Repository<H>>,
    tar: impl Read,
    keep: impl Fn(&[u8], u64) -> bool,
    tail: u64,
) -> Result<H> {
    let stream = repository.create_stream(LAYER_CONTENT_TYPE)?;
    let mut splitter = Splitter { repository, tar, stream, piece: vec![0; PIECE] };
    let mut parser = Parser::with_defaults();
    let (mut head, mut need) = (Vec::new(), HEADER_SIZE);
    while splitter.fill(&mut head, need)? {
        match parser.parse(&head)? {
            ParseEvent::NeedData { min_bytes } => {
                ensure!(min_bytes > need, "a header that does not end");
                need = min_bytes;
                continue;
            }
            ParseEvent::GlobalExtensions { consumed, .. } => splitter.head(&head, consumed)?,
            ParseEvent::SparseEntry { .. } => bail!("sparse tar entries are not supported"),
            ParseEvent::Entry { consumed, entry } => {
                splitter.head(&head, consumed)?;
                splitter.body(&entry, &keep)?;
            }
            ParseEvent::End { consumed } => {
                splitter.head(&head, consumed)?;
                splitter.tail(tail)?;
                break;
            }
        }
        head.clear();
        need = HEADER_SIZE;
    }
    splitter.stream.done()
}

struct Splitter<'r, H: FsVerityHashValue, R> {
    repository: &'r Repository<H>,
    tar: R,
    stream: SplitStreamWriter<H>,
    piece: Vec<u8>,
}

impl<H: FsVerityHashValue, R: Read> Splitter<'_, H, R> {
    /// Reads until `head` has `need` bytes. `false` where the stream ends between two entries.
    fn fill(&mut self, head: &mut Vec<u8>, need: usize) -> Result<bool> {
        (&mut self.tar).take((need - head.len()) as u64).read_to_end(head)?;
        match head.len() {
            0 => Ok(false),
            found if found < need => bail!("unexpected EOF in tar stream"),
            _ => Ok(true),
        }
    }

    /// Headers of one entry. No more was read than the parser asked for.
    fn head(&mut self, head: &[u8], consumed: usize) -> Result<()> {
        ensure!(consumed == head.len(), "{} bytes of headers, of which {consumed} were used", head.len());
        self.stream.write_inline(head);
        Ok(())
    }

    /// What follows the end of the archive: so many bytes of it are kept, and all of it is read.
    fn tail(&mut self, most: u64) -> Result<()> {
        let mut kept = Vec::new();
        (&mut self.tar).take(most).read_to_end(&mut kept)?;
        self.stream.write_inline(&kept);
        io::copy(&mut self.tar, &mut io::sink())?;
        Ok(())
    }

    fn body(&mut self, entry: &ParsedEntry<'_>, keep: impl Fn(&[u8], u64) -> bool) -> Result<()> {
        let size = entry.size;
        let padding = size.wrapping_neg() % HEADER_SIZE as u64;
        if !entry.entry_type.is_file() || size <= INLINE_CONTENT_MAX_V0 as u64 {
            ensure!(size <= MAX_ODD, "entry {}: it has {size} bytes of content and is no file", entry.path_lossy());
            return self.inline(size + padding);
        }
        let id = if keep(&entry.path, size) { self.store(size)? } else { self.measure(size)? };
        self.stream.add_external_size(size);
        self.stream.write_reference(id)?;
        self.inline(padding)
    }

    fn inline(&mut self, mut left: u64) -> Result<()> {
        while left > 0 {
            let piece = next(&mut self.tar, &mut self.piece, &mut left)?;
            self.stream.write_inline(piece);
        }
        Ok(())
    }

    fn measure(&mut self, mut left: u64) -> Result<H> {
        let mut hasher = FsVerityHasher::<H>::new();
        while left > 0 {
            next(&mut self.tar, &mut self.piece, &mut left)?.chunks(BLOCK).for_each(|block| hasher.add_block(block));
        }
        Ok(hasher.digest())
    }

    fn store(&mut self, size: u64) -> Result<H> {
        let mut content = (&mut self.tar).take(size);
        let id = self.repository.ensure_object_from_reader(&mut content, size)?;
        if content.limit() > 0 { Err(end_in_entry()) } else { Ok(id) }
    }
}

/// The next piece of an entry of which `left` bytes are left: the whole buffer, except for the last.
fn next<'p>(tar: &mut impl Read, piece: &'p mut [u8], left: &mut u64) -> Result<&'p [u8]> {
    let length = piece.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    tar.read_exact(&mut piece[..length]).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => end_in_entry(),
        _ => error.into(),
    })?;
    *left -= length as u64;
    Ok(&piece[..length])
}

/// In the words of the library, so that a pull says the same.
fn end_in_entry() -> anyhow::Error {
    anyhow::anyhow!("unexpected EOF reading tar entry")
}
