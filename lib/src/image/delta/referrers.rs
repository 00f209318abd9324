//! The tag by which a delta is found where a registry cannot be asked what refers to a manifest (OCI distribution specification, "Referrers Tag
//! Schema"): an image index that lists it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use oci_spec::image::MediaType;
use serde_json::{Value, json};

use super::patch;
use crate::error::{Failure, FailureKind};
use crate::image::derive::descriptor;
use crate::image::layout::MAX_JSON;
use crate::image::output::{OutputOptions, STAGED};
use crate::image::{SourceOptions, digest, proxy, proxy_error, registry, skopeo};
use crate::progress::Progress;
use crate::reference::ImageReference;

/// The tag that stands in for the question what refers to the manifest `subject`; `None` where that is no digest.
pub(in crate::image) fn tag(subject: &str) -> Option<String> {
    // At most 32 characters of the algorithm and 64 of the digest, says the specification.
    let (algorithm, hex) = subject.split_once(':')?;
    let short = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    Some(format!("{}-{}", short(algorithm, 32), short(hex, 64)))
}

/// Lists `entry` as a referrer of the manifest `subject` in the repository of `output`, where the registry does not do so by itself. What is listed
/// there already stays.
pub(super) async fn publish(
    output: &ImageReference,
    subject: &str,
    entry: Value,
    options: &OutputOptions,
    directory: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let OutputOptions { authfile, tls_verify } = options.clone();
    let source = SourceOptions { authfile, tls_verify, architecture: None };
    let (asked, of, with) = (output.clone(), subject.to_owned(), source.clone());
    // Where that cannot be asked here, an index too many harms nobody.
    let listed = tokio::task::spawn_blocking(move || registry::referrers(&asked, &with, &of)).await.context("asking in a thread")?;
    if matches!(listed, Ok(Some(_))) {
        return Ok(());
    }
    let place = tag(subject).and_then(|tag| output.tagged(&tag)).with_context(|| format!("writing {output}: {subject} is no digest"))?;
    let before = match proxy::raw(&place, &source).await {
        Ok(bytes) => Some(bytes),
        Err(error) if Failure::find(&error).is_some_and(|failure| failure.kind == FailureKind::NotFound) => None,
        Err(error) => return Err(error),
    };
    let index = with_entry(before.as_deref(), entry).map_err(|found| no_index(&place, &found))?;
    if before.as_ref() == Some(&index) {
        return Ok(());
    }
    stage(directory, &index)?;
    let argv = skopeo::copy_index_to(&format!("oci:{STAGED}:{TAG}"), &place.skopeo(), options)?;
    skopeo::run_in(directory, argv).await.map_err(|e| proxy_error::explain_command(&format!("writing {place}"), e))?;
    progress.step("list referrer");
    Ok(())
}

/// What the index is called in the layout of the scratch directory.
const TAG: &str = "referrers";

fn no_index(place: &ImageReference, found: &str) -> Failure {
    let message = format!("reading {place}: {found} (expected an image index of what refers to the image)");
    Failure::new(FailureKind::Corrupt, message)
        .hint("the delta is there, and is not listed where hosts look for it; remove this tag and try again")
}

/// The index with one entry more, in place of one of the same digest.
fn with_entry(index: Option<&[u8]>, entry: Value) -> Result<Vec<u8>, String> {
    let index_type = MediaType::ImageIndex.to_string();
    let mut index: Value = match index {
        Some(bytes) if bytes.len() as u64 > MAX_JSON => return Err(format!("it has {} bytes", bytes.len())),
        Some(bytes) => serde_json::from_slice(bytes).map_err(|e| e.to_string())?,
        None => json!({"schemaVersion": 2, "mediaType": index_type, "manifests": []}),
    };
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut).ok_or("it lists no manifests")?;
    match entries.iter_mut().find(|old| old["digest"] == entry["digest"]) {
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
    serde_json::to_vec(&index).map_err(|e| e.to_string())
}

/// Writes the index into the layout, and lists it there.
fn stage(directory: &Path, index: &[u8]) -> Result<()> {
    let digest = digest::sha256(index)?;
    let writing = || "writing an image index".to_owned();
    std::fs::write(patch::blobs(directory, "sha256")?.join(digest.trim_start_matches("sha256:")), index).with_context(writing)?;
    let mut entry = descriptor(&MediaType::ImageIndex, &digest, index.len());
    entry["annotations"] = json!({ crate::image::layout::TAG: TAG });
    let list = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(directory.join(STAGED).join("index.json"), serde_json::to_vec(&list)?).with_context(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_the_digest() {
        assert_eq!(tag("sha256:abc").as_deref(), Some("sha256-abc"));
        assert_eq!(tag(&format!("sha512:{}", "a".repeat(128))).unwrap().len(), 71);
        assert_eq!(tag("latest"), None);
    }

    #[test]
    fn what_is_listed_stays_and_nothing_is_listed_twice() {
        let entry = |digest: &str, size: u64| json!({"digest": digest, "size": size});
        let one = with_entry(None, entry("a", 1)).unwrap();
        let two = with_entry(Some(&one), entry("b", 1)).unwrap();
        assert_eq!(with_entry(Some(&two), entry("b", 1)).unwrap(), two);
        let index: Value = serde_json::from_slice(&with_entry(Some(&two), entry("a", 2)).unwrap()).unwrap();
        assert_eq!(index["manifests"], json!([entry("a", 2), entry("b", 1)]));
        assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
        for bytes in ["{", "{}", r#"{"manifests": 1}"#] {
            assert!(with_entry(Some(bytes.as_bytes()), entry("a", 1)).is_err(), "{bytes}");
        }
    }
}
