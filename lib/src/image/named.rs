//! What an output names before anything is written there, so that nothing is replaced that is not of the same kind: an index of several images
//! by one image, an image by a delta. Asking also finds a registry that cannot be reached, and credentials that are missing.

use std::path::Path;

use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, MediaType, Platform};
use rustix::fs::CWD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::layout::{Layout, TAG};
use super::output::{OutputKind, OutputOptions};
use super::platform::{self, Leads};
use super::{SourceOptions, delta, manifest, proxy};
use crate::error::{Failure, FailureKind};
use crate::reference::{ImageReference, Transport};
use crate::sys::dir;

/// Asks whoever keeps `output` what its name stands for now, and whether something of this kind may take its place: for a caller who wants to know before a
/// long preparation, after [`check_output`](super::check_output). An image takes the place of an image, a delta that of a delta.
///
/// # Errors
///
/// Those of asking: what cannot be found out is no leave. [`FailureKind::Usage`] where the name stands for something else, an index of one image among that.
pub async fn check_named(output: &ImageReference, kind: OutputKind, options: &OutputOptions) -> Result<()> {
    if kind == OutputKind::Delta && output.tag().is_none() {
        // In a layout it is one of many without a name.
        return Ok(());
    }
    match named(output, options).await? {
        Some(found) => Ok(may_replace(output, kind, &found)?),
        None => Ok(()),
    }
}

/// The manifest or index that an output names; `None` where there is nothing.
async fn named(output: &ImageReference, options: &OutputOptions) -> Result<Option<Vec<u8>>> {
    match output.transport() {
        Transport::Oci => in_layout(output.name(), output.tag()),
        // An archive is made, or not written.
        Transport::OciArchive | Transport::DockerArchive => Ok(None),
        Transport::Registry | Transport::ContainersStorage => {
            let OutputOptions { authfile, tls_verify } = options.clone();
            let options = SourceOptions { authfile, tls_verify, ..SourceOptions::default() };
            let found = proxy::raw_optional(&format!("writing {output}"), output, &options).await;
            found.map_err(|error| match Failure::find(&error) {
                Some(denied @ Failure { kind: FailureKind::Denied, .. }) => with_more(denied).into(),
                _ => error,
            })
        }
    }
}

/// Some registries do not tell who may read what there is from what there is.
fn with_more(denied: Failure) -> Failure {
    let hint = denied.hint.clone().unwrap_or_default();
    denied.hint(format!("{hint}; some registries answer so where there is no repository of this name: make it first then"))
}

/// Without a tag it is what has none.
fn in_layout(path: &str, tag: Option<&str>) -> Result<Option<Vec<u8>>> {
    let doing = || format!("looking at {path}");
    let Some(directory) = dir::open_optional(CWD, path).with_context(doing)? else { return Ok(None) };
    let Some(index) = dir::read_optional(&directory, "index.json").with_context(doing)? else { return Ok(None) };
    let index: Value = serde_json::from_slice(&index).with_context(doing)?;
    let entries = index["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    match entries.iter().filter(|entry| entry["annotations"][TAG] == Value::from(tag)).collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [entry] => {
            let described = Descriptor::deserialize(entry).with_context(doing)?;
            Layout::open_directory(Path::new(path))?.json("manifest", &described).map(Some)
        }
        // Several of one name are one for each architecture, as in an index.
        ref several => Ok(Some(serde_json::to_vec(&json!({ "manifests": several }))?)),
    }
}

/// Whether something of this kind may take the place of what was found.
fn may_replace(output: &ImageReference, kind: OutputKind, found: &[u8]) -> Result<(), Failure> {
    let document: Value = serde_json::from_slice(found).unwrap_or_default();
    let index = is_index(&document);
    let (same, expected) = match kind {
        OutputKind::Image => (!index && manifest::config_descriptor("", found).is_ok(), "an image, or nothing"),
        OutputKind::Delta => (!index && document["artifactType"] == delta::MEDIA_TYPE, "a delta, or nothing"),
    };
    if same {
        return Ok(());
    }
    let hint = match kind {
        OutputKind::Image if index => {
            "the index would be gone: choose another tag, and put the image into the index by `buildah manifest` or `podman manifest`"
        }
        OutputKind::Image => "choose another tag",
        OutputKind::Delta => "name a tag for the delta; hosts find it by the image, whatever its tag",
    };
    let message = format!("writing {output}: it names {} (expected {expected})", shown(&document, index));
    Err(Failure::new(FailureKind::Usage, message).hint(hint))
}

