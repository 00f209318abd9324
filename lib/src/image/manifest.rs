//! What the manifest and the configuration of an image say, checked against each other. Pure.
//!
//! Docker's image format (manifest version 2, schema 2) differs from OCI's in media types only and is read as such; the bytes
//! and digests that are reported are always those of the image as it was published.

use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};
use serde_json::Value;

use crate::error::{Failure, FailureKind};
use crate::reference::ImageReference;

use super::{digest, platform};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// An image whose index, manifest and configuration were fetched and checked.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The reference that was asked for.
    pub reference: ImageReference,
    /// Digest of the image index that led to the manifest; `None` where the reference names the manifest itself, and for
    /// `oci-archive:`, `docker-archive:` and `containers-storage:`, where skopeo does not tell.
    pub index_digest: Option<String>,
    /// Digest of the manifest for this architecture, as the source has it.
    pub manifest_digest: String,
    /// The bytes of that manifest.
    pub manifest: Vec<u8>,
    /// Digest of the configuration.
    pub config_digest: String,
    /// The bytes of the configuration.
    pub config: Vec<u8>,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    labels: Vec<(String, String)>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the blob, as the manifest has it.
    pub digest: String,
    /// Digest of the uncompressed tar, as the configuration has it.
    pub diff_id: String,
    /// Size of the blob in bytes, as the manifest has it.
    pub size: u64,
    /// The OCI media type; Docker's are translated.
    pub media_type: MediaType,
}

impl Resolved {
    /// An artifact, which is written like an image: `layers` are its blobs besides the configuration.
    pub(super) fn artifact(reference: &ImageReference, manifest_digest: &str, manifest: &[u8], layers: Vec<Layer>) -> Self {
        Self {
            reference: reference.clone(),
            index_digest: None,
            manifest_digest: manifest_digest.to_owned(),
            manifest: manifest.to_vec(),
            config_digest: String::new(),
            config: Vec::new(),
            layers,
            labels: Vec::new(),
        }
    }

    /// A label of the image, else an annotation of its manifest, such as `org.opencontainers.image.version`.
    pub fn label(&self, key: &str) -> Option<String> {
        self.labels.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
    }

    /// An annotation of the manifest. Unlike labels, annotations are not handed on to images that are derived by a Containerfile, unless the
    /// builder does so.
    pub fn annotation(&self, key: &str) -> Option<String> {
        let manifest = ImageManifest::from_reader(self.manifest.as_slice()).ok()?;
        manifest.annotations().as_ref()?.get(key).cloned()
    }

    /// The architecture that the image is for, as OCI names it (`amd64`, `arm64`).
    ///
    /// # Errors
    ///
    /// None that a configuration which was resolved can cause.
    pub fn architecture(&self) -> Result<String> {
        let config = ImageConfiguration::from_reader(self.config.as_slice()).context("reading the image configuration")?;
        Ok(config.architecture().to_string())
    }

    /// The manifest in OCI's media types, with its digest: the original one, or for an image in Docker's format a
    /// translation that always comes out the same. Its configuration and layers are the same blobs.
    ///
    /// # Errors
    ///
    /// None that a manifest which was resolved can cause.
    pub fn oci_manifest(&self) -> Result<(String, Vec<u8>)> {
        let manifest = parse_manifest(&self.manifest_digest, &self.manifest)?;
        if manifest.config().media_type() == &MediaType::ImageConfig {
            return Ok((self.manifest_digest.clone(), self.manifest.clone()));
        }
        let mut value: Value = serde_json::from_slice(&self.manifest).context("reading the manifest")?;
        value["mediaType"] = MediaType::ImageManifest.to_string().into();
        value["config"]["mediaType"] = MediaType::ImageConfig.to_string().into();
        for (index, layer) in self.layers.iter().enumerate() {
            value["layers"][index]["mediaType"] = layer.media_type.to_string().into();
        }
        let bytes = serde_json::to_vec(&value).context("writing the manifest")?;
        Ok((digest::sha256(&bytes)?, bytes))
    }
}

/// What was fetched: bytes whose digests were checked by the caller.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) index_digest: Option<String>,
    pub(super) manifest_digest: String,
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
}

/// The most bytes of all layers of an image together, compressed: a pebibyte.
const MAX_TOTAL: u64 = 1 << 50;

