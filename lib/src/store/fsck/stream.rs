//! Split streams, read with bounds: what is damaged or hostile gives an error, never more memory or time than its limits.
//!
//! The format is that of composefs (`doc/splitstream.md` there): a header, arrays of digests, and a zstd stream of chunks, each a number of
//! bytes that follow or the index of an object. The library's reader trusts the numbers in it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use composefs::fsverity::FsVerityHashValue;

use crate::store::bounds::MAX_LAYER;

const MAGIC: &[u8; 11] = b"SplitStream";
const HEADER: usize = 32;
const INFO: usize = 80;
/// Blocks of fs-verity, as a power of two.
const BLOCK: u8 = 12;
/// The most that a table of digests, or of names when it is unpacked, may take. A layer of a million files has one of 64 MB.
const MAX_TABLE: u64 = 256 << 20;
/// The most bytes of headers and small files in a layer: more than are imported, since others may have written it.
const MAX_INLINE: u64 = 8 << 30;

/// A stream whose tables were read.
pub(super) struct Stream<H> {
    /// What the stream is a stream of.
    pub(super) content_type: u64,
    /// Objects that its content consists of.
    pub(super) objects: Vec<H>,
    /// Streams and images that it names.
    pub(super) named: Vec<(String, H)>,
    size: u64,
    body: (u64, u64),
    file: File,
}

impl<H: FsVerityHashValue> Stream<H> {
    /// Reads the tables.
    pub(super) fn read(file: File) -> Result<Self> {
        let length = file.metadata().context("looking at it")?.len();
        let header = bytes(&file, length, (0, HEADER as u64), MAX_TABLE).context("reading its header")?;
        // Until 1.15, bootc wrote the fields in another order.
        let (magic, [version, algorithm, block], info) = if header.starts_with(MAGIC) {
            (&header[..11], [header[11], header[14], header[15]], &header[16..])
        } else {
            (&header[18..29], [header[29], header[30], header[31]], &header[..16])
        };
        ensure!(magic == MAGIC, "it does not begin like a split stream");
        ensure!(version == 0, "its version is {version} (expected 0)");
        ensure!(algorithm == H::ALGORITHM.kernel_id(), "it is of another algorithm than the repository");
        ensure!(block == BLOCK, "its blocks are of 2^{block} bytes (expected 2^{BLOCK})");
        let info = bytes(&file, length, range(info), MAX_TABLE).context("reading its information block")?;
        ensure!(info.len() >= INFO, "its information block has {} bytes (expected {INFO})", info.len());
        let table = |at: usize, what: &str| {
            bytes(&file, length, range(&info[at..at + 16]), MAX_TABLE).with_context(|| format!("reading its table of {what}"))
        };
        let streams: Vec<H> = digests(&table(0, "streams")?)?;
        let objects = digests(&table(16, "objects")?)?;
        let named = names(&table(48, "names")?, &streams).context("reading its table of names")?;
        let body = range(&info[32..48]);
        ensure!(body.0 <= body.1 && body.1 <= length, "its content is said to end at byte {} of {length}", body.1);
        let size = number(&info[72..80]);
        ensure!(size <= MAX_LAYER, "its content is said to have {size} bytes (expected at most {MAX_LAYER})");
        Ok(Self { content_type: number(&info[64..72]), objects, named, size, body, file })
    }

    /// Writes the content to `to`. `object` opens an object.
    pub(super) fn write(&self, mut to: impl Write, mut object: impl FnMut(&H) -> Result<File>) -> Result<()> {
        let packed = Section { file: &self.file, at: self.body.0, end: self.body.1 };
        let mut reader = zstd::Decoder::new(packed).context("unpacking its content")?;
        let (mut inline, mut total) = (0u64, 0u64);
        while let Some(chunk) = next(&mut reader)? {
            total += if chunk < 0 {
                let length = chunk.unsigned_abs();
                inline = inline.saturating_add(length);
                ensure!(inline <= MAX_INLINE, "it has more than {MAX_INLINE} bytes of headers and small files");
                let copied = io::copy(&mut (&mut reader).take(length), &mut to).context("unpacking its content")?;
                ensure!(copied == length, "its content ends early");
                length
            } else {
                let id = usize::try_from(chunk).ok().and_then(|index| self.objects.get(index));
                let id = id.with_context(|| format!("its content names object {chunk} of {}", self.objects.len()))?;
                // Objects have 65 bytes at least, so the sum bounds the number of chunks too.
                io::copy(&mut object(id)?, &mut to).with_context(|| format!("reading object {}", id.to_hex()))?.max(1)
            };
            ensure!(total <= self.size, "its content is longer than the {} bytes that it says", self.size);
        }
        ensure!(total == self.size, "its content has {total} bytes (expected {}, as it says)", self.size);
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut le = [0; 8];
    le.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(le)
}

fn range(bytes: &[u8]) -> (u64, u64) {
    (number(bytes), number(&bytes[8..]))
}

fn bytes(file: &File, length: u64, (start, end): (u64, u64), most: u64) -> Result<Vec<u8>> {
    ensure!(start <= end && end <= length, "it is said to be in bytes {start} to {end} of {length}");
    ensure!(end - start <= most, "it has {} bytes (expected at most {most})", end - start);
    let mut bytes = vec![0; usize::try_from(end - start)?];
    file.read_exact_at(&mut bytes, start)?;
    Ok(bytes)
}

fn digests<H: FsVerityHashValue>(bytes: &[u8]) -> Result<Vec<H>> {
    let length = size_of::<H>();
    ensure!(bytes.len().is_multiple_of(length), "a table of digests has {} bytes (expected a multiple of {length})", bytes.len());
    bytes.chunks_exact(length).map(|digest| Ok(H::from_hex(hex::encode(digest))?)).collect()
}

/// Names with the digests that they stand for: `INDEX:NAME`, each with a zero byte at its end.
fn names<H: FsVerityHashValue>(packed: &[u8], streams: &[H]) -> Result<Vec<(String, H)>> {
    let mut reader = BufReader::new(zstd::Decoder::new(packed)?.take(MAX_TABLE));
    let mut names = Vec::new();
    loop {
        let mut item = Vec::new();
        reader.read_until(0, &mut item)?;
        match item.pop() {
            None => return Ok(names),
            Some(0) => {}
            Some(_) => bail!("its last name does not end"),
        }
        let item = String::from_utf8(item)?;
        let (index, name) = item.split_once(':').with_context(|| format!("name {item:?} has no index"))?;
        let id = index.parse::<usize>().ok().and_then(|index| streams.get(index));
        let id = id.with_context(|| format!("name {name:?} has index {index} of {}", streams.len()))?;
        names.push((name.to_owned(), id.clone()));
    }
}

/// The number before a chunk; `None` at the end.
fn next(reader: &mut impl Read) -> Result<Option<i64>> {
    let mut chunk = Vec::with_capacity(8);
    reader.by_ref().take(8).read_to_end(&mut chunk).context("unpacking its content")?;
    match <[u8; 8]>::try_from(&chunk[..]) {
        Ok(chunk) => Ok(Some(i64::from_le_bytes(chunk))),
        Err(_) if chunk.is_empty() => Ok(None),
        Err(_) => bail!("its content ends early"),
    }
}

/// A part of a file, by offsets of its own.
struct Section<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = buf.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buf[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
