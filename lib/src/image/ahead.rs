//! [`Ahead`]: a reader that is read by a thread of its own, some blocks ahead of whoever wants them.
//!
//! Between the bytes there may be [`FileHere`]s, for which no bytes are handed over.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::Duration;

/// What is read at a time. Large, so that threads rarely have to wake each other.
pub(super) const BLOCK: usize = 256 << 10;
/// How many blocks wait. With those in the hands of the two sides, they bound the memory of a reader to 1.5 MiB.
const WAITING: usize = 4;
/// How often somebody who waits in vain looks whether he still wants to.
const LOOK: Duration = Duration::from_millis(200);

/// How many files one block has at most, whatever their table of contents says.
const FILES: usize = 4096;

/// A file whose content stands next in a tar and does not come, because whoever reads has it. Its bytes were read, and count in the tar's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHere {
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// Its size in bytes.
    pub size: u64,
}

/// What stands next.
pub(super) enum Next<'a> {
    /// At least one byte. They stand there until they are consumed.
    Bytes(&'a [u8]),
    /// A file. It stands there until it is passed.
    File(FileHere),
    /// Nothing.
    End,
}

/// Bytes, and the files between them, each with how many of the bytes come before it.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    files: Vec<(usize, FileHere)>,
}

impl Block {
    /// A block without files.
    pub(super) fn with(bytes: Vec<u8>) -> Self {
        Self { bytes, files: Vec::new() }
    }

    /// Adds a file behind the first `before` bytes; whether it is time to hand the block over.
    pub(super) fn add_file(&mut self, before: usize, file: FileHere) -> bool {
        self.files.push((before, file));
        self.files.len() >= FILES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.files.is_empty()
    }
}

/// Reads a source ahead. Blocks are handed out without being copied, and used again. The source's end and its errors come where they are;
/// reading on after either asks the source again.
pub(super) struct Ahead {
    blocks: Receiver<io::Result<Block>>,
    emptied: Sender<Vec<u8>>,
    block: Block,
    /// How much of the block was handed out, and how many of its files.
    used: usize,
    passed: usize,
}

impl Ahead {
    /// Starts reading. The thread ends when this value is dropped, or rather when the source's next block is there.
    pub(super) fn new(source: impl Read + Send + 'static) -> io::Result<Self> {
        Self::of(source, u64::MAX)
    }

    /// The same for a source of at most `size` bytes, which may be few: its blocks are no larger.
    pub(super) fn of(source: impl Read + Send + 'static, size: u64) -> io::Result<Self> {
        let length = usize::try_from(size).map_or(BLOCK, |size| size.clamp(1, BLOCK));
        let (ahead, blocks) = Self::pair();
        thread::Builder::new().name("read-ahead".to_owned()).spawn(move || run(source, &blocks, length))?;
        Ok(ahead)
    }

    /// For a thread that makes the blocks itself.
    pub(super) fn pair() -> (Self, Blocks) {
        let (sender, blocks) = mpsc::sync_channel(WAITING);
        let (emptied, empty) = mpsc::channel();
        (Self { blocks, emptied, block: Block::default(), used: 0, passed: 0 }, Blocks { sender, empty })
    }

    /// What stands next. Fails with the error of `wanted` as soon as that has one, also while nothing comes.
    pub(super) fn next_while(&mut self, wanted: impl Fn() -> io::Result<()>) -> io::Result<Next<'_>> {
        while self.used == self.block.bytes.len() && self.passed == self.block.files.len() {
            wanted()?;
            let next = match self.blocks.recv_timeout(LOOK) {
                Ok(next) => next?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("the reading thread panicked")),
            };
            let ended = next.is_empty();
            // Nobody fills it any more where the thread has ended.
            let _ = self.emptied.send(std::mem::replace(&mut self.block, next).bytes);
            (self.used, self.passed) = (0, 0);
            if ended {
                return Ok(Next::End);
            }
        }
        match self.block.files.get(self.passed) {
            Some((before, file)) if *before == self.used => Ok(Next::File(*file)),
            Some((before, _)) => Ok(Next::Bytes(&self.block.bytes[self.used..*before])),
            None => Ok(Next::Bytes(&self.block.bytes[self.used..])),
        }
    }

    /// Passes the file that stands next.
    pub(super) fn pass_file(&mut self) {
        self.passed += 1;
    }
}

