//! What is in an initramfs: one or more cpio archives one after the other, each plain or compressed, as the kernel unpacks them
//! (Documentation/driver-api/early-userspace/buffer-format.rst). The bytes are foreign: memory and work are bounded, nothing panics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Cursor, Read};

mod compression;
mod cpio;

/// The program that puts the root together, as [`Contents`] names paths.
pub(crate) const PROGRAM: &str = "usr/lib/selkie/selkie-initramfs";

/// An initramfs that could be read, or why not.
pub(super) type Initramfs = Result<Contents, Unreadable>;

/// Why an initramfs cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is empty")]
    Empty,
    #[error("part {0} is neither a cpio archive (newc) nor compressed with gzip, xz, zstd or lz4")]
    Unknown(usize),
    #[error("part {0}: {1}")]
    Part(usize, Broken),
}

/// What is wrong with one archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("reading its bytes: {0}")]
    Bytes(String),
    #[error("it ends in the middle of an entry")]
    Truncated,
    #[error("an entry's header is malformed")]
    Header,
    #[error("it unpacks to more than {} MiB, or has more names than any system", LIMIT >> 20)]
    TooLarge,
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Truncated,
            std::io::ErrorKind::FileTooLarge => Self::TooLarge,
            _ => Self::Bytes(error.to_string()),
        }
    }
}

/// Unpacked bytes of all archives together. Distributions' largest are a tenth of this.
const LIMIT: u64 = 2 << 30;
/// Bytes of all names together.
const NAMES: usize = 64 << 20;
/// Files that are kept are small; what is longer is cut.
const KEPT: usize = 8 << 20;

/// The names in an initramfs, and the few files whose content matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// All paths, without a slash at the front; `lib/` is `usr/lib/`.
    names: BTreeSet<String>,
    name_bytes: usize,
    kept: BTreeMap<String, Vec<u8>>,
    /// SHA-256 of [`PROGRAM`].
    program: Option<[u8; 32]>,
}

impl Contents {
    /// Whether there is such a path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.names.contains(path)
    }

    /// All paths below a directory that is given with its slash.
    pub(super) fn below<'a>(&'a self, directory: &'a str) -> impl Iterator<Item = &'a str> {
        self.names.range(directory.to_owned()..).map(String::as_str).take_while(move |name| name.starts_with(directory))
    }

    /// The text of a file that [`keeps`] names.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        self.kept.get(path).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// SHA-256 of the program that puts the root together.
    pub(super) fn program(&self) -> Option<[u8; 32]> {
        self.program
    }

    fn add(&mut self, name: String) -> Result<(), Broken> {
        self.name_bytes += name.len() + size_of::<String>();
        if self.name_bytes > NAMES {
            return Err(Broken::TooLarge);
        }
        self.names.insert(name);
        Ok(())
    }
}

/// Whether a file's content is kept.
fn keeps(name: &str) -> bool {
    name.starts_with("usr/lib/modules/") && name.ends_with("/modules.dep")
}

/// Reads an initramfs to its end.
pub(super) fn read(file: impl Read) -> Initramfs {
    let mut input = BufReader::with_capacity(1 << 16, file);
    let mut contents = Contents::default();
    let mut left = LIMIT;
    for part in 1.. {
        let failed = |broken| Unreadable::Part(part, broken);
        let Some(start) = start(&mut input).map_err(failed)? else {
            return if part == 1 { Err(Unreadable::Empty) } else { Ok(contents) };
        };
        let mut whole = Cursor::new(start).chain(&mut input);
        let mut reader = compression::open(&start, &mut whole).map_err(failed)?.ok_or(Unreadable::Unknown(part))?;
        cpio::read(&mut reader, &mut left, &mut contents).map_err(failed)?;
    }
    Ok(contents)
}

/// The first bytes of the next part, after the zeros between parts; `None` at the end.
fn start(input: &mut impl BufRead) -> Result<Option<[u8; 6]>, Broken> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
        if zeros == 0 {
            break;
        }
        input.consume(zeros);
    }
    let mut start = [0; 6];
    input.read_exact(&mut start)?;
    Ok(Some(start))
}

#[cfg(test)]
mod tests;
