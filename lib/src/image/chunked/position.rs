//! Where the table of contents of a layer is: from the annotations of the layer, else from the end of its blob. Pure.

use std::collections::HashMap;

use crate::image::digest;

use super::TableError;

/// The prefixes of the annotations: as today, and as skopeo 1.9 and podman 4.3 write them.
pub(super) const PREFIXES: [&str; 2] = ["io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."];

/// How many bytes of the end of a blob are looked at: the longest footer, as a skippable frame.
pub(in crate::image) const FOOTER: u64 = HEADER as u64 + 64;

/// What a footer ends with: as today, and as skopeo 1.9 and podman 4.3 write it.
pub(super) const FOOTER_MAGICS: [&[u8; 8]; 2] = [b"GNUlInUx", b"GnUlInUx"];

/// A skippable frame of zstd begins with this and its length (RFC 8878, 3.1.2).
pub(super) const SKIPPABLE: u32 = 0x184d_2a50;
pub(super) const HEADER: usize = 8;

/// The only kind of table there is: JSON, as that of CRFS.
pub(super) const JSON: u64 = 1;

/// Largest table in bytes, as it is in the blob. That of an image with 100,000 files has 10 MiB.
const MAX_SIZE: u64 = 50 << 20;

/// Largest table in bytes, uncompressed.
const MAX_UNCOMPRESSED: u64 = 192 << 20;

/// Largest list of tar headers in bytes, uncompressed. It is read line by line.
const MAX_TAR_SPLIT: u64 = 1 << 30;

/// Where a table is in its blob, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct Position {
    /// Where it begins; the files end before.
    pub(in crate::image) offset: u64,
    /// Its size in the blob, compressed by zstd.
    pub(in crate::image) size: u64,
    /// Its size when uncompressed.
    pub(in crate::image) uncompressed: u64,
    /// The digest of its compressed bytes; the footer has none.
    checksum: Option<String>,
}

impl Position {
    /// What the annotations of a layer of `blob` bytes say; `None` where they say nothing.
    ///
    /// # Errors
    ///
    /// Where they are malformed, or lead out of the blob.
    pub(in crate::image) fn of_annotations(annotations: &HashMap<String, String>, blob: u64) -> Result<Option<Self>, TableError> {
        let get = |prefix: &str, name: &str| annotations.get(&format!("{prefix}{name}"));
        let said = PREFIXES.iter().find_map(|prefix| Some((get(prefix, "manifest-position")?, get(prefix, "manifest-checksum"))));
        let Some((position, checksum)) = said else { return Ok(None) };
        let malformed = || TableError::new(format!("its annotation manifest-position is {position:?} (expected four numbers)"));
        let numbers: Vec<u64> = position.split(':').map(number).collect::<Option<_>>().ok_or_else(malformed)?;
        let numbers: [u64; 4] = numbers.try_into().map_err(|_| malformed())?;
        Self::checked(numbers, checksum.cloned(), blob).map(Some)
    }

    /// What the last bytes (at most [`FOOTER`]) of a blob of `blob` bytes say; `None` where it has no such footer.
    ///
    /// # Errors
    ///
    /// Where the footer leads out of the blob.
    pub(in crate::image) fn of_footer(end: &[u8], blob: u64) -> Result<Option<Self>, TableError> {
        // Without and with the position of a list of tar headers, which nobody needs who reads single files.
        for length in [64, 40] {
            let Some(frame) = end.len().checked_sub(HEADER + length).map(|start| &end[start..]) else { continue };
            let (header, footer) = frame.split_at(HEADER);
            let is_frame = word(header, 0) == u64::from(SKIPPABLE) | (length as u64) << 32;
            if is_frame && FOOTER_MAGICS.iter().any(|magic| footer.ends_with(*magic)) {
                return Self::checked([0, 1, 2, 3].map(|index| word(footer, index)), None, blob).map(Some);
            }
        }
        Ok(None)
    }

    fn checked([offset, size, uncompressed, kind]: [u64; 4], checksum: Option<String>, blob: u64) -> Result<Self, TableError> {
        let end = offset.checked_add(size).filter(|end| *end <= blob);
        if kind != JSON {
            return Err(TableError::new(format!("its table of contents is of type {kind} (expected {JSON})")));
        }
        if end.is_none() || size == 0 || uncompressed == 0 {
            let found = format!("its table of contents is said to be {size} bytes at {offset} (expected some within {blob})");
            return Err(TableError::new(found));
        }
        if size > MAX_SIZE || uncompressed > MAX_UNCOMPRESSED {
            let found = format!("its table of contents has {size} bytes, {uncompressed} uncompressed");
            return Err(TableError::new(format!("{found} (expected at most {MAX_SIZE} and {MAX_UNCOMPRESSED})")));
        }
        Ok(Self { offset, size, uncompressed, checksum })
    }

    /// Compares the compressed bytes of the table with their checksum, where there is one.
    ///
    /// # Errors
    ///
    /// Where they differ.
    pub(in crate::image) fn verify(&self, bytes: &[u8]) -> Result<(), TableError> {
        if bytes.len() as u64 != self.size {
            return Err(TableError::new(format!("its table of contents has {} bytes (expected {})", bytes.len(), self.size)));
        }
        match &self.checksum {
            Some(checksum) if !digest::matches(bytes, checksum).unwrap_or(false) => {
                Err(TableError::new(format!("its table of contents does not match its checksum {checksum}")))
            }
            _ => Ok(()),
        }
    }
}

