//! [`Derived`]: an image with one layer more than another. Pure: nothing was written yet.
//!
//! Manifest and configuration are edited as JSON, so that fields which this crate does not know are kept, and written with sorted keys
//! and without spaces: the same input gives the same bytes.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oci_spec::image::MediaType;
use serde_json::{Map, Value, json};

use super::digest;
use super::layout::TAG;
use super::manifest::{Layer, Resolved};
use crate::calendar;
use crate::error::{Failure, FailureKind};

/// What zstd itself takes where nothing is said; kept here, so that another version of it does not decide.
const ZSTD_LEVEL: i32 = 3;

/// A layer to put on top of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// The uncompressed tar, see [`layer_tar`](super::layer_tar).
    pub tar: Vec<u8>,
    /// What made it, for the image's history: a command line.
    pub created_by: String,
    /// What it is for, for the image's history.
    pub comment: Option<String>,
}

/// An image with one layer more than its base. See [`write`](super::write()).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// The manifest, in OCI's media types.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub manifest_digest: String,
    /// The configuration.
    pub config: Vec<u8>,
    /// Its digest.
    pub config_digest: String,
    /// The layer on top.
    pub layer: Layer,
    /// Its blob, compressed.
    pub blob: Vec<u8>,
    /// The manifest of the base.
    pub(super) base: String,
    /// The platform, as an index lists it.
    platform: Value,
}

impl Derived {
    /// Puts `layer` on top of `base`.
    ///
    /// Annotations of the manifest, labels and everything else that the base says are kept; `annotations` are added, or replace those of the
    /// same key. A base in Docker's format comes out in OCI's, see [`Resolved::oci_manifest`]. `created`, in seconds since 1970, is when
    /// image and layer were made; without it the image keeps the base's time and the layer has none. The same input gives the same bytes,
    /// except that another version of the compressor may find other ones for the same tar.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Usage`] for a time after the year 9999. A configuration that is not what the specification says.
    pub fn new(base: &Resolved, layer: &NewLayer, annotations: &[(String, String)], created: Option<u64>) -> Result<Derived> {
        let created = created.map(time).transpose()?;
        let (top, blob) = compress(&layer.tar, zstd_is_known(base))?;
        let (config, platform) = config(base, layer, &top.diff_id, created.as_deref()).context("writing the image configuration")?;
        let config_digest = digest::sha256(&config)?;
        let manifest = manifest(base, &config_digest, config.len(), &top, annotations).context("writing the manifest")?;
        let manifest_digest = digest::sha256(&manifest)?;
        Ok(Derived { manifest, manifest_digest, config, config_digest, layer: top, blob, base: base.manifest_digest.clone(), platform })
    }

    /// What is written of it.
    pub(super) fn image(&self) -> Image<'_> {
        let blobs = vec![
            (self.layer.digest.as_str(), self.blob.as_slice()),
            (self.config_digest.as_str(), self.config.as_slice()),
            (self.manifest_digest.as_str(), self.manifest.as_slice()),
        ];
        Image { base: &self.base, blobs, manifest_digest: &self.manifest_digest, platform: &self.platform, artifact: None, staged: None }
    }
}

/// An image that is to be written: all layers of a source, and some blobs more.
pub(super) struct Image<'a> {
    /// The manifest that the source has to have.
    pub(super) base: &'a str,
    /// The blobs besides the layers of the source, the manifest last.
    pub(super) blobs: Vec<(&'a str, &'a [u8])>,
    pub(super) manifest_digest: &'a str,
    /// Nothing (`null`) for what is no image.
    pub(super) platform: &'a Value,
    /// What it is, and its annotations, where it is no image (OCI distribution specification, "Listing Referrers").
    pub(super) artifact: Option<(&'a str, &'a Value)>,
    /// A directory with a layout that has the image, in the way and under the tag that [`write`](super::write()) makes one by itself for skopeo.
    pub(super) staged: Option<&'a Path>,
}

impl Image<'_> {
    /// The manifest as an index lists it, under this tag.
    pub(super) fn entry(&self, tag: Option<&str>) -> Value {
        let length = self.blobs.last().map_or(0, |(_, manifest)| manifest.len());
        let mut entry = descriptor(&MediaType::ImageManifest, self.manifest_digest, length);
        if !self.platform.is_null() {
            entry["platform"] = self.platform.clone();
        }
        if let Some((artifact_type, annotations)) = self.artifact {
            entry["artifactType"] = artifact_type.into();
            entry["annotations"] = annotations.clone();
        }
        if let Some(tag) = tag {
            entry["annotations"][TAG] = tag.into();
        }
        entry
    }
}

fn time(seconds: u64) -> Result<String> {
    let refused = || Failure::new(FailureKind::Usage, format!("writing the time {seconds}: it is after the year 9999"));
    Ok(calendar::rfc3339(seconds).ok_or_else(refused)?)
}

