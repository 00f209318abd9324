//! [`Tap`]: the reading end of a pipe from skopeo, and [`Pulse`], by which the task that talks to skopeo learns how far it is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;

/// How long a reader has to wait for bytes in vain before the sender is asked whether there will be any.
const STALL: Duration = Duration::from_secs(1);

/// Reads from a pipe, and tells its [`Pulse`] when everything was read, or when nobody reads any more.
pub(super) struct Tap<R> {
    pipe: R,
    size: Option<u64>,
    shared: Arc<Shared>,
    end: Option<oneshot::Sender<()>>,
    /// Held while a reader exists.
    _token: Arc<()>,
}

/// The other side of a [`Tap`].
pub(super) struct Pulse {
    shared: Arc<Shared>,
    end: oneshot::Receiver<()>,
}

#[derive(Default)]
struct Shared {
    read: AtomicU64,
    /// The reader wants bytes and there are none.
    waits: AtomicBool,
}

impl<R> Tap<R> {
    /// Reads `pipe`, in which `size` bytes are expected. Without a size, the end is asked for at once.
    pub(super) fn new(pipe: R, size: Option<u64>, token: Arc<()>) -> (Self, Pulse) {
        let shared = Arc::new(Shared::default());
        let (sender, end) = oneshot::channel();
        let mut tap = Self { pipe, size, shared: shared.clone(), end: Some(sender), _token: token };
        tap.count(0);
        (tap, Pulse { shared, end })
    }

    fn count(&mut self, new: u64) {
        let read = self.shared.read.fetch_add(new, Ordering::Relaxed) + new;
        if self.size.is_none_or(|size| read >= size) {
            // Dropping it is the message.
            self.end = None;
        }
    }
}

impl Pulse {
    /// Waits until everything was read, or nobody reads any more, or a reader has waited for bytes in vain: a pipe that is
    /// too short does not end by itself. A reader that does not read is never taken for one that waits.
    pub(super) async fn wait_for_end(mut self) {
        let mut before = None;
        loop {
            if tokio::time::timeout(STALL, Pin::new(&mut self.end)).await.is_ok() {
                return;
            }
            let read = self.shared.read.load(Ordering::Relaxed);
            if self.shared.waits.load(Ordering::Relaxed) && before == Some(read) {
                return;
            }
            before = Some(read);
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Tap<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.pipe).poll_read(cx, buf);
        self.shared.waits.store(polled.is_pending(), Ordering::Relaxed);
        ready!(polled)?;
        self.count((buf.filled().len() - before) as u64);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_end_is_the_size_or_a_dropped_reader_or_an_unknown_size() {
        let (mut tap, pulse) = Tap::new(&b"hello"[..], Some(5), Arc::new(()));
        let mut ended = Box::pin(pulse.wait_for_end());
        tap.read_exact(&mut [0; 4]).await.unwrap();
        assert!(poll(&mut ended).is_pending());
        tap.read_exact(&mut [0; 1]).await.unwrap();
        assert!(poll(&mut ended).is_ready());
        let (tap, pulse) = Tap::new(&b"hello"[..], Some(5), Arc::new(()));
        drop(tap);
        pulse.wait_for_end().await;
        let (_tap, pulse) = Tap::new(&b"hello"[..], None, Arc::new(()));
        pulse.wait_for_end().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_waits_in_vain_ends_it_and_one_that_rests_does_not() {
        let (mut writer, pipe) = tokio::io::duplex(64);
        let (mut tap, pulse) = Tap::new(pipe, Some(5), Arc::new(()));
        let mut ended = tokio::spawn(pulse.wait_for_end());
        writer.write_all(b"hel").await.unwrap();
        assert!(tokio::time::timeout(10 * STALL, &mut ended).await.is_err(), "nobody reads");
        tap.read_exact(&mut [0; 3]).await.unwrap();
        let reading = tokio::spawn(async move { tap.read(&mut [0; 2]).await });
        ended.await.unwrap();
        drop(writer);
        assert_eq!(reading.await.unwrap().unwrap(), 0);
    }

    fn poll(future: &mut Pin<Box<impl Future<Output = ()>>>) -> Poll<()> {
        future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
    }
}
