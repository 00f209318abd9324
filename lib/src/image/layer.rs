//! [`LayerReader`]: the uncompressed tar of a layer, or its blob as it is, whose end is only reached when everything was verified.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use anyhow::Result;
use oci_spec::image::MediaType;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader, ReadBuf};

use crate::error::{Failure, FailureKind};
use crate::progress::Progress;

use super::blob::{Blob, Expected, Reader, Seen};
use super::digest::Hasher;
use super::manifest::Layer;

/// Large enough that a read from a pipe or file is rarely the bottleneck.
const BUFFER: usize = 256 * 1024;

/// The other end of a blob's pipe: why it stopped early, where it did and knows. Ready only after the pipe was closed.
pub(super) type Sender = Pin<Box<dyn Future<Output = Option<Failure>> + Send>>;

/// Reads the uncompressed tar of a layer, or its blob as it is.
///
/// The end of file (`Ok` with nothing read) is returned only after the blob was read to its end, its size and digest equal
/// what the manifest says, and, of a tar, the digest of the uncompressed bytes equals the diff_id. Otherwise that read fails, with
/// an [`io::Error`] around a [`Failure`] of kind [`FailureKind::Corrupt`] (or [`FailureKind::Unreachable`], where the
/// connection broke), and so does every read after it. Bytes that were handed out before are unverified until then.
pub struct LayerReader {
    layer: Layer,
    decoded: Reader,
    blob: Blob,
    /// `None` where the blob is handed out as it is, with a digest that says all, so that hashing once is enough.
    diff: Option<Hasher>,
    sender: Option<Sender>,
    state: State,
}

enum State {
    Decoding,
    /// The decoder has ended; what is left of the blob still counts for its digest.
    Draining(Option<io::Error>),
    /// The verdict is bad; the sender may know why.
    Asking(Failure),
    Failed(Failure),
    /// The source failed, and would fail again.
    Broken(io::ErrorKind, String),
    Verified,
}

impl LayerReader {
    /// Wraps `source`, which delivers the blob. `expected` differs from the manifest where the source stores layers uncompressed.
    pub(super) async fn new(
        layer: &Layer,
        expected: Expected,
        source: Reader,
        sender: Option<Sender>,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let mut source = BufReader::with_capacity(BUFFER, source);
        let mut start = Vec::with_capacity(4);
        (&mut source).take(4).read_to_end(&mut start).await?;
        let media_type = compression(&layer.media_type, &start);
        let diff = if media_type == MediaType::ImageLayer && expected.digest == layer.diff_id {
            None
        } else {
            Some(Hasher::like(&layer.diff_id)?)
        };
        // Decoders take no input at all for a valid empty stream; it is none.
        let nothing = media_type != MediaType::ImageLayer && start.is_empty();
        let state = if nothing { State::Draining(Some(io::ErrorKind::UnexpectedEof.into())) } else { State::Decoding };
        let source: Reader = Box::new(io::Cursor::new(start).chain(source));
        let blob = Blob::new(source, expected, layer.digest.clone(), progress)?;
        let decoded: Reader = match media_type {
            MediaType::ImageLayer => Box::new(blob.clone()),
            compressed => composefs_oci::layer::decompress_async(blob.clone(), &compressed)?,
        };
        Ok(Self { layer: layer.clone(), decoded, blob, diff, sender, state })
    }

    /// Wraps `source`, which delivers the blob, and hands it out as it is.
    pub(super) fn raw(layer: &Layer, source: Reader, sender: Option<Sender>, progress: Arc<dyn Progress>) -> Result<Self> {
        let source: Reader = Box::new(BufReader::with_capacity(BUFFER, source));
        let blob = Blob::new(source, Expected::of(layer), layer.digest.clone(), progress)?;
        let decoded: Reader = Box::new(blob.clone());
        Ok(Self { layer: layer.clone(), decoded, blob, diff: None, sender, state: State::Decoding })
    }

