//! The list of tar headers that zstd:chunked layers have since 2024, in the form of tar-split: lines of JSON, in order, each either bytes of the tar
//! or the place of a file's content.

use std::io::{BufRead, BufReader, Read};

use openssl::base64;
use serde::Deserialize;

use crate::image::chunked::{Trouble, decoder};

/// Longest line in bytes: a header with everything that extends it.
const MAX_LINE: u64 = 8 << 20;

const FILE: u64 = 1;
const SEGMENT: u64 = 2;

#[derive(Deserialize)]
struct Line {
    r#type: u64,
    #[serde(default)]
    size: u64,
    payload: Option<String>,
}

/// What stands at one place of the tar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The content of the next file that has any, of this size.
    File(u64),
}

/// Hands out the entries of `compressed`, which has to be `size` bytes when uncompressed.
pub(super) fn read(compressed: &[u8], size: u64, each: &mut dyn FnMut(Entry) -> Result<(), Trouble>) -> Result<(), Trouble> {
    let mut lines = BufReader::new(decoder(compressed)?.take(size));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 == MAX_LINE && !line.ends_with(b"\n") {
            return Err(wrong(format!("a line of more than {MAX_LINE} bytes")));
        }
        let line: Line = serde_json::from_slice(&line).map_err(|e| wrong(e.to_string()))?;
        match line.r#type {
            FILE if line.size > 0 => each(Entry::File(line.size))?,
            FILE => {}
            SEGMENT => {
                let bytes = base64::decode_block(&line.payload.unwrap_or_default());
                each(Entry::Bytes(bytes.map_err(|_| wrong("bytes that are no base64".to_owned()))?))?;
            }
            other => return Err(wrong(format!("an entry of type {other}"))),
        }
    }
}

fn wrong(found: String) -> Trouble {
    Trouble::Blob(format!("its list of tar headers: {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(lines: &str) -> Result<Vec<Entry>, String> {
        let mut found = Vec::new();
        let compressed = zstd::encode_all(lines.as_bytes(), 3).unwrap();
        let read = read(&compressed, lines.len() as u64, &mut |entry| {
            found.push(entry);
            Ok(())
        });
        match read {
            Ok(()) => Ok(found),
            Err(Trouble::Blob(reason)) => Err(reason),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_bytes_and_files() {
        let lines = r#"{"type":2,"payload":"aGVsbG8=","position":0}
{"type":1,"name":"usr/a","size":7,"payload":"AAAAAAAAAAA=","position":1}
{"type":1,"name_raw":"/w==","payload":null,"position":2}
{"type":2,"payload":"AA==","position":3}
"#;
        let expected = [Entry::Bytes(b"hello".to_vec()), Entry::File(7), Entry::Bytes(vec![0])];
        assert_eq!(entries(lines).unwrap(), expected);
        assert_eq!(entries("").unwrap(), []);
    }

    #[test]
    fn what_is_no_such_list_is_a_reason() {
        for (lines, expected) in [
            ("hello", "its list of tar headers: expected value"),
            (r#"{"type":3,"payload":""}"#, "an entry of type 3"),
            (r#"{"type":2,"payload":"!"}"#, "no base64"),
            (r#"{"type":1,"size":-1}"#, "its list of tar headers: "),
        ] {
            let found = entries(lines).unwrap_err();
            assert!(found.contains(expected), "{lines}: {found}");
        }
        let long = entries(&" ".repeat(9 << 20)).unwrap_err();
        assert!(long.contains("a line of more than"), "{long}");
    }
}
