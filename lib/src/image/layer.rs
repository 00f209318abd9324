//! [`LayerReader`]: the uncompressed tar of a layer, or its blob as it is, whose end is only reached when everything was verified.

use std::io::{self, BufRead, Read};
use std::sync::{Arc, Weak};

use anyhow::Result;
use oci_spec::image::MediaType;

use crate::error::{DAMAGED, Failure, FailureKind};
use crate::progress::Progress;
use crate::sys::interrupt;

use super::ahead::{Ahead, FileHere, Next, only_bytes};
use super::blob::{Blob, Expected, Reader, Seen};
use super::decode::Decoder;
use super::digest::Hasher;
use super::manifest::Layer;

/// The other end of a blob's pipe: why it stopped early, where it did and knows. Answers only after the pipe was closed.
pub(super) type Sender = Box<dyn FnOnce() -> Option<Failure> + Send>;

/// Held while somebody reads; whoever serves the bytes counts them.
pub(super) type Token = Arc<()>;

/// Reads the uncompressed tar of a layer, or its blob as it is. One thread fetches and hashes the blob, a second one decompresses and
/// hashes what comes out, so that whoever reads this has a processor for himself.
///
/// The end of file (`Ok` with nothing read) is returned only after the blob was read to its end, its size and digest equal
/// what the manifest says, and, of a tar, the digest of the uncompressed bytes equals the diff_id. Otherwise that read fails, with
/// an [`io::Error`] around a [`Failure`] of kind [`FailureKind::Corrupt`] (or [`FailureKind::Unreachable`], where the
/// connection broke), and so does every read after it. Which layer it was is for the reader's owner to say. Bytes that were handed out before are unverified until then.
///
/// Of a layer that is read in parts, files that are here do not come as bytes: [`Self::file_here`] passes them, and a read of bytes fails where one
/// stands next.
///
/// It also fails when its [`Source`](super::Source) is gone, and when a signal calls off what is at work: whoever reads in a thread of his
/// own stops then.
pub struct LayerReader {
    verified: Ahead,
    source: Option<Weak<()>>,
    _token: Option<Token>,
}

impl LayerReader {
    /// Wraps `source`, which delivers the blob. `expected` differs from the manifest where the source stores layers uncompressed.
    pub(super) fn new(
        layer: &Layer,
        expected: Expected,
        source: Reader,
        sender: Option<Sender>,
        progress: Arc<dyn Progress>,
    ) -> Result<Self> {
        let plain = layer.media_type == MediaType::ImageLayer && expected.digest == layer.diff_id;
        let diff = if plain { None } else { Some(Hasher::like(&layer.diff_id)?) };
        let blob = Blob::new(source, expected, layer.digest.clone(), progress)?;
        Self::start(layer, layer.media_type.clone(), blob, diff, sender)
    }

    /// Wraps `source`, which delivers the blob, and hands it out as it is.
    pub(super) fn raw(layer: &Layer, source: Reader, sender: Option<Sender>, progress: Arc<dyn Progress>) -> Result<Self> {
        let blob = Blob::new(source, Expected::of(layer), layer.digest.clone(), progress)?;
        Self::start(layer, MediaType::ImageLayer, blob, None, sender)
    }

    /// Wraps `verified`, which promises the same of a tar.
    pub(super) fn verified(verified: Ahead) -> Self {
        Self { verified, source: None, _token: None }
    }

    /// Holds `token` as long as this reader is there.
    pub(super) fn holding(self, token: Token) -> Self {
        Self { _token: Some(token), ..self }
    }

    /// Reads only as long as `source` is there.
    pub(super) fn of(self, source: &Arc<()>) -> Self {
        Self { source: Some(Arc::downgrade(source)), ..self }
    }

    fn start(layer: &Layer, label: MediaType, blob: Blob, diff: Option<Hasher>, sender: Option<Sender>) -> Result<Self> {
        let source = Source::Unknown(label, Ahead::new(blob.clone())?);
        let verifying = Verifying { layer: layer.clone(), source, blob, diff, sender, state: State::Decoding };
        Ok(Self { verified: Ahead::new(verifying)?, source: None, _token: None })
    }

