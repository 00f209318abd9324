//! What a layer may be. A few bytes of a blob, or of its table of contents, can stand for zeros without end: where these bounds are passed, a layer is
//! given up, whoever made it and whatever its digest is.

use anyhow::{Result, ensure};

/// The most bytes of the tar of a layer, with the files that are here. No machine boots from a tenth of it.
pub(super) const MAX_LAYER: u64 = 1 << 40;
/// The most bytes of it that stay in the split stream: headers, padding and small files. That stream is in memory, compressed, until the layer is whole, and so are the digests
/// of its files: as each of those has a header, there are at most four million.
const MAX_INLINE: u64 = 2 << 30;
/// The library keeps in memory what stays in the stream, until the next file. A hundred and fifty thousand directories in a row, each with the longest headers that occur, are fewer bytes than these.
const MAX_BETWEEN: u64 = 256 << 20;
/// Of what is refused, so many bytes more are read to find out whether its digest is wrong, too: more than nearly all layers have.
pub(super) const READ_ON: u64 = 4 << 30;

/// How much of a layer has come.
#[derive(Debug, Default)]
pub(super) struct Seen {
    all: u64,
    inline: u64,
    /// Inline since the last file.
    between: u64,
}

impl Seen {
    /// So many bytes stay in the split stream.
    pub(super) fn inline(&mut self, bytes: u64) -> Result<()> {
        self.inline += bytes;
        self.between += bytes;
        ensure!(self.between <= MAX_BETWEEN, "more than {MAX_BETWEEN} bytes of headers and small files without another file");
        ensure!(self.inline <= MAX_INLINE, "more than {MAX_INLINE} bytes of headers and small files");
        self.add(bytes)
    }

    /// A file of so many bytes is to come. Its header is believed: who says too much is refused before it comes.
    pub(super) fn file(&mut self, size: u64) -> Result<()> {
        self.between = 0;
        self.add(size)
    }

    fn add(&mut self, bytes: u64) -> Result<()> {
        self.all = self.all.saturating_add(bytes);
        ensure!(self.all <= MAX_LAYER, "a layer of {} bytes and more (expected at most {MAX_LAYER})", self.all);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_bounds_as_a_whole_in_its_stream_and_between_two_files() {
        const BETWEEN: &str = "more than 268435456 bytes of headers and small files without another file";
        const INLINE: &str = "more than 2147483648 bytes of headers and small files";
        let layer = |bytes: u64| format!("a layer of {bytes} bytes and more (expected at most 1099511627776)");
        let file = |size: u64| (true, size);
        let inline = |bytes: u64| (false, bytes);
        let eighth = [inline(MAX_BETWEEN), file(65)];
        // What comes, all but its last step good; and what that step says.
        let table = [
            (vec![file(MAX_LAYER)], None),
            (vec![file(MAX_LAYER + 1)], Some(layer(MAX_LAYER + 1))),
            (vec![inline(512), file(MAX_LAYER - 512), inline(1)], Some(layer(MAX_LAYER + 1))),
            (vec![file(MAX_LAYER), file(u64::MAX)], Some(layer(u64::MAX))),
            (vec![inline(MAX_BETWEEN)], None),
            (vec![inline(MAX_BETWEEN - 1), inline(2)], Some(BETWEEN.to_owned())),
            (vec![inline(MAX_BETWEEN), file(65), inline(MAX_BETWEEN + 1)], Some(BETWEEN.to_owned())),
            (eighth.repeat(8), None),
            ([eighth.repeat(8), vec![inline(1)]].concat(), Some(INLINE.to_owned())),
        ];
        for (steps, expected) in table {
            let mut seen = Seen::default();
            let mut take = |(is_file, bytes): (bool, u64)| if is_file { seen.file(bytes) } else { seen.inline(bytes) };
            let (last, before) = steps.split_last().unwrap();
            before.iter().for_each(|step| take(*step).unwrap());
            assert_eq!(take(*last).err().map(|error| error.to_string()), expected, "{steps:?}");
        }
    }
}
