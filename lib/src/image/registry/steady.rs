//! [`Steady`]: a range of a blob, or all of it, that goes on from where it broke off.

use std::io::{self, Read};
use std::ops::Range;

use crate::error::{Failure, FailureKind};

use super::retry::Retry;
use super::{Blob, Unusable};

/// Reads a range of a blob. Whatever breaks is asked for again from there, until it fails too often in a row.
pub(super) struct Steady {
    blob: Blob,
    /// What is still to come.
    left: Range<u64>,
    /// Whether it is all of the blob: then an answer that begins at its start is good, too.
    whole: bool,
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
        let mut retry = Retry::new(blob.retries());
        let body = blob.ask(range.clone(), whole, &mut retry)?;
        Ok(Self { blob, left: range, whole, body, retry })
    }

    fn again(&mut self, reason: &Unusable) -> io::Result<()> {
        self.blob.pause(&mut self.retry, reason)?;
        self.body = self.blob.ask(self.left.clone(), self.whole, &mut self.retry).map_err(unreachable)?;
        Ok(())
    }
}

impl Read for Steady {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let most = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX).min(buffer.len());
            if self.left.is_empty() {
                // An answer that was read to its end gives its connection back.
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
                Ok(_) => Unusable::for_now(format!("the connection ended {} bytes too early", self.left.end - self.left.start)),
                Err(error) => Unusable::for_now(error.to_string()),
            };
            self.again(&broke)?;
        }
    }
}

/// Some of it came, so this is not the place to find out what is wrong.
fn unreachable(error: io::Error) -> io::Error {
    match error.downcast::<Failure>() {
        Ok(failure) => io::Error::other(failure),
        Err(error) => io::Error::other(Failure::new(FailureKind::Unreachable, format!("going on after a connection broke: {error}"))),
    }
}
