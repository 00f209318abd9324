//! The compressions that kernels unpack and distributions use. Each decoder takes no byte beyond its own part.

use std::io::{self, BufRead, Read};

use super::Broken;

/// Memory for the dictionary of xz, in KiB. dracut and initramfs-tools ask for 1 to 8 MiB, `xz -9` for 64.
const XZ_MEMORY: u32 = 192 << 10;

/// The reader of a part: its uncompressed bytes.
pub(super) enum Part<'a, R: BufRead> {
    /// Not compressed: archives follow until the bytes are no archive any more.
    Plain(&'a mut R),
    /// Compressed; it ends by itself.
    Packed(Box<dyn Read + 'a>),
}

/// Opens a part by its first bytes; `None` where they are of no known form.
pub(super) fn open<'a, R: BufRead>(start: &[u8; 6], input: &'a mut R) -> Result<Option<Part<'a, R>>, Broken> {
    let packed: Box<dyn Read + 'a> = match start {
        b"070701" | b"070702" => return Ok(Some(Part::Plain(input))),
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::GzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::stream::read::Decoder::with_buffer(input)?.single_frame()),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(lzma_rust2::XzReader::new_mem_limit(input, false, XZ_MEMORY)),
        [0x02, 0x21, 0x4c, 0x18, ..] => Box::new(Lz4::new(input)?),
        _ => return Ok(None),
    };
    Ok(Some(Part::Packed(packed)))
}

impl<R: BufRead> Read for Part<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buf),
            Self::Packed(input) => input.read(buf),
        }
    }
}

/// The legacy format of `lz4 -l`, the only one of lz4 that kernels unpack: after four magic bytes, chunks of at most 8 MiB, each
/// with its compressed size before it. It ends where the bytes end, or at a size of 0.
struct Lz4<R> {
    input: R,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl<R: BufRead> Lz4<R> {
    const MAGIC: u32 = 0x184c_2102;
    const CHUNK: usize = 8 << 20;
    /// What a chunk of bytes that do not compress takes (`LZ4_COMPRESSBOUND`).
    const PACKED: usize = Self::CHUNK + Self::CHUNK / 255 + 16;

    fn new(mut input: R) -> io::Result<Self> {
        input.read_exact(&mut [0; 4])?;
        Ok(Self { input, chunk: Vec::new(), at: 0, ended: false })
    }

    fn next(&mut self) -> io::Result<()> {
        self.at = 0;
        self.chunk.clear();
        if self.input.fill_buf()?.is_empty() {
            self.ended = true;
            return Ok(());
        }
        let mut size = [0; 4];
        self.input.read_exact(&mut size)?;
        let size = match u32::from_le_bytes(size) {
            0 => {
                self.ended = true;
                return Ok(());
            }
            Self::MAGIC => return Ok(()),
            size => size as usize,
        };
        let malformed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if size > Self::PACKED {
            return Err(malformed(format!("an lz4 chunk has {size} bytes (expected at most {})", Self::PACKED)));
        }
        let mut packed = vec![0; size];
        self.input.read_exact(&mut packed)?;
        self.chunk = lz4_flex::block::decompress(&packed, Self::CHUNK).map_err(|e| malformed(format!("lz4: {e}")))?;
        Ok(())
    }
}

impl<R: BufRead> Read for Lz4<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.ended {
            self.next()?;
        }
        let n = (&self.chunk[self.at..]).read(buf)?;
        self.at += n;
        Ok(n)
    }
}
