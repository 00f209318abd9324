//! Writes an image into an OCI image layout directory: blobs first, `index.json` last and at once. Whatever goes wrong before that, the
//! layout shows what it showed before, and what was made is taken away again.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::blob::{Blob, Expected, Seen};
use super::layout::TAG;
use super::output::{BUFFER, OutputKind, Sink, check_writable, name, parent, pour};
use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::sys::dir;
use crate::sys::lock::Lock;

const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";
/// The content of the file that marks a layout, see the image layout specification.
pub(super) const LAYOUT_VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Whether an image can be written to a layout, under this tag.
///
/// # Errors
///
/// [`FailureKind::Usage`] for what is no directory or one of something else, and where an image without a tag would not be the only one.
pub(super) fn check(path: &str, tag: Option<&str>, kind: OutputKind) -> Result<()> {
    let doing = || format!("looking at {path}");
    let Some(directory) = dir::open_optional(CWD, path).map_err(|errno| dir::unusable(format!("writing {path}"), errno))? else {
        name(path)?;
        return check_writable(&parent(path)?, path);
    };
    check_writable(&directory, path)?;
    for blobs in ["blobs", "blobs/sha256"] {
        if let Some(blobs) =
            dir::open_optional(&directory, blobs).map_err(|errno| dir::unusable(format!("writing {path}/{blobs}"), errno))?
        {
            check_writable(&blobs, path)?;
        }
    }
    match dir::read_optional(&directory, INDEX).with_context(doing)? {
        Some(index) => with_entry(path, Some(&index), any(kind), tag).map(drop),
        None if dir::names(&directory).with_context(doing)?.iter().all(|name| name == LAYOUT || name == "blobs") => Ok(()),
        None => {
            let message = format!("writing {path}: it has files and no index.json (expected an OCI image layout, or nothing)");
            Err(Failure::new(FailureKind::Usage, message).hint("name another directory").into())
        }
    }
}

/// An entry of this kind that could be listed.
fn any(kind: OutputKind) -> Value {
    if kind == OutputKind::Delta { json!({"artifactType": ""}) } else { Value::Null }
}

/// A layout that is being written. Dropping it before [`publish`](Self::publish) takes away what was made.
pub(super) struct LayoutWriter {
    path: String,
    directory: OwnedFd,
    made: Made,
    progress: Arc<dyn Progress>,
    /// Two that write the same blob or the index at the same time would each lose what the other does.
    _lock: Lock,
}

impl LayoutWriter {
    /// Opens the directory `path`, or makes it.
    pub(super) fn open(path: &str, progress: Arc<dyn Progress>) -> Result<Self> {
        let mut made = Made::default();
        let directory = match dir::open_optional(CWD, path).map_err(|errno| dir::unusable(format!("writing {path}"), errno))? {
            Some(directory) => directory,
            None => made.directory(&parent(path)?, name(path)?).with_context(|| format!("making directory {path}"))?,
        };
        let lock = Lock::on(directory.try_clone()?, &format!("another selkie process is writing to {path}"))?;
        let this = Self { path: path.to_owned(), directory, made, progress, _lock: lock };
        this.with_marker()
    }

    fn with_marker(mut self) -> Result<Self> {
        if dir::read_optional(&self.directory, LAYOUT)?.is_none() {
            dir::write_durably(&self.directory, LAYOUT, 0o644, LAYOUT_VERSION).with_context(|| format!("writing {}", self.path))?;
            self.made.file(&self.directory, LAYOUT)?;
        }
        Ok(self)
    }

    /// Lists the image in `index.json`, in place of one that has the same tag.
    pub(super) fn publish(mut self, entry: Value, tag: Option<&str>) -> Result<()> {
        let doing = || format!("writing {}/{INDEX}", self.path);
        let before = dir::read_optional(&self.directory, INDEX).with_context(doing)?;
        let index = with_entry(&self.path, before.as_deref(), entry, tag)?;
        dir::write_durably(&self.directory, INDEX, 0o644, &index).with_context(doing)?;
        self.made.keep();
        self.progress.step("publish image");
        Ok(())
    }

