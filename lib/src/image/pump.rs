//! [`Pump`]: brings a blob from one of skopeo's pipes to the thread that reads it, and asks skopeo for the pipe's end at the right time.
//!
//! Such a pipe is closed only when its end was asked for (`FinishPipe`), and while that question stands the proxy answers no other: so it
//! is asked when everything was read, and not before. Skopeos of protocol 0.2.8 have pipes that end by themselves and need none of this.

use std::io::{self, Read};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

/// How long it waits for bytes in vain before skopeo is asked whether there will be any.
const STALL: Duration = Duration::from_secs(1);
/// What is read at a time: as much as a pipe holds.
const PIECE: usize = 64 << 10;
/// How many pieces wait for the reader.
const WAITING: usize = 8;

type Piece = io::Result<Vec<u8>>;

/// One side of a pump, for the task that talks to skopeo.
pub(super) struct Pump<P> {
    pipe: P,
    /// Bytes that are still expected. Without a size, the end is asked for at once.
    left: Option<u64>,
    pieces: mpsc::Sender<Piece>,
}

/// The other side of a [`Pump`], for a thread outside of the runtime.
pub(super) struct Pumped {
    pieces: mpsc::Receiver<Piece>,
    current: io::Cursor<Vec<u8>>,
}

/// Why one stage of pumping is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// Everything that is expected was read.
    All,
    /// Nothing comes: a pipe that is too short does not end by itself.
    Stalled,
    /// The pipe has ended, or broken.
    Ended,
    /// Nobody wants more.
    Left,
}

impl<P: AsyncRead + Unpin> Pump<P> {
    /// Pumps `pipe`, in which `size` bytes are expected.
    pub(super) fn new(pipe: P, size: Option<u64>) -> (Self, Pumped) {
        let (pieces, receiver) = mpsc::channel(WAITING);
        (Self { pipe, left: size, pieces }, Pumped { pieces: receiver, current: io::Cursor::default() })
    }

    /// Pumps all there is, or until nobody reads any more; `finish` asks for the end. A reader that does not read is never taken for a
    /// pipe in which nothing comes.
    pub(super) async fn run<T>(mut self, finish: impl Future<Output = T>) -> T {
        let over = if self.left.is_none() { Over::All } else { self.pump(Some(STALL)).await };
        if matches!(over, Over::Ended | Over::Left) {
            drop(self);
            return finish.await;
        }
        let rest = async move { self.pump(None).await };
        tokio::join!(finish, rest).0
    }

    /// With `patience`, until all that is expected was read; without, until the end.
    async fn pump(&mut self, patience: Option<Duration>) -> Over {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let reading = self.pipe.read_buf(&mut piece);
            let read = match patience {
                Some(_) if self.left == Some(0) => return Over::All,
                Some(patience) => match tokio::time::timeout(patience, reading).await {
                    Ok(read) => read,
                    Err(_) => return Over::Stalled,
                },
                None => reading.await,
            };
            let (piece, ended) = match read {
                Ok(0) => return Over::Ended,
                Ok(read) => {
                    self.left = self.left.map(|left| left.saturating_sub(read as u64));
                    (Ok(piece), false)
                }
                Err(error) => (Err(error), true),
            };
            if self.pieces.send(piece).await.is_err() {
                return Over::Left;
            }
            if ended {
                return Over::Ended;
            }
        }
    }
}

impl Read for Pumped {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = Read::read(&mut self.current, buf)?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = io::Cursor::new(piece?),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;

    /// Runs a pump; what tells whether the end was asked for.
    fn run(pipe: DuplexStream, size: Option<u64>) -> (tokio::task::JoinHandle<()>, Pumped, Arc<AtomicBool>) {
        let (pump, pumped) = Pump::new(pipe, size);
        let asked = Arc::new(AtomicBool::new(false));
        let asks = Arc::clone(&asked);
        (tokio::spawn(pump.run(async move { asks.store(true, Ordering::Relaxed) })), pumped, asked)
    }

    async fn rest(mut pumped: Pumped) -> Vec<u8> {
        let read = move || {
            let mut bytes = Vec::new();
            pumped.read_to_end(&mut bytes).map(|_| bytes)
        };
        tokio::task::spawn_blocking(read).await.unwrap().unwrap()
    }

    /// Lets the others run as far as they can.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_end_is_asked_for_when_all_was_read_and_what_comes_then_is_passed_on() {
        let (mut skopeo, pipe) = tokio::io::duplex(64);
        let (pump, pumped, asked) = run(pipe, Some(5));
        skopeo.write_all(b"hell").await.unwrap();
        settle().await;
        assert!(!asked.load(Ordering::Relaxed));
        skopeo.write_all(b"o").await.unwrap();
        settle().await;
        assert!(asked.load(Ordering::Relaxed));
        skopeo.write_all(b"!").await.unwrap();
        drop(skopeo);
        assert_eq!(rest(pumped).await, b"hello!");
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_size_the_end_is_asked_for_at_once() {
        let (mut skopeo, pipe) = tokio::io::duplex(64);
        let (pump, pumped, asked) = run(pipe, None);
        settle().await;
        assert!(asked.load(Ordering::Relaxed));
        skopeo.write_all(b"hello").await.unwrap();
        drop(skopeo);
        assert_eq!(rest(pumped).await, b"hello");
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_leaves_closes_the_pipe() {
        let (mut skopeo, pipe) = tokio::io::duplex(64);
        let (pump, pumped, asked) = run(pipe, Some(500));
        drop(pumped);
        skopeo.write_all(b"hello").await.unwrap();
        pump.await.unwrap();
        assert!(asked.load(Ordering::Relaxed));
        assert_eq!(skopeo.write_all(b"hello").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_vain_ends_it_and_a_reader_that_rests_does_not() {
        let (mut skopeo, pipe) = tokio::io::duplex(PIECE);
        let size = (3 * WAITING * PIECE) as u64;
        let (_pump, mut pumped, asked) = run(pipe, Some(size));
        let more = vec![7; 2 * WAITING * PIECE];
        assert!(tokio::time::timeout(10 * STALL, skopeo.write_all(&more)).await.is_err(), "nobody reads");
        assert!(!asked.load(Ordering::Relaxed));
        while pumped.pieces.try_recv().is_ok() {
            settle().await;
        }
        tokio::time::sleep(2 * STALL).await;
        assert!(asked.load(Ordering::Relaxed), "the pipe is empty and the reader waits");
    }
}
