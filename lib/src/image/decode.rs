//! [`Decoder`]: what a layer's blob is compressed with, undone.
//!
//! gzip by zlib-rs, which is about three times as fast as the zlib that other crates bring along; zstd by its own library.

use std::io::{self, BufRead, Read};

use oci_spec::image::MediaType;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::ahead::Ahead;

/// zlib's word for "the largest window, in a stream with gzip's header and trailer".
const GZIP_WINDOW: u8 = 16 + 15;

/// Reads the uncompressed bytes of a blob.
pub(super) enum Decoder {
    /// The blob as it is.
    Plain(Ahead),
    /// gzip, of one member or several.
    Gzip(Gzip),
    /// zstd, of one frame or several.
    Zstd(Box<zstd::Decoder<'static, Ahead>>),
    /// No byte at all, which decoders take for a valid empty stream; it is none.
    Nothing(Ahead),
}

impl Decoder {
    /// Looks at the first bytes to choose.
    pub(super) fn new(label: &MediaType, mut blob: Ahead) -> io::Result<Self> {
        // A blob that cannot be read fails again where its error is wanted.
        let Ok(start) = blob.fill_buf() else { return Ok(Self::Plain(blob)) };
        Ok(match compression(label, start) {
            MediaType::ImageLayer => Self::Plain(blob),
            _ if start.is_empty() => Self::Nothing(blob),
            MediaType::ImageLayerZstd => Self::Zstd(Box::new(zstd::Decoder::with_buffer(blob)?)),
            _ => Self::Gzip(Gzip { blob, member: None }),
        })
    }

    /// The blob, of which a decoder may leave something.
    pub(super) fn blob(&mut self) -> &mut Ahead {
        match self {
            Self::Plain(blob) | Self::Nothing(blob) => blob,
            Self::Gzip(gzip) => &mut gzip.blob,
            Self::Zstd(zstd) => zstd.get_mut(),
        }
    }
}

impl Read for Decoder {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(buf),
            Self::Gzip(gzip) => gzip.read(buf),
            Self::Zstd(zstd) => zstd.read(buf),
            Self::Nothing(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Undoes gzip (RFC 1952).
pub(super) struct Gzip {
    blob: Ahead,
    /// The member that is being read; `None` between two.
    member: Option<Inflate>,
}

impl Read for Gzip {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.blob.fill_buf()?;
            if input.is_empty() {
                return if self.member.is_none() { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let member = self.member.get_or_insert_with(|| Inflate::new(true, GZIP_WINDOW));
            let before = (member.total_in(), member.total_out());
            let status = member.decompress(input, buf, InflateFlush::NoFlush).map_err(|e| invalid(e.as_str()))?;
            let (used, made) = ((member.total_in() - before.0) as usize, (member.total_out() - before.1) as usize);
            self.blob.consume(used);
            match status {
                Status::StreamEnd => self.member = None,
                _ if used == 0 && made == 0 => return Err(invalid("the stream does not get on")),
                _ => {}
            }
            if made > 0 {
                return Ok(made);
            }
        }
    }
}

fn invalid(found: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("gzip: {found}"))
}

/// How the blob is compressed, by its first bytes.
///
/// A label that says "compressed" does not say how: Docker's format has no label for zstd, and `docker-archive:` labels plain
/// tar as gzip. The diff_id decides in the end whether the guess was right. A label that says "plain" is taken at its word.
fn compression(label: &MediaType, start: &[u8]) -> MediaType {
    match start {
        _ if label == &MediaType::ImageLayer => MediaType::ImageLayer,
        [] => label.clone(),
        [0x1f, 0x8b, ..] => MediaType::ImageLayerGzip,
        // A frame, or a skippable frame, with which zstd:chunked and others may begin (RFC 8878).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => MediaType::ImageLayerZstd,
        _ => MediaType::ImageLayer,
    }
}
