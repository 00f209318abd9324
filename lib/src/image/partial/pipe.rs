//! From a thread that makes bytes to whoever reads them.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

/// What is handed over at a time, and how many of those wait.
const BLOCK: usize = 256 << 10;
const WAITING: usize = 2;

/// A block; an empty one is the end.
type Block = io::Result<Vec<u8>>;

/// Where the thread puts what it makes.
pub(in crate::image) struct Sink {
    block: Vec<u8>,
    blocks: SyncSender<Block>,
}

/// Nobody reads any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads any more")]
pub(in crate::image) struct Left;

impl Sink {
    pub(in crate::image) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Left> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Left> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        self.blocks.send(Ok(block)).map_err(|_| Left)
    }
}

/// Starts `work` in a thread. What it pushes can be read from what is returned; its error comes after that.
pub(in crate::image) fn spawn(work: impl FnOnce(&mut Sink) -> io::Result<()> + Send + 'static) -> io::Result<impl Read + Send + 'static> {
    let (sender, blocks) = mpsc::sync_channel(WAITING);
    thread::Builder::new().name("rebuild-layer".to_owned()).spawn(move || {
        let mut sink = Sink { block: Vec::with_capacity(BLOCK), blocks: sender };
        let ended = work(&mut sink);
        // Where nobody reads any more, nobody wants to know.
        let _ = sink.flush();
        let _ = sink.blocks.send(ended.map(|()| Vec::new()));
    })?;
    Ok(Pipe { blocks, block: io::Cursor::default(), over: false })
}

struct Pipe {
    blocks: Receiver<Block>,
    block: io::Cursor<Vec<u8>>,
    over: bool,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.block.read(buffer)?;
            if read > 0 || buffer.is_empty() || self.over {
                return Ok(read);
            }
            let block = self.blocks.recv().map_err(|_| io::Error::other("the thread that rebuilds the layer has ended"))??;
            self.over = block.is_empty();
            self.block = io::Cursor::new(block);
        }
    }
}
