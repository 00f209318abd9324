//! The table of contents: which files there are, and where their pieces lie in the blob. Pure.
//!
//! The format is that of `containers/storage`, pkg/chunked: `{"version": 1, "entries": […]}` in the order of the tar. A file is an entry
//! `reg` with its first piece in it, and an entry `chunk` for each further one. The compressed bytes of a piece are whole
//! frames of zstd and end where the next piece begins, those of the last at the file's `endOffset`.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::{TableError, entries};

/// A SHA-256 digest.
pub(in crate::image) type Sha256 = [u8; 32];

/// The files of a layer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::image) struct Table {
    files: Vec<File>,
    names: HashMap<Box<str>, Named>,
}

#[derive(Debug, PartialEq, Eq)]
enum Named {
    File(usize),
    /// More than once, so that it is not clear which the tar's reader ends up with.
    Twice,
}

/// A regular file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::image) struct File {
    /// Its size in bytes.
    pub(in crate::image) size: u64,
    pub(in crate::image) digest: Option<Sha256>,
    /// In order, without gaps; none where it is empty.
    pub(in crate::image) chunks: Vec<Chunk>,
}

/// A piece of a file.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::image) struct Chunk {
    /// Where its compressed bytes begin and end in the blob.
    pub(in crate::image) offset: u64,
    pub(in crate::image) end: u64,
    /// Its size, uncompressed.
    pub(in crate::image) size: u64,
    /// Nothing but zeros, so that it need not be read.
    pub(in crate::image) zeros: bool,
    pub(super) digest: Option<Sha256>,
}

#[derive(Deserialize)]
struct Raw<'a> {
    version: u64,
    #[serde(borrow, deserialize_with = "entries::bounded")]
    entries: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    size: u64,
    #[serde(borrow)]
    digest: Option<Cow<'a, str>>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    end_offset: u64,
    #[serde(default)]
    chunk_size: u64,
    #[serde(default)]
    chunk_offset: u64,
    #[serde(borrow)]
    chunk_digest: Option<Cow<'a, str>>,
    #[serde(borrow)]
    chunk_type: Option<Cow<'a, str>>,
}

impl Table {
    /// Reads a table. The contents of files lie in the blob before `limit`.
    ///
    /// # Errors
    ///
    /// Where it is no such table, or contradicts itself: pieces that lie outside, over each other or in another order than the files, sizes
    /// that do not add up.
    pub(in crate::image) fn parse(json: &[u8], limit: u64) -> Result<Self, TableError> {
        let raw: Raw<'_> = serde_json::from_slice(json).map_err(|e| TableError::new(format!("its table of contents: {e}")))?;
        if raw.version != 1 {
            return Err(TableError::new(format!("its table of contents is of version {} (expected 1)", raw.version)));
        }
        let mut table = Self::empty();
        let mut floor = 0;
        let mut rest = raw.entries.as_slice();
        while let Some((first, after)) = rest.split_first() {
            let pieces = after.iter().take_while(|e| e.r#type == "chunk").count();
            let (chunks, others) = after.split_at(pieces);
            rest = others;
            let named = match &*first.r#type {
                "reg" => {
                    let file = file(first, chunks, &mut floor, limit)
                        .map_err(|found| TableError::new(format!("its table of contents: {:?}: {found}", first.name)))?;
                    table.files.push(file);
                    Some(Named::File(table.files.len() - 1))
                }
                kind if pieces > 0 || kind == "chunk" => {
                    return Err(TableError::new(format!("its table of contents: {:?}: a piece without a file", first.name)));
                }
                _ => None,
            };
            table.name(plain(&first.name), named);
        }
        Ok(table)
    }

    /// What is no file is not kept: hard links are names of a file that has another one.
    fn name(&mut self, name: &str, named: Option<Named>) {
        match (self.names.get_mut(name), named) {
            (Some(there), _) => *there = Named::Twice,
            (None, Some(named)) => {
                self.names.insert(name.into(), named);
            }
            (None, None) => {}
        }
    }

