//! A range of a file as a file of its own: what a file-system writer gets to see of the image.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

/// `length` bytes of a file from `start` on. Other parts cannot be reached through it.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    start: u64,
    length: u64,
    position: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a File, start: u64, length: u64) -> Self {
        Self { file, start, length, position: 0 }
    }

    /// How many of `wanted` bytes are left.
    fn clamp(&self, wanted: usize) -> usize {
        usize::try_from(self.length.saturating_sub(self.position)).map_or(wanted, |left| left.min(wanted))
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.clamp(buffer.len());
        let read = self.file.read_at(&mut buffer[..count], self.start + self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.clamp(bytes.len());
        let written = self.file.write_at(&bytes[..count], self.start + self.position)?;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(delta) => self.length.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_edges() {
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(b"0123456789").unwrap();
        let mut window = Window::new(&file, 2, 4);
        assert_eq!(window.write(b"abcdef").unwrap(), 4);
        assert_eq!(window.write(b"x").unwrap(), 0);
        window.seek(SeekFrom::End(-1)).unwrap();
        let mut rest = String::new();
        window.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "d");
        let mut whole = [0; 10];
        file.read_exact_at(&mut whole, 0).unwrap();
        assert_eq!(&whole, b"01abcd6789");
        assert!(window.seek(SeekFrom::Current(-9)).is_err());
    }
}
