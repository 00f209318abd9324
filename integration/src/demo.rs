//! `cargo xtask demo`: the whole thread as a story, from a Containerfile to a machine that upgrades itself and goes back.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    build::{self, Programs},
    cli::{DemoOptions, LabOptions},
    images::{self, Images},
    lab::Lab,
    packages,
    registry::{self, Registry},
    room::{self, GB},
    selkie::{self, Nobody, Status},
    story::{Story, Teller},
    vm::{Accel, Machine},
};

/// The repository and tag that the demo's machine follows.
const TAG: &str = "os:stable";

/// Room below the clone: a release build, three images and the disks of one machine.
const NEEDED: u64 = 8 * GB;

/// Tells the story.
pub(crate) fn run(options: &DemoOptions) -> Result<()> {
    let lab = Lab::open()?;
    room::check(&lab, "telling the story", NEEDED)?;
    let options = &options.lab;
    let mut story = Story::new("From a Containerfile to a machine that boots, upgrades itself from a registry, and goes back");
    story.step("installing what is missing", |tell| packages::install_missing(&lab, tell))?;
    let programs = story.step("building selkie (release)", |_| build::release(&lab))?;
    let images = Images::new(&lab)?;
    let port = registry::choose_port(&lab)?;
    build_images(&mut story, &images, options, &programs, port)?;

    let registry = story.step("starting a registry and pushing v1", |tell| {
        let registry = Registry::start(&lab, port, options.keep)?;
        images.push(&images::release("v1"), &registry.here(TAG))?;
        tell.say(format!("{} is v1", registry.here(TAG)));
        Ok(registry)
    })?;
    let disk = story.step("writing a disk image, as user nobody", |tell| write_disk(&lab, &programs, &registry, tell))?;
    let accel = story.step("finding out how virtual machines run here", |tell| {
        let accel = Accel::choose(&lab, options.accel, &images.kernel(images::DEBIAN)?)?;
        tell.say(accel.to_string());
        Ok(accel)
    })?;
    let mut machine = Machine::new(&lab, "demo", &disk, accel)?;
    let told = tell_machine(&mut story, &mut machine, &images, &registry);
    let cleaned = story.step("cleaning up", |tell| clean_up(&lab, machine, registry, options, tell));
    told?;
    cleaned?;
    story.table();
    Ok(())
}

fn build_images(story: &mut Story, images: &Images<'_>, options: &LabOptions, programs: &Programs, port: u16) -> Result<()> {
    let base = options.base.as_deref();
    story.step("making the Debian base image", |tell| images.base(base, tell).map(drop))?;
    story.step("building images from containerfiles/", |tell| {
        images.selkie(base, programs, tell)?;
        images.releases(port, tell)
    })
}

fn write_disk(lab: &Lab, programs: &Programs, registry: &Registry, tell: &Teller) -> Result<PathBuf> {
    let nobody = Nobody::new(programs)?;
    let output = nobody.file("os.raw");
    let argv = selkie::disk(&nobody, &registry.here(TAG), &registry.for_guest(TAG), &output);
    let shown = argv.to_string();
    let shown = shown.split_once("/selkie ").map_or(shown.as_str(), |(_, words)| words);
    tell.quote(&format!("selkie {shown}"), &argv.read()?);
    let disk = lab.dir.join("demo.raw");
    crate::command::Argv::new(["cp", "--sparse=always"]).with([&output, &disk]).read()?;
    let size = fs::metadata(&disk).context("looking at the disk image")?.len();
    tell.say(format!("a disk of {} MiB, made without root, loop device, mount or container", size >> 20));
    Ok(disk)
}

fn tell_machine(story: &mut Story, machine: &mut Machine, images: &Images<'_>, registry: &Registry) -> Result<()> {
    story.step("booting it: UEFI firmware, systemd-boot, kernel, composefs root", |tell| {
        tell.say("waiting for the machine to answer; its console is in target/lab/vm/demo/serial.log");
        machine.boot()?;
        show(machine, tell, "selkie status")?;
        show(machine, tell, "findmnt -no SOURCE,FSTYPE,OPTIONS /")?;
        Status::of(machine)?.expect("v1", None, None)
    })?;
    story.step("changing the machine: a file in /etc, a file in /var", |tell| {
        show(machine, tell, "echo 'kept by the host' > /etc/lab/mine.conf; echo data > /var/lib/mine; ls /etc/lab")
    })?;
    story.step("pushing v2 to the same tag", |_| images.push(&images::release("v2"), &registry.here(TAG)))?;
    story.step("upgrading inside the machine", |tell| {
        tell.say("it fetches one small layer and builds the new root");
        show(machine, tell, "selkie upgrade")?;
        Status::of(machine)?.expect("v1", Some("v2"), Some("v1"))
    })?;
    story.step("rebooting into v2", |tell| {
        tell.say("waiting for the machine to go down and come up again");
        machine.reboot()?;
        show(machine, tell, "selkie status")?;
        show(machine, tell, "cat /usr/share/lab/release /etc/lab/mine.conf /var/lib/mine")?;
        Status::of(machine)?.expect("v2", None, Some("v1"))
    })?;
    story.step("going back", |tell| show(machine, tell, "selkie rollback"))?;
    story.step("rebooting into v1", |tell| {
        tell.say("waiting for the machine to go down and come up again");
        machine.reboot()?;
        show(machine, tell, "selkie status")?;
        show(machine, tell, "cat /usr/share/lab/release")?;
        Status::of(machine)?.expect("v1", None, Some("v2"))
    })
}

/// Runs a command line in the guest and shows both it and its output.
fn show(machine: &mut Machine, tell: &Teller, script: &str) -> Result<()> {
    let answer = machine.shell(script)?;
    tell.quote(script, &answer);
    Ok(())
}

fn clean_up(lab: &Lab, machine: Machine, registry: Registry, options: &LabOptions, tell: &Teller) -> Result<()> {
    drop((machine, registry));
    if options.keep {
        tell.say(format!("kept: {} (disk, firmware variables, console)", lab.dir.join("vm/demo").display()));
        return Ok(());
    }
    for path in [lab.dir.join("demo.raw"), lab.dir.join("vm/demo/disk.raw")] {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    tell.say("machine, disk and registry are gone; images stay in target/lab/containers for the next time");
    Ok(())
}