    /// A table of nothing.
    pub(in crate::image) fn empty() -> Self {
        Self { files: Vec::new(), names: HashMap::new() }
    }

    /// The regular files in the order of the tar, which is that of their pieces in the blob.
    pub(in crate::image) fn files(&self) -> &[File] {
        &self.files
    }

    /// The regular file at `path`.
    ///
    /// # Errors
    ///
    /// Where there is none, or where it cannot be told which.
    pub(in crate::image) fn find(&self, path: &[u8]) -> Result<&File, TableError> {
        let shown = String::from_utf8_lossy(path);
        let missing = || TableError::new(format!("its table of contents has no file {shown:?}"));
        let name = plain(std::str::from_utf8(path).map_err(|_| missing())?);
        match self.names.get(name).ok_or_else(missing)? {
            Named::File(index) => Ok(&self.files[*index]),
            Named::Twice => Err(TableError::new(format!("its table of contents has {shown:?} more than once"))),
        }
    }
}

/// A path without what tar files put before or after it.
fn plain(path: &str) -> &str {
    let mut path = path.trim_end_matches('/');
    while let Some(rest) = path.strip_prefix("./").or_else(|| path.strip_prefix('/')) {
        path = rest;
    }
    path
}

/// `floor` is where the last file ended; nothing may begin before it.
fn file(first: &Entry<'_>, more: &[Entry<'_>], floor: &mut u64, limit: u64) -> Result<File, String> {
    let digest = first.digest.as_deref().map(sha256).transpose()?;
    if first.size == 0 {
        return if more.is_empty() { Ok(File { size: 0, digest, chunks: Vec::new() }) } else { Err("it is empty and has pieces".into()) };
    }
    let entries: Vec<&Entry<'_>> = std::iter::once(first).chain(more).collect();
    let last_end = more.last().map(|e| e.end_offset).filter(|end| *end > 0).unwrap_or(first.end_offset);
    let (mut chunks, mut done) = (Vec::with_capacity(entries.len()), 0_u64);
    for (index, entry) in entries.iter().enumerate() {
        let end = entries.get(index + 1).map_or(last_end, |next| next.offset);
        let left = first.size - done;
        // A file of one piece does not say how large that is.
        let size = if entry.chunk_size == 0 && index + 1 == entries.len() { left } else { entry.chunk_size };
        let zeros = match entry.chunk_type.as_deref().unwrap_or_default() {
            "" => false,
            "zeros" => true,
            other => return Err(format!("a piece is of type {other:?}")),
        };
        if plain(&entry.name) != plain(&first.name) || entry.chunk_offset != done || size == 0 || size > left {
            return Err(format!("its piece at {} has {size} bytes (expected one of {left} or less at {done})", entry.chunk_offset));
        }
        let within = *floor <= entry.offset && entry.offset <= end && end <= limit;
        if !within || (entry.offset == end && !zeros) {
            return Err(format!("a piece lies from {} to {end} in the blob (expected it between {floor} and {limit})", entry.offset));
        }
        let digest = entry.chunk_digest.as_deref().map(sha256).transpose()?;
        chunks.push(Chunk { offset: entry.offset, end, size, zeros, digest });
        *floor = end;
        done += size;
    }
    if done != first.size {
        return Err(format!("its pieces have {done} bytes (expected {})", first.size));
    }
    Ok(File { size: first.size, digest, chunks })
}

