//! Roots that failed on this machine: why, and how often selkie has restarted the machine for it. The record outlives the deployment, so that the same
//! release is not taken again by itself.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::Deployments;
use crate::image_id::ImageId;
use crate::record::{self, Record};
use crate::sys::dir;

/// Below `state`.
pub(super) const FAILED: &str = "failed";
/// More records than this are not kept: the oldest go.
const MOST: usize = 32;

/// How a root failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// It came up, and required checks failed.
    ChecksFailed,
    /// The boot loader has given it up, and it never told how it is: it panicked, hung or lost its power before.
    DidNotComeUp,
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailedCheck {
    /// Its name.
    pub name: String,
    /// How it ended, for people: `exit code 3`.
    pub ended: String,
    /// The last lines that it said.
    pub lines: Vec<String>,
}

/// `state/failed/<image id>.json`: a root that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailedBoot {
    /// Version of this format.
    pub version: u32,
    /// The root.
    pub id: ImageId,
    /// The reference that it followed, where that is known.
    #[serde(default)]
    pub image: Option<String>,
    /// Digest of its manifest, where that is known: what is not staged again by itself.
    #[serde(default)]
    pub manifest_digest: Option<String>,
    /// Version, as the image calls it.
    #[serde(default)]
    pub os_version: Option<String>,
    /// How it failed.
    pub cause: Cause,
    /// When that was found out (RFC 3339, by the clock of this machine); unknown while nobody has recorded it.
    #[serde(default)]
    pub at: Option<String>,
    /// The boot in which its checks failed, as the kernel names it.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// Tries that the boot loader had left then; none for a root that had proven itself.
    #[serde(default)]
    pub tries_left: Option<u32>,
    /// How often selkie has restarted the machine because of this root.
    #[serde(default)]
    pub reboots: u32,
    /// The required checks that failed.
    #[serde(default)]
    pub checks: Vec<FailedCheck>,
}

/// Roots whose record cannot be read, with the reason.
type Unreadable = Vec<(ImageId, String)>;

impl Record for FailedBoot {
    const VERSION: u32 = Self::VERSION;
}

impl FailedBoot {
    /// The version of the format that this code writes, and the newest that it reads.
    pub const VERSION: u32 = 1;

    fn from_json(id: &ImageId, bytes: &[u8]) -> Result<Self> {
        let read: Self = record::read(bytes)?;
        if read.id != *id {
            bail!("it is about root {}", read.id);
        }
        Ok(read)
    }
}

impl Deployments {
    /// All records, by image id, and why some cannot be read.
    pub(super) fn failed_boots(&self) -> Result<(Vec<FailedBoot>, Unreadable)> {
        let (mut read, mut unreadable) = (Vec::new(), Vec::new());
        let Some(dir) = dir::open_optional(&self.state, FAILED).context("opening state/failed")? else { return Ok((read, unreadable)) };
        for name in dir::names(&dir).context("listing state/failed")? {
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<ImageId>().ok()) else { continue };
            let record = dir::read_optional(&dir, file(&id)).and_then(|bytes| FailedBoot::from_json(&id, &bytes.unwrap_or_default()));
            match record {
                Ok(record) => read.push(record),
                Err(error) => unreadable.push((id.clone(), format!("state/failed/{}: {error:#}", file(&id)))),
            }
        }
        Ok((read, unreadable))
    }

    /// Keeps a record, durably, in the place of one of the same root. When there are too many, the oldest goes.
    pub fn record_failed(&self, record: &FailedBoot) -> Result<()> {
        let new = dir::open_optional(&self.state, FAILED).context("opening state/failed")?.is_none();
        let dir = dir::ensure(&self.state, FAILED, 0o755)?;
        if new {
            dir::sync(&self.state).context("syncing the state directory")?;
        }
        let json = record::write(record).context("writing down a failed boot")?;
        dir::write_durably(&dir, &file(&record.id), 0o644, &json)?;
        self.forget_oldest(&dir, &record.id)
    }

    fn forget_oldest(&self, dir: &OwnedFd, newest: &ImageId) -> Result<()> {
        dir::sweep(dir)?;
        let (mut records, _) = self.failed_boots()?;
        records.retain(|record| record.id != *newest);
        records.sort_by(|a, b| a.at.cmp(&b.at));
        for record in records.iter().take((records.len() + 1).saturating_sub(MOST)) {
            dir::remove_file(dir, &file(&record.id))?;
        }
        Ok(())
    }

    /// Removes the record of a root: it proved itself, or gets a new start. Whether there was one.
    pub fn forget_failed(&self, id: &ImageId) -> Result<bool> {
        match dir::open_optional(&self.state, FAILED).context("opening state/failed")? {
            Some(dir) => dir::remove_file(&dir, &file(id)),
            None => Ok(false),
        }
    }
}

