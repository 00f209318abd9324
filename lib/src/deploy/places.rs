//! The EFI system partitions that are kept in step, and what each may boot: `state/boot/<partition UUID>.json`. The record of a disk that is away tells
//! which roots have to stay for it, and which orders of activation are taken.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Deployments;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::record::{self, Record};
use crate::sys::dir;

/// Below `state`.
const BOOT: &str = "boot";

/// An ESP that is kept in step with the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootPlace {
    /// Version of this format.
    pub version: u32,
    /// Its partition UUID, in lower case.
    pub partition: String,
    /// The highest serial of its entries.
    pub last_serial: u64,
    /// What its entries may boot: never less.
    pub roots: Vec<ImageId>,
}

impl Record for BootPlace {
    const VERSION: u32 = 1;
}

impl BootPlace {
    /// A record of what the place has now.
    pub fn new(partition: &str, last_serial: u64, mut roots: Vec<ImageId>) -> Self {
        roots.sort();
        roots.dedup();
        Self { version: Self::VERSION, partition: partition.to_owned(), last_serial, roots }
    }

    /// The same for a place that is about to have `roots`, too.
    #[must_use]
    pub fn with(&self, last_serial: u64, roots: &[ImageId]) -> Self {
        let all = self.roots.iter().chain(roots).cloned().collect();
        Self::new(&self.partition, self.last_serial.max(last_serial), all)
    }
}

impl Deployments {
    /// All records, by partition UUID; none on a machine with one place.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Corrupt`] for one that cannot be read: what it says may be what a disk boots that is away.
    pub fn boot_places(&self) -> Result<Vec<BootPlace>> {
        let Some(dir) = dir::open_optional(&self.state, BOOT).context("opening state/boot")? else { return Ok(Vec::new()) };
        let mut places = Vec::new();
        for name in dir::names(&dir).context("listing state/boot")? {
            let Some(partition) = name.to_str().and_then(|name| name.strip_suffix(".json")).filter(|name| is_uuid(name)) else { continue };
            let bytes = dir::read_optional(&dir, &name)?.unwrap_or_default();
            let read = record::read::<BootPlace>(&bytes).map_err(|error| error.to_string());
            let place = read.and_then(|place| {
                if place.partition == partition { Ok(place) } else { Err(format!("it is about partition {}", place.partition)) }
            });
            places.push(place.map_err(|reason| {
                Failure::new(FailureKind::Corrupt, format!("reading state/boot/{}: {reason}", name.display()))
                    .hint(format!("`selkie esp remove {partition}` forgets it; `selkie esp add` makes it anew"))
            })?);
        }
        Ok(places)
    }

    /// Keeps a record, durably, in the place of one of the same partition.
    pub fn record_boot_place(&self, place: &BootPlace) -> Result<()> {
        let new = dir::open_optional(&self.state, BOOT).context("opening state/boot")?.is_none();
        let dir = dir::ensure(&self.state, BOOT, 0o755)?;
        if new {
            dir::sync(&self.state).context("syncing the state directory")?;
        }
        dir::sweep(&dir)?;
        let json = record::write(place).context("writing down a boot place")?;
        dir::write_durably(&dir, &file(&place.partition), 0o644, &json)
    }

    /// Removes the record of a partition; whether there was one.
    pub fn forget_boot_place(&self, partition: &str) -> Result<bool> {
        match dir::open_optional(&self.state, BOOT).context("opening state/boot")? {
            Some(dir) if is_uuid(partition) => dir::remove_file(&dir, &file(partition)),
            _ => Ok(false),
        }
    }
}

/// Partition UUIDs become file names: nothing else may.
fn is_uuid(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-')
}

fn file(partition: &str) -> String {
    format!("{partition}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_kept_widened_and_forgotten_and_a_damaged_one_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = Deployments::open_or_create(dir::open_path(temp.path()).unwrap()).unwrap();
        let id = |byte: &str| byte.repeat(32).parse::<ImageId>().unwrap();
        assert_eq!(deployments.boot_places().unwrap(), []);
        assert!(!deployments.forget_boot_place("aa-1").unwrap());
        let first = BootPlace::new("aa-1", 3, vec![id("bb"), id("aa"), id("bb")]);
        assert_eq!(first.roots, [id("aa"), id("bb")]);
        deployments.record_boot_place(&first).unwrap();
        let wider = first.with(2, &[id("cc")]);
        assert_eq!((wider.last_serial, wider.roots.len()), (3, 3));
        deployments.record_boot_place(&wider).unwrap();
        deployments.record_boot_place(&BootPlace::new("bb-2", 1, vec![])).unwrap();
        assert_eq!(deployments.boot_places().unwrap(), [wider, BootPlace::new("bb-2", 1, vec![])]);
        assert!(deployments.forget_boot_place("aa-1").unwrap());
        for text in [
            "{",
            r#"{"version":2,"partition":"bb-2","last-serial":1,"roots":[]}"#,
            r#"{"version":1,"partition":"x","last-serial":1,"roots":[]}"#,
        ] {
            std::fs::write(temp.path().join("state/boot/bb-2.json"), text).unwrap();
            let error = deployments.boot_places().unwrap_err();
            assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Corrupt, "{text}");
        }
        assert!(deployments.forget_boot_place("bb-2").unwrap());
        assert_eq!(deployments.boot_places().unwrap(), []);
    }
}
