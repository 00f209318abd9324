//! The ranges of a plan, a few requests ahead of whoever reads them.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::image::ahead::Ahead;
use crate::image::chunked::Ranged;
use crate::image::together::{Together, Wanted};

/// How many requests there are at a time, for one layer.
const TOGETHER: usize = 8;

/// Reads ranges of a blob in order. Memory is bounded by what [`Ahead`] holds of each request that is open. None of them is tried again after one has failed for
/// good, or when this is gone.
pub(super) struct Runs<B> {
    waiting: VecDeque<Range<u64>>,
    open: VecDeque<(Range<u64>, Ahead)>,
    /// Where in the first one that is open it stands.
    at: u64,
    /// How many bytes were read, or are being read.
    done: u64,
    blobs: Arc<Blobs<B>>,
    /// For whoever reads, and at the end for those that are still at work.
    _wanted: Wanted,
}

/// Handles of one blob, each for one request at a time.
struct Blobs<B> {
    first: Mutex<B>,
    idle: Mutex<Vec<B>>,
    /// Bytes that were asked for.
    asked: Arc<AtomicU64>,
    together: Together,
}

impl<B: Ranged + Clone + Send + 'static> Runs<B> {
    /// Counts in `asked` the bytes that are asked for.
    pub(super) fn new(mut blob: B, runs: Vec<Range<u64>>, asked: Arc<AtomicU64>) -> Self {
        let together = Together::default();
        blob.bind(&together);
        let wanted = together.wanted();
        let blobs = Blobs { first: Mutex::new(blob), idle: Mutex::default(), asked, together };
        Self { waiting: runs.into(), open: VecDeque::new(), at: 0, done: 0, blobs: Arc::new(blobs), _wanted: wanted }
    }

    /// A reader of this range, which must lie in one that was planned, after the one that was read before. Read it to its end.
    pub(super) fn read(&mut self, span: Range<u64>) -> io::Result<impl BufRead + '_> {
        loop {
            self.fill()?;
            let (run, _) = self.open.front().ok_or_else(|| io::Error::other("a range that was not planned"))?;
            if span.start >= self.at.max(run.start) && span.end <= run.end {
                self.at = self.at.max(run.start);
                break;
            }
            self.open.pop_front();
        }
        let (_, reader) = self.open.front_mut().ok_or_else(|| io::Error::other("a range that was not planned"))?;
        // A hole that is fetched because it is small.
        let hole = span.start - self.at;
        let skipped = io::copy(&mut reader.by_ref().take(hole), &mut io::sink())?;
        if skipped < hole {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at = span.end;
        self.done += hole + (span.end - span.start);
        Ok(reader.take(span.end - span.start))
    }

    /// How many bytes of all were read, the last range included.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn fill(&mut self) -> io::Result<()> {
        while self.open.len() < TOGETHER {
            let Some(run) = self.waiting.pop_front() else { break };
            let request = Request { run: run.clone(), blobs: Arc::clone(&self.blobs), answer: None };
            // Most are small, and there are many.
            let ahead = Ahead::of(request, run.end - run.start)?;
            self.open.push_back((run, ahead));
        }
        Ok(())
    }
}

/// A request that is made when the first byte is wanted, in the thread that wants it.
struct Request<B> {
    run: Range<u64>,
    blobs: Arc<Blobs<B>>,
    answer: Option<Box<dyn Read + Send>>,
}

impl<B: Ranged + Clone> Request<B> {
    fn ask(&self) -> io::Result<Box<dyn Read + Send>> {
        let poisoned = || io::Error::other("another request panicked");
        let idle = self.blobs.idle.lock().map_err(|_| poisoned())?.pop();
        let mut blob = match idle {
            Some(blob) => blob,
            None => self.blobs.first.lock().map_err(|_| poisoned())?.clone(),
        };
        let length = self.run.end - self.run.start;
        self.blobs.asked.fetch_add(length, Ordering::Relaxed);
        let answer = blob.range(self.run.start, length)?;
        self.blobs.idle.lock().map_err(|_| poisoned())?.push(blob);
        Ok(answer)
    }
}

impl<B: Ranged + Clone> Read for Request<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.next(buffer);
        if let Err(error) = read.as_ref()
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.blobs.together.fail(error);
        }
        read
    }
}

impl<B: Ranged + Clone> Request<B> {
    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Whoever reads ahead asks again after an error.
        self.blobs.together.failed().map_or(Ok(()), Err)?;
        let answer = match &mut self.answer {
            Some(answer) => answer,
            None => {
                let answer = self.ask()?;
                self.answer.insert(answer)
            }
        };
        answer.read(buffer)
    }
}