/// Where the list of tar headers is, in the form of tar-split: what a tar has besides the contents of its files, to the last bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::image) struct TarSplit {
    /// Where it begins; the files end before.
    pub(in crate::image) offset: u64,
    /// Its size in the blob, compressed by zstd.
    pub(in crate::image) size: u64,
    /// Its size when uncompressed.
    pub(in crate::image) uncompressed: u64,
}

impl TarSplit {
    /// What the annotations of a layer of `blob` bytes say. `None` where they say nothing, or what makes no sense: the bytes between files are in the
    /// blob, too.
    pub(in crate::image) fn of_annotations(annotations: &HashMap<String, String>, blob: u64) -> Option<Self> {
        let said = PREFIXES.iter().find_map(|prefix| annotations.get(&format!("{prefix}tarsplit-position")))?;
        let numbers: Vec<u64> = said.split(':').map(number).collect::<Option<_>>()?;
        let [offset, size, uncompressed] = numbers[..] else { return None };
        let within = offset.checked_add(size).is_some_and(|end| end <= blob);
        let sound = within && size > 0 && size <= MAX_SIZE && uncompressed > 0 && uncompressed <= MAX_TAR_SPLIT;
        sound.then_some(Self { offset, size, uncompressed })
    }
}

/// A number of digits and nothing else; Rust also takes a plus.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

/// The little-endian number at place `index`.
fn word(bytes: &[u8], index: usize) -> u64 {
    bytes[index * 8..][..8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 2] = PREFIXES;

    fn annotated(prefix: &str, position: &str) -> HashMap<String, String> {
        HashMap::from([
            (format!("{prefix}manifest-position"), position.to_owned()),
            (format!("{prefix}manifest-checksum"), digest::sha256(b"table").unwrap()),
        ])
    }

    fn position(offset: u64, size: u64, uncompressed: u64, checksum: Option<&[u8]>) -> Position {
        Position { offset, size, uncompressed, checksum: checksum.map(|c| digest::sha256(c).unwrap()) }
    }

    #[test]
    fn both_names_of_the_annotations_are_read() {
        for prefix in NAMES {
            let found = Position::of_annotations(&annotated(prefix, "10:5:20:1"), 100).unwrap();
            assert_eq!(found, Some(position(10, 5, 20, Some(b"table"))));
        }
        assert_eq!(Position::of_annotations(&HashMap::new(), 100), Ok(None));
    }

    #[test]
    fn positions_that_make_no_sense_are_refused() {
        let table = [
            ("10:5:20", "four numbers"),
            ("10:5:20:1:1", "four numbers"),
            ("10:-5:20:1", "four numbers"),
            ("+10:5:20:1", "four numbers"),
            ("10:5:20:", "four numbers"),
            ("99999999999999999999:5:20:1", "four numbers"),
            ("10:5:20:2", "of type 2"),
            ("96:5:20:1", "5 bytes at 96 (expected some within 100)"),
            ("18446744073709551615:5:20:1", "within 100"),
            ("10:0:20:1", "within 100"),
            ("10:5:0:1", "within 100"),
            ("10:5:201326593:1", "expected at most"),
        ];
        for (text, expected) in table {
            let error = Position::of_annotations(&annotated(NAMES[0], text), 100).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let large = Position::of_annotations(&annotated(NAMES[0], "0:52428801:60000000:1"), 1 << 40).unwrap_err();
        assert!(large.to_string().contains("expected at most"), "{large}");
    }

    #[test]
    fn both_footers_are_read() {
        let footer = |magic: usize, length: usize, words: &[u64]| {
            let mut bytes = [&SKIPPABLE.to_le_bytes()[..], &u32::try_from(length).unwrap().to_le_bytes()].concat();
            bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            bytes.extend(FOOTER_MAGICS[magic]);
            bytes
        };
        let (short, long) = (footer(1, 40, &[10, 5, 20, 1]), footer(0, 64, &[10, 5, 20, 1, 0, 0, 0]));
        let padded = [vec![7; 24], short.clone()].concat();
        for end in [&short, &long, &padded] {
            assert_eq!(Position::of_footer(end, 100), Ok(Some(position(10, 5, 20, None))));
        }
        for none in [&b""[..], b"GnUlInUx", &short[1..], &[0; 72], &footer(0, 41, &[10, 5, 20, 1])] {
            assert_eq!(Position::of_footer(none, 100), Ok(None));
        }
        assert!(Position::of_footer(&footer(1, 40, &[u64::MAX, 5, 20, 1]), 100).is_err());
    }

    #[test]
    fn a_table_is_compared_with_its_checksum() {
        let good = position(10, 5, 20, Some(b"table"));
        assert_eq!(good.verify(b"table"), Ok(()));
        assert!(good.verify(b"tablE").unwrap_err().to_string().contains("does not match its checksum sha256:"));
        assert!(good.verify(b"tabl").unwrap_err().to_string().contains("4 bytes (expected 5)"));
        assert_eq!(position(10, 5, 20, None).verify(b"tablE"), Ok(()));
        let odd = Position { checksum: Some("crc32:00".into()), ..good };
        assert!(odd.verify(b"table").is_err());
    }
}