    /// The directory of an algorithm's blobs, and the name of the blob there.
    fn place<'a>(&mut self, digest: &'a str) -> Result<(OwnedFd, &'a str)> {
        let (algorithm, hex) = digest.split_once(':').with_context(|| format!("reading digest {digest:?}: no algorithm"))?;
        let blobs = self.made.directory(&self.directory, "blobs").context("making directory blobs")?;
        let directory = self.made.directory(&blobs, algorithm).with_context(|| format!("making directory blobs/{algorithm}"))?;
        Ok((directory, hex))
    }
}

impl Sink for LayoutWriter {
    fn has(&mut self, expected: &Expected) -> Result<bool> {
        let (directory, name) = self.place(&expected.digest)?;
        let doing = || format!("reading blob {} in {}", expected.digest, self.path);
        let Some(file) = dir::open_file_optional(&directory, name).with_context(doing)? else { return Ok(false) };
        let mut blob = Blob::new(Box::new(File::from(file)), expected.clone(), expected.digest.clone(), Arc::clone(&self.progress))?;
        let mut buffer = vec![0; BUFFER];
        while blob.read(&mut buffer).with_context(doing)? > 0 {}
        Ok(blob.seen()? == Seen::Whole)
    }

    fn put(&mut self, expected: &Expected, reader: &mut impl Read) -> Result<u64> {
        let (directory, name) = self.place(&expected.digest)?;
        let new = dir::open_file_optional(&directory, name)?.is_none();
        let mut pending = dir::Pending::create(&directory, name, 0o644).with_context(|| format!("writing {}", self.path))?;
        let written = pour(reader, pending.file())?;
        pending.publish().with_context(|| format!("writing {}", self.path))?;
        if new {
            self.made.file(&directory, name)?;
        }
        self.progress.step("write blob");
        Ok(written)
    }
}

/// The index with one entry more, and without the one that has the same tag. Everything else stays as it is.
///
/// Without a tag an image has to be the only one: nobody could name it beside others, and none is removed that has another name. An artifact
/// is found by what it refers to, and takes the tag of no image.
pub(super) fn with_entry(path: &str, index: Option<&[u8]>, entry: Value, tag: Option<&str>) -> Result<Vec<u8>> {
    let malformed = || Failure::new(FailureKind::Corrupt, format!("reading {path}/{INDEX}: not an image index"));
    let mut index: Value = match index {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|_| malformed())?,
        None => json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}),
    };
    let artifact = entry["artifactType"].is_string();
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(malformed)?;
    match tag {
        Some(tag) if artifact && entries.iter().any(|entry| entry["annotations"][TAG] == tag && !entry["artifactType"].is_string()) => {
            let message = format!("writing {path}: tag {tag} is that of an image");
            return Err(Failure::new(FailureKind::Usage, message).hint("name another tag, or none").into());
        }
        Some(tag) => entries.retain(|entry| entry["annotations"][TAG] != tag),
        None if artifact => entries.retain(|other| other["digest"] != entry["digest"] || other["annotations"][TAG].is_string()),
        None if entries.len() > 1 || entries.iter().any(|entry| entry["annotations"][TAG].is_string()) => {
            let message = format!("writing {path}: it has other images, and no tag was given");
            return Err(Failure::new(FailureKind::Usage, message).hint(format!("name one: oci:{path}:TAG")).into());
        }
        None => entries.clear(),
    }
    entries.push(entry);
    serde_json::to_vec(&index).context("writing an image index")
}

/// What was made, and goes away again unless it is kept.
#[derive(Default)]
struct Made {
    files: Vec<(OwnedFd, String)>,
    directories: Vec<(OwnedFd, String)>,
}