/// The bytes, for those who want nothing else.
pub(super) fn only_bytes(next: Next<'_>) -> io::Result<&[u8]> {
    match next {
        Next::Bytes(bytes) => Ok(bytes),
        Next::End => Ok(&[]),
        Next::File(_) => Err(io::Error::other("the content of a file that is here (expected bytes)")),
    }
}

/// Where an [`Ahead`] has its blocks from.
pub(super) struct Blocks {
    sender: SyncSender<io::Result<Block>>,
    empty: Receiver<Vec<u8>>,
}

/// Nobody reads any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads any more")]
pub(super) struct Left;

impl Blocks {
    /// A block of `length` bytes to fill, which was used before where that can be.
    pub(super) fn block(&self, length: usize) -> Vec<u8> {
        let mut block = self.empty.try_recv().unwrap_or_default();
        if block.capacity() < length {
            // The allocator has zeros.
            block = vec![0; length];
        }
        block.resize(length, 0);
        block
    }

    /// Hands over the next block; an empty one is the end.
    pub(super) fn send(&self, block: io::Result<Block>) -> Result<(), Left> {
        self.sender.send(block).map_err(|_| Left)
    }
}

fn run(mut source: impl Read, blocks: &Blocks, length: usize) {
    loop {
        let mut block = blocks.block(length);
        let (filled, error) = fill(&mut source, &mut block);
        block.truncate(filled);
        // What came before an error is handed out before it. An empty block is the end.
        let mut gone = (filled > 0 || error.is_none()) && blocks.send(Ok(Block::with(block))).is_err();
        if let Some(error) = error {
            gone |= blocks.send(Err(error)).is_err();
        }
        if gone {
            return;
        }
    }
}

/// Reads until the block is full, or the source has no more.
fn fill(source: &mut impl Read, block: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < block.len() {
        match source.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

impl Read for Ahead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        only_bytes(self.next_while(|| Ok(()))?)
    }

    fn consume(&mut self, amount: usize) {
        self.used += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_in_order_and_the_end_stays() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 17).map(|n| (n / 7) as u8).collect();
        let mut ahead = Ahead::new(io::Cursor::new(bytes.clone())).unwrap();
        let mut found = Vec::new();
        ahead.read_to_end(&mut found).unwrap();
        assert!(found == bytes);
        for _ in 0..20 {
            assert_eq!(ahead.read(&mut [0; 9]).unwrap(), 0);
        }
    }

    #[test]
    fn blocks_of_a_small_source_are_small() {
        for size in [0, 1, 700] {
            let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let mut ahead = Ahead::of(io::Cursor::new(bytes.clone()), size).unwrap();
            assert_eq!(ahead.fill_buf().unwrap(), bytes);
            assert!(ahead.block.bytes.capacity() as u64 <= size.max(1).next_multiple_of(64), "{}", ahead.block.bytes.capacity());
            ahead.consume(bytes.len());
            assert_eq!(ahead.read(&mut [0; 9]).unwrap(), 0);
        }
    }

    #[test]
    fn an_error_comes_after_what_came_before_it() {
        struct Breaks(Option<usize>);
        impl Read for Breaks {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                match self.0.take() {
                    Some(some) => {
                        buf[..some].fill(7);
                        Ok(some)
                    }
                    None => Err(io::ErrorKind::ConnectionReset.into()),
                }
            }
        }
        let mut ahead = Ahead::new(Breaks(Some(100))).unwrap();
        assert_eq!(ahead.read(&mut [0; 1000]).unwrap(), 100);
        for _ in 0..20 {
            assert_eq!(ahead.read(&mut [0; 1000]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[test]
    fn the_source_goes_away_with_the_reader() {
        struct Tells(#[expect(dead_code, reason = "dropping it is the message")] mpsc::Sender<()>);
        impl Read for Tells {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                Ok(buf.len())
            }
        }
        let (sender, gone) = mpsc::channel();
        let mut ahead = Ahead::new(Tells(sender)).unwrap();
        ahead.read_exact(&mut [0; 10]).unwrap();
        drop(ahead);
        assert_eq!(gone.recv(), Err(mpsc::RecvError));
    }
}
