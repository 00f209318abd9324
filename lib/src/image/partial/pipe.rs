//! From a thread that makes bytes to whoever reads them.

use std::io::{self, Read};
use std::thread;

use crate::image::ahead::{Ahead, BLOCK, Blocks, Left};

/// Where the thread puts what it makes.
pub(in crate::image) struct Sink {
    block: Vec<u8>,
    /// How much of the block is made.
    made: usize,
    blocks: Blocks,
}

impl Sink {
    fn new(blocks: Blocks) -> Self {
        Self { block: blocks.block(BLOCK), made: 0, blocks }
    }

    pub(in crate::image) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Left> {
        while !bytes.is_empty() {
            self.make_room()?;
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.made));
            self.block[self.made..self.made + now.len()].copy_from_slice(now);
            self.made += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Reads what comes next, up to `most` bytes of it, and tells which bytes those were; none at its end.
    pub(in crate::image) fn pull(&mut self, source: &mut impl Read, most: u64) -> Result<io::Result<&[u8]>, Left> {
        self.make_room()?;
        let start = self.made;
        let most = usize::try_from(most).unwrap_or(BLOCK).min(BLOCK - start);
        Ok(source.read(&mut self.block[start..start + most]).map(|read| {
            self.made += read;
            &self.block[start..self.made]
        }))
    }

    fn make_room(&mut self) -> Result<(), Left> {
        if self.made == BLOCK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Left> {
        if self.made == 0 {
            return Ok(());
        }
        let mut block = std::mem::replace(&mut self.block, self.blocks.block(BLOCK));
        block.truncate(std::mem::take(&mut self.made));
        self.blocks.send(Ok(block))
    }

    /// Tells how it ended, and tells it again to whoever reads on.
    fn end(mut self, ended: io::Result<()>) -> Result<(), Left> {
        self.flush()?;
        let error = ended.as_ref().err().map(|error| (error.kind(), error.to_string()));
        self.blocks.send(ended.map(|()| Vec::new()))?;
        loop {
            self.blocks.send(error.clone().map_or(Ok(Vec::new()), |(kind, message)| Err(io::Error::new(kind, message))))?;
        }
    }
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
    use super::*;

    #[test]
    fn what_is_pushed_and_pulled_comes_in_order_and_the_end_stays() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 17).map(|n| (n / 7) as u8).collect();
        let all = bytes.clone();
        let mut made = spawn(move |sink| {
            let (mut source, mut left) = (&all[..], 0);
            while !source.is_empty() {
                left = (left + 7919) % 100_000;
                let (now, later) = source.split_at(source.len().min(left));
                sink.push(now).unwrap();
                source = later;
                let expected = source;
                let pulled = sink.pull(&mut source, left as u64).unwrap().unwrap();
                assert!(expected.starts_with(pulled) && pulled.len() <= left);
            }
            Ok(())
        })
        .unwrap();
        let mut found = Vec::new();
        made.read_to_end(&mut found).unwrap();
        assert!(found == bytes);
        assert_eq!(made.read(&mut [0]).unwrap(), 0);
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