/// The configuration's descriptor.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`] where the bytes are no manifest, or that of something else than a container image.
pub(super) fn config_descriptor(manifest_digest: &str, manifest: &[u8]) -> Result<Descriptor> {
    let config = parse_manifest(manifest_digest, manifest)?.config().clone();
    match config.media_type() {
        MediaType::ImageConfig => Ok(config),
        MediaType::Other(name) if name == DOCKER_CONFIG => Ok(config),
        other => {
            let message = format!("reading manifest {manifest_digest}: the configuration is {other} (expected a container image)");
            Err(Failure::new(FailureKind::Unsuitable, message)
                .hint("this is an artifact, such as a signature, a chart, or a delta, which is found by itself where its image is pulled")
                .into())
        }
    }
}

/// Reads manifest and configuration together.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`] for another platform or for layers that are not tar; [`FailureKind::Corrupt`] where manifest and
/// configuration contradict each other.
pub(super) fn resolve(reference: &ImageReference, fetched: Fetched, architecture: &str) -> Result<Resolved> {
    let Fetched { index_digest, manifest_digest, manifest: manifest_bytes, config: config_bytes } = fetched;
    let manifest = parse_manifest(&manifest_digest, &manifest_bytes)?;
    let config_digest = manifest.config().digest().to_string();
    let config = ImageConfiguration::from_reader(config_bytes.as_slice())
        .map_err(|e| e.to_string())
        .and_then(|config| check_form(&config_bytes, "rootfs", None).map(|()| config))
        .map_err(|found| malformed(&format!("configuration {config_digest}"), "image configuration", &found))?;
    platform::check(&reference.to_string(), config.os(), config.architecture(), architecture)?;
    Ok(Resolved {
        reference: reference.clone(),
        index_digest,
        layers: layers(&manifest_digest, &manifest, &config)?,
        labels: labels(&manifest, &config),
        manifest_digest,
        manifest: manifest_bytes,
        config_digest,
        config: config_bytes,
    })
}

fn parse_manifest(digest: &str, bytes: &[u8]) -> Result<ImageManifest> {
    let wrong = |error: &dyn std::fmt::Display| malformed(&format!("manifest {digest}"), "image manifest", error);
    let manifest = ImageManifest::from_reader(bytes).map_err(|e| wrong(&e))?;
    check_form(bytes, "config", Some("layers")).map_err(|found| wrong(&found))?;
    match manifest.media_type() {
        None | Some(MediaType::ImageManifest) => Ok(manifest),
        Some(MediaType::Other(name)) if name == DOCKER_MANIFEST => Ok(manifest),
        Some(other) => {
            let message = format!("reading manifest {digest}: media type is {other} (expected an image manifest)");
            Err(Failure::new(FailureKind::Unsuitable, message).into())
        }
    }
}

/// Checks what typed readers of JSON pass over: text that is none in what they do not know, and lists of values in place of objects. `object` is one, `list` one of
/// them. Whoever changes a value by its names relies on that.
fn check_form(bytes: &[u8], object: &str, list: Option<&str>) -> Result<(), String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if !value.is_object() || !value[object].is_object() {
        return Err(format!("it, or its {object}, is no object"));
    }
    let objects = |list: &str| value[list].as_array().is_some_and(|all| all.iter().all(Value::is_object));
    list.filter(|list| !objects(list)).map_or(Ok(()), |list| Err(format!("{list} is no list of objects")))
}

fn layers(manifest_digest: &str, manifest: &ImageManifest, config: &ImageConfiguration) -> Result<Vec<Layer>> {
    let diff_ids = config.rootfs().diff_ids();
    if manifest.layers().len() != diff_ids.len() {
        let (found, expected) = (diff_ids.len(), manifest.layers().len());
        let message =
            format!("reading manifest {manifest_digest}: the configuration has {found} diff_ids (expected {expected}, one a layer)");
        return Err(Failure::new(FailureKind::Corrupt, message).into());
    }
    let layer = |(descriptor, diff_id): (&Descriptor, &String)| {
        let media_type = layer_type(descriptor.media_type()).ok_or_else(|| {
            let found = format!("reading layer {}: media type is {}", descriptor.digest(), descriptor.media_type());
            Failure::new(FailureKind::Unsuitable, format!("{found} (expected tar, plain or compressed with gzip or zstd)"))
        })?;
        Ok(Layer { digest: descriptor.digest().to_string(), diff_id: diff_id.clone(), size: descriptor.size(), media_type })
    };
    let layers: Vec<Layer> = manifest.layers().iter().zip(diff_ids).map(layer).collect::<Result<_, Failure>>()?;
    // Whoever adds them up need not think of an end.
    match layers.iter().try_fold(0_u64, |total, layer| total.checked_add(layer.size)) {
        Some(total) if total <= MAX_TOTAL => Ok(layers),
        _ => {
            let message = format!("reading manifest {manifest_digest}: its layers are said to have more than {MAX_TOTAL} bytes");
            Err(Failure::new(FailureKind::Corrupt, message).into())
        }
    }
}