/// Whether whoever can read the base can read zstd, which is younger than gzip and not known to every tool and registry.
fn zstd_is_known(base: &Resolved) -> bool {
    base.layers.iter().any(|layer| layer.media_type == MediaType::ImageLayerZstd)
}

/// Compresses a tar. A layer with a kernel in it is compressed already and hardly gets smaller, so what counts is that the result asks no
/// more of its readers than the layers below do: gzip, which all know, unless one of those is zstd, which is faster.
fn compress(tar: &[u8], zstd: bool) -> Result<(Layer, Vec<u8>)> {
    let (media_type, blob) = if zstd {
        (MediaType::ImageLayerZstd, zstd::bulk::compress(tar, ZSTD_LEVEL).context("compressing a layer with zstd")?)
    } else {
        // Its header has neither a time nor a name.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(tar).context("compressing a layer with gzip")?;
        (MediaType::ImageLayerGzip, encoder.finish().context("compressing a layer with gzip")?)
    };
    let layer = Layer { digest: digest::sha256(&blob)?, diff_id: digest::sha256(tar)?, size: blob.len() as u64, media_type };
    Ok((layer, blob))
}

/// The configuration, and the platform that it names.
fn config(base: &Resolved, layer: &NewLayer, diff_id: &str, created: Option<&str>) -> Result<(Vec<u8>, Value)> {
    let mut config: Map<String, Value> = serde_json::from_slice(&base.config)?;
    if let Some(created) = created {
        config.insert("created".into(), created.into());
    }
    let history = array(config.entry("history").or_insert(Value::Null), "history")?;
    // History is optional, but one that is there has an entry for each layer, and readers count.
    let with_layer = history.iter().filter(|entry| entry["empty_layer"] != true).count();
    history.extend((with_layer..base.layers.len()).map(|_| json!({})));
    history.push(history_entry(layer, created));
    array(&mut config.entry("rootfs").or_insert(Value::Null)["diff_ids"], "rootfs.diff_ids")?.push(diff_id.into());
    Ok((serde_json::to_vec(&config)?, platform(&config)))
}

/// The platform that a configuration names, as an index lists it.
pub(super) fn platform(config: &Map<String, Value>) -> Value {
    let named = ["os", "architecture", "variant"].into_iter();
    Value::Object(named.filter_map(|key| config.get(key).map(|value| (key.to_owned(), value.clone()))).collect())
}

fn history_entry(layer: &NewLayer, created: Option<&str>) -> Value {
    let words = [("created", created), ("created_by", Some(layer.created_by.as_str())), ("comment", layer.comment.as_deref())];
    words.into_iter().filter_map(|(key, word)| Some((key.to_owned(), Value::from(word?)))).collect()
}

fn manifest(base: &Resolved, config_digest: &str, config_len: usize, top: &Layer, annotations: &[(String, String)]) -> Result<Vec<u8>> {
    let (_, bytes) = base.oci_manifest()?;
    let mut manifest: Map<String, Value> = serde_json::from_slice(&bytes)?;
    // Optional in the specification; some registries want it.
    manifest.insert("mediaType".into(), MediaType::ImageManifest.to_string().into());
    manifest.insert("config".into(), descriptor(&MediaType::ImageConfig, config_digest, config_len));
    array(manifest.entry("layers").or_insert(Value::Null), "layers")?.push(descriptor(&top.media_type, &top.digest, top.size as usize));
    if !annotations.is_empty() {
        let all = manifest.entry("annotations").or_insert(Value::Null);
        for (key, value) in annotations {
            all[key] = value.as_str().into();
        }
    }
    Ok(serde_json::to_vec(&manifest)?)
}

pub(super) fn descriptor(media_type: &MediaType, digest: &str, size: usize) -> Value {
    json!({"mediaType": media_type.to_string(), "digest": digest, "size": size})
}