fn is_index(document: &Value) -> bool {
    let named = document["mediaType"].as_str().map(|name| platform::leads(&MediaType::from(name)));
    named == Some(Leads::ToIndex) || document["manifests"].is_array()
}

/// What was found, for people.
fn shown(document: &Value, index: bool) -> String {
    if index {
        let manifests = document["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let platforms: Vec<Platform> =
            manifests.iter().filter_map(|listed| serde_json::from_value(listed["platform"].clone()).ok()).collect();
        let platforms = platform::shown(platforms.iter());
        let platforms = if platforms.is_empty() { String::new() } else { format!(": {platforms}") };
        let manifests = if manifests.len() == 1 { "1 manifest".to_owned() } else { format!("{} manifests", manifests.len()) };
        return format!("an image index of {manifests}{platforms}");
    }
    match document["artifactType"].as_str().or(document["config"]["mediaType"].as_str()) {
        Some(found) => format!("a manifest of {found}"),
        None => "something that is no manifest".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: OutputKind, found: &Value) -> Option<String> {
        let refused = may_replace(&"r.io/os:v1".parse().unwrap(), kind, found.to_string().as_bytes()).err()?;
        assert_eq!(refused.kind, FailureKind::Usage);
        assert!(refused.hint.is_some());
        Some(refused.message)
    }

    #[test]
    fn only_the_same_kind_is_replaced() {
        let descriptor = |kind: &str| json!({"mediaType": kind, "digest": format!("sha256:{}", "a".repeat(64)), "size": 2});
        let manifest = |config: &str| json!({"schemaVersion": 2, "config": descriptor(config), "layers": []});
        let platform = |architecture: &str| json!({"platform": {"os": "linux", "architecture": architecture}});
        let image = manifest("application/vnd.oci.image.config.v1+json");
        let docker = manifest("application/vnd.docker.container.image.v1+json");
        let mut delta = manifest("application/vnd.oci.empty.v1+json");
        delta["artifactType"] = delta::MEDIA_TYPE.into();
        let index = json!({"schemaVersion": 2, "manifests": [platform("arm64"), platform("amd64")]});
        let one = json!({"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{}]});
        let none = json!({"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": null});
        let (to_image, to_delta) = ("(expected an image, or nothing)", "(expected a delta, or nothing)");
        let table = [
            (OutputKind::Image, &image, None),
            (OutputKind::Image, &docker, None),
            (OutputKind::Image, &delta, Some(format!("a manifest of {} {to_image}", delta::MEDIA_TYPE))),
            (OutputKind::Image, &index, Some(format!("an image index of 2 manifests: linux/amd64, linux/arm64 {to_image}"))),
            (OutputKind::Image, &one, Some(format!("an image index of 1 manifest {to_image}"))),
            (OutputKind::Image, &none, Some(format!("an image index of 0 manifests {to_image}"))),
            (OutputKind::Image, &Value::Null, Some(format!("something that is no manifest {to_image}"))),
            (OutputKind::Delta, &delta, None),
            (OutputKind::Delta, &image, Some(format!("a manifest of application/vnd.oci.image.config.v1+json {to_delta}"))),
            (OutputKind::Delta, &index, Some(format!("an image index of 2 manifests: linux/amd64, linux/arm64 {to_delta}"))),
        ];
        for (kind, found, expected) in table {
            let expected = expected.map(|what| format!("writing r.io/os:v1: it names {what}"));
            assert_eq!(refused(kind, found), expected, "{kind:?}: {found}");
        }
    }
}
