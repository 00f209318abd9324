//! The scenarios in virtual machines. They share one build of the images and one registry; those that run at the same time have a tag and a disk image each.

mod automatic;
mod bad_release;
mod generations;
mod held_pull;
mod lanes;
mod lifecycle;
mod odd_conditions;
mod power_cuts;
mod sealed;
mod tampered;
mod two_disks;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::{build::Programs, images::Images, lab::Lab, registry::Registry, story::Teller, vm::Accel};

pub(crate) use lanes::{count, run};

/// What scenarios share.
#[derive(Debug, Clone)]
pub(crate) struct Bench<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) images: &'lab Images<'lab>,
    pub(crate) programs: &'lab Programs,
    pub(crate) registry: &'lab Registry,
    /// The repository and tag that machines follow. Each scenario begins with v1 there, and nobody else pushes to it meanwhile.
    pub(crate) tag: String,
    /// A disk image of release v1 that follows this tag.
    pub(crate) disk: PathBuf,
    /// What `selkie pull --json` says about release v1.
    pub(crate) pulled: &'lab serde_json::Value,
    pub(crate) accel: Accel,
}

impl Bench<'_> {
    /// Pushes a local image to the tag that machines follow.
    pub(crate) fn publish(&self, image: &str) -> Result<()> {
        self.images.push(image, &self.here())
    }

    /// That tag, as this machine names it.
    pub(crate) fn here(&self) -> String {
        self.registry.here(&self.tag)
    }

    /// The same, as guests name it.
    pub(crate) fn followed(&self) -> String {
        self.registry.for_guest(&self.tag)
    }
}

/// The tag that the first disk image follows.
pub(crate) const TAG: &str = "os:stable";

/// Mounts a guest's ESP at `/run/lab-esp`, beside whoever else has it mounted, as a part of a script.
pub(crate) const MOUNT_ESP: &str = r#"esp=$(lsblk -rno PATH,PARTTYPE | awk '$2 == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" { print $1 }')
mkdir -p /run/lab-esp
mount -t vfat "$esp" /run/lab-esp"#;

/// A scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Bench<'_>, &Teller) -> Result<()>,
}

/// All scenarios. Those that take longest begin first, so that none of them is left over in the end.
pub(crate) const ALL: &[Scenario] = &[
    Scenario { name: "power-cuts", run: power_cuts::run },
    Scenario { name: "lifecycle", run: lifecycle::run },
    Scenario { name: "generations", run: generations::run },
    Scenario { name: "bad-release", run: bad_release::run },
    Scenario { name: "sealed", run: sealed::run },
    Scenario { name: "two-disks", run: two_disks::run },
    Scenario { name: "automatic", run: automatic::run },
    Scenario { name: "odd-conditions", run: odd_conditions::run },
    Scenario { name: "hanging-release", run: bad_release::run_hanging },
    Scenario { name: "tampered", run: tampered::run },
];

/// The scenarios of these names, each once, or all of them. An unknown name is an error that lists the known ones.
pub(crate) fn select(names: &[String]) -> Result<Vec<Scenario>> {
    if names.is_empty() {
        return Ok(ALL.to_vec());
    }
    let find = |(_, name): (usize, &String)| ALL.iter().find(|scenario| scenario.name == name).copied();
    let known: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
    // One of a name at a time: its machine has a directory of that name.
    let once = names.iter().enumerate().filter(|(at, name)| !names[..*at].contains(name));
    match once.map(find).collect::<Option<Vec<_>>>() {
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
        let names = |selected: &[Scenario]| selected.iter().map(|scenario| scenario.name).collect::<Vec<_>>();
        assert_eq!(names(&select(&[]).unwrap()), names(ALL));
        assert_eq!(names(&select(&["sealed".to_owned(), "generations".to_owned()]).unwrap()), ["sealed", "generations"]);
        let twice = ["sealed", "generations", "sealed"].map(str::to_owned);
        assert_eq!(names(&select(&twice).unwrap()), ["sealed", "generations"]);
        let error = select(&["nothing".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, format!("choosing scenarios nothing: known are {}", names(ALL).join(", ")));
    }
}
