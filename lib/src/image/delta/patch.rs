//! [`PatchWriter`]: writes a patch in the format of tar-diff: eight bytes, then operations, compressed with zstd. Each operation is a byte, a
//! number of seven bits a byte, and so many bytes of data.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use super::TAR_DIFF;
use super::artifact::DeltaBlob;
use super::frame::LEVEL;
use super::pieces::Piece;
use crate::image::digest::Hasher;
use crate::image::output::{BUFFER, STAGED};

/// What a patch begins with; the second where it has frames that refer to another file.
const HEADERS: [&[u8; 8]; 2] = [b"tardf1\n\0", b"tardf2\n\0"];

/// Operations: bytes that follow, a file to copy from, a copy, a place in that file, a frame in terms of it.
const DATA: u8 = 0;
const OPEN: u8 = 1;
const COPY: u8 = 2;
const SEEK: u8 = 4;
const ZSTD_DICT: u8 = 5;

/// Longest path that readers take.
pub(super) const MAX_PATH: usize = 4096;

/// A patch that is being written into a layout of a scratch directory, see [`Delta`](super::Delta).
pub struct PatchWriter {
    encoder: zstd::Encoder<'static, BufWriter<NamedTempFile>>,
    blobs: PathBuf,
    frames: bool,
}

impl PatchWriter {
    /// Begins a patch of a delta that is put together in `directory`, which may be empty.
    ///
    /// # Errors
    ///
    /// Where no file can be made there.
    pub fn create(directory: &Path) -> Result<Self> {
        let blobs = blobs(directory, "sha256")?;
        let mut file = BufWriter::with_capacity(BUFFER, NamedTempFile::new_in(&blobs).context("making a scratch file")?);
        file.write_all(HEADERS[0]).context("writing a patch")?;
        Ok(Self { encoder: zstd::Encoder::new(file, LEVEL).context("starting zstd")?, blobs, frames: false })
    }

    /// The next `size` bytes of the tar are those of `content`.
    ///
    /// # Errors
    ///
    /// Content that has not so many bytes, and where there is no room.
    pub fn data(&mut self, size: u64, content: impl Read) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        self.operation(DATA, size)?;
        let copied = std::io::copy(&mut content.take(size), &mut self.encoder).context("writing a patch")?;
        ensure!(copied == size, "writing a patch: a file ended after {copied} bytes (expected {size})");
        Ok(())
    }

    /// The next `size` bytes are those of the file at `path` in the root of the image to start from; it has no more.
    ///
    /// # Errors
    ///
    /// A path that is too long, and where there is no room.
    pub fn copy(&mut self, path: &str, size: u64) -> Result<()> {
        self.open(path)?;
        self.operation(COPY, size)
    }

    /// The next bytes are those that `operations` make of the file at `path`, see [`operations`].
    ///
    /// # Errors
    ///
    /// As of [`copy`](Self::copy).
    pub fn pieces(&mut self, path: &str, operations: &[u8]) -> Result<()> {
        self.open(path)?;
        self.encoder.write_all(operations).context("writing a patch")
    }

    /// The next bytes are those that `frame` makes of the file at `path`, see [`compress_against`](super::compress_against).
    ///
    /// # Errors
    ///
    /// As of [`copy`](Self::copy).
    pub fn frame(&mut self, path: &str, frame: &[u8]) -> Result<()> {
        self.frames = true;
        self.open(path)?;
        self.operation(ZSTD_DICT, frame.len() as u64)?;
        self.encoder.write_all(frame).context("writing a patch")
    }

    /// Ends the patch.
    ///
    /// # Errors
    ///
    /// Where there is no room.
    pub fn finish(self) -> Result<DeltaBlob> {
        let file = self.encoder.finish().context("writing a patch")?;
        let mut file = file.into_inner().map_err(|e| e.into_error()).context("writing a patch")?;
        file.seek(SeekFrom::Start(0)).context("writing a patch")?;
        // Older readers know the first form only.
        file.write_all(HEADERS[usize::from(self.frames)]).context("writing a patch")?;
        let (digest, size) = digest(file.as_file_mut())?;
        file.persist(self.blobs.join(digest.trim_start_matches("sha256:"))).context("writing a patch")?;
        Ok(DeltaBlob { media_type: TAR_DIFF.to_owned(), digest, size })
    }

    fn open(&mut self, path: &str) -> Result<()> {
        ensure!(path.len() <= MAX_PATH, "writing a patch: the path has {} bytes (expected at most {MAX_PATH})", path.len());
        self.operation(OPEN, path.len() as u64)?;
        self.encoder.write_all(path.as_bytes()).context("writing a patch")
    }

    fn operation(&mut self, operation: u8, size: u64) -> Result<()> {
        let mut bytes = Vec::new();
        append(&mut bytes, operation, size);
        self.encoder.write_all(&bytes).context("writing a patch")
    }
}