/// A list that is there, or that is not there yet.
fn array<'a>(value: &'a mut Value, name: &str) -> Result<&'a mut Vec<Value>> {
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    let Value::Array(array) = value else { bail!("{name} is no list") };
    Ok(array)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Fetched, resolve};
    use super::*;

    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

    /// A base with one layer of each of these types, and a configuration with these fields more.
    fn base(layers: &[&str], more: Value) -> Resolved {
        let digests: Vec<String> = (0..layers.len()).map(|n| format!("sha256:{n:064}")).collect();
        let mut config = json!({
            "architecture": "arm64", "os": "linux", "variant": "v8", "created": "2020-01-01T00:00:00Z", "unknown": {"z": 1, "a": 2},
            "config": {"Labels": {"l": "1"}, "Env": ["A=b"]}, "rootfs": {"type": "layers", "diff_ids": digests},
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config = serde_json::to_vec(&config).unwrap();
        let described: Vec<Value> = layers
            .iter()
            .zip(&digests)
            .map(|(media_type, digest)| json!({"mediaType": media_type, "digest": digest, "size": 7, "annotations": {"kept": "1"}}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "layers": described, "annotations": {"a": "base", "b": "base"}, "unknown": 1,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest::sha256(&config).unwrap(), "size": 1},
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let fetched = Fetched { index_digest: None, manifest_digest: digest::sha256(&manifest).unwrap(), manifest, config };
        resolve(&"r.io/os:v1".parse().unwrap(), fetched, "arm64").unwrap()
    }

    fn layer() -> NewLayer {
        NewLayer { tar: b"a tar; a tar; a tar".to_vec(), created_by: "selkie seal".into(), comment: Some("sealed".into()) }
    }

    fn derive(base: &Resolved, created: Option<u64>) -> (Derived, Value, Value) {
        let annotations = [("b".to_owned(), "new".to_owned()), ("c".to_owned(), "new".to_owned())];
        let derived = Derived::new(base, &layer(), &annotations, created).unwrap();
        let (manifest, config) = (serde_json::from_slice(&derived.manifest).unwrap(), serde_json::from_slice(&derived.config).unwrap());
        (derived, manifest, config)
    }

    #[test]
    fn one_layer_more_and_everything_else_is_kept() {
        let base = base(&[GZIP], json!({"history": [{"created_by": "x"}, {"empty_layer": true}]}));
        let (derived, manifest, config) = derive(&base, Some(1_700_000_000));
        let before: Value = serde_json::from_slice(&base.manifest).unwrap();
        assert_eq!((&manifest["layers"][0], &manifest["unknown"]), (&before["layers"][0], &before["unknown"]));
        assert_eq!(manifest["annotations"], json!({"a": "base", "b": "new", "c": "new"}));
        assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(manifest["config"]["digest"], derived.config_digest);
        assert_eq!(manifest["config"]["size"], derived.config.len());
        let top = json!({"mediaType": GZIP, "digest": derived.layer.digest, "size": derived.blob.len()});
        assert_eq!(manifest["layers"].as_array().unwrap()[1..], [top]);
        let expected: Value = serde_json::from_slice(&base.config).unwrap();
        for key in ["architecture", "os", "variant", "unknown", "config"] {
            assert_eq!(config[key], expected[key]);
        }
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        let entry = json!({"created": "2023-11-14T22:13:20Z", "created_by": "selkie seal", "comment": "sealed"});
        assert_eq!(config["history"], json!([{"created_by": "x"}, {"empty_layer": true}, entry]));
        assert_eq!(config["rootfs"]["diff_ids"], json!([base.layers[0].diff_id, derived.layer.diff_id]));
        assert_eq!(derived.layer.diff_id, digest::sha256(&layer().tar).unwrap());
        let entry = derived.image().entry(Some("v1"));
        assert_eq!(entry["platform"], json!({"os": "linux", "architecture": "arm64", "variant": "v8"}));
        assert_eq!((&entry["annotations"][TAG], derived.image().entry(None).get("annotations")), (&json!("v1"), None));
    }

    #[test]
    fn a_history_that_is_too_short_is_filled_up_and_no_time_is_made_up() {
        let (_, _, config) = derive(&base(&[GZIP, GZIP], json!({"history": [{"empty_layer": true}]})), None);
        assert_eq!(config["created"], "2020-01-01T00:00:00Z");
        let ours = json!({"created_by": "selkie seal", "comment": "sealed"});
        assert_eq!(config["history"], json!([{"empty_layer": true}, {}, {}, ours]));
        let (_, _, config) = derive(&base(&[], json!({})), None);
        assert_eq!(config["history"], json!([ours]));
    }

    #[test]
    fn readers_of_the_base_can_read_the_new_layer() {
        let of = |layers: &[&str]| derive(&base(layers, json!({})), None).0.layer.media_type;
        assert_eq!(of(&[]), MediaType::ImageLayerGzip);
        assert_eq!(of(&["application/vnd.oci.image.layer.v1.tar", GZIP]), MediaType::ImageLayerGzip);
        assert_eq!(of(&[GZIP, ZSTD, GZIP]), MediaType::ImageLayerZstd);
    }

    #[test]
    fn the_same_input_gives_the_same_bytes_and_another_time_does_not() {
        let base = base(&[GZIP, ZSTD], json!({}));
        assert_eq!(derive(&base, Some(7)).0, derive(&base, Some(7)).0);
        assert_ne!(derive(&base, Some(7)).0.manifest_digest, derive(&base, Some(8)).0.manifest_digest);
        let refused = Derived::new(&base, &layer(), &[], Some(u64::MAX)).unwrap_err();
        assert_eq!(Failure::find(&refused).unwrap().kind, FailureKind::Usage);
    }

    #[test]
    fn what_is_no_list_or_no_map_is_an_error() {
        // `history` is checked when the base is resolved, so it is damaged afterwards.
        let mut base = base(&[GZIP], json!({}));
        base.config = br#"{"architecture":"arm64","os":"linux","history":7,"rootfs":{"diff_ids":[]}}"#.to_vec();
        let error = Derived::new(&base, &layer(), &[], None).unwrap_err();
        assert_eq!(format!("{error:#}"), "writing the image configuration: history is no list");
    }
}
