//! The tag by which a delta is found where a registry cannot be asked what refers to a manifest (OCI distribution specification, "Referrers Tag
//! Schema"): an image index that lists it.

use std::sync::Arc;

use anyhow::{Context, Result};
use oci_spec::image::MediaType;
use serde_json::{Value, json};

use crate::error::{Failure, FailureKind};
use crate::image::output::OutputOptions;
use crate::image::{SourceOptions, registry};
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
///
/// skopeo cannot do it: it writes an index anew and leaves out what it does not know.
pub(super) async fn publish(
    output: &ImageReference,
    subject: &str,
    entry: Value,
    options: &OutputOptions,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let OutputOptions { authfile, tls_verify } = options.clone();
    let options = SourceOptions { authfile, tls_verify, ..SourceOptions::default() };
    let (place, tag) = (output.clone(), tag(subject).with_context(|| format!("writing {output}: {subject} is no digest"))?);
    let (asked, named) = (subject.to_owned(), tag.clone());
    let list = move || list(&place, &options, &asked, &named, entry);
    let listed = tokio::task::spawn_blocking(list).await.context("listing in a thread")?;
    let listed = listed.map_err(|found| {
        let message = format!("listing the delta under tag {tag} of {}: {found}", output.name());
        Failure::new(FailureKind::Unreachable, message)
            .hint("the delta is there, but hosts do not find it; remove what is in the way and try again")
    })?;
    if listed {
        progress.step("list referrer");
    }
    Ok(())
}

/// How often the list is written where others write it at the same time.
const ATTEMPTS: usize = 5;

/// Whether the list was written, and not up to date before or kept by the registry itself.
///
/// A registry knows no write that depends on what was there, so another program may have read the list before this one wrote it, and write it without
/// the entry: hence it is read again afterwards. What others do later than that cannot be seen from here.
fn list(output: &ImageReference, options: &SourceOptions, subject: &str, tag: &str, entry: Value) -> Result<bool, String> {
    let home = registry::Home::open(output, options)?;
    if home.lists(subject)? {
        return Ok(false);
    }
    for attempt in 0..=ATTEMPTS {
        let before = home.read(tag)?;
        match with_entry(before.as_deref(), entry.clone()).map_err(|found| format!("{found} (expected an image index)"))? {
            None => return Ok(attempt > 0),
            Some(index) if attempt < ATTEMPTS => home.write(tag, &index)?,
            Some(_) => {}
        }
    }
    Err(format!("it was written {ATTEMPTS} times, and others wrote it without the entry each time"))
}

/// The index with one entry more, in place of one of the same digest; `None` where it has that entry.
fn with_entry(index: Option<&[u8]>, entry: Value) -> Result<Option<Vec<u8>>, String> {
    let index_type = MediaType::ImageIndex.to_string();
    let mut index: Value = match index {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|e| e.to_string())?,
        None => json!({"schemaVersion": 2, "mediaType": index_type, "manifests": []}),
    };
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut).ok_or("it lists no manifests")?;
    match entries.iter_mut().find(|old| old["digest"] == entry["digest"]) {
        Some(old) if *old == entry => return Ok(None),
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
    serde_json::to_vec(&index).map(Some).map_err(|e| e.to_string())
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
        let with = |index: Option<&[u8]>, entry| with_entry(index, entry).unwrap();
        let one = with(None, entry("a", 1)).unwrap();
        let two = with(Some(&one), entry("b", 1)).unwrap();
        assert_eq!(with(Some(&two), entry("b", 1)), None);
        let index: Value = serde_json::from_slice(&with(Some(&two), entry("a", 2)).unwrap()).unwrap();
        assert_eq!(index["manifests"], json!([entry("a", 2), entry("b", 1)]));
        assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
        for bytes in ["{", "{}", r#"{"manifests": 1}"#] {
            assert!(with_entry(Some(bytes.as_bytes()), entry("a", 1)).is_err(), "{bytes}");
        }
    }
}
