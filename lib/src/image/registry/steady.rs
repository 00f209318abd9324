//! [`Steady`]: a range of a blob, or all of it, that goes on from where it broke off.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::error::{AGAIN_LATER, Failure, FailureKind};

use super::retry::Retry;
use super::{Blob, Place, Unusable};

/// Reads a range of a blob. Whatever breaks is asked for again from there, until it fails too often in a row.
pub(super) struct Steady {
    blob: Blob,
    /// What is still to come.
    left: Range<u64>,
    /// Whether it is all of the blob: then an answer that begins at its start is good, too.
    whole: bool,
    /// Where what comes now comes from.
    place: Place,
    body: Box<dyn Read + Send>,
    retry: Retry,
}

impl Steady {
    /// Asks for the first byte.
    ///
    /// # Errors
    ///
    /// Where no place gives it.
    pub(super) fn open(mut blob: Blob, range: Range<u64>) -> io::Result<Self> {
        let whole = range == (0..blob.size);
        let mut retry = blob.retry(range.end - range.start);
        let (place, body) = blob.ask(range.clone(), whole, &mut retry)?;
        Ok(Self { blob, left: range, whole, place, body, retry })
    }

    fn again(&mut self, reason: Unusable) -> io::Result<()> {
        self.place.broke.fetch_add(1, Ordering::Relaxed);
        self.blob.pause(&mut self.retry, &reason.at(&self.place.client))?;
        let asked = self.blob.ask(self.left.clone(), self.whole, &mut self.retry);
        (self.place, self.body) = asked.map_err(|error| self.unreachable(error))?;
        Ok(())
    }

    /// Some of it came, so this is not the place to find out what is wrong.
    fn unreachable(&self, error: io::Error) -> io::Error {
        if let Some(error) = self.blob.together.failed() {
            return error;
        }
        error.downcast::<Failure>().map_or_else(
            |error| {
                let message = format!("going on after a connection broke{}: {error}", self.retry.how_far());
                io::Error::other(Failure::new(FailureKind::Unreachable, message).hint(AGAIN_LATER))
            },
            io::Error::other,
        )
    }
}

impl Read for Steady {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Whoever has given up does not wait for what still comes.
        self.blob.together.failed().map_or(Ok(()), Err)?;
        loop {
            let most = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX).min(buffer.len());
            if self.left.is_empty() {
                // Of an answer that did not say how long it is, too, the connection is given back.
                let _ = std::mem::replace(&mut self.body, Box::new(io::empty())).read(&mut [0]);
            }
            if most == 0 {
                return Ok(0);
            }
            let broke = match self.body.read(&mut buffer[..most]) {
                Ok(read @ 1..) => {
                    self.left.start += read as u64;
                    self.retry.came(read);
                    return Ok(read);
                }
                Ok(_) => Unusable::for_now("the connection ended too early"),
                Err(error) => Unusable::for_now(error.to_string()),
            };
            self.again(broke)?;
        }
    }
}
