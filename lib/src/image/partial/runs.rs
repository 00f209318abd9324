//! The ranges of a plan, a few requests ahead of whoever reads them.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::image::ahead::Ahead;
use crate::image::chunked::Ranged;

/// How many requests there are at a time, for one layer.
const TOGETHER: usize = 3;

/// Reads ranges of a blob in order. Memory is bounded by what [`Ahead`] holds of each request that is open.
pub(super) struct Runs<B> {
    waiting: VecDeque<Range<u64>>,
    open: VecDeque<(Range<u64>, Ahead)>,
    /// Where in the first one that is open it stands.
    at: u64,
    blobs: Arc<Blobs<B>>,
}

/// Handles of one blob, each for one request at a time.
struct Blobs<B> {
    first: Mutex<B>,
    idle: Mutex<Vec<B>>,
    /// Bytes that were asked for.
    asked: Arc<AtomicU64>,
}

impl<B: Ranged + Clone + Send + 'static> Runs<B> {
    /// Counts in `asked` the bytes that are asked for.
    pub(super) fn new(blob: B, runs: Vec<Range<u64>>, asked: Arc<AtomicU64>) -> Self {
        let blobs = Blobs { first: Mutex::new(blob), idle: Mutex::default(), asked };
        Self { waiting: runs.into(), open: VecDeque::new(), at: 0, blobs: Arc::new(blobs) }
    }

    /// A reader of this range, which must lie in one that was planned, after the one that was read before. Read it to its end.
    pub(super) fn read(&mut self, span: Range<u64>) -> io::Result<impl Read + '_> {
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
        Ok(reader.take(span.end - span.start))
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
