//! A blob on its way in: counted, hashed and reported while it is read.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Failure;
use crate::progress::{Event, Progress, Unit};

use super::digest::Hasher;
use super::manifest::Layer;

/// How many bytes lie between two reports of progress.
const REPORT_EVERY: u64 = 256 * 1024;

/// A source of bytes.
pub(super) type Reader = Box<dyn Read + Send>;

/// What a blob has to be.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// Its digest.
    pub(super) digest: String,
    /// Its size in bytes; `None` where the source does not say.
    pub(super) size: Option<u64>,
}

impl Expected {
    /// The blob of `layer`, as the manifest has it.
    pub(super) fn of(layer: &Layer) -> Self {
        Self { digest: layer.digest.clone(), size: Some(layer.size) }
    }
}

/// What was seen of a blob that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// All of it.
    Whole,
    /// It ended after so many bytes.
    Truncated(u64),
    /// It is longer than its size says.
    TooLong,
    /// The size is right and the digest is this one.
    OtherDigest(String),
}

/// The reader of one blob. Clones share it, so that whoever verifies sees what was read in another thread.
#[derive(Clone)]
pub(super) struct Blob(Arc<Mutex<State>>);

struct State {
    source: Reader,
    hasher: Hasher,
    expected: Expected,
    read: u64,
    report: Report,
    /// The source itself failed: not a matter of verification.
    broken: Option<Broken>,
}

/// Why a source failed. Errors are told again to each who asks.
#[derive(Clone)]
pub(super) enum Broken {
    Failure(Failure),
    Other(io::ErrorKind, String),
}

impl Broken {
    pub(super) fn of(error: &io::Error) -> Self {
        let failure = error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>());
        failure.map_or_else(|| Self::Other(error.kind(), error.to_string()), |failure| Self::Failure(failure.clone()))
    }

    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Failure(failure) => io::Error::other(failure),
            Self::Other(kind, message) => io::Error::new(kind, message),
        }
    }
}

struct Report {
    progress: Arc<dyn Progress>,
    item: String,
    next: u64,
}

impl Blob {
    /// Reads `source`, which has to be `expected`, and reports as `item`.
    pub(super) fn new(source: Reader, expected: Expected, item: String, progress: Arc<dyn Progress>) -> anyhow::Result<Self> {
        let hasher = Hasher::like(&expected.digest)?;
        let report = Report { progress, item, next: REPORT_EVERY };
        Ok(Self(Arc::new(Mutex::new(State { source, hasher, expected, read: 0, report, broken: None }))))
    }

    /// What was read, once it has ended or has become too long.
    pub(super) fn seen(&self) -> io::Result<Seen> {
        self.with(|state| {
            let size = state.expected.size;
            match size {
                Some(size) if state.read < size => return Ok(Seen::Truncated(state.read)),
                Some(size) if state.read > size => return Ok(Seen::TooLong),
                _ => {}
            }
            let found = state.hasher.finish()?;
            Ok(if found == state.expected.digest { Seen::Whole } else { Seen::OtherDigest(found) })
        })
    }

    /// The error of the source, where that is why reading ended.
    pub(super) fn broken(&self) -> Option<io::Error> {
        self.with(|state| state.failed())
    }

    /// What the blob has to be.
    pub(super) fn expected(&self) -> Expected {
        self.with(|state| state.expected.clone())
    }

    /// Reports that all is done. The only report with `done == total`.
    pub(super) fn report_end(&self) {
        self.with(|state| state.report.send(state.read, state.read));
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // A panic elsewhere cannot leave the state half changed in a way that would make a wrong blob look right.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn failed(&self) -> Option<io::Error> {
        self.broken.clone().map(Broken::error)
    }

    fn too_long(&self) -> bool {
        self.expected.size.is_some_and(|size| self.read > size)
    }

    fn took(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes)?;
        self.read += bytes.len() as u64;
        let total = self.expected.size.unwrap_or(0);
        if self.read >= self.report.next && self.read != total {
            self.report.send(self.read, total);
            self.report.next = self.read + REPORT_EVERY;
        }
        Ok(())
    }
}

impl Report {
    fn send(&self, done: u64, total: u64) {
        self.progress.event(Event::Advance { item: self.item.clone(), done, total, unit: Unit::Bytes });
    }
}

impl Read for Blob {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|state| {
            // Whoever sends more than was announced is not listened to any longer, nor is a source that has failed.
            if state.too_long() {
                return Ok(0);
            }
            if let Some(error) = state.failed() {
                return Err(error);
            }
            match state.source.read(buf) {
                Ok(read) => {
                    state.took(&buf[..read])?;
                    Ok(read)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
                Err(error) => {
                    state.broken = Some(Broken::of(&error));
                    Err(error)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Recorder;

    fn blob(bytes: Vec<u8>, digest: String, size: Option<u64>) -> (Blob, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let expected = Expected { digest, size };
        let progress: Arc<dyn Progress> = recorder.clone();
        (Blob::new(Box::new(std::io::Cursor::new(bytes)), expected, "x".into(), progress).unwrap(), recorder)
    }

    #[test]
    fn size_and_digest_are_told_apart() {
        let digest = super::super::digest::sha256(b"hello").unwrap();
        let other = super::super::digest::sha256(b"hellO").unwrap();
        let table = [
            (&b"hello"[..], Some(5), Seen::Whole),
            (b"hello", None, Seen::Whole),
            (b"hell", Some(5), Seen::Truncated(4)),
            (b"hello!", Some(5), Seen::TooLong),
            (b"hellO", Some(5), Seen::OtherDigest(other)),
        ];
        for (bytes, size, expected) in table {
            let (mut blob, _) = blob(bytes.to_vec(), digest.clone(), size);
            blob.read_to_end(&mut Vec::new()).unwrap();
            assert_eq!(blob.seen().unwrap(), expected);
        }
    }

    #[test]
    fn reports_are_rare_and_end_once() {
        let bytes = vec![0; 600 * 1024];
        let (mut blob, recorder) = blob(bytes.clone(), super::super::digest::sha256(&bytes).unwrap(), Some(600 * 1024));
        let mut part = vec![0; 64 * 1024];
        while blob.read(&mut part).unwrap() > 0 {}
        blob.report_end();
        let advance = |done| Event::Advance { item: "x".into(), done, total: 600 * 1024, unit: Unit::Bytes };
        assert_eq!(recorder.events(), [256, 512, 600].map(|k| advance(k * 1024)));
    }
}
