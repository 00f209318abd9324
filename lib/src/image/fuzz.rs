//! Targets of this owner: see [`crate::fuzz`].

use std::collections::HashMap;
use std::io::{Cursor, Read};

use oci_spec::image::{ImageIndex, MediaType};

use super::ahead::Ahead;
use super::chunked::{FOOTER, Position, Table, TarSplit, Writer};
use super::decode::Decoder;
use super::entry::{Entry, EntryKind};
use super::manifest::{self, Fetched};
use super::platform::{self, Candidate};

pub(crate) use super::delta::fuzz::{delta_list, delta_lists, patch, patches};
pub(crate) use super::partial::fuzz::{partial, partials, table, tables, tar_split, tar_splits};
pub(crate) use super::registry::fuzz::{challenge, credentials, registries_conf, registry_answer, registry_answers};

/// So much of what is unpacked is read.
const ENOUGH: u64 = 8 << 20;

/// The blob of a layer. What it says itself counts for more than this label.
pub(crate) fn layer(bytes: &[u8]) {
    let ahead = Ahead::new(Cursor::new(bytes.to_vec())).expect("starting a thread");
    let Ok(decoder) = Decoder::new(&MediaType::ImageLayerGzip, ahead) else { return };
    let _ = std::io::copy(&mut decoder.take(ENOUGH), &mut std::io::sink());
}

/// Where tables are, by annotations (text) and by the end of a blob.
pub(crate) fn position(bytes: &[u8]) {
    let blob = bytes.len() as u64;
    let end = &bytes[bytes.len().saturating_sub(FOOTER as usize)..];
    let mut found = vec![Position::of_footer(end, blob)];
    let text = String::from_utf8_lossy(bytes).into_owned();
    let annotation = |name: &str| HashMap::from([(format!("io.github.containers.zstd-chunked.{name}"), text.clone())]);
    found.push(Position::of_annotations(&annotation("manifest-position"), 1 << 40));
    for position in found.into_iter().flatten().flatten() {
        assert!(position.offset.checked_add(position.size).is_some_and(|end| end <= 1 << 40), "it leads out of the blob");
        let _ = position.verify(bytes);
    }
    if let Some(list) = TarSplit::of_annotations(&annotation("tarsplit-position"), 1 << 40) {
        assert!(list.offset.checked_add(list.size).is_some_and(|end| end <= 1 << 40), "it leads out of the blob");
    }
}

/// A manifest, a configuration and an index.
pub(crate) fn manifest(bytes: &[u8]) {
    let [manifest, config, index] = crate::fuzz::split(bytes);
    let reference = "registry.test/os:stable".parse().expect("a reference");
    let _ = manifest::config_descriptor("sha256:00", manifest);
    let fetched =
        Fetched { index_digest: None, manifest_digest: "sha256:00".to_owned(), manifest: manifest.to_vec(), config: config.to_vec() };
    if let Ok(resolved) = manifest::resolve(&reference, fetched, "amd64") {
        resolved.oci_manifest().expect("a manifest that was resolved is translated");
        resolved.architecture().expect("a configuration that was resolved has one");
        let _ = (resolved.label("a"), resolved.annotation("a"), super::ranges::annotations(&resolved, 0));
    }
    let Ok(index) = ImageIndex::from_reader(index) else { return };
    let candidates = index.manifests().iter().filter_map(|descriptor| {
        let _ = platform::leads(descriptor.media_type());
        Some(Candidate { manifest: descriptor.clone(), platform: descriptor.platform().clone()?, index_digest: None })
    });
    let _ = platform::choose("a", candidates.collect(), "amd64");
}

/// A small layer with a table of contents, and its annotations.
pub(super) fn chunked() -> (Vec<u8>, HashMap<String, String>) {
    let mut writer = Writer::new(Vec::new()).expect("starting to write");
    let entry = |path: &'static [u8], kind| Entry { path, kind, mode: 0o640, uid: 1, gid: 2, mtime: (1_700_000_000, 5), xattrs: vec![] };
    let noise: Vec<u8> = (0..3000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let files: [(&[u8], &[u8]); 4] = [(b"usr/a", b"a"), (b"usr/zeros", &[0; 9000]), (b"usr/noise", &noise), (b"usr/empty", b"")];
    writer.add(&entry(b"usr", EntryKind::Directory), std::io::empty()).expect("writing");
    for (path, content) in files {
        writer.add(&entry(path, EntryKind::File(content.len() as u64)), content).expect("writing");
    }
    let (blob, finished) = writer.finish().expect("writing");
    (blob, finished.annotations.into_iter().collect())
}

/// Footers and annotations.
pub(crate) fn positions() -> Vec<Vec<u8>> {
    let (blob, annotations) = chunked();
    let mut all: Vec<Vec<u8>> = annotations.into_values().map(String::into_bytes).collect();
    all.sort();
    all.push(blob);
    all
}

/// The table of contents and the list of tar headers of [`chunked`], uncompressed, and what is before them.
pub(super) fn parts_of_chunked() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (blob, annotations) = chunked();
    let position = Position::of_annotations(&annotations, blob.len() as u64).expect("a position").expect("a position");
    let list = TarSplit::of_annotations(&annotations, blob.len() as u64).expect("a list");
    let unpack =
        |offset: u64, size: u64| zstd::decode_all(&blob[offset as usize..(offset + size) as usize]).expect("what was packed is unpacked");
    let json = unpack(position.offset, position.size);
    Table::parse(&json, position.offset).expect("a table");
    let end = position.offset.min(list.offset) as usize;
    (json, unpack(list.offset, list.size), blob[..end].to_vec())
}
