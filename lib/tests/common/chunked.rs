//! Writes layers as zstd:chunked in the form of today, which the skopeo of the test machines does not write yet: with a list of tar headers
//! (tar-split) beside the table of contents. And with tables that lie.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::{BTreeMap, HashMap};

use ocidir::oci_spec::image::{Descriptor, Digest, MediaType};
use openssl::base64::encode_block;
use openssl::sha::sha256;
use serde_json::{Value, json};

use super::oci::Layout;

/// Files are cut into pieces of this size.
const PIECE: usize = 60_000;

/// A layer that was written.
pub(crate) struct Chunked {
    pub(crate) blob: Vec<u8>,
    pub(crate) annotations: HashMap<String, String>,
    pub(crate) diff_id: String,
    /// Bytes of the table of contents and of the list of headers.
    pub(crate) tables: u64,
    /// The compressed size of each file.
    pub(crate) files: BTreeMap<String, u64>,
}

/// A change of something before it is written.
pub(crate) type Change<'a, T> = &'a dyn Fn(&mut T);

/// What is done to the tables before they are written.
pub(crate) struct Spoil<'a> {
    /// To the table of contents, as JSON.
    pub(crate) table: &'a dyn Fn(&mut Value),
    /// To the list of headers, as lines; `None` leaves it out.
    pub(crate) headers: Option<Change<'a, Vec<Value>>>,
}

impl Spoil<'_> {
    /// Nothing, with or without the list of headers.
    pub(crate) fn nothing(headers: bool) -> Self {
        Self { table: &|_| {}, headers: headers.then_some(&|_| {}) }
    }
}

/// Writes a layer.
pub(crate) fn chunked(tar: &[u8], spoil: &Spoil<'_>) -> Chunked {
    let (mut blob, mut done, mut files) = (Vec::new(), 0, BTreeMap::new());
    let (mut entries, mut lines): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut between = Vec::new();
    let mut line = |line: Value| {
        let position = lines.len();
        lines.push(line);
        lines[position]["position"] = position.into();
    };
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let entry = entry.unwrap();
        let (start, size) = (entry.raw_file_position() as usize, entry.size() as usize);
        let path = entry.path().unwrap().display().to_string();
        line(json!({"type": 2, "payload": encode_block(&tar[done..start])}));
        line(json!({"type": 1, "name": path, "size": size, "payload": "AAAAAAAAAAA="}));
        between.extend_from_slice(&tar[done..start]);
        done = start + size;
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular => "reg",
            tar::EntryType::Directory => "dir",
            tar::EntryType::Link => "hardlink",
            _ => "symlink",
        };
        let mut first = json!({"type": kind, "name": path, "mode": 0o755});
        if size == 0 {
            entries.push(first);
            continue;
        }
        blob.extend(zstd::encode_all(&*std::mem::take(&mut between), 3).unwrap());
        let (content, begin) = (&tar[start..done], blob.len());
        first["size"] = size.into();
        first["digest"] = digest(content).into();
        let mut pieces = Vec::new();
        for piece in content.chunks(PIECE) {
            pieces.push(json!({"offset": blob.len(), "chunkSize": piece.len(), "chunkDigest": digest(piece)}));
            blob.extend(zstd::encode_all(piece, 3).unwrap());
        }
        first["endOffset"] = blob.len().into();
        files.insert(path.clone(), (blob.len() - begin) as u64);
        for (number, piece) in pieces.iter().enumerate() {
            let mut entry = if number == 0 { first.clone() } else { json!({"type": "chunk", "name": path}) };
            entry["chunkOffset"] = (number * PIECE).into();
            piece.as_object().unwrap().iter().for_each(|(key, value)| entry[key] = value.clone());
            entries.push(entry);
        }
    }
    line(json!({"type": 2, "payload": encode_block(&tar[done..])}));
    between.extend_from_slice(&tar[done..]);
    blob.extend(zstd::encode_all(&*between, 3).unwrap());
    let mut annotations = HashMap::new();
    let mut note = |name: &str, value: String| annotations.insert(format!("io.github.containers.zstd-chunked.{name}"), value);
    let mut table = json!({"version": 1, "entries": entries});
    (spoil.table)(&mut table);
    let table = table.to_string();
    let packed = zstd::encode_all(table.as_bytes(), 3).unwrap();
    note("manifest-checksum", digest(&packed));
    let offset = skippable(&mut blob, &packed);
    note("manifest-position", format!("{offset}:{}:{}:1", packed.len(), table.len()));
    let (mut footer, mut tables) = (vec![offset, packed.len() as u64, table.len() as u64, 1, 0, 0, 0], packed.len() as u64);
    if let Some(spoil) = spoil.headers {
        spoil(&mut lines);
        let list: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let packed = zstd::encode_all(list.as_bytes(), 3).unwrap();
        let offset = skippable(&mut blob, &packed);
        note("tarsplit-position", format!("{offset}:{}:{}", packed.len(), list.len()));
        footer[4..].copy_from_slice(&[offset, packed.len() as u64, list.len() as u64]);
        tables += packed.len() as u64;
    }
    let footer: Vec<u8> = footer.iter().flat_map(|number| number.to_le_bytes()).chain(*b"GNUlInUx").collect();
    skippable(&mut blob, &footer);
    Chunked { blob, annotations, diff_id: digest(tar), tables, files }
}

/// Appends a frame that decoders pass over; where what is in it begins.
fn skippable(blob: &mut Vec<u8>, content: &[u8]) -> u64 {
    blob.extend(0x184d_2a50_u32.to_le_bytes());
    blob.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    let offset = blob.len() as u64;
    blob.extend_from_slice(content);
    offset
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha256(bytes)))
}

impl Chunked {
    /// Publishes an image of this layer alone.
    pub(crate) fn publish(&self, layout: &mut Layout, tag: &str) {
        let (descriptor, diff_id) = self.write(layout);
        let image = layout.image_of("amd64", vec![descriptor], vec![diff_id]);
        layout.publish(Some(tag), &image);
    }

    /// Writes the blob: its descriptor and its diff_id.
    pub(crate) fn write(&self, layout: &Layout) -> (Descriptor, String) {
        let digest = digest(&self.blob);
        std::fs::write(layout.blob(&digest), &self.blob).unwrap();
        let mut descriptor = Descriptor::new(MediaType::ImageLayerZstd, self.blob.len() as u64, digest.parse::<Digest>().unwrap());
        descriptor.set_annotations(Some(self.annotations.clone()));
        (descriptor, self.diff_id.clone())
    }
}
