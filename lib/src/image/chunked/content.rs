//! Reading one file out of a chunked layer: its pieces, decompressed one after the other within the sizes that the table gives, and compared
//! with the digests that it gives.

use std::io::{self, BufRead, BufReader, Read};

use openssl::sha::Sha256;
use zstd::stream::read::Decoder;
use zstd::zstd_safe::{self, DCtx, DParameter};

use super::table::{Chunk, File};
use crate::error::Failure;
use crate::image::together::Together;

/// What is decompressed at a time.
const BUFFER: usize = 128 * 1024;

/// The largest window in which a frame may look back, as a power of two: what bounds the memory of the decoder. The encoders that write
/// such layers use 32 MiB at most.
const WINDOW: u32 = 25;

/// A hole whose compressed bytes are no more than this is read with what is around it: less than a request of its own costs.
const SMALL_HOLE: u64 = 4096;

const ZEROS: [u8; 4096] = [0; 4096];

/// A blob of which ranges can be read.
pub(in crate::image) trait Ranged {
    /// The size of the blob in bytes.
    fn size(&self) -> u64;

    /// A reader of bytes `offset..offset + length`, which ends after those; ending before is an error of it.
    ///
    /// # Errors
    ///
    /// Where that range cannot be had. All that this and its reader say means that ranges do not work here, but for a [`Failure`].
    fn range(&mut self, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send>>;

    /// From now on nothing is tried again once `together` has failed.
    fn bind(&mut self, _together: &Together) {}
}

/// Why a file was not copied to its end.
#[derive(Debug)]
pub(in crate::image) enum Trouble {
    /// The blob could not be read so, or is not what its table says.
    Blob(String),
    /// There was an outage, or a signal: nothing is known of the blob.
    Line(Failure),
    /// The receiver said so.
    Receiver(anyhow::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        error.downcast::<Failure>().map_or_else(|error| Self::Blob(error.to_string()), Self::Line)
    }
}

/// Copies a file to `receive`, and counts in `fetched` the bytes of the blob that were asked for.
///
/// # Errors
///
/// Where a range cannot be read, where a piece is longer or shorter than the table says, or where a digest differs. What was handed out
/// before is void then.
pub(in crate::image) fn copy<B: Ranged>(
    blob: &mut B,
    file: &File,
    fetched: &mut u64,
    receive: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>,
) -> Result<(), Trouble> {
    let mut whole = Sha256::new();
    let mut out = |bytes: &[u8]| {
        whole.update(bytes);
        receive(bytes).map_err(Trouble::Receiver)
    };
    let (mut unpacker, mut rest) = (Unpacker::new()?, file.chunks.as_slice());
    while let Some(chunk) = rest.first() {
        if is_skipped(chunk) {
            zeros(chunk, &mut out)?;
            rest = &rest[1..];
            continue;
        }
        let (run, after) = rest.split_at(rest.iter().take_while(|c| !is_skipped(c)).count());
        let (offset, end) = (chunk.offset, run.last().map_or(chunk.end, |last| last.end));
        let mut reader = BufReader::with_capacity(BUFFER, blob.range(offset, end - offset)?);
        *fetched += end - offset;
        run.iter().try_for_each(|chunk| unpacker.piece(&mut reader, chunk, &mut out))?;
        rest = after;
    }
    match file.digest {
        Some(expected) if whole.finish() != expected => {
            Err(Trouble::Blob("a file's digest is another than its table of contents says".into()))
        }
        _ => Ok(()),
    }
}

/// Whether a piece is made here and not read.
pub(in crate::image) fn is_skipped(chunk: &Chunk) -> bool {
    chunk.zeros && (chunk.end - chunk.offset > SMALL_HOLE || chunk.end == chunk.offset)
}

/// A hole, in pieces as they come from elsewhere.
pub(in crate::image) fn zeros(chunk: &Chunk, out: &mut dyn FnMut(&[u8]) -> Result<(), Trouble>) -> Result<(), Trouble> {
    let mut left = chunk.size;
    while left > 0 {
        let piece = &ZEROS[..usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len())];
        out(piece)?;
        left -= piece.len() as u64;
    }
    Ok(())
}