/// The OCI name of a layer's media type; `None` for what is no tar (or encrypted).
fn layer_type(found: &MediaType) -> Option<MediaType> {
    use MediaType::{ImageLayer, ImageLayerGzip, ImageLayerZstd};
    let name = found.to_string();
    let plain = name.replace(".nondistributable.", ".").replace(".foreign.", ".");
    match plain.as_str() {
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => Some(ImageLayer),
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(ImageLayerGzip),
        "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(ImageLayerZstd),
        _ => None,
    }
}

fn labels(manifest: &ImageManifest, config: &ImageConfiguration) -> Vec<(String, String)> {
    let labels = config.config().as_ref().and_then(|c| c.labels().clone()).unwrap_or_default();
    let annotations = manifest.annotations().clone().unwrap_or_default();
    labels.into_iter().chain(annotations).collect()
}

pub(super) fn malformed(what: &str, expected: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Unsuitable, format!("reading {what}: {error} (expected an {expected})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn fetched(manifest_type: &str, config_type: &str, layer_type: &str, diff_ids: &[&str]) -> Fetched {
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": manifest_type,
            "config": {"mediaType": config_type, "digest": A, "size": 2},
            "layers": [{"mediaType": layer_type, "digest": B, "size": 7}],
            "annotations": {"k": "annotation", "only": "here"},
        });
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Labels": {"k": "label"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let bytes = |v: serde_json::Value| serde_json::to_vec(&v).unwrap();
        Fetched { index_digest: None, manifest_digest: A.into(), manifest: bytes(manifest), config: bytes(config) }
    }

    fn oci(layer_type: &str, diff_ids: &[&str]) -> Fetched {
        fetched("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.config.v1+json", layer_type, diff_ids)
    }

    fn resolved(fetched: Fetched) -> Result<Resolved, Failure> {
        resolve(&"r.io/os:v1".parse().unwrap(), fetched, "amd64").map_err(|e| Failure::find(&e).unwrap())
    }

    #[test]
    fn layer_types_are_read_as_oci_names() {
        use MediaType::{ImageLayer, ImageLayerGzip, ImageLayerZstd};
        let table = [
            ("application/vnd.oci.image.layer.v1.tar", Some(ImageLayer)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(ImageLayerGzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(ImageLayerZstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(ImageLayerGzip)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(ImageLayer)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(ImageLayerGzip)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(ImageLayerGzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(ImageLayerZstd)),
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", None),
            ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", None),
        ];
        for (name, expected) in table {
            assert_eq!(layer_type(&MediaType::from(name)), expected, "{name}");
        }
    }

    #[test]
    fn labels_come_before_annotations_and_layers_have_both_digests() {
        let resolved = resolved(oci("application/vnd.oci.image.layer.v1.tar+gzip", &[A])).unwrap();
        assert_eq!(resolved.label("k").as_deref(), Some("label"));
        assert_eq!(resolved.label("only").as_deref(), Some("here"));
        assert_eq!(resolved.label("none"), None);
        let layer = Layer { digest: B.into(), diff_id: A.into(), size: 7, media_type: MediaType::ImageLayerGzip };
        assert_eq!(resolved.layers, [layer]);
        assert_eq!(resolved.oci_manifest().unwrap(), (resolved.manifest_digest, resolved.manifest));
    }

    #[test]
    fn docker_format_translates_to_the_same_blobs() {
        let docker = fetched(DOCKER_MANIFEST, DOCKER_CONFIG, "application/vnd.docker.image.rootfs.diff.tar.gzip", &[A]);
        assert_eq!(config_descriptor(A, &docker.manifest).unwrap().digest().as_ref(), A);
        let (digest, bytes) = resolved(docker).unwrap().oci_manifest().unwrap();
        let plain = oci("application/vnd.oci.image.layer.v1.tar+gzip", &[A]).manifest;
        assert_eq!(bytes, plain);
        assert_eq!(digest, digest::sha256(&plain).unwrap());
    }

    #[test]
    fn what_is_no_image_or_contradicts_itself_is_refused() {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let kind = |fetched| resolved(fetched).unwrap_err().kind;
        assert_eq!(kind(oci(layer, &[])), FailureKind::Corrupt);
        assert_eq!(kind(oci(layer, &[A, B])), FailureKind::Corrupt);
        assert_eq!(kind(oci("text/plain", &[A])), FailureKind::Unsuitable);
        assert_eq!(kind(fetched("application/vnd.oci.image.index.v1+json", DOCKER_CONFIG, layer, &[A])), FailureKind::Unsuitable);
        assert_eq!(kind(Fetched { manifest: b"{}".to_vec(), ..oci(layer, &[A]) }), FailureKind::Unsuitable);
        let text = String::from_utf8(oci(layer, &[A]).manifest).unwrap().replacen('{', r#"{"odd":"\ud800","#, 1);
        assert_eq!(kind(Fetched { manifest: text.into_bytes(), ..oci(layer, &[A]) }), FailureKind::Unsuitable);
        let artifact = fetched("application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.empty.v1+json", layer, &[A]);
        let failure = Failure::find(&config_descriptor(A, &artifact.manifest).unwrap_err()).unwrap();
        assert_eq!(failure.kind, FailureKind::Unsuitable);
        assert!(failure.message.contains("application/vnd.oci.empty.v1+json"), "{failure}");
    }

    #[test]
    fn sizes_that_cannot_be_added_up_are_refused() {
        let with = |sizes: [u64; 2]| {
            let good = oci("application/vnd.oci.image.layer.v1.tar", &[A, A]);
            let mut manifest: serde_json::Value = serde_json::from_slice(&good.manifest).unwrap();
            let mut layer = manifest["layers"][0].clone();
            let sized = sizes.map(|size| {
                layer["size"] = size.into();
                layer.clone()
            });
            manifest["layers"] = sized.to_vec().into();
            resolved(Fetched { manifest: serde_json::to_vec(&manifest).unwrap(), ..good })
        };
        assert_eq!(with([1 << 49, 1 << 49]).unwrap().layers.len(), 2);
        for sizes in [[1 << 49, (1 << 49) + 1], [u64::MAX, 1]] {
            let failure = with(sizes).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Corrupt);
            assert!(failure.message.ends_with("its layers are said to have more than 1125899906842624 bytes"), "{failure}");
        }
    }

    /// The reader of manifests takes a list of values for an object, and whoever writes into it by names then has none.
    #[test]
    fn lists_in_place_of_objects_are_refused() {
        let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let docker = || fetched(DOCKER_MANIFEST, DOCKER_CONFIG, layer, &[A]);
        let descriptor = |kind: &str, digest: &str| serde_json::json!([kind, digest, 7, null, null, null, null, null]);
        let (config, layers) = (descriptor(DOCKER_CONFIG, A), serde_json::json!([descriptor(layer, B)]));
        let whole = serde_json::json!([2, DOCKER_MANIFEST, null, config, layers, null, null]);
        let mut parts = vec![Fetched { manifest: serde_json::to_vec(&whole).unwrap(), ..docker() }];
        for (key, part) in [("config", config), ("layers", layers)] {
            let mut manifest: serde_json::Value = serde_json::from_slice(&docker().manifest).unwrap();
            manifest[key] = part;
            parts.push(Fetched { manifest: serde_json::to_vec(&manifest).unwrap(), ..docker() });
        }
        let mut config: serde_json::Value = serde_json::from_slice(&docker().config).unwrap();
        config["rootfs"] = serde_json::json!(["layers", [A]]);
        parts.push(Fetched { config: serde_json::to_vec(&config).unwrap(), ..docker() });
        for fetched in parts {
            let text = format!("{}\n{}", String::from_utf8_lossy(&fetched.manifest), String::from_utf8_lossy(&fetched.config));
            let translated = resolved(fetched).map(|resolved| resolved.oci_manifest().unwrap());
            assert_eq!(translated.map_err(|failure| failure.kind), Err(FailureKind::Unsuitable), "{text}");
        }
    }
}
