//! A layer that is made by a delta of what is here: the tar to the last bit, in bounded memory, or a reason to read it in another way.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};

use super::{FoundDelta, SourceFiles, apply_delta};
use crate::image::Source;
use crate::image::blob::{Blob, Expected, Seen};
use crate::image::chunked::Ranged;
use crate::image::layer::LayerReader;
use crate::image::manifest::Layer;
use crate::image::partial::{Partial, PartialLayer, Sink, State, spawn};
use crate::image::reason::Reason;
use crate::progress::Progress;

/// A patch makes no more than this of a layer, in bytes of the tar for each byte of the blob and in all cases: a few bytes of it can stand for as many as
/// there is room for, and only the end would tell that they are wrong. What compresses better than this is fetched as a whole.
const MOST_PER_BYTE: u64 = 200;
const MOST_BEYOND: u64 = 64 << 20;

impl Source {
    /// Starts to make layer `index` by `delta` of `files`, which are those of the image that the delta starts from.
    ///
    /// # Errors
    ///
    /// There is no such layer. Never that the delta does not work.
    pub async fn open_delta(
        &self,
        index: usize,
        delta: &FoundDelta,
        files: Arc<dyn SourceFiles>,
        progress: Arc<dyn Progress>,
    ) -> Result<Partial<PartialLayer>> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("reading layer {index}: no such layer"))?.clone();
        let Some(blob) = delta.blob(&layer).cloned() else {
            return Ok(Partial::Whole { reason: "the delta has nothing that is less than the layer".into(), bytes: 0 });
        };
        let stands = Layer { digest: blob.digest.clone(), size: blob.size, ..layer.clone() };
        let (ranged, alive) = match self.ranged(&stands, &progress) {
            Ok(blob) => (blob, Arc::clone(&self.alive)),
            Err(error) => return Ok(Partial::Whole { reason: format!("{error:#}").into(), bytes: 0 }),
        };
        let start = move || {
            let state = Arc::<State>::default();
            let started = ranged.map_err(Reason::from).and_then(|mut ranged| {
                state.asked.fetch_add(blob.size, Ordering::Relaxed);
                let reader = ranged.range(0, blob.size)?;
                let expected = Expected { digest: blob.digest.clone(), size: Some(blob.size) };
                let reader = Blob::new(reader, expected, layer.digest.clone(), progress).map_err(|e| format!("{e:#}"))?;
                let making = Making { layer, reader, media_type: blob.media_type, files, state: Arc::clone(&state) };
                let started = spawn(move |sink| making.run(sink)).map(LayerReader::verified);
                started.map_err(|e| format!("starting a thread: {e}").into())
            });
            match started {
                Ok(reader) => Partial::Parts(PartialLayer::new(reader.of(&alive), state)),
                Err(reason) => Partial::Whole { reason, bytes: state.asked.load(Ordering::Relaxed) },
            }
        };
        tokio::task::spawn_blocking(start).await.context("opening a delta")
    }
}

/// Everything that it takes.
struct Making {
    layer: Layer,
    reader: Blob,
    media_type: String,
    files: Arc<dyn SourceFiles>,
    state: Arc<State>,
}

impl Making {
    /// Makes the layer. What went wrong here, and not with whoever reads, is in the state before the error is returned.
    fn run(self, sink: &mut Sink) -> io::Result<()> {
        let left = self.layer.size.saturating_mul(MOST_PER_BYTE).saturating_add(MOST_BEYOND);
        let mut out = Out { sink, left, gone: false };
        let applied = apply_delta(self.reader.clone(), &self.media_type, self.files.as_ref(), &self.layer.diff_id, &mut out);
        if out.gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        match self.judge(applied) {
            Ok(()) => {
                self.reader.report_end();
                Ok(())
            }
            Err(reason) => {
                self.state.fail(reason.clone());
                Err(reason.error())
            }
        }
    }

    /// A blob that is not what the delta lists says more than what came of it.
    fn judge(&self, applied: Result<()>) -> Result<(), Reason> {
        let mut rest = self.reader.clone();
        io::copy(&mut rest.by_ref(), &mut io::sink())?;
        let message = match self.reader.seen()? {
            Seen::Whole => return applied.map_err(|e| format!("{e:#}").into()),
            Seen::Truncated(read) => format!("its blob ended after {read} bytes"),
            Seen::TooLong => "its blob is longer than it says".to_owned(),
            Seen::OtherDigest(found) => format!("its blob has the digest {found} (expected {})", self.reader.expected().digest),
        };
        Err(message.into())
    }
}

/// Where the tar goes.
struct Out<'a> {
    sink: &'a mut Sink,
    left: u64,
    /// Nobody reads any more.
    gone: bool,
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len() as u64;
        self.left = self.left.checked_sub(length).ok_or_else(|| io::Error::other("it makes far more of the layer than there can be"))?;
        self.sink.push(bytes).map_err(|_| {
            self.gone = true;
            io::Error::from(io::ErrorKind::BrokenPipe)
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