/// A decoder of a table or a list.
pub(in crate::image) fn decoder<'a, R: BufRead>(compressed: R) -> io::Result<Decoder<'a, R>> {
    let mut decoder = Decoder::with_buffer(compressed)?;
    decoder.window_log_max(WINDOW)?;
    Ok(decoder)
}

/// Decompresses what a layer has in pieces, one after the other, with one decoder: to make one takes longer than most pieces do.
pub(in crate::image) struct Unpacker {
    context: DCtx<'static>,
    buffer: Vec<u8>,
}

impl Unpacker {
    pub(in crate::image) fn new() -> io::Result<Self> {
        let mut context = DCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        let wide = context.set_parameter(DParameter::WindowLogMax(WINDOW));
        wide.map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
        Ok(Self { context, buffer: vec![0; BUFFER] })
    }

    /// Decompresses the next piece. Never more than its size comes out of the decoder, and one byte to notice that there is more.
    pub(in crate::image) fn piece(
        &mut self,
        reader: &mut dyn BufRead,
        chunk: &Chunk,
        out: &mut dyn FnMut(&[u8]) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let mut hasher = chunk.digest.map(|_| Sha256::new());
        let compressed = reader.take(chunk.end - chunk.offset);
        let done = self.unpack(compressed, chunk.size, &mut |bytes| {
            hasher.iter_mut().for_each(|hasher| hasher.update(bytes));
            out(bytes)
        })?;
        match done {
            None => return Err(Trouble::Blob(format!("a piece of a file has more than {} bytes (expected as many)", chunk.size))),
            Some(done) if done < chunk.size => {
                return Err(Trouble::Blob(format!("a piece of a file has {done} bytes (expected {})", chunk.size)));
            }
            Some(_) => {}
        }
        if hasher.map(Sha256::finish) != chunk.digest {
            return Err(Trouble::Blob("the digest of a piece of a file is another than its table of contents says".into()));
        }
        Ok(())
    }

    /// Decompresses all that `reader` has, which is no piece of a file, and no more than `limit` bytes: how many there were.
    pub(in crate::image) fn all(
        &mut self,
        reader: &mut dyn BufRead,
        limit: u64,
        out: &mut dyn FnMut(&[u8]) -> Result<(), Trouble>,
    ) -> Result<u64, Trouble> {
        let done = self.unpack(reader, limit, out)?;
        done.ok_or_else(|| Trouble::Blob(format!("there are more than {limit} bytes between files (expected fewer)")))
    }

    /// Hands out up to `most` bytes: how many there were, or `None` where there are more.
    fn unpack(
        &mut self,
        compressed: impl BufRead,
        most: u64,
        out: &mut dyn FnMut(&[u8]) -> Result<(), Trouble>,
    ) -> Result<Option<u64>, Trouble> {
        let mut decoder = Decoder::with_context(compressed, &mut self.context).take(most.saturating_add(1));
        let mut done = 0;
        loop {
            let read = decoder.read(&mut self.buffer)?;
            if read == 0 {
                return Ok(Some(done));
            }
            done += read as u64;
            if done > most {
                return Ok(None);
            }
            out(&self.buffer[..read])?;
        }
    }
}

/// A reader of exactly `length` bytes of `inner`: no more, and an error where there are fewer.
pub(in crate::image) fn exactly(inner: impl Read + Send + 'static, length: u64) -> impl Read + Send {
    Exactly { inner, left: length }
}

struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("truncated: {} bytes are missing", self.left)));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::random;
    use super::*;

    /// A blob in memory that counts what is asked of it.
    struct Memory {
        bytes: Vec<u8>,
        asked: Vec<(u64, u64)>,
    }

    impl Ranged for Memory {
        fn size(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn range(&mut self, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send>> {
            self.asked.push((offset, length));
            let there = self.bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
            Ok(Box::new(exactly(io::Cursor::new(there.to_vec()), length)))
        }
    }

    type Spoil<'a> = &'a dyn Fn(&mut Memory, &mut File);

    fn sha256(bytes: &[u8]) -> [u8; 32] {
        openssl::sha::sha256(bytes)
    }

    /// A blob of `pieces`, each in frames of its own, with something before and after each file, and the file that it makes.
    fn packed(pieces: &[(Vec<u8>, bool)]) -> (Memory, File, Vec<u8>) {
        let mut blob = b"what comes before".to_vec();
        let mut chunks = Vec::new();
        for (piece, zeros) in pieces {
            let offset = blob.len() as u64;
            blob.extend(zstd::encode_all(piece.as_slice(), 3).unwrap());
            if *zeros && piece.len() > 50_000 {
                // A skippable frame stands for what the zeros of a really large hole need.
                blob.extend([&0x184d_2a50_u32.to_le_bytes()[..], &5000_u32.to_le_bytes(), &[0; 5000]].concat());
            }
            let (end, size) = (blob.len() as u64, piece.len() as u64);
            chunks.push(Chunk { offset, end, size, zeros: *zeros, digest: Some(sha256(piece)) });
        }
        blob.extend(b"what comes after");
        let content: Vec<u8> = pieces.iter().flat_map(|(piece, _)| piece.clone()).collect();
        let file = File { size: content.len() as u64, digest: Some(sha256(&content)), chunks };
        (Memory { bytes: blob, asked: Vec::new() }, file, content)
    }

    fn copied(blob: &mut Memory, file: &File) -> Result<(Vec<u8>, u64), Trouble> {
        let (mut content, mut fetched) = (Vec::new(), 0);
        copy(blob, file, &mut fetched, &mut |bytes| {
            content.extend(bytes);
            Ok(())
        })?;
        Ok((content, fetched))
    }

    fn refused(blob: &mut Memory, file: &File) -> String {
        match copied(blob, file) {
            Err(Trouble::Blob(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_come_out_as_they_went_in_however_they_were_cut() {
        let mut state = 7;
        for _ in 0..20 {
            let pieces: Vec<(Vec<u8>, bool)> = (0..1 + random(&mut state) % 6)
                .map(|_| {
                    let (length, kind) = (1 + random(&mut state) % 150_000, random(&mut state) % 3);
                    match kind {
                        0 => (vec![0; length], true),
                        1 => ((0..length).map(|_| random(&mut state) as u8).collect(), false),
                        _ => ((0..length).map(|n| (n / 100) as u8).collect(), false),
                    }
                })
                .collect();
            let (mut blob, file, content) = packed(&pieces);
            let (found, fetched) = copied(&mut blob, &file).unwrap();
            assert!(found == content, "{:?}", file.chunks);
            assert_eq!(fetched, blob.asked.iter().map(|(_, length)| length).sum::<u64>());
        }
    }

    #[test]
    fn what_lies_together_is_asked_for_at_once_and_large_holes_are_not_asked_for() {
        let noise: Vec<u8> = (0..50_000_u64).map(|n| (n * n / 7) as u8).collect();
        let (small, large) = (vec![0; 40_000], vec![0; 400_000]);
        let (mut blob, file, _) = packed(&[(noise.clone(), false), (small, true), (noise.clone(), false), (large, true), (noise, false)]);
        let (found, fetched) = copied(&mut blob, &file).unwrap();
        assert_eq!(found.len() as u64, file.size);
        let at = |index: usize| &file.chunks[index];
        let expected = [(at(0).offset, at(2).end - at(0).offset), (at(4).offset, at(4).end - at(4).offset)];
        assert_eq!((blob.asked.as_slice(), fetched), (&expected[..], expected[0].1 + expected[1].1));
        // Without anything in it at all, a file needs no bytes.
        let empty = File { size: 0, digest: Some(sha256(b"")), chunks: vec![] };
        assert_eq!(copied(&mut blob, &empty).unwrap(), (vec![], 0));
    }

    #[test]
    fn a_table_that_lies_about_contents_is_found_out() {
        let good = || packed(&[(vec![1; 5000], false), (vec![2; 5000], false)]);
        let table: [(Spoil<'_>, &str); 9] = [
            (&|_, file| file.digest = Some([0; 32]), "a file's digest is another"),
            (&|_, file| file.chunks[0].digest = Some([0; 32]), "the digest of a piece"),
            (&|_, file| file.chunks[1].size += 1, "has 5000 bytes (expected 5001)"),
            (&|_, file| file.chunks[1].size -= 1, "more than 4999 bytes"),
            (&|_, file| file.chunks[0].end -= 1, "incomplete"),
            (&|_, file| file.chunks[0].offset -= 1, "Unknown frame descriptor"),
            (&|blob, file| blob.bytes.truncate(file.chunks[1].offset as usize + 3), "truncated: "),
            (&|_, file| file.chunks.iter_mut().for_each(|c| (c.offset, c.end) = (c.offset + (1 << 40), c.end + (1 << 40))), "are missing"),
            (&|_, file| file.chunks[1].end += 16, "Unknown frame descriptor"),
        ];
        for (spoil, expected) in table {
            let (mut blob, mut file, _) = good();
            spoil(&mut blob, &mut file);
            let reason = refused(&mut blob, &file);
            assert!(reason.contains(expected), "{reason} (expected {expected})");
        }
    }

    #[test]
    fn what_went_wrong_with_a_piece_is_not_in_the_next_one() {
        let good = zstd::encode_all(&[7; 300_000][..], 3).unwrap();
        let chunk = |end: usize, size| Chunk { offset: 0, end: end as u64, size, zeros: false, digest: None };
        let mut unpacker = Unpacker::new().unwrap();
        // Cut in the middle of a frame, left with bytes in the decoder, no frame at all.
        for (bytes, size) in [(&good[..good.len() / 2], 300_000), (&good, 1000), (b"no frame", 300_000)] {
            assert!(unpacker.piece(&mut &bytes[..], &chunk(bytes.len(), size), &mut |_| Ok(())).is_err());
            let mut content: Vec<u8> = Vec::new();
            let mut out = |bytes: &[u8]| {
                content.extend(bytes);
                Ok(())
            };
            unpacker.piece(&mut &good[..], &chunk(good.len(), 300_000), &mut out).unwrap();
            assert!(content == [7; 300_000]);
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_size_that_the_table_gives() {
        let (mut blob, mut file, _) = packed(&[(vec![0; 5_000_000], false)]);
        (file.size, file.chunks[0].size) = (1000, 1000);
        let mut most = 0;
        let stopped = copy(&mut blob, &file, &mut 0, &mut |bytes| {
            most += bytes.len();
            Ok(())
        });
        assert!(matches!(stopped, Err(Trouble::Blob(reason)) if reason.contains("more than 1000 bytes")));
        assert!(most <= 1000, "{most}");
        // A size to which nothing can be added.
        let (mut blob, mut file, _) = packed(&[(vec![0; 50], false)]);
        (file.size, file.chunks[0].size) = (u64::MAX, u64::MAX);
        assert_eq!(refused(&mut blob, &file), "a piece of a file has 50 bytes (expected 18446744073709551615)");
        // What lies between files has a limit, too.
        let small = zstd::encode_all(&[0; 1000][..], 3).unwrap();
        let all = |limit| Unpacker::new().unwrap().all(&mut small.as_slice(), limit, &mut |_| Ok(()));
        assert!(matches!(all(1000), Ok(1000)));
        assert!(matches!(all(999), Err(Trouble::Blob(reason)) if reason.contains("more than 999 bytes between files")));
        // A frame that wants a window of 128 MiB: magic, descriptor, window.
        let wide = [&0xfd2f_b528_u32.to_le_bytes()[..], &[0x00, 0x88, 0x01, 0x00, 0x00]].concat();
        let chunk = Chunk { offset: 0, end: wide.len() as u64, size: 5, zeros: false, digest: None };
        let mut blob = Memory { bytes: wide, asked: vec![] };
        let reason = refused(&mut blob, &File { size: 5, digest: None, chunks: vec![chunk] });
        assert!(reason.contains("memory"), "{reason}");
    }
}
