//! `selkie boot-once`: the next boot is of another root; the one after that is the default again.

use anyhow::Result;
use serde::Serialize;

use super::host::Host;
use crate::boot::BootEntry;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::system::System;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The root that boots next, once; none after [`cancel`].
    pub once: Option<ImageId>,
    /// Its number.
    pub number: Option<u64>,
    /// What boots after that, as ever.
    pub default: Option<ImageId>,
}

/// Tells the boot loader to start the generation that `asked` names, once.
///
/// # Errors
///
/// [`FailureKind::NotFound`] where there is none of that name, or none that has an entry with all that it needs.
pub fn run(host: &Host, asked: &str, progress: &dyn Progress) -> Result<Report> {
    let _lock = host.lock()?;
    let system = host.system()?;
    let id = system.find(asked)?;
    let entry = bootable(&system, id).ok_or_else(|| {
        let message = format!("booting {} once: it has no boot entry with all that it needs on the ESP (expected one)", id.short());
        Failure::new(FailureKind::NotFound, message).hint("`selkie rollback ID` makes one, and changes the default")
    })?;
    host.boot_once(Some(entry))?;
    progress.step("set one boot");
    Ok(report(&system, Some(id)))
}

/// Takes that back.
pub fn cancel(host: &Host, progress: &dyn Progress) -> Result<Report> {
    let _lock = host.lock()?;
    host.boot_once(None)?;
    progress.step("cancel one boot");
    Ok(report(&host.system()?, None))
}

/// Of several entries of one root, the one that is known to boot comes before one that is on trial.
fn bootable<'a>(system: &'a System, id: &ImageId) -> Option<&'a BootEntry> {
    let entries = || system.entries.iter().filter(|entry| entry.image == *id && system.can_boot(entry));
    entries().find(|entry| entry.tries.is_none()).or_else(|| entries().next())
}

fn report(system: &System, once: Option<&ImageId>) -> Report {
    Report { once: once.cloned(), number: once.and_then(|id| system.number(id)), default: system.default_entry().map(|e| e.image.clone()) }
}
