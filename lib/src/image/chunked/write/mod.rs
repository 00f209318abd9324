//! Writes a layer in the format zstd:chunked: each piece of a file is a frame of zstd of its own, and at the end of the blob stand, in
//! skippable frames, a table of contents, what is needed to make the tar again, and a footer. Whoever knows none of that reads zstd.
//!
//! The same entries in the same order give the same bytes, as long as the compressor is the same version. In memory are one piece, and both
//! tables compressed.

mod cut;
mod tar_split;
mod toc;

use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};
use openssl::sha::Sha256;

use super::position::{FOOTER_MAGICS, HEADER, JSON, PREFIXES, SKIPPABLE};
use crate::image::digest::sha256;
use crate::image::entry::{BLOCK, Entry};
use tar_split::{Crc, TarSplit};
use toc::{Content, Piece, Toc};

/// How hard the compressor tries: a layer is written once and fetched often.
const LEVEL: i32 = 9;

/// Headers that lie together are compressed together, up to so many bytes.
const HEADS: usize = 1 << 20;

/// As today.
const PREFIX: &str = PREFIXES[0];
const MAGIC: &[u8; 8] = FOOTER_MAGICS[0];

type Compressed = zstd::stream::write::Encoder<'static, Vec<u8>>;

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Finished {
    /// Digest of the blob.
    pub(in crate::image) digest: String,
    /// Its bytes.
    pub(in crate::image) size: u64,
    /// Digest of the tar.
    pub(in crate::image) diff_id: String,
    /// Bytes of the tar.
    pub(in crate::image) tar_size: u64,
    /// Where the table of contents is. Empty where the layer has none, because a name is no text.
    pub(in crate::image) annotations: Vec<(String, String)>,
}

/// A layer that is being written.
pub(in crate::image) struct Writer<W: Write> {
    blob: Summed<W>,
    tar: Sha256,
    tar_size: u64,
    compressor: zstd::bulk::Compressor<'static>,
    /// Bytes of the tar that are not compressed yet.
    head: Vec<u8>,
    /// How many bytes the last content lacks to whole blocks.
    padding: usize,
    tables: Tables,
}

struct Tables {
    toc: Toc<Counted>,
    split: TarSplit<Counted>,
    /// Whether every name was text so far.
    whole: bool,
}

impl<W: Write> Writer<W> {
    pub(in crate::image) fn new(out: W) -> Result<Self> {
        Ok(Self {
            blob: Summed { out, sum: Sha256::new(), written: 0 },
            tar: Sha256::new(),
            tar_size: 0,
            compressor: zstd::bulk::Compressor::new(LEVEL).context("starting zstd")?,
            head: Vec::new(),
            padding: 0,
            tables: Tables { toc: Toc::new(Counted::new()?)?, split: TarSplit::new(Counted::new()?), whole: true },
        })
    }

    /// Adds an entry; `content` is read to its end, which has to come after as many bytes as a file says it has.
    ///
    /// # Errors
    ///
    /// Those of [`Entry`] and of writing; content that is shorter or longer.
    pub(in crate::image) fn add(&mut self, entry: &Entry<'_>, content: impl Read) -> Result<()> {
        let head = [vec![0; std::mem::take(&mut self.padding)], entry.header()?].concat();
        self.head.extend(&head);
        if entry.size() > 0 || self.head.len() > HEADS {
            self.flush()?;
        }
        let (content, crc) = self.content(entry, content)?;
        self.tables.whole &= toc::can_tell(entry);
        if self.tables.whole {
            self.tables.split.segment(&head)?;
            self.tables.split.file(&String::from_utf8_lossy(&entry.name()), entry.size(), crc)?;
            self.tables.toc.add(entry, &content)?;
        }
        Ok(())
    }

    /// Ends the layer.
    pub(in crate::image) fn finish(mut self) -> Result<(W, Finished)> {
        let end = vec![0; self.padding + 2 * BLOCK];
        self.head.extend(&end);
        self.flush()?;
        let mut annotations = Vec::new();
        if self.tables.whole {
            self.tables.split.segment(&end)?;
            annotations = self.tables.write(&mut self.blob)?;
        }
        self.blob.flush()?;
        let finished = Finished {
            digest: digest(self.blob.sum),
            size: self.blob.written,
            diff_id: digest(self.tar),
            tar_size: self.tar_size,
            annotations,
        };
        Ok((self.blob.out, finished))
    }