    /// Passes the file that stands next, where that is one whose bytes do not come.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn file_here(&mut self) -> io::Result<Option<FileHere>> {
        let Next::File(file) = self.next()? else { return Ok(None) };
        self.verified.pass_file();
        Ok(Some(file))
    }

    fn next(&mut self) -> io::Result<Next<'_>> {
        let source = &self.source;
        self.verified.next_while(|| match interrupt::called_off() {
            Some(signal) => Err(io::Error::other(signal.failure())),
            None if source.as_ref().is_some_and(|source| source.strong_count() == 0) => Err(io::Error::other("its source was given up")),
            None => Ok(()),
        })
    }
}

impl Read for LayerReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for LayerReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        only_bytes(self.next()?)
    }

    fn consume(&mut self, amount: usize) {
        self.verified.consume(amount);
    }
}

/// What [`LayerReader`] promises, without reading ahead.
struct Verifying {
    layer: Layer,
    source: Source,
    blob: Blob,
    /// `None` where the blob is handed out as it is, with a digest that says all, so that hashing once is enough.
    diff: Option<Hasher>,
    sender: Option<Sender>,
    state: State,
}

enum Source {
    /// With what it is compressed is seen by its first bytes. Until then, there is its label.
    Unknown(MediaType, Ahead),
    Known(Decoder),
    /// No decoder could be made.
    None,
}

#[derive(Clone)]
enum State {
    Decoding,
    Failed(Failure),
    /// The source failed, and would fail again.
    Broken(io::ErrorKind, String),
    Verified,
}

impl Verifying {
    fn decoder(&mut self) -> io::Result<&mut Decoder> {
        self.source = match std::mem::replace(&mut self.source, Source::None) {
            Source::Unknown(label, blob) => Source::Known(Decoder::new(&label, blob)?),
            known => known,
        };
        match &mut self.source {
            Source::Known(decoder) => Ok(decoder),
            _ => Err(io::Error::other("no decoder")),
        }
    }

    /// Reads on; 0 where the decoder has ended, well or with an error.
    fn decode(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder()?.read(buf)?;
        if let Some(diff) = &mut self.diff {
            diff.update(&buf[..read])?;
        }
        Ok(read)
    }

    /// Reads what the decoder left of the blob, which counts for its digest.
    fn drain(&mut self) -> io::Result<()> {
        let blob = self.decoder()?.blob();
        while let length @ 1.. = blob.fill_buf()?.len() {
            blob.consume(length);
        }
        Ok(())
    }

    fn judge(&mut self, decoding: Option<io::Error>) -> State {
        // Where the source failed, `broken` has its error.
        let drained = self.drain();
        let verdict = match self.blob.broken() {
            Some(error) => Err(error),
            None => drained.and_then(|()| self.verdict(decoding)),
        };
        match verdict {
            Ok(None) => {
                self.blob.report_end();
                State::Verified
            }
            Ok(Some(failure)) => State::Failed(self.ask(failure)),
            Err(error) => Self::broken(error),
        }
    }

    fn broken(error: io::Error) -> State {
        let (kind, message) = (error.kind(), error.to_string());
        error.downcast::<Failure>().map_or(State::Broken(kind, message), State::Failed)
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
            Seen::OtherDigest(found) if *digest == self.layer.digest => format!("blob digest is {found} (expected that of the layer)"),
            Seen::OtherDigest(found) => format!("blob digest is {found} (expected {digest})"),
            Seen::Whole => return self.verdict_of_contents(decoding),
        };
        Ok(Some(corrupt(found)))
    }

    fn verdict_of_contents(&mut self, decoding: Option<io::Error>) -> io::Result<Option<Failure>> {
        if let Some(error) = decoding {
            return Ok(Some(corrupt(format!("decompressing: {error}"))));
        }
        let Some(diff) = &mut self.diff else { return Ok(None) };
        let found = diff.finish()?;
        if found == self.layer.diff_id {
            return Ok(None);
        }
        Ok(Some(corrupt(format!("diff_id of the uncompressed bytes is {found} (expected {})", self.layer.diff_id))))
    }

    /// Prefers the sender's reason where that is not about the bytes: "connection lost" says more than "truncated".
    fn ask(&mut self, found: Failure) -> Failure {
        let answer = self.sender.take().and_then(|sender| sender());
        answer.filter(|failure| failure.kind != FailureKind::Corrupt).unwrap_or(found)
    }
}

