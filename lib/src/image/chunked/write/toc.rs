//! The table of contents of a layer that is being written: one JSON object an entry, and one more for each further piece of a file.
//!
//! The same fields as `containers/storage`, pkg/chunked/internal/minimal, so that podman finds in it what it finds in the headers of the tar.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::calendar;
use crate::image::entry::{Entry, EntryKind};

/// A piece of a file that was written.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// Where its frame begins in the blob.
    pub(super) offset: u64,
    /// Bytes, uncompressed.
    pub(super) size: u64,
    /// Nothing but zeros.
    pub(super) zeros: bool,
    /// `sha256:…`
    pub(super) digest: String,
}

/// The content of a file that was written.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) pieces: Vec<Piece>,
    /// `sha256:…` of all; nothing where it is empty.
    pub(super) digest: String,
    /// Where its last frame ends in the blob.
    pub(super) end: u64,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Object<'a> {
    r#type: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    digest: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    chunk_digest: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    chunk_type: &'a str,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Whether a table can tell of this entry: it is JSON, which has no bytes but text.
pub(super) fn can_tell(entry: &Entry<'_>) -> bool {
    let names = entry.xattrs.iter().map(|(name, _)| *name).chain([entry.path, entry.target()]);
    names.into_iter().all(|name| std::str::from_utf8(name).is_ok())
}

/// Writes the table.
pub(super) struct Toc<W> {
    out: W,
    begun: bool,
}

impl<W: Write> Toc<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(b"{\"version\":1,\"entries\":[")?;
        Ok(Self { out, begun: false })
    }

    /// Adds an entry that [`can_tell`] is true of.
    pub(super) fn add(&mut self, entry: &Entry<'_>, content: &Content) -> Result<()> {
        let name = String::from_utf8(entry.name()).context("writing the table of contents")?;
        let (major, minor) = entry.device();
        let first = Object {
            r#type: word(entry.kind),
            name: &name,
            link_name: std::str::from_utf8(entry.target())?,
            mode: entry.mode.into(),
            size: entry.size(),
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            modtime: Some(time(entry.mtime).with_context(|| format!("writing {name}: its time is after the year 9999"))?),
            dev_major: major.into(),
            dev_minor: minor.into(),
            xattrs: xattrs(entry)?,
            digest: &content.digest,
            offset: content.pieces.first().map_or(0, |piece| piece.offset),
            end_offset: content.end,
            ..Object::default()
        };
        // A file of one piece does not tell of pieces.
        let (several, mut at) = (content.pieces.len() > 1, 0);
        let first = if several { with_piece(first, &content.pieces[0], &mut at) } else { first };
        self.object(&first)?;
        for piece in content.pieces.iter().skip(1) {
            let object = Object { r#type: "chunk", name: &name, ..Object::default() };
            self.object(&with_piece(object, piece, &mut at))?;
        }
        Ok(())
    }

    /// Ends the table, with the digest of the compressed [`TarSplit`](super::tar_split::TarSplit) of the same layer.
    pub(super) fn finish(mut self, tar_split_digest: &str) -> io::Result<W> {
        write!(self.out, "],\"tarSplitDigest\":\"{tar_split_digest}\"}}")?;
        Ok(self.out)
    }

    fn object(&mut self, object: &Object<'_>) -> Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            self.out.write_all(b",")?;
        }
        Ok(serde_json::to_writer(&mut self.out, object)?)
    }
}

fn with_piece<'a>(object: Object<'a>, piece: &'a Piece, at: &mut u64) -> Object<'a> {
    let chunk_offset = *at;
    *at += piece.size;
    Object {
        offset: piece.offset,
        chunk_size: piece.size,
        chunk_offset,
        chunk_digest: &piece.digest,
        chunk_type: if piece.zeros { "zeros" } else { "" },
        ..object
    }
}

fn word(kind: EntryKind<'_>) -> &'static str {
    match kind {
        EntryKind::Directory => "dir",
        EntryKind::File(_) => "reg",
        EntryKind::Symlink(_) => "symlink",
        EntryKind::Hardlink(_) => "hardlink",
        EntryKind::CharDevice(..) => "char",
        EntryKind::BlockDevice(..) => "block",
        EntryKind::Fifo => "fifo",
    }
}

/// RFC 3339 with as many digits of the fraction as are needed.
fn time((seconds, nanoseconds): (u64, u32)) -> Option<String> {
    let whole = calendar::rfc3339(seconds)?;
    if nanoseconds == 0 {
        return Some(whole);
    }
    let fraction = format!("{nanoseconds:09}");
    Some(format!("{}.{}Z", whole.trim_end_matches('Z'), fraction.trim_end_matches('0')))
}

fn xattrs<'a>(entry: &'a Entry<'_>) -> Result<BTreeMap<&'a str, String>> {
    entry.xattrs.iter().map(|(name, value)| Ok((std::str::from_utf8(name)?, openssl::base64::encode_block(value)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_headers() {
        assert_eq!(time((0, 0)).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(time((1_700_000_000, 120_000_000)).as_deref(), Some("2023-11-14T22:13:20.12Z"));
        assert_eq!(time((u64::MAX, 0)), None);
    }

    #[test]
    fn names_that_are_no_text_have_no_place_in_a_table() {
        let entry = |path: &'static [u8], kind| Entry { path, kind, mode: 0, uid: 0, gid: 0, mtime: (0, 0), xattrs: vec![] };
        assert!(can_tell(&entry("é".as_bytes(), EntryKind::Fifo)));
        assert!(!can_tell(&entry(b"\xe9", EntryKind::Fifo)));
        assert!(!can_tell(&entry(b"a", EntryKind::Symlink(b"\xe9"))));
        assert!(!can_tell(&Entry { xattrs: vec![(b"user.\xe9", b"")], ..entry(b"a", EntryKind::Fifo) }));
        assert!(can_tell(&Entry { xattrs: vec![(b"user.e", b"\xe9")], ..entry(b"a", EntryKind::Fifo) }));
    }
}
