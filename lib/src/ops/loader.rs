//! `selkie loader update`: the boot loader of the image that runs goes to every ESP where an older one is. Only a root that has proven itself brings one, it
//! is never an older one, and what is not systemd-boot is left alone.

use std::cmp::Ordering;

use anyhow::{Context, Result};
use serde::Serialize;

use super::host::Host;
use super::prune;
use super::stage::Bootable;
use crate::boot::{Loader, Place};
use crate::error::{Failure, FailureKind};
use crate::image::host_architecture;
use crate::progress::Progress;
use crate::store;
use crate::sys::dir;
use crate::sys::efi::SecureBoot;

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The version of systemd-boot in the image that runs.
    pub offered: String,
    /// Every boot loader on every ESP within reach.
    pub loaders: Vec<Found>,
    /// What could not be done, one sentence each.
    pub problems: Vec<String>,
}

/// A boot loader on an ESP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Found {
    /// The partition UUID of the ESP.
    pub partition: String,
    /// Where it lies there.
    pub path: String,
    /// Its version before; none for what is not systemd-boot.
    pub version: Option<String>,
    /// What was done about it.
    pub action: Action,
}

/// What is done about a boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is older, and is replaced.
    Update,
    /// It is of the same version.
    Current,
    /// It is newer, and stays.
    Newer,
    /// It belongs to another system, and stays.
    Foreign,
    /// It is older, and stays: the firmware would not start the one that is offered.
    Refused,
}

/// Decides what is done about what is on one ESP. `refused` is whether the firmware would not start what is offered.
pub fn plan(found: &[Loader], offered: &str, refused: bool) -> Vec<Action> {
    let action = |loader: &Loader| match loader.version.as_deref().map(|version| Loader::compare(version, offered)) {
        None => Action::Foreign,
        Some(Ordering::Equal) => Action::Current,
        Some(Ordering::Greater) => Action::Newer,
        Some(Ordering::Less) if refused => Action::Refused,
        Some(Ordering::Less) => Action::Update,
    };
    found.iter().map(action).collect()
}

/// Runs the verb. Takes the lock.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`] where the root that runs has not proven itself, or brings no systemd-boot.
pub fn run(host: &Host, progress: &dyn Progress) -> Result<Report> {
    let _lock = host.lock()?;
    let system = host.system()?;
    if !system.is_proven(&system.booted) {
        let message = "updating the boot loader: the root that runs has not proven itself (expected a boot entry without a counter)";
        return Err(Failure::new(FailureKind::Unsuitable, message).hint("wait until `selkie status` shows no tries for it").into());
    }
    update(host, progress)
}

/// The same for a verb that has the lock, on a root that has proven itself.
pub(super) fn update(host: &Host, progress: &dyn Progress) -> Result<Report> {
    walk(host, Some(progress))
}

/// What [`update`] would tell if it has nothing to do, without the lock and without writing; `None` where there is a boot loader to replace.
pub(super) fn nothing_to_update(host: &Host) -> Result<Option<Report>> {
    let report = walk(host, None)?;
    Ok(report.loaders.iter().all(|found| found.action != Action::Update).then_some(report))
}

/// Looks at every boot loader, and replaces what is older if there is somebody to tell about it.
fn walk(host: &Host, replace: Option<&dyn Progress>) -> Result<Report> {
    let offered = Offered::of(host)?;
    let objection = objection(host, &offered.bytes)?;
    let mut report = Report { offered: offered.version.clone(), loaders: Vec::new(), problems: Vec::new() };
    report
        .problems
        .extend(objection.as_ref().map(|why| format!("systemd-boot {} of the image is {why}: it stays where it is", offered.version)));
    let boot = host.boot()?;
    // The one that booted comes last: where a write goes wrong in a way that nobody foresaw, the next boot is still the one that is known.
    let mirrors = boot.mirrors().iter().filter_map(|mirror| mirror.place.as_ref().ok());
    for place in mirrors.chain([boot.place()]) {
        let updated = update_place(place, &offered, objection.is_some(), &mut report.loaders, replace);
        if let Err(error) = updated {
            report.problems.push(format!("updating the boot loader on ESP {}: {error:#}", place.partition()));
        }
    }
    Ok(report)
}

/// Stops at the first that cannot be written: the other one on this ESP still starts.
fn update_place(place: &Place, offered: &Offered, refused: bool, report: &mut Vec<Found>, replace: Option<&dyn Progress>) -> Result<()> {
    let found = place.loaders(&offered.architecture)?;
    let actions = plan(&found, &offered.version, refused);
    for (loader, action) in found.into_iter().zip(actions) {
        if let (Action::Update, Some(progress)) = (action, replace) {
            place.replace_loader(&loader.path, &offered.bytes, progress)?;
        }
        report.push(Found { partition: place.partition().to_owned(), path: loader.path, version: loader.version, action });
    }
    Ok(())
}

/// The versions of systemd-boot on the ESP that booted and in the root that runs, as far as they can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Versions {
    /// The newest on the ESP that booted.
    pub installed: Option<String>,
    /// That of the root that runs.
    pub in_image: Option<String>,
}

/// Reads both versions.
pub(super) fn versions(host: &Host) -> Versions {
    let architecture = store::efi_architecture(&host_architecture()).to_owned();
    let installed = host.boot().ok().and_then(|boot| boot.place().newest_loader(&architecture).ok()?);
    let path = format!("usr/lib/systemd/boot/efi/systemd-boot{architecture}.efi");
    let in_root = |path: &str| Loader::version_of(&dir::read_optional(host.root()?, path).ok()??).ok();
    let in_image = in_root(&format!("{path}.signed")).or_else(|| in_root(&path));
    Versions { installed: installed.map(|(version, _)| version), in_image }
}

/// The boot loader in the image that runs.
pub(super) struct Offered {
    pub(super) architecture: String,
    pub(super) version: String,
    bytes: Vec<u8>,
}

impl Offered {
    pub(super) fn of(host: &Host) -> Result<Self> {
        let store = host.store()?;
        let bootable = Bootable::open(&store, &prune::stored(&store, host.booted())?)?;
        let (architecture, bytes) = bootable.loader(&host_architecture())?;
        let version = Loader::version_of(&bytes).context("looking at the boot loader of the image that runs")?;
        Ok(Self { architecture, version, bytes })
    }
}

/// Why the firmware would not start this loader; `None` where it would, or checks nothing.
fn objection(host: &Host, bytes: &[u8]) -> Result<Option<String>> {
    match host.secure_boot()? {
        SecureBoot::Enforced => Ok(host.trust()?.objection(bytes)),
        SecureBoot::SetupMode | SecureBoot::Off => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_systemd_boot_is_replaced() {
        use Action::{Current, Foreign, Newer, Refused, Update};
        for (version, offered, refused, action) in [
            (Some("257.8-1"), "257.9-1", false, Update),
            (Some("257.8-1"), "257.9-1", true, Refused),
            (Some("257.9-1"), "257.9-1", false, Current),
            (Some("257.9-1"), "257.9-1", true, Current),
            (Some("258"), "257.9-1", false, Newer),
            (Some("258"), "257.9-1", true, Newer),
            (Some("257.9"), "257.10", false, Update),
            (Some("258~rc1"), "258", false, Update),
            (None, "258", false, Foreign),
            (None, "258", true, Foreign),
        ] {
            let found = Loader { path: "EFI/BOOT/BOOTX64.EFI".into(), version: version.map(str::to_owned) };
            assert_eq!(plan(&[found], offered, refused), [action], "{version:?} {offered} {refused}");
        }
    }
}
