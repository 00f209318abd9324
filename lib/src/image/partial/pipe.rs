//! From a thread that makes bytes to whoever reads them.

use std::io;
use std::thread;

use crate::image::ahead::{Ahead, BLOCK, Block, Blocks, FileHere, Left};

/// A block that stands for so many bytes is handed over, whatever is in it: so one learns whether anybody reads.
const LEFT_OUT: u64 = 8 << 20;

/// Where the thread puts what it makes.
pub(in crate::image) struct Sink {
    block: Block,
    /// How many bytes of the block are made.
    made: usize,
    /// How many bytes its files have.
    left_out: u64,
    blocks: Blocks,
}

impl Sink {
    fn new(blocks: Blocks) -> Self {
        Self { block: empty(&blocks), made: 0, left_out: 0, blocks }
    }

    pub(in crate::image) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Left> {
        while !bytes.is_empty() {
            self.make_room()?;
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.made));
            self.block.bytes[self.made..self.made + now.len()].copy_from_slice(now);
            self.made += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Says that the content of this file stands next, and that its bytes do not come.
    pub(in crate::image) fn file(&mut self, file: FileHere) -> Result<(), Left> {
        self.left_out += file.size;
        let full = self.block.add_file(self.made, file);
        if full || self.left_out >= LEFT_OUT { self.flush() } else { Ok(()) }
    }

    fn make_room(&mut self) -> Result<(), Left> {
        if self.made == BLOCK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Left> {
        let mut block = std::mem::replace(&mut self.block, empty(&self.blocks));
        block.bytes.truncate(std::mem::take(&mut self.made));
        self.left_out = 0;
        if block.is_empty() { Ok(()) } else { self.blocks.send(Ok(block)) }
    }

    /// Tells how it ended, and tells it again to whoever reads on.
    fn end(mut self, ended: io::Result<()>) -> Result<(), Left> {
        self.flush()?;
        let error = ended.as_ref().err().map(|error| (error.kind(), error.to_string()));
        self.blocks.send(ended.map(|()| Block::default()))?;
        loop {
            self.blocks.send(error.clone().map_or(Ok(Block::default()), |(kind, message)| Err(io::Error::new(kind, message))))?;
        }
    }
}

/// A block to fill.
fn empty(blocks: &Blocks) -> Block {
    Block::with(blocks.block(BLOCK))
}

/// Starts `work` in a thread. What it pushes can be read from what is returned; its error comes after that.
pub(in crate::image) fn spawn(work: impl FnOnce(&mut Sink) -> io::Result<()> + Send + 'static) -> io::Result<Ahead> {
    let (ahead, blocks) = Ahead::pair();
    thread::Builder::new().name("rebuild-layer".to_owned()).spawn(move || {
        let mut sink = Sink::new(blocks);
        let ended = work(&mut sink);
        // Where nobody reads any more, nobody wants to know.
        let _ = sink.end(ended);
    })?;
    Ok(ahead)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read};

    use super::*;
    use crate::image::ahead::Next;

    /// What comes out: bytes, and where the files are.
    fn read(made: &mut Ahead) -> (Vec<u8>, Vec<(usize, FileHere)>) {
        let (mut bytes, mut files) = (Vec::new(), Vec::new());
        loop {
            match made.next_while(|| Ok(())).unwrap() {
                Next::Bytes(next) => {
                    bytes.extend_from_slice(next);
                    let length = next.len();
                    made.consume(length);
                }
                Next::File(file) => {
                    files.push((bytes.len(), file));
                    made.pass_file();
                }
                Next::End => return (bytes, files),
            }
        }
    }

    #[test]
    fn what_is_pushed_comes_in_order_with_the_files_between_and_the_end_stays() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 17).map(|n| (n / 7) as u8).collect();
        let file = |number: usize| FileHere { sha256: [number as u8; 32], size: number as u64 };
        // At the front and the end, several at one place, at the borders of blocks, and more than one block has.
        let mut places = vec![0, 0, 1, 4097, BLOCK - 1, BLOCK, BLOCK, BLOCK + 1, 2 * BLOCK];
        places.extend([2 * BLOCK + 9; 10_000]);
        places.push(bytes.len());
        let expected: Vec<_> = places.iter().enumerate().map(|(number, place)| (*place, file(number))).collect();
        let (all, files) = (bytes.clone(), expected.clone());
        let mut made = spawn(move |sink| {
            let mut done = 0;
            for (place, file) in files {
                sink.push(&all[done..place]).unwrap();
                sink.file(file).unwrap();
                done = place;
            }
            Ok(())
        })
        .unwrap();
        let (found, files) = read(&mut made);
        assert!(found == bytes);
        assert_eq!(files, expected);
        assert_eq!(made.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn who_wants_bytes_does_not_get_less() {
        let mut made = spawn(|sink| {
            sink.push(b"made").map_err(io::Error::other)?;
            sink.file(FileHere { sha256: [0; 32], size: 7 }).map_err(io::Error::other)?;
            sink.push(b"more").map_err(io::Error::other)
        })
        .unwrap();
        made.read_exact(&mut [0; 4]).unwrap();
        for _ in 0..9 {
            let error = made.read(&mut [0]).unwrap_err();
            assert_eq!(error.to_string(), "the content of a file that is here (expected bytes)");
        }
    }

    #[test]
    fn an_error_comes_after_what_was_made_and_stays() {
        let mut made = spawn(|sink| {
            sink.push(b"made").map_err(io::Error::other)?;
            Err(io::Error::new(io::ErrorKind::InvalidData, "broken"))
        })
        .unwrap();
        let mut found = [0; 4];
        made.read_exact(&mut found).unwrap();
        assert_eq!(&found, b"made");
        for _ in 0..9 {
            let error = made.read(&mut found).unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::InvalidData, "broken".to_owned()));
        }
    }
}
