//! A virtual machine: a QEMU process with UEFI firmware, one disk, user-mode networking and a channel to its guest agent.

mod accel;
mod agent;
mod machine;

pub(crate) use accel::Accel;
pub(crate) use machine::Machine;

use anyhow::Result;

use crate::{
    cli::VmOptions,
    images::{self, Images},
    lab::Lab,
    story::Story,
};

/// `cargo xtask vm`: boots a disk image and runs commands, to look at things by hand.
pub(crate) fn run(options: &VmOptions) -> Result<()> {
    let lab = Lab::open()?;
    let kernel = Images::new(&lab)?.kernel(images::DEBIAN)?;
    let accel = Accel::choose(&lab, options.accel, &kernel)?;
    let mut machine = Machine::new(&lab, "by-hand", &options.disk, accel)?;
    let mut story = Story::new(&format!("{} in a virtual machine", options.disk.display()));
    story.step("booting", |_| machine.boot())?;
    for command in &options.command {
        story.step(command, |tell| {
            match command.as_str() {
                "reboot" => drop(machine.reboot()?),
                "power-cut" => {
                    machine.cut_power()?;
                    machine.boot()?;
                }
                _ => {
                    let outcome = machine.run(&["/bin/sh", "-c", command])?;
                    tell.say(format!("{}{}exit code {}", outcome.stdout, outcome.stderr, outcome.code));
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}
