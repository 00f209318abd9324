//! `selkie status`: what runs, what boots next, where one can go back to. Degrades per entry; never fails as a whole.

use serde::Serialize;

use super::auto_update::{self, Automatic};
use super::host::Host;
use crate::boot::{BootEntry, Tries};
use crate::calendar;
use crate::deploy::FailedBoot;
use crate::image_id::ImageId;
use crate::sys::clock;
use crate::system::System;

/// The machine, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// What `/` is mounted from.
    pub booted: Deployment,
    /// What boots next, if that is another root.
    pub staged: Option<Deployment>,
    /// What boots next instead, once.
    pub once: Option<Deployment>,
    /// Where `selkie rollback` goes.
    pub rollback: Option<Deployment>,
    /// Everything else that can boot.
    pub other: Vec<Deployment>,
    /// Roots that failed on this machine, with the reason; they may be among the others, or gone.
    pub failed: Vec<FailedBoot>,
    /// What the machine does by itself about updates; `None` where that cannot be read.
    pub automatic: Option<Automatic>,
    /// Boot entries that are not ours, by file name.
    pub foreign_entries: Vec<String>,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// One root, with where it came from as far as that can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Deployment {
    /// fs-verity digest of the root image.
    pub id: ImageId,
    /// The reference that it follows.
    pub image: Option<String>,
    /// Digest of its manifest.
    pub manifest_digest: Option<String>,
    /// Version, as the image calls it.
    pub os_version: Option<String>,
    /// Name, as os-release calls it.
    pub os_name: Option<String>,
    /// Kernel arguments that it boots with, without the root image.
    pub kernel_arguments: Option<String>,
    /// Whether it boots by a unified kernel image that names its root; unknown without an entry.
    pub sealed: Option<bool>,
    /// Whether it boots only with fs-verity; unknown without an entry.
    pub verity_required: Option<bool>,
    /// Boot counting, while its entry has not proven itself.
    pub tries: Option<Tries>,
    /// Boot entry file, where it has one.
    pub entry: Option<String>,
    /// Order of activation.
    pub serial: Option<u64>,
    /// Its number on this machine, as in `selkie list`.
    pub number: Option<u64>,
    /// When it was staged last, as RFC 3339 has it.
    pub date: Option<String>,
    /// Whether it stays until it is unpinned.
    pub pinned: bool,
}

/// Reads the machine, as far as it can be read; what cannot is among the problems.
pub fn run(host: &Host) -> Status {
    let mut status = status(&host.survey());
    // Why the state directory is out of reach, where it is, is among the problems already.
    if let Ok(deployments) = host.deployments() {
        let (record, unreadable) = deployments.auto_update();
        status.automatic = Some(auto_update::summary(&host.config().update, &record, clock::seconds()));
        status.problems.extend(unreadable);
    }
    status
}

/// The same from a machine that was loaded before.
pub fn status(system: &System) -> Status {
    let of = |id: &ImageId| deployment(system, id, system.entry(id));
    let booted = of(&system.booted);
    let (staged, rollback) = (system.staged().map(|e| of(&e.image)), system.rollback_target().map(of));
    let once = system.once.as_ref().map(of);
    let named: Vec<&ImageId> =
        [Some(&booted), staged.as_ref(), once.as_ref(), rollback.as_ref()].into_iter().flatten().map(|d| &d.id).collect();
    let other = system.entries.iter().filter(|e| !named.contains(&&e.image)).map(|e| deployment(system, &e.image, Some(e))).collect();
    let (failed, foreign_entries, problems) = (system.failed.clone(), system.foreign.clone(), system.problems.clone());
    Status { booted, staged, once, rollback, other, failed, automatic: None, foreign_entries, problems }
}

fn deployment(system: &System, id: &ImageId, entry: Option<&BootEntry>) -> Deployment {
    let origin = system.origin(id).ok();
    Deployment {
        id: id.clone(),
        image: origin.map(|o| o.image.clone()),
        manifest_digest: origin.map(|o| o.manifest_digest.clone()),
        os_version: origin.and_then(|o| o.os_version.clone()),
        os_name: origin.and_then(|o| o.os_name.clone()),
        kernel_arguments: match entry.filter(|e| e.uki.is_some()) {
            Some(sealed) => Some(sealed.arguments.to_string()),
            None => origin.map(|o| o.kernel_arguments.clone()),
        },
        sealed: entry.map(|e| e.uki.is_some()),
        verity_required: entry.map(|e| e.verity_required),
        tries: entry.and_then(|e| e.tries),
        entry: entry.map(|e| e.file.clone()),
        serial: entry.map(|e| e.serial),
        number: system.number(id),
        date: origin.and_then(|o| o.staged).and_then(calendar::rfc3339),
        pinned: system.deployments.iter().any(|d| d.id == *id && d.pinned),
    }
}
