//! The headers of a layer's tar, from which podman (from version 5 on) makes the tar again when it has fetched the files one by one.
//!
//! The format is that of `vbatts/tar-split`: one JSON document a line, either a segment with bytes of the tar, or a file with its name, its
//! size and the CRC-64 (ISO 3309) of its content. A segment has the padding of the file before it and all of the next entry's headers.

use std::io::{self, Write};

use serde::Serialize;

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

/// The polynomial of ISO 3309, reversed.
const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// A running CRC-64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crc(u64);

impl Crc {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8));
    }

    fn finish(self) -> [u8; 8] {
        (!self.0).to_be_bytes()
    }
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: u8,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Writes the lines.
pub(super) struct TarSplit<W> {
    out: W,
    position: u64,
}

impl<W: Write> TarSplit<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, position: 0 }
    }

    /// Bytes of the tar that are no content of a file.
    pub(super) fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.line(SEGMENT, "", 0, Some(openssl::base64::encode_block(bytes)))
    }

    /// An entry, whether it has content or not.
    pub(super) fn file(&mut self, name: &str, size: u64, content: Crc) -> io::Result<()> {
        let sum = (size > 0).then(|| openssl::base64::encode_block(&content.finish()));
        self.line(FILE, name, size, sum)
    }

    pub(super) fn into_inner(self) -> W {
        self.out
    }

    fn line(&mut self, kind: u8, name: &str, size: u64, payload: Option<String>) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, &Line { r#type: kind, name, size, payload, position: self.position })?;
        self.position += 1;
        self.out.write_all(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_iso_3309() {
        let sum = |bytes: &[u8]| {
            let mut crc = Crc::new();
            crc.update(bytes);
            hex::encode(crc.finish())
        };
        // From the tests of Go's hash/crc64, which tar-split uses.
        let table = [("", "0000000000000000"), ("a", "3420000000000000"), ("ab", "36c4200000000000"), ("abc", "3776c42000000000")];
        for (text, expected) in table {
            assert_eq!(sum(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn lines_are_those_of_tar_split() {
        let mut split = TarSplit::new(Vec::new());
        split.segment(b"header").unwrap();
        let mut crc = Crc::new();
        crc.update(b"a");
        split.file("usr/a", 1, crc).unwrap();
        split.file("usr/", 0, Crc::new()).unwrap();
        let expected = "{\"type\":2,\"payload\":\"aGVhZGVy\",\"position\":0}\n\
                        {\"type\":1,\"name\":\"usr/a\",\"size\":1,\"payload\":\"NCAAAAAAAAA=\",\"position\":1}\n\
                        {\"type\":1,\"name\":\"usr/\",\"payload\":null,\"position\":2}\n";
        assert_eq!(String::from_utf8(split.into_inner()).unwrap(), expected);
    }
}
