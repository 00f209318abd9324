//! How the last automatic update went, and when the next one is due: `state/auto-update.json`.
//!
//! A record that cannot be read (damaged, or of a newer selkie) stops nothing: it is told, put aside as `auto-update.json.unreadable`, and a new one is begun as on a new
//! machine. What is lost by that is a wait, never a root; and a try that fails again is on record again.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Deployments;
use crate::image_id::ImageId;
use crate::record::{self, Record};
use crate::sys::dir;

/// Below `state`.
const FILE: &str = "auto-update.json";
const UNREADABLE: &str = "auto-update.json.unreadable";

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It has begun; where that is what the record says later, it was cut.
    Begun,
    /// There is nothing newer.
    UpToDate,
    /// There is something newer, and the policy says no more.
    Available,
    /// It was fetched.
    Downloaded,
    /// It boots next.
    Staged,
    /// What the reference names failed on this machine before.
    FailedBefore,
    /// Somebody went back from what the reference names by hand.
    LeftAlone,
    /// It ended with an error.
    Failed,
}

/// A root that automatic updates staged and that has not been booted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StagedByUs {
    /// The root.
    pub id: ImageId,
    /// When it was staged, in seconds since 1970; unknown where the clock was not set.
    #[serde(default)]
    pub since: Option<u64>,
    /// The boot in which the machine was asked to restart into it, as the kernel names it.
    #[serde(default)]
    pub restarted_in: Option<String>,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AutoUpdate {
    /// Version of this format.
    pub version: u32,
    /// When the last try began, in seconds since 1970; unknown where there was none, or the clock was not set.
    #[serde(default)]
    pub last_try: Option<u64>,
    /// How it ended.
    #[serde(default)]
    pub outcome: Option<Outcome>,
    /// What went wrong, where it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// How many tries in a row have failed.
    #[serde(default)]
    pub failures: u32,
    /// What part of the randomised delay there is before the next try: of 2^32.
    #[serde(default)]
    pub spread: u32,
    /// The reference that was asked for.
    #[serde(default)]
    pub image: Option<String>,
    /// The manifest that it named.
    #[serde(default)]
    pub manifest_digest: Option<String>,
    /// The version of that, as the image calls it.
    #[serde(default)]
    pub os_version: Option<String>,
    /// The manifest that is being staged: where this is on record, what boots next with it was staged by automatic updates.
    #[serde(default)]
    pub staging: Option<String>,
    /// What they staged.
    #[serde(default)]
    pub staged: Option<StagedByUs>,
}

impl Record for AutoUpdate {
    const VERSION: u32 = 1;
}

impl Default for AutoUpdate {
    /// Nothing has been tried.
    fn default() -> Self {
        Self {
            version: Self::VERSION,
            last_try: None,
            outcome: None,
            error: None,
            failures: 0,
            spread: 0,
            image: None,
            manifest_digest: None,
            os_version: None,
            staging: None,
            staged: None,
        }
    }
}

impl Deployments {
    /// The record; the one of a new machine where there is none, or where it cannot be read, with the reason of that.
    pub fn auto_update(&self) -> (AutoUpdate, Option<String>) {
        let read = dir::read_optional(&self.state, FILE).and_then(|bytes| bytes.map(|bytes| Ok(record::read(&bytes)?)).transpose());
        match read {
            Ok(record) => (record.unwrap_or_default(), None),
            Err(error) => (AutoUpdate::default(), Some(format!("reading state/{FILE}: {error:#}"))),
        }
    }

    /// Keeps a record, durably, in the place of the one before. One that cannot be read is put aside.
    pub fn record_auto_update(&self, record: &AutoUpdate) -> Result<()> {
        if self.auto_update().1.is_some() {
            rustix::fs::renameat(&self.state, FILE, &self.state, UNREADABLE).with_context(|| format!("renaming state/{FILE}"))?;
        }
        let json = record::write(record).context("writing down an automatic update")?;
        dir::write_durably(&self.state, FILE, 0o644, &json).context("keeping the record of automatic updates")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_kept() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = Deployments::open_or_create(dir::open_path(temp.path()).unwrap()).unwrap();
        assert_eq!(deployments.auto_update(), (AutoUpdate::default(), None));
        let record = AutoUpdate {
            last_try: Some(1_700_000_000),
            outcome: Some(Outcome::Staged),
            failures: 2,
            spread: u32::MAX,
            staged: Some(StagedByUs { id: "ab".repeat(32).parse().unwrap(), since: None, restarted_in: Some("b".into()) }),
            ..AutoUpdate::default()
        };
        deployments.record_auto_update(&record).unwrap();
        assert_eq!(deployments.auto_update(), (record, None));
    }

    #[test]
    fn one_that_cannot_be_read_is_told_and_put_aside() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = Deployments::open_or_create(dir::open_path(temp.path()).unwrap()).unwrap();
        let path = temp.path().join("state/auto-update.json");
        for (text, why) in
            [("{", "EOF"), ("", "EOF"), ("{\"version\": 2}", "format version 2"), ("{\"version\": 1, \"failures\": -1}", "invalid value")]
        {
            std::fs::write(&path, text).unwrap();
            let (record, reason) = deployments.auto_update();
            let reason = reason.unwrap();
            assert!(
                record == AutoUpdate::default() && reason.starts_with("reading state/auto-update.json: ") && reason.contains(why),
                "{reason}"
            );
            deployments.record_auto_update(&record).unwrap();
            assert_eq!(deployments.auto_update(), (record, None));
            assert_eq!(std::fs::read_to_string(temp.path().join("state/auto-update.json.unreadable")).unwrap(), text);
        }
        std::fs::remove_file(temp.path().join("state/auto-update.json.unreadable")).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(deployments.auto_update().1.unwrap().contains("directory"));
        deployments.record_auto_update(&AutoUpdate::default()).unwrap();
        assert_eq!(deployments.auto_update(), (AutoUpdate::default(), None));
    }
}
