//! A virtual machine: a QEMU process with UEFI firmware, one disk, user-mode networking and a channel to its guest agent.

mod accel;
mod agent;
mod machine;
mod monitor;

pub(crate) use accel::Accel;
pub(crate) use machine::{MEMORY, Machine};

use std::{fs::File, io::Read, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    cli::{AccelChoice, VmOptions},
    images::{self, Images},
    lab::Lab,
    story::Story,
};

/// `cargo xtask vm`: boots a disk image and runs commands, to look at things by hand.
pub(crate) fn run(options: &VmOptions) -> Result<()> {
    check_disk(&options.disk)?;
    let lab = Lab::open()?;
    let accel = match options.accel {
        AccelChoice::Tcg => Accel::Tcg,
        choice => Accel::choose(&lab, choice, &probe_kernel(&lab)?)?,
    };
    let mut machine = Machine::new(&lab, "by-hand", &options.disk, accel)?;
    let mut story = Story::new(&format!("{} in a virtual machine", options.disk.display()));
    story.step("booting", |tell| {
        tell.say(format!("by {accel}; disk and console are in {}", lab.dir.join("vm/by-hand").display()));
        machine.boot().map(drop)
    })?;
    let limit = Duration::from_secs(options.limit);
    let mut failed = Vec::new();
    for command in &options.command {
        story.step(command, |tell| {
            match command.as_str() {
                "reboot" => drop(machine.reboot()?),
                "power-cut" => {
                    machine.cut_power()?;
                    machine.boot()?;
                }
                _ => {
                    let outcome = machine.run_within(&["/bin/sh", "-c", command], limit);
                    let outcome = outcome.with_context(|| format!("running {command:?} (--limit SECONDS gives it more time)"))?;
                    tell.say(format!("{}{}exit code {}", outcome.stdout, outcome.stderr, outcome.code));
                    failed.extend((outcome.code != 0).then_some(command.as_str()));
                }
            }
            Ok(())
        })?;
    }
    if !failed.is_empty() {
        bail!("running commands in the guest: {} of {} failed: {}", failed.len(), options.command.len(), failed.join("; "));
    }
    Ok(())
}

/// A disk image that is not there, or in another format, would be seen only as a machine that does not boot.
fn check_disk(disk: &Path) -> Result<()> {
    const QCOW2: &[u8] = b"QFI\xfb";
    const EXPECTED: &str = "expected a disk image in raw format, as `selkie disk` makes it, of an image with qemu-guest-agent in it";
    let mut magic = Vec::new();
    let file = File::open(disk).with_context(|| format!("opening {} ({EXPECTED})", disk.display()))?;
    file.take(QCOW2.len() as u64).read_to_end(&mut magic).with_context(|| format!("reading {} ({EXPECTED})", disk.display()))?;
    if magic == QCOW2 {
        bail!("opening {0}: it is in QEMU's format ({EXPECTED}; `qemu-img convert -O raw {0} NEW` makes that of it)", disk.display());
    }
    Ok(())
}

/// The kernel of an image of the lab, to find out with whether guests run on the hardware.
fn probe_kernel(lab: &Lab) -> Result<std::path::PathBuf> {
    let kernel = Images::new(lab)?.kernel(images::DEBIAN);
    kernel.context("looking for a kernel to try the hardware with (`cargo xtask images` builds it; --accel tcg needs none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_raw_disk_image_is_told_before_it_is_booted() {
        let temp = tempfile::tempdir().unwrap();
        let disk = temp.path().join("disk");
        let told = || format!("{:#}", check_disk(&disk).unwrap_err());
        assert!(told().contains("No such file") && told().contains("expected a disk image in raw format"), "{}", told());
        std::fs::write(&disk, b"QFI\xfb\x00\x00\x00\x03").unwrap();
        assert!(told().contains("qemu-img convert"), "{}", told());
        std::fs::write(&disk, [0; 512]).unwrap();
        check_disk(&disk).unwrap();
    }
}
