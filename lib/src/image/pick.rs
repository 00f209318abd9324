//! Picking single files out of a whole layer, as its tar passes by.

use std::io::{self, Read};

use anyhow::{Context, Result, bail, ensure};
use tar_core::HEADER_SIZE;
use tar_core::parse::{ParseEvent, Parser};

use super::ranges::{Receiver, Wanted};

/// What is read at a time.
const PIECE: usize = 128 * 1024;

/// Reads a layer to its end and hands those of `wanted` that are in `left` to the receiver, until it says that it has the right one.
///
/// # Errors
///
/// Those of the layer and of the receiver.
pub(super) fn pick(tar: impl Read, wanted: &[Wanted], left: &mut Vec<usize>, receiver: &mut dyn Receiver) -> Result<()> {
    let mut picker = Picker { tar, piece: vec![0; PIECE] };
    let mut parser = Parser::with_defaults();
    let (mut head, mut need) = (Vec::new(), HEADER_SIZE);
    while picker.fill(&mut head, need)? {
        match parser.parse(&head)? {
            ParseEvent::NeedData { min_bytes } => {
                ensure!(min_bytes > need, "a header that does not end");
                need = min_bytes;
                continue;
            }
            ParseEvent::GlobalExtensions { .. } => {}
            ParseEvent::SparseEntry { .. } => bail!("sparse tar entries are not supported"),
            ParseEvent::Entry { entry, .. } => {
                let named = |file: usize| entry.entry_type.is_file() && is(&wanted[file], &entry.path, entry.size);
                let found = left.iter().copied().find(|file| named(*file));
                let (size, padded) = (entry.size, entry.padded_size());
                if picker.body(size, padded - size, found, receiver)? {
                    left.retain(|file| Some(*file) != found);
                }
            }
            ParseEvent::End { .. } => {
                io::copy(&mut picker.tar, &mut io::sink())?;
                return Ok(());
            }
        }
        head.clear();
        need = HEADER_SIZE;
    }
    Ok(())
}

fn is(wanted: &Wanted, path: &[u8], size: u64) -> bool {
    use std::os::unix::ffi::OsStrExt;
    wanted.size == size && plain(wanted.path.as_os_str().as_bytes()) == plain(path)
}

/// A path without what tar files put before it.
fn plain(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
        path = rest;
    }
    path
}

struct Picker<R> {
    tar: R,
    piece: Vec<u8>,
}

impl<R: Read> Picker<R> {
    /// Reads until `head` has `need` bytes. `false` where the tar ends between two entries.
    fn fill(&mut self, head: &mut Vec<u8>, need: usize) -> Result<bool> {
        (&mut self.tar).take((need - head.len()) as u64).read_to_end(head)?;
        match head.len() {
            0 => Ok(false),
            found if found < need => bail!("the tar ends within a header"),
            _ => Ok(true),
        }
    }

    /// Reads an entry's content, for the receiver where it is a wanted file. Whether that has it now.
    fn body(&mut self, size: u64, padding: u64, file: Option<usize>, receiver: &mut dyn Receiver) -> Result<bool> {
        file.map_or(Ok(()), |file| receiver.start(file))?;
        let mut left = size;
        while left > 0 {
            let piece = self.next(&mut left)?;
            file.map_or(Ok(()), |_| receiver.write(piece))?;
        }
        let has = file.map_or(Ok(false), |_| receiver.end())?;
        let mut left = padding;
        while left > 0 {
            self.next(&mut left)?;
        }
        Ok(has)
    }

    fn next(&mut self, left: &mut u64) -> Result<&[u8]> {
        let length = self.piece.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        self.tar.read_exact(&mut self.piece[..length]).context("reading an entry of the tar")?;
        *left -= length as u64;
        Ok(&self.piece[..length])
    }
}