    fn poll_decode(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        match ready!(Pin::new(&mut self.decoded).poll_read(cx, buf)) {
            Ok(()) => {
                let new = &buf.filled()[before..];
                if let Some(diff) = &mut self.diff {
                    diff.update(new)?;
                }
                if new.is_empty() {
                    self.state = State::Draining(None);
                }
                Poll::Ready(Ok(new.len()))
            }
            Err(e) => {
                // A decoder may have put bytes there before it failed; nobody may take them for good.
                buf.set_filled(before);
                self.state = State::Draining(Some(e));
                Poll::Ready(Ok(0))
            }
        }
    }

    /// Reads what the decoder left of the blob.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = vec![0; BUFFER];
        loop {
            let mut rest = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.blob).poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Judges a blob that was read to its end: `None` is good.
    fn verdict(&mut self, decoding: Option<io::Error>) -> io::Result<Option<Failure>> {
        let Expected { digest, size } = self.blob.expected();
        let size = size.unwrap_or_default();
        let found = match self.blob.seen()? {
            Seen::Truncated(read) => format!("truncated: it ended after {read} bytes (expected {size})"),
            Seen::TooLong => {
                // It would wait for ever for somebody to read the rest.
                self.sender = None;
                format!("size is more than {size} bytes (expected {size})")
            }
            Seen::OtherDigest(found) => format!("blob digest is {found} (expected {digest})"),
            Seen::Whole => return self.verdict_of_contents(decoding),
        };
        Ok(Some(self.corrupt(&found)))
    }

    fn verdict_of_contents(&mut self, decoding: Option<io::Error>) -> io::Result<Option<Failure>> {
        if let Some(error) = decoding {
            return Ok(Some(self.corrupt(&format!("decompressing: {error}"))));
        }
        let Some(diff) = &mut self.diff else { return Ok(None) };
        let found = diff.finish()?;
        if found == self.layer.diff_id {
            return Ok(None);
        }
        Ok(Some(self.corrupt(&format!("diff_id of the uncompressed bytes is {found} (expected {})", self.layer.diff_id))))
    }

    fn corrupt(&self, found: &str) -> Failure {
        Failure::new(FailureKind::Corrupt, format!("reading layer {}: {found}", self.layer.digest))
    }

    fn judge(&mut self, decoding: Option<io::Error>) -> State {
        let verdict = match self.blob.broken() {
            Some(error) => Err(error),
            None => self.verdict(decoding),
        };
        match verdict {
            Ok(None) => {
                self.blob.report_end();
                State::Verified
            }
            Ok(Some(failure)) => State::Asking(failure),
            Err(error) => State::Broken(error.kind(), format!("reading layer {}: {error}", self.layer.digest)),
        }
    }

    /// Prefers the sender's reason where that is not about the bytes: "connection lost" says more than "truncated".
    fn poll_ask(&mut self, cx: &mut Context<'_>, found: Failure) -> Poll<Failure> {
        let Some(sender) = self.sender.as_mut() else { return Poll::Ready(found) };
        match sender.as_mut().poll(cx) {
            Poll::Pending => {
                self.state = State::Asking(found);
                Poll::Pending
            }
            Poll::Ready(answer) => {
                self.sender = None;
                Poll::Ready(answer.filter(|failure| failure.kind != FailureKind::Corrupt).unwrap_or(found))
            }
        }
    }
}

