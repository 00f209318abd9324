//! Targets of deltas: see [`crate::fuzz`].

use std::io::{self, Cursor, Write};

use anyhow::{Result, ensure};

use super::{SourceFile, SourceFiles, TAR_DIFF, apply_delta, compress_against};

/// So much of what a patch makes is taken.
const ENOUGH: u64 = 4 << 20;

/// What every file has in it.
const CONTENT: &[u8] = b"the content of a file, of which a patch copies a part, or all of it";

/// That of no tar.
const DIFF_ID: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// An image with a file at every path below `usr/`.
struct Below;

impl SourceFiles for Below {
    fn open(&self, path: &str) -> Result<Box<dyn SourceFile>> {
        ensure!(path.starts_with("usr/"), "there is no such file");
        Ok(Box::new(Cursor::new(CONTENT)))
    }
}

/// Takes no more than that.
struct Some(u64);

impl Write for Some {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other("that is enough"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A patch: as it is, and as its operations, uncompressed, for both headers.
pub(crate) fn patch(bytes: &[u8]) {
    let packed = zstd::encode_all(bytes, 1).expect("packing");
    let of = |header: &[u8]| [header, &packed].concat();
    for patch in [bytes.to_vec(), of(b"tardf1\n\0"), of(b"tardf2\n\0")] {
        let applied = apply_delta(Cursor::new(patch), TAR_DIFF, &Below, DIFF_ID, &mut Some(ENOUGH));
        assert!(applied.is_err(), "a patch made a tar that has another digest");
    }
}

/// Operations: a file is opened and copied from, bytes, a file in terms of another.
pub(crate) fn patches() -> Vec<Vec<u8>> {
    let frame = compress_against(CONTENT, b"the content of a file, of which a patch copies nothing").expect("packing");
    let open = [&[1, 5][..], b"usr/a"].concat();
    let copies = [&open[..], &[2, 7, 0, 2], b"hi", &[4, 3, 2, 4]].concat();
    let framed = [&open[..], &[5, frame.len() as u8], &frame].concat();
    let packed = [&b"tardf1\n\0"[..], &zstd::encode_all(copies.as_slice(), 1).expect("packing")].concat();
    vec![copies, framed, packed]
}