    fn content(&mut self, entry: &Entry<'_>, content: impl Read) -> Result<(Content, Crc)> {
        let (mut pieces, mut whole, mut crc, mut size) = (Vec::new(), Sha256::new(), Crc::new(), 0);
        cut::pieces(content.take(entry.size() + 1), |piece| {
            size += piece.len() as u64;
            whole.update(piece);
            crc.update(piece);
            let (offset, zeros) = (self.blob.written, piece.iter().all(|byte| *byte == 0));
            let digest = sha256(piece).map_err(io::Error::other)?;
            pieces.push(Piece { offset, size: piece.len() as u64, zeros, digest });
            self.frame(piece)
        })?;
        if size != entry.size() {
            let shown = String::from_utf8_lossy(entry.path);
            bail!("writing {shown}: {}{size} bytes (expected {})", if size > entry.size() { "at least " } else { "" }, entry.size());
        }
        self.padding = (size.next_multiple_of(BLOCK as u64) - size) as usize;
        let digest = if size > 0 { digest(whole) } else { String::new() };
        let end = if size > 0 { self.blob.written } else { 0 };
        Ok((Content { pieces, digest, end }, crc))
    }

    /// Compresses the headers that wait.
    fn flush(&mut self) -> io::Result<()> {
        let head = std::mem::take(&mut self.head);
        self.frame(&head)
    }

    fn frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tar.update(bytes);
        self.tar_size += bytes.len() as u64;
        self.blob.write_all(&self.compressor.compress(bytes)?)
    }
}

impl Tables {
    /// Writes both tables and the footer; what annotations say of them.
    fn write<W: Write>(self, blob: &mut Summed<W>) -> Result<Vec<(String, String)>> {
        let (split, split_size) = self.split.into_inner().finish()?;
        let (toc, toc_size) = self.toc.finish(&sha256(&split)?)?.finish()?;
        let toc_digest = sha256(&toc)?;
        let (toc_at, toc_length) = (skippable(blob, &toc)?, toc.len() as u64);
        let (split_at, split_length) = (skippable(blob, &split)?, split.len() as u64);
        let numbers = [toc_at, toc_length, toc_size, JSON, split_at, split_length, split_size];
        let footer: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).chain(*MAGIC).collect();
        skippable(blob, &footer)?;
        let named = |name: &str, value: String| (format!("{PREFIX}{name}"), value);
        Ok(vec![
            named("manifest-checksum", toc_digest),
            named("manifest-position", format!("{toc_at}:{toc_length}:{toc_size}:{JSON}")),
            named("tarsplit-position", format!("{split_at}:{split_length}:{split_size}")),
        ])
    }
}

/// Writes a frame that decoders pass over; where its content begins.
fn skippable<W: Write>(blob: &mut Summed<W>, bytes: &[u8]) -> Result<u64> {
    let length = u32::try_from(bytes.len()).context("writing the table of contents: it has more than 4 GiB")?;
    blob.write_all(&SKIPPABLE.to_le_bytes())?;
    blob.write_all(&length.to_le_bytes())?;
    let at = blob.written;
    debug_assert!(at >= HEADER as u64);
    blob.write_all(bytes)?;
    Ok(at)
}

fn digest(sum: Sha256) -> String {
    format!("sha256:{}", hex::encode(sum.finish()))
}

/// A writer that hashes and counts.
struct Summed<W> {
    out: W,
    sum: Sha256,
    written: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.update(&bytes[..written]);
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Compresses into memory and counts what went in.
struct Counted {
    encoder: Compressed,
    size: u64,
}

impl Counted {
    fn new() -> io::Result<Self> {
        Ok(Self { encoder: Compressed::new(Vec::new(), LEVEL)?, size: 0 })
    }

    fn finish(self) -> io::Result<(Vec<u8>, u64)> {
        Ok((self.encoder.finish()?, self.size))
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.encoder.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

#[cfg(test)]
mod tests;