impl AsyncRead for LayerReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match std::mem::replace(&mut this.state, State::Decoding) {
                State::Decoding => {
                    if ready!(this.poll_decode(cx, buf))? > 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Draining(decoding) => match this.poll_drain(cx) {
                    Poll::Pending => {
                        this.state = State::Draining(decoding);
                        return Poll::Pending;
                    }
                    // Where the source failed, `judge` finds its error.
                    Poll::Ready(_) => this.state = this.judge(decoding),
                },
                State::Asking(found) => this.state = State::Failed(ready!(this.poll_ask(cx, found))),
                State::Failed(failure) => {
                    this.state = State::Failed(failure.clone());
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, failure)));
                }
                State::Broken(kind, message) => {
                    this.state = State::Broken(kind, message.clone());
                    return Poll::Ready(Err(io::Error::new(kind, message)));
                }
                State::Verified => {
                    this.state = State::Verified;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
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
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => MediaType::ImageLayerZstd,
        _ => MediaType::ImageLayer,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::super::digest;
    use super::*;
    use crate::progress::Silent;

    const TAR: &[u8] = b"as good as a tar, for this purpose; as good as a tar, for this purpose";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 0).unwrap()
    }

    fn layer(blob: &[u8], tar: &[u8], media_type: MediaType) -> Layer {
        let (digest, diff_id) = (digest::sha256(blob).unwrap(), digest::sha256(tar).unwrap());
        Layer { digest, diff_id, size: blob.len() as u64, media_type }
    }

    async fn open(layer: &Layer, served: &[u8], sender: Option<Sender>) -> LayerReader {
        let expected = Expected { digest: layer.digest.clone(), size: Some(layer.size) };
        let source = Box::new(io::Cursor::new(served.to_vec()));
        LayerReader::new(layer, expected, source, sender, Arc::new(Silent)).await.unwrap()
    }

    async fn read(layer: &Layer, served: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut reader = open(layer, served, None).await;
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes).await {
            Ok(_) => Ok(bytes),
            Err(first) => {
                let again = reader.read(&mut [0; 8]).await.unwrap_err();
                assert_eq!(again.to_string(), first.to_string(), "an error is not followed by a quiet end");
                Err(Failure::find(&Err::<(), _>(first).context("importing").unwrap_err()).unwrap())
            }
        }
    }

    #[tokio::test]
    async fn every_compression_is_read_whole() {
        use MediaType::{ImageLayer, ImageLayerGzip, ImageLayerZstd};
        let halves = TAR.split_at(20);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(TAR)].concat();
        let table = [
            ("plain", TAR.to_vec(), ImageLayer),
            ("gzip", gzip(TAR), ImageLayerGzip),
            ("zstd", zstd(TAR), ImageLayerZstd),
            ("gzip of two members", [gzip(halves.0), gzip(halves.1)].concat(), ImageLayerGzip),
            ("zstd of two frames", [zstd(halves.0), zstd(halves.1)].concat(), ImageLayerZstd),
            ("zstd after a skippable frame", skippable, ImageLayerZstd),
            ("zstd labelled gzip", zstd(TAR), ImageLayerGzip),
            ("plain labelled gzip", TAR.to_vec(), ImageLayerGzip),
        ];
        for (name, blob, media_type) in table {
            assert_eq!(read(&layer(&blob, TAR, media_type), &blob).await.as_deref(), Ok(TAR), "{name}");
        }
    }

    #[tokio::test]
    async fn sha512_is_verified_too() {
        let blob = gzip(TAR);
        let sha512 = |bytes: &[u8]| {
            let mut hasher = Hasher::like("sha512:").unwrap();
            hasher.update(bytes).unwrap();
            hasher.finish().unwrap()
        };
        let good = Layer { digest: sha512(&blob), diff_id: sha512(TAR), ..layer(&blob, TAR, MediaType::ImageLayerGzip) };
        assert_eq!(read(&good, &blob).await.as_deref(), Ok(TAR));
        let bad = Layer { diff_id: sha512(b"else"), ..good };
        assert!(read(&bad, &blob).await.unwrap_err().message.contains(&sha512(b"else")));
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        use MediaType::{ImageLayer, ImageLayerGzip, ImageLayerZstd};
        let (gz, zst) = (gzip(TAR), zstd(TAR));
        let flipped = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        };
        let trailing = [&gz[..], b"garbage"].concat();
        let other = Layer { diff_id: digest::sha256(b"else").unwrap(), ..layer(&gz, TAR, ImageLayerGzip) };
        let plain_other = Layer { diff_id: digest::sha256(b"else").unwrap(), ..layer(TAR, TAR, ImageLayer) };
        let table = [
            ("flipped plain", layer(TAR, TAR, ImageLayer), flipped(TAR), "blob digest is sha256:"),
            ("flipped gzip", layer(&gz, TAR, ImageLayerGzip), flipped(&gz), "blob digest is sha256:"),
            ("flipped zstd", layer(&zst, TAR, ImageLayerZstd), flipped(&zst), "blob digest is sha256:"),
            ("truncated plain", layer(TAR, TAR, ImageLayer), TAR[..9].to_vec(), "truncated: it ended after 9 bytes (expected 70)"),
            ("truncated gzip", layer(&gz, TAR, ImageLayerGzip), gz[..9].to_vec(), "truncated: it ended after 9 bytes"),
            ("truncated zstd", layer(&zst, TAR, ImageLayerZstd), zst[..9].to_vec(), "truncated: it ended after 9 bytes"),
            ("nothing", layer(&gz, TAR, ImageLayerGzip), vec![], "truncated: it ended after 0 bytes"),
            ("too long", layer(&gz, TAR, ImageLayerGzip), trailing.clone(), "size is more than"),
            ("too long, plain", layer(TAR, TAR, ImageLayer), [TAR, b"x"].concat(), "size is more than 70 bytes (expected 70)"),
            ("other diff_id", other.clone(), gz.clone(), &other.diff_id),
            ("other diff_id, plain", plain_other.clone(), TAR.to_vec(), &plain_other.diff_id),
            ("garbage published", layer(b"garbage!", TAR, ImageLayerGzip), b"garbage!".to_vec(), "diff_id of the uncompressed bytes is"),
            ("garbage after gzip published", layer(&trailing, TAR, ImageLayerGzip), trailing, "decompressing: "),
            ("truncated gzip published", layer(&gz[..20], TAR, ImageLayerGzip), gz[..20].to_vec(), "decompressing: "),
            ("nothing published as gzip", layer(b"", b"", ImageLayerGzip), vec![], "decompressing: unexpected end of file"),
        ];
        for (name, layer, served, expected) in table {
            let failure = read(&layer, &served).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Corrupt, "{name}");
            assert!(failure.message.contains(expected) && failure.message.contains(&layer.digest), "{name}: {failure}");
        }
    }

    #[tokio::test]
    async fn the_sender_tells_why_a_connection_broke_but_not_what_the_bytes_are() {
        let lost = Failure::new(FailureKind::Unreachable, "connection lost");
        let corrupt = Failure::new(FailureKind::Corrupt, "skopeo does not like it");
        let blob = gzip(TAR);
        for (answer, kind) in [(Some(lost), FailureKind::Unreachable), (Some(corrupt), FailureKind::Corrupt), (None, FailureKind::Corrupt)]
        {
            let sender: Sender = Box::pin(std::future::ready(answer));
            let mut reader = open(&layer(&blob, TAR, MediaType::ImageLayerGzip), &blob[..9], Some(sender)).await;
            let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(Failure::find(&error.into()).unwrap().kind, kind);
        }
    }

    #[tokio::test]
    async fn an_error_of_the_source_stays_what_it_is() {
        let layer = layer(TAR, TAR, MediaType::ImageLayer);
        let source = breaks_after_a_while();
        let expected = Expected { digest: layer.digest.clone(), size: Some(layer.size) };
        let mut reader = LayerReader::new(&layer, expected, source, None, Arc::new(Silent)).await.unwrap();
        for _ in 0..2 {
            let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    /// Some good bytes, then an error.
    fn breaks_after_a_while() -> Reader {
        struct Reset;
        impl AsyncRead for Reset {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        Box::new(io::Cursor::new(TAR[..20].to_vec()).chain(Reset))
    }
}
