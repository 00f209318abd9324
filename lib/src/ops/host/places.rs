//! Finding and mounting the places that a machine boots from, in the verb's own mount namespace.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};

use super::Access;
use crate::boot::{Boot, Place};
use crate::deploy::BootPlace;
use crate::error::{Failure, FailureKind};
use crate::sys::partitions::{Devices, ESP, Partition, XBOOTLDR};
use crate::sys::{dir, mount};

/// Mounts the ESP with this partition UUID, and the XBOOTLDR partition of its disk. One that is there and cannot be read is an error: new entries belong
/// there, and a boot loader that can read it would not see those that went elsewhere. `missing` is the error where no disk has it.
pub(super) fn mount(run: &OwnedFd, uuid: &str, access: Access, missing: fn(&str) -> Failure) -> Result<Place> {
    let devices = Devices::running();
    let esp = devices.find(uuid)?.ok_or_else(|| missing(uuid))?;
    mount_partitions(&devices, run, &esp, access)
}

/// The same for the ESP on `device`.
pub(super) fn mount_device(run: &OwnedFd, device: &Path, access: Access) -> Result<Place> {
    let devices = Devices::running();
    let esp = devices.partition(device)?;
    if esp.kind != ESP {
        let message =
            format!("looking at {}: it is a partition of type {} (expected an EFI system partition, {ESP})", device.display(), esp.kind);
        return Err(Failure::new(FailureKind::Unsuitable, message)
            .hint("make one with any partitioning tool, and a FAT32 file system on it (mkfs.vfat -F 32); selkie formats nothing")
            .into());
    }
    mount_partitions(&devices, run, &esp, access)
}

fn mount_partitions(devices: &Devices, run: &OwnedFd, esp: &Partition, access: Access) -> Result<Place> {
    let place = Place::new(&esp.uuid, mount_partition(devices, run, esp, access)?);
    // systemd-boot takes the first one, too.
    match devices.table(&esp.disk)?.iter().find(|partition| partition.kind == XBOOTLDR) {
        Some(xbootldr) => {
            let mounted = mount_partition(devices, run, xbootldr, access);
            Ok(place.with_xbootldr(mounted.context("opening the XBOOTLDR partition beside the ESP")?))
        }
        None => Ok(place),
    }
}

fn mount_partition(devices: &Devices, run: &OwnedFd, partition: &Partition, access: Access) -> Result<OwnedFd> {
    let name = format!("boot/{}", partition.uuid);
    dir::ensure(run, &name, 0o700)?;
    mount::vfat(&devices.node(partition)?, &Path::new("/run/selkie").join(&name), access == Access::Write)?;
    dir::open(run, &name).with_context(|| format!("opening partition {}", partition.uuid))
}

/// No disk has this partition, which is to be kept in step.
pub(super) fn absent(uuid: &str) -> Failure {
    Failure::new(FailureKind::NotFound, format!("looking for partition {uuid}: no disk of this machine has it"))
        .hint(format!("`selkie esp remove {uuid}` if it is gone for good"))
}

/// The disk that the machine booted from has died, or lost this partition: that is no host's, because nothing can be staged on it.
pub(super) fn booted_is_gone(uuid: &str) -> Failure {
    let message =
        format!("looking for ESP {uuid}, which this machine booted from: there is no such device (expected it on one of its disks)");
    Failure::new(FailureKind::NotAHost, message)
        .hint("nothing can be staged until it is back: look at the disks (`lsblk -o NAME,PARTUUID`), or start the machine from another ESP")
}

/// What is wrong with the places beside the one that booted.
pub(super) fn problems(boot: &Boot, records: &Result<Vec<BootPlace>, Failure>) -> Vec<String> {
    let records = match records {
        Ok(records) => records,
        Err(failure) => return vec![failure.message.clone()],
    };
    let booted = boot.place().partition();
    let mut problems = Vec::new();
    if !records.is_empty() && !records.iter().any(|record| record.partition == booted) {
        problems.push(format!(
            "the machine booted from ESP {booted}, which is not among those that are kept in step; `selkie esp add` takes it in"
        ));
    }
    for mirror in boot.mirrors() {
        let partition = &mirror.partition;
        let state = match &mirror.place {
            Err(failure) => Some(format!("ESP {partition} is out of reach: {}", failure.message)),
            Ok(place) => match place.steps_after(boot.place()) {
                Ok(steps) => {
                    steps.reason().map(|reason| format!("ESP {partition} is not in step: {reason}; `selkie esp sync` brings it in step"))
                }
                Err(error) => Some(format!("ESP {partition}: {error:#}")),
            },
        };
        problems.extend(state);
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_esp_that_booted_this_is_no_host_and_without_another_one_is_missing() {
        let (gone, other) = (booted_is_gone("ab-cd"), absent("ab-cd"));
        assert_eq!((gone.kind.exit_code(), other.kind.exit_code()), (10, 3));
        assert!(gone.message.contains("ab-cd") && gone.message.contains("there is no such device"), "{gone:?}");
        assert!(!gone.hint.unwrap().contains("esp remove"));
    }
}