fn file(id: &ImageId) -> String {
    format!("{id}.json")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn id(n: usize) -> ImageId {
        format!("{n:02x}").repeat(32).parse().unwrap()
    }

    fn record(n: usize) -> FailedBoot {
        FailedBoot {
            version: FailedBoot::VERSION,
            id: id(n),
            image: Some("quay.io/acme/os:stable".into()),
            manifest_digest: Some("sha256:aa".into()),
            os_version: None,
            cause: Cause::ChecksFailed,
            at: Some(format!("2026-01-{n:02}T00:00:00Z")),
            boot_id: Some("b".into()),
            tries_left: Some(1),
            reboots: 2,
            checks: vec![FailedCheck { name: "web".into(), ended: "exit code 1".into(), lines: vec!["no".into()] }],
        }
    }

    fn open(root: &Path) -> Deployments {
        Deployments::open_or_create(dir::open_path(root).unwrap()).unwrap()
    }

    #[test]
    fn a_record_is_kept_replaced_and_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = open(temp.path());
        assert!(!deployments.forget_failed(&id(1)).unwrap());
        deployments.record_failed(&record(1)).unwrap();
        let again = FailedBoot { reboots: 3, ..record(1) };
        deployments.record_failed(&again).unwrap();
        deployments.record_failed(&record(2)).unwrap();
        assert_eq!(deployments.list().unwrap().failed, [again, record(2)]);
        assert!(deployments.forget_failed(&id(1)).unwrap());
        assert_eq!(deployments.list().unwrap().failed, [record(2)]);
    }

    #[test]
    fn a_damaged_record_is_told_and_hides_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = open(temp.path());
        deployments.record_failed(&record(2)).unwrap();
        let put = |n: usize, text: &str| std::fs::write(temp.path().join(format!("state/failed/{}.json", id(n))), text).unwrap();
        put(1, "{");
        put(3, &serde_json::to_string(&FailedBoot { version: FailedBoot::VERSION + 1, ..record(3) }).unwrap());
        put(4, &serde_json::to_string(&record(2)).unwrap());
        std::fs::write(temp.path().join("state/failed/README"), "x").unwrap();
        let listing = deployments.list().unwrap();
        assert_eq!(listing.failed, [record(2)]);
        let ids: Vec<_> = listing.failed_unreadable.iter().map(|(id, _)| id.clone()).collect();
        assert_eq!(ids, [id(1), id(3), id(4)]);
        assert!(listing.failed_unreadable[1].1.contains("format version 2"), "{:?}", listing.failed_unreadable);
    }

    #[test]
    fn the_oldest_records_go_and_never_the_new_one() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = open(temp.path());
        for n in (10..10 + MOST).rev() {
            deployments.record_failed(&record(n)).unwrap();
        }
        let unset_clock = FailedBoot { at: Some("1970-01-01T00:00:09Z".into()), ..record(1) };
        deployments.record_failed(&unset_clock).unwrap();
        let kept: Vec<_> = deployments.list().unwrap().failed.into_iter().map(|record| record.id).collect();
        assert_eq!((kept.len(), kept.contains(&id(1)), kept.contains(&id(10))), (MOST, true, false));
    }
}