impl Made {
    /// Opens a directory, or makes it.
    fn directory(&mut self, parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.directories.push((parent.try_clone()?, name.to_owned()));
                dir::sync(parent)?;
            }
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(dir::open(parent, name)?)
    }

    /// Remembers a file that was made.
    fn file(&mut self, parent: &OwnedFd, name: &str) -> Result<()> {
        self.files.push((parent.try_clone()?, name.to_owned()));
        Ok(())
    }

    fn keep(&mut self) {
        self.files.clear();
        self.directories.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let remove = |(parent, name): &(OwnedFd, String), flags| {
            let _ = rustix::fs::unlinkat(parent, name.as_str(), flags);
        };
        self.files.iter().rev().for_each(|file| remove(file, AtFlags::empty()));
        // From the innermost on; those in which somebody else has put something meanwhile stay.
        self.directories.iter().rev().for_each(|directory| remove(directory, AtFlags::REMOVEDIR));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(index: &[u8]) -> Vec<String> {
        let index: Value = serde_json::from_slice(index).unwrap();
        index["manifests"].as_array().unwrap().iter().map(|e| format!("{}{}", e["digest"], e["annotations"][TAG])).collect()
    }

    fn entry(digest: &str, tag: Option<&str>) -> Value {
        let mut entry = json!({"digest": digest});
        if let Some(tag) = tag {
            entry["annotations"] = json!({ TAG: tag });
        }
        entry
    }

    fn with(index: Option<&[u8]>, digest: &str, tag: Option<&str>) -> Result<Vec<u8>, FailureKind> {
        with_entry("dir", index, entry(digest, tag), tag).map_err(|e| Failure::find(&e).unwrap().kind)
    }

    #[test]
    fn the_same_tag_is_replaced_and_everything_else_stays() {
        let one = with(None, "a", Some("v1")).unwrap();
        let two = with(Some(&one), "b", Some("v2")).unwrap();
        assert_eq!(tags(&with(Some(&two), "c", Some("v1")).unwrap()), [r#""b""v2""#, r#""c""v1""#]);
        let foreign = json!({"schemaVersion": 2, "manifests": [entry("a", None), {"digest": "b", "x": 1}], "annotations": {"k": "v"}});
        let after: Value = serde_json::from_slice(&with(Some(foreign.to_string().as_bytes()), "c", Some("v1")).unwrap()).unwrap();
        assert_eq!((&after["annotations"], &after["manifests"][1]), (&foreign["annotations"], &foreign["manifests"][1]));
        assert_eq!(after["manifests"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn an_image_without_a_tag_is_the_only_one() {
        let one = with(None, "a", None).unwrap();
        assert_eq!(tags(&with(Some(&one), "b", None).unwrap()), [r#""b"null"#]);
        let named = with(None, "a", Some("v1")).unwrap();
        assert_eq!(with(Some(&named), "b", None), Err(FailureKind::Usage));
        let two = json!({"manifests": [entry("a", None), entry("b", None)]}).to_string();
        assert_eq!(with(Some(two.as_bytes()), "c", None), Err(FailureKind::Usage));
    }

    #[test]
    fn an_artifact_needs_no_tag_and_takes_that_of_no_image() {
        let image = with(None, "a", Some("v1")).unwrap();
        let artifact = |index: &[u8], digest: &str, tag: Option<&str>| {
            let mut entry = entry(digest, tag);
            entry["artifactType"] = "delta".into();
            with_entry("dir", Some(index), entry, tag).map_err(|e| Failure::find(&e).unwrap().kind)
        };
        let two = artifact(&image, "b", None).unwrap();
        assert_eq!(artifact(&two, "b", None).unwrap(), two);
        let three = artifact(&two, "c", Some("delta")).unwrap();
        assert_eq!(tags(&artifact(&three, "d", Some("delta")).unwrap()), [r#""a""v1""#, r#""b"null"#, r#""d""delta""#]);
        assert_eq!(artifact(&three, "d", Some("v1")), Err(FailureKind::Usage));
    }

    #[test]
    fn what_is_no_index_is_corrupt() {
        for bytes in ["{", "[]", "{}", r#"{"manifests": {}}"#] {
            assert_eq!(with(Some(bytes.as_bytes()), "a", Some("v1")), Err(FailureKind::Corrupt), "{bytes}");
        }
    }
}