/// The operations that make `new` of these [`pieces`](super::pieces()) of an open file.
pub fn operations(new: &[u8], pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Copy(range) => {
                append(&mut bytes, SEEK, range.start as u64);
                append(&mut bytes, COPY, range.len() as u64);
            }
            Piece::Data(range) => {
                append(&mut bytes, DATA, range.len() as u64);
                bytes.extend_from_slice(&new[range.clone()]);
            }
        }
    }
    bytes
}

fn append(bytes: &mut Vec<u8>, operation: u8, mut size: u64) {
    bytes.push(operation);
    while size >= 0x80 {
        bytes.push(size as u8 | 0x80);
        size >>= 7;
    }
    bytes.push(size as u8);
}

/// The directory of blobs of the layout that is put together in `directory`.
pub(super) fn blobs(directory: &Path, algorithm: &str) -> Result<PathBuf> {
    let blobs = directory.join(STAGED).join("blobs").join(algorithm);
    std::fs::create_dir_all(&blobs).context("making a scratch directory")?;
    Ok(blobs)
}

fn digest(file: &mut File) -> Result<(String, u64)> {
    file.seek(SeekFrom::Start(0)).context("reading a patch")?;
    let (mut hasher, mut size, mut buffer) = (Hasher::like("sha256:")?, 0, vec![0; BUFFER]);
    loop {
        let read = file.read(&mut buffer).context("reading a patch")?;
        if read == 0 {
            return Ok((hasher.finish()?, size));
        }
        hasher.update(&buffer[..read])?;
        size += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Cursor;

    use super::super::{SourceFile, SourceFiles, apply_delta, compress_against};
    use super::*;
    use crate::image::digest;

    struct Files(BTreeMap<&'static str, Vec<u8>>);

    impl SourceFiles for Files {
        fn open(&self, path: &str) -> Result<Box<dyn SourceFile>> {
            Ok(Box::new(Cursor::new(self.0.get(path).context("no such file")?.clone())))
        }
    }

    fn patch(write: impl Fn(&mut PatchWriter) -> Result<()>) -> Vec<u8> {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = PatchWriter::create(temp.path()).unwrap();
        write(&mut writer).unwrap();
        let blob = writer.finish().unwrap();
        let bytes = std::fs::read(blobs(temp.path(), "sha256").unwrap().join(&blob.digest[7..])).unwrap();
        assert_eq!((blob.size, &blob.digest), (bytes.len() as u64, &digest::sha256(&bytes).unwrap()));
        bytes
    }

    fn applied(patch: Vec<u8>, expected: &[u8]) -> Result<()> {
        let files = Files(BTreeMap::from([("usr/a", b"hello, hello".to_vec()), ("usr/b", vec![7; 300])]));
        let mut out = Vec::new();
        apply_delta(Cursor::new(patch), TAR_DIFF, &files, &digest::sha256(expected)?, &mut out)?;
        assert_eq!(out, expected);
        Ok(())
    }

    #[test]
    fn what_is_written_is_read_by_the_library() {
        let plain = patch(|patch| {
            patch.data(0, &b""[..])?;
            patch.data(2, &b"> and more"[..])?;
            patch.copy("usr/b", 300)?;
            patch.copy("usr/a", 12)
        });
        assert_eq!(&plain[..8], HEADERS[0]);
        applied(plain, &[&b"> "[..], &[7; 300], b"hello, hello"].concat()).unwrap();
        let pieces = [Piece::Copy(7..12), Piece::Data(2..4), Piece::Copy(0..5)];
        let pieced = patch(|patch| patch.pieces("usr/a", &operations(b"..? ..", &pieces)));
        assert_eq!(&pieced[..8], HEADERS[0]);
        applied(pieced, b"hello? hello").unwrap();
        let frame = compress_against(b"hello, hello", b"hello, world").unwrap();
        let framed = patch(|patch| {
            patch.frame("usr/a", &frame)?;
            patch.data(1, &b"!"[..])
        });
        assert_eq!(&framed[..8], HEADERS[1]);
        applied(framed, b"hello, world!").unwrap();
    }

    #[test]
    fn what_cannot_be_written_or_is_not_there_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let mut writer = PatchWriter::create(temp.path()).unwrap();
        assert!(writer.copy(&"x".repeat(MAX_PATH + 1), 1).is_err());
        assert!(writer.data(3, &b"ab"[..]).unwrap_err().to_string().contains("ended after 2 bytes (expected 3)"));
        for (path, size) in [("usr/none", 1), ("usr/a", 13)] {
            assert!(applied(patch(|patch| patch.copy(path, size)), b"x").is_err());
        }
        let other = applied(patch(|patch| patch.copy("usr/a", 11)), b"hello, hello").unwrap_err();
        assert!(other.to_string().contains("diff_id"), "{other:#}");
    }
}
