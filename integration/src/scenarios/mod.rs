//! The scenarios in virtual machines. They share one build of the images, one registry and one disk image.

mod bad_release;
mod interrupted_pull;
mod lifecycle;
mod sealed;
mod tampered;
mod two_disks;

use std::path::Path;

use anyhow::{Result, bail};

use crate::{build::Programs, images::Images, lab::Lab, registry::Registry, story::Teller, vm::Accel};

/// What scenarios share.
#[derive(Debug)]
pub(crate) struct Bench<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) images: &'lab Images<'lab>,
    pub(crate) programs: &'lab Programs,
    pub(crate) registry: Registry,
    /// A disk image of release v1 that follows [`TAG`].
    pub(crate) disk: &'lab Path,
    /// What `selkie pull --json` says about release v1.
    pub(crate) pulled: serde_json::Value,
    pub(crate) accel: Accel,
}

/// The repository and tag that machines follow. Each scenario begins with v1 there.
pub(crate) const TAG: &str = "os:stable";

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Bench<'_>, &Teller) -> Result<()>,
}

/// All scenarios, in the order in which they run.
pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "lifecycle", run: lifecycle::run },
    Scenario { name: "interrupted-pull", run: interrupted_pull::run },
    Scenario { name: "tampered", run: tampered::run },
    Scenario { name: "sealed", run: sealed::run },
    Scenario { name: "bad-release", run: bad_release::run },
    Scenario { name: "two-disks", run: two_disks::run },
];

/// The scenarios of these names, or all. An unknown name is an error that lists the known ones.
pub(crate) fn select(names: &[String]) -> Result<Vec<Scenario>> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    let find = |name: &String| ALL.iter().find(|scenario| scenario.name == name).copied();
    let known: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
    match names.iter().map(find).collect::<Option<Vec<_>>>() {
        Some(selected) => Ok(selected),
        None => bail!("choosing scenarios {}: known are {}", names.join(", "), known.join(", ")),
    }
}

/// Fails unless both are equal, and shows both.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found != expected {
        bail!("checking {what}: {found:?} (expected {expected:?})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_chosen_by_name() {
        let names = |selected: Vec<Scenario>| selected.iter().map(|scenario| scenario.name).collect::<Vec<_>>();
        assert_eq!(names(select(&[]).unwrap()), ["lifecycle", "interrupted-pull", "tampered", "sealed", "bad-release", "two-disks"]);
        assert_eq!(names(select(&["lifecycle".to_owned()]).unwrap()), ["lifecycle"]);
        let error = select(&["nothing".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "choosing scenarios nothing: known are lifecycle, interrupted-pull, tampered, sealed, bad-release, two-disks");
    }
}
