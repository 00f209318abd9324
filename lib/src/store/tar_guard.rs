//! Looks ahead of the library at the headers of a layer, as they go by: its splitter never ends on a header that never ends.
//!
//! The parser says how many bytes it needs. Where it asks for no more than it has got, as on the map of a sparse file that does not end, the
//! splitter asks again for ever. Such a stream ends here instead, before the splitter sees that header. All else is left to the library to judge.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tar_core::HEADER_SIZE;
use tar_core::parse::{ParseEvent, Parser};
use tokio::io::{AsyncRead, ReadBuf};

use super::unsuitable;

/// What is read at a time of a stream whose end alone is of interest.
const PIECE: usize = 64 << 10;

/// A tar stream whose headers all end.
pub(super) struct Guarded<R> {
    inner: R,
    parser: Parser,
    state: State,
    /// What is known of the header that is being read, and how much of it is needed.
    head: Vec<u8>,
    need: usize,
}

enum State {
    Head,
    /// So many bytes of content and padding follow.
    Body(u64),
    /// Nothing more is looked at.
    Past,
    /// A header does not end. The rest is read: where the bytes are not those of the layer, that is what is wrong.
    Endless,
}

impl<R> Guarded<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, parser: Parser::with_defaults(), state: State::Head, head: Vec::new(), need: HEADER_SIZE }
    }

    fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Body(left) => {
                    let passed = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    bytes = &bytes[passed..];
                    *left -= passed as u64;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                }
                State::Head => {
                    let (head, rest) = bytes.split_at(bytes.len().min(self.need - self.head.len()));
                    self.head.extend_from_slice(head);
                    bytes = rest;
                    if self.head.len() == self.need {
                        self.parse();
                    }
                }
                State::Past | State::Endless => return,
            }
        }
    }

    fn parse(&mut self) {
        self.state = match self.parser.parse(&self.head) {
            Ok(ParseEvent::NeedData { min_bytes }) if min_bytes > self.need => {
                self.need = min_bytes;
                return;
            }
            Ok(ParseEvent::NeedData { .. }) => State::Endless,
            Ok(ParseEvent::GlobalExtensions { .. }) => State::Head,
            Ok(ParseEvent::Entry { entry, .. }) => {
                let length = entry.size.checked_next_multiple_of(HEADER_SIZE as u64);
                length.map_or(State::Past, |length| if length == 0 { State::Head } else { State::Body(length) })
            }
            Ok(ParseEvent::SparseEntry { .. } | ParseEvent::End { .. }) | Err(_) => State::Past,
        };
        self.head.clear();
        self.need = HEADER_SIZE;
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Guarded<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !matches!(self.state, State::Endless) {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            self.look(&buf.filled()[before..]);
            if !matches!(self.state, State::Endless) {
                return Poll::Ready(Ok(()));
            }
            buf.set_filled(before);
        }
        let mut piece = vec![0; PIECE];
        loop {
            let mut rest = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                let failure =
                    unsuitable("reading its tar stream: a header that does not end").hint("build the image again, with buildah or podman");
                return Poll::Ready(Err(io::Error::other(failure)));
            }
        }
    }
}
