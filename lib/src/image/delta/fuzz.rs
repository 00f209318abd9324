//! Targets of deltas: see [`crate::fuzz`].

use std::io::Cursor;

use anyhow::{Result, ensure};
use oci_spec::image::{ImageIndex, MediaType};
use serde_json::json;

use super::find::{MOST, Wanted};
use super::{CONTENT as CONTENT_KEY, MEDIA_TYPE, SOURCE_CONFIG, SourceFile, SourceFiles, TAR_DIFF, TO, apply_delta, compress_against};
use crate::fuzz::Enough;
use crate::image::digest;
use crate::image::manifest::Layer;

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

/// A patch: as it is, and as its operations, uncompressed, for both headers.
pub(crate) fn patch(bytes: &[u8]) {
    let packed = zstd::encode_all(bytes, 1).expect("packing");
    let of = |header: &[u8]| [header, &packed].concat();
    for patch in [bytes.to_vec(), of(b"tardf1\n\0"), of(b"tardf2\n\0")] {
        let applied = apply_delta(Cursor::new(patch), TAR_DIFF, &Below, DIFF_ID, &mut Enough(ENOUGH));
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

/// What refers to an image, and the manifest of what is listed there.
pub(crate) fn delta_list(bytes: &[u8]) {
    let [list, manifest] = crate::fuzz::split(bytes);
    let Ok(list) = ImageIndex::from_reader(list) else { return };
    let layer = Layer { digest: DIFF_ID.into(), diff_id: DIFF_ID.into(), size: 1000, media_type: MediaType::ImageLayerZstd };
    let wanted = Wanted { subject: DIFF_ID.into(), configs: vec![DIFF_ID.into()], layers: vec![layer.clone(), layer.clone()] };
    let mut asked = 0;
    let found = wanted.choose(&list, &mut |_| {
        asked += 1;
        Ok(manifest.to_vec())
    });
    assert!(asked <= MOST, "{asked} manifests were fetched");
    if let Ok(Some(delta)) = found {
        assert!(delta.blob(&layer).is_some_and(|blob| blob.size < layer.size), "a delta that is of no use");
    }
}

/// A list of one delta, and its manifest.
pub(crate) fn delta_lists() -> Vec<Vec<u8>> {
    let blob = json!({"mediaType": TAR_DIFF, "digest": DIFF_ID, "size": 7, "annotations": {TO: DIFF_ID, CONTENT_KEY: "image-layer"}});
    let config = json!({"mediaType": "application/vnd.oci.empty.v1+json", "digest": DIFF_ID, "size": 2});
    let subject = json!({"mediaType": MediaType::ImageManifest.to_string(), "digest": DIFF_ID, "size": 9});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MediaType::ImageManifest.to_string(), "artifactType": MEDIA_TYPE, "config": config,
        "layers": [blob], "subject": subject, "annotations": {SOURCE_CONFIG: DIFF_ID},
    });
    let manifest = manifest.to_string().into_bytes();
    let entry = json!({
        "mediaType": MediaType::ImageManifest.to_string(), "artifactType": MEDIA_TYPE, "size": manifest.len(),
        "digest": digest::sha256(&manifest).expect("a digest"), "annotations": {SOURCE_CONFIG: DIFF_ID},
    });
    let list = json!({"schemaVersion": 2, "mediaType": MediaType::ImageIndex.to_string(), "manifests": [entry]});
    vec![crate::fuzz::join(&[list.to_string().as_bytes(), &manifest])]
}