fn corrupt(found: String) -> Failure {
    Failure::new(FailureKind::Corrupt, found).hint(DAMAGED)
}

impl Read for Verifying {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let State::Decoding = self.state {
            let decoding = match self.decode(buf) {
                Ok(read @ 1..) => return Ok(read),
                Ok(_) => None,
                Err(error) => Some(error),
            };
            self.state = self.judge(decoding);
        }
        match self.state.clone() {
            State::Failed(failure) => Err(io::Error::new(io::ErrorKind::InvalidData, failure)),
            State::Broken(kind, message) => Err(io::Error::new(kind, message)),
            State::Decoding | State::Verified => Ok(0),
        }
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

    fn open(layer: &Layer, served: &[u8], sender: Option<Sender>) -> LayerReader {
        let expected = Expected { digest: layer.digest.clone(), size: Some(layer.size) };
        let source = Box::new(io::Cursor::new(served.to_vec()));
        LayerReader::new(layer, expected, source, sender, Arc::new(Silent)).unwrap()
    }

    fn read(layer: &Layer, served: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut reader = open(layer, served, None);
        let mut bytes = Vec::new();
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(first) => {
                let again = reader.read(&mut [0; 8]).unwrap_err();
                assert_eq!(again.to_string(), first.to_string(), "an error is not followed by a quiet end");
                Err(Failure::find(&Err::<(), _>(first).context("importing").unwrap_err()).unwrap())
            }
        }
    }

    #[test]
    fn every_compression_is_read_whole() {
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
            assert_eq!(read(&layer(&blob, TAR, media_type), &blob).as_deref(), Ok(TAR), "{name}");
        }
    }

    #[test]
    fn sha512_is_verified_too() {
        let blob = gzip(TAR);
        let sha512 = |bytes: &[u8]| {
            let mut hasher = Hasher::like("sha512:").unwrap();
            hasher.update(bytes).unwrap();
            hasher.finish().unwrap()
        };
        let good = Layer { digest: sha512(&blob), diff_id: sha512(TAR), ..layer(&blob, TAR, MediaType::ImageLayerGzip) };
        assert_eq!(read(&good, &blob).as_deref(), Ok(TAR));
        let bad = Layer { diff_id: sha512(b"else"), ..good };
        assert!(read(&bad, &blob).unwrap_err().message.contains(&sha512(b"else")));
    }

    #[test]
    fn what_is_wrong_is_named() {
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
            let failure = read(&layer, &served).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Corrupt, "{name}");
            assert!(failure.message.contains(expected), "{name}: {failure}");
            // Whose it is, its reader says; of what is not compressed, its digest is what was found.
            let found = failure.message.starts_with("diff_id of");
            assert!(found || !failure.message.contains(&layer.digest), "{name}: {failure}");
        }
    }

    #[test]
    fn the_sender_tells_why_a_connection_broke_but_not_what_the_bytes_are() {
        let lost = Failure::new(FailureKind::Unreachable, "connection lost");
        let corrupt = Failure::new(FailureKind::Corrupt, "skopeo does not like it");
        let blob = gzip(TAR);
        for (answer, kind) in [(Some(lost), FailureKind::Unreachable), (Some(corrupt), FailureKind::Corrupt), (None, FailureKind::Corrupt)]
        {
            let sender: Sender = Box::new(move || answer);
            let mut reader = open(&layer(&blob, TAR, MediaType::ImageLayerGzip), &blob[..9], Some(sender));
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(Failure::find(&error.into()).unwrap().kind, kind);
        }
    }

    #[test]
    fn an_error_of_the_source_stays_what_it_is() {
        let layer = layer(TAR, TAR, MediaType::ImageLayer);
        let source = breaks_after_a_while();
        let expected = Expected { digest: layer.digest.clone(), size: Some(layer.size) };
        let mut reader = LayerReader::new(&layer, expected, source, None, Arc::new(Silent)).unwrap();
        for _ in 0..2 {
            let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    /// Some good bytes, then an error.
    fn breaks_after_a_while() -> Reader {
        struct Reset;
        impl Read for Reset {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        Box::new(io::Cursor::new(TAR[..20].to_vec()).chain(Reset))
    }
}