pub(super) fn sha256(digest: &str) -> Result<Sha256, String> {
    let mut bytes = [0; 32];
    let hex = digest.strip_prefix("sha256:").and_then(|hex| hex::decode_to_slice(hex, &mut bytes).ok());
    hex.map(|()| bytes).ok_or_else(|| format!("digest {digest:?} (expected sha256)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of nothing, and the same as bytes.
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(entries: &str) -> Result<Table, TableError> {
        Table::parse(format!("{{\"version\":1,\"entries\":[{entries}]}}").as_bytes(), 1000)
    }

    fn refused(entries: &str) -> String {
        parse(entries).expect_err(entries).to_string()
    }

    fn chunk(range: std::ops::Range<u64>, size: u64) -> Chunk {
        Chunk { offset: range.start, end: range.end, size, zeros: false, digest: None }
    }

    /// As skopeo 1.9.3 writes them: a file of three pieces, an empty one, one of one piece, a link.
    const REAL: &str = r#"
        {"type":"dir","name":"usr/","mode":16877,"modtime":"2026-11-25T12:32:58Z"},
        {"type":"reg","name":"usr/holes","mode":33188,"size":300,"digest":"EMPTY","offset":121,"endOffset":200,"chunkSize":100,"chunkDigest":"EMPTY"},
        {"type":"chunk","name":"usr/holes","offset":150,"chunkSize":120,"chunkOffset":100,"chunkDigest":"EMPTY","chunkType":"zeros"},
        {"type":"chunk","name":"usr/holes","offset":160,"chunkSize":80,"chunkOffset":220,"chunkDigest":"EMPTY"},
        {"type":"reg","name":"usr/empty","mode":33188},
        {"type":"symlink","name":"usr/s","linkName":"holes"},
        {"type":"reg","name":"./usr/small","mode":33188,"size":6,"offset":300,"endOffset":1000},
        {"type":"hardlink","name":"usr/link","linkName":"./usr/small"}"#;

    #[test]
    fn files_are_found_by_their_paths() {
        let table = parse(&REAL.replace("EMPTY", EMPTY)).unwrap();
        let digest = Some(sha256(EMPTY).unwrap());
        let with = |c: Chunk| Chunk { digest, ..c };
        let hole = Chunk { zeros: true, ..with(chunk(150..160, 120)) };
        let holes = File { size: 300, digest, chunks: vec![with(chunk(121..150, 100)), hole, with(chunk(160..200, 80))] };
        let small = File { size: 6, digest: None, chunks: vec![chunk(300..1000, 6)] };
        let empty = File { size: 0, digest: None, chunks: vec![] };
        for (path, file) in
            [("usr/holes", &holes), ("/usr/holes", &holes), ("./usr/small", &small), ("usr/small", &small), ("usr/empty", &empty)]
        {
            assert_eq!(table.find(path.as_bytes()), Ok(file), "{path}");
        }
        for path in [&b"usr"[..], b"usr/s", b"usr/link", b"usr/none", b"", b"usr/\xff"] {
            assert!(table.find(path).unwrap_err().to_string().contains("has no file"), "{path:?}");
        }
    }

    #[test]
    fn names_that_lead_to_two_things_lead_nowhere() {
        let file = |offset: u64| format!(r#"{{"type":"reg","name":"a","size":1,"offset":{offset},"endOffset":{}}}"#, offset + 9);
        let table = parse(&format!("{},{}", file(1), file(10))).unwrap();
        assert!(table.find(b"a").unwrap_err().to_string().contains("more than once"));
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let reg = |rest: &str| format!(r#"{{"type":"reg","name":"a",{rest}}}"#);
        let more = |rest: &str| format!(r#"{{"type":"chunk","name":"a",{rest}}}"#);
        let two = |second: &str| format!("{},{}", reg(r#""size":30,"offset":10,"endOffset":60,"chunkSize":10"#), more(second));
        let after = |rest: &str| format!("{},{}", reg(r#""size":30,"offset":10,"endOffset":60"#), reg(rest));
        let table = [
            // Out of the blob's files, backwards, empty, without an end.
            (reg(r#""size":1,"offset":10,"endOffset":1001"#), "from 10 to 1001"),
            (reg(r#""size":1,"offset":18446744073709551615,"endOffset":1"#), "from 18446744073709551615 to 1 "),
            (reg(r#""size":1,"offset":10,"endOffset":9"#), "from 10 to 9 "),
            (reg(r#""size":1,"offset":10,"endOffset":10"#), "from 10 to 10 "),
            (reg(r#""size":1,"offset":10"#), "from 10 to 0 "),
            // Over each other, within a file and between two.
            (two(r#""offset":9,"chunkSize":20,"chunkOffset":10"#), "from 10 to 9 "),
            (two(r#""offset":10,"chunkSize":20,"chunkOffset":10"#), "from 10 to 10 "),
            (two(r#""offset":61,"chunkSize":20,"chunkOffset":10"#), "from 61 to 60 "),
            (after(r#""size":1,"offset":59,"endOffset":70"#), "from 59 to 70 in the blob (expected it between 60 and 1000)"),
            // Sizes that do not add up, or overflow.
            (two(r#""offset":20,"chunkSize":19,"chunkOffset":10"#), "have 29 bytes (expected 30)"),
            (two(r#""offset":20,"chunkSize":21,"chunkOffset":10"#), "at 10 has 21 bytes (expected one of 20 or less at 10)"),
            (two(r#""offset":20,"chunkSize":18446744073709551615,"chunkOffset":10"#), "expected one of 20 or less"),
            (two(r#""offset":20,"chunkSize":20,"chunkOffset":11"#), "at 11 has 20 bytes"),
            (reg(r#""size":5,"offset":10,"endOffset":20,"chunkSize":6"#), "has 6 bytes"),
            (format!("{},{}", reg(r#""size":5,"offset":10,"endOffset":20"#), more(r#""offset":15,"chunkOffset":5"#)), "has 0 bytes"),
            (format!("{},{}", reg(r#""mode":1"#), more(r#""offset":15"#)), "it is empty and has pieces"),
            // Pieces of nothing, or of another file; kinds and digests that nobody knows.
            (more(r#""offset":15"#), "a piece without a file"),
            (format!(r#"{{"type":"dir","name":"a"}},{}"#, more(r#""offset":15"#)), "a piece without a file"),
            (two(r#""offset":20,"chunkSize":20,"chunkOffset":10,"chunkType":"delta""#), "of type \"delta\""),
            (two(r#""offset":20,"chunkSize":20,"chunkOffset":10"#).replace(r#""chunk","name":"a""#, r#""chunk","name":"b""#), "its piece"),
            (reg(r#""size":1,"offset":10,"endOffset":20,"digest":"sha512:00""#), "digest \"sha512:00\""),
            (reg(r#""size":1,"offset":10,"endOffset":20,"chunkDigest":"sha256:00""#), "digest \"sha256:00\""),
            // Numbers that are none.
            (reg(r#""size":-1"#), "invalid value: integer `-1`"),
            (reg(r#""size":1,"offset":-10,"endOffset":20"#), "invalid value"),
            (reg(r#""size":1,"offset":1.5,"endOffset":20"#), "invalid type"),
            (reg(r#""size":18446744073709551616"#), "invalid"),
        ];
        for (entries, expected) in table {
            let error = refused(&entries);
            assert!(error.contains(expected), "{entries}: {error} (expected {expected})");
        }
        for (json, expected) in
            [("", "EOF"), ("[]", "invalid"), ("{\"version\":2,\"entries\":[]}", "version 2"), ("{\"entries\":[]}", "version")]
        {
            let error = Table::parse(json.as_bytes(), 1000).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn a_hole_needs_no_bytes_in_the_blob() {
        let entries = r#"{"type":"reg","name":"a","size":9,"offset":10,"endOffset":20,"chunkSize":4},
            {"type":"chunk","name":"a","offset":20,"chunkSize":5,"chunkOffset":4,"chunkType":"zeros"}"#;
        let hole = Chunk { zeros: true, ..chunk(20..20, 5) };
        assert_eq!(parse(entries).unwrap().find(b"a").unwrap().chunks, [chunk(10..20, 4), hole]);
    }
}
