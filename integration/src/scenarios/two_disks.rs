//! A machine with a second disk: its ESP and XBOOTLDR partition are kept in step, and when the first disk has no boot loader any more, the machine boots
//! from the second, and goes on from there.
//!
//! The power is cut between boots: that is what a lost disk looks like, and shutting down is not the point.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, same};
use crate::{command::Argv, disk, images, selkie::Status, story::Teller, vm::Machine};

const MIB: u64 = 1 << 20;
/// Start and size of the ESP on the second disk.
const ESP: (u64, u64) = (MIB, 64 * MIB);
/// Start and size of the XBOOTLDR partition behind it.
const XBOOTLDR: (u64, u64) = (65 * MIB, 300 * MIB);

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let second = second_disk(bench)?;
    let mut machine = Machine::new(bench.lab, "two-disks", &first_disk(bench)?, bench.accel)?.with_second_disk(&second)?;
    machine.boot()?;
    machine.settle()?;
    same("failed units", machine.shell("systemctl list-units --failed --no-legend --plain")?.as_str(), "")?;

    machine.read(&["selkie", "esp", "add", "/dev/vdb1"])?;
    let places = places(&mut machine)?;
    same("the number of ESPs", places.len(), 2)?;
    same("the ESP that booted", &places[0]["role"], &Value::from("booted"))?;
    let partition = places[1]["partition"].as_str().context("reading selkie esp list: no partition")?.to_owned();
    is_in_step(&mut machine)?;
    tell.say("the second disk's ESP is in step, with kernels on its XBOOTLDR partition");

    bench.publish(&images::release("v2"))?;
    machine.read(&["selkie", "upgrade"])?;
    is_in_step(&mut machine)?;
    machine.cut_power()?;
    machine.boot()?;
    Status::of(&mut machine)?.expect("v2", None, Some("v1"))?;
    // The counter goes when the boot was good, and then the mirror follows.
    machine.settle()?;
    same("failed units", machine.shell("systemctl list-units --failed --no-legend --plain")?.as_str(), "")?;
    is_in_step(&mut machine)?;
    machine.cut_power()?;
    tell.say("v2 is up and has proven itself, and the second disk has it");

    for path in ["::/EFI/BOOT/BOOTX64.EFI", "::/EFI/systemd/systemd-bootx64.efi"] {
        Argv::new(["mdel", "-i", &disk::esp(&machine.disk())?, path]).read()?;
    }
    machine.boot()?;
    machine.settle()?;
    Status::of(&mut machine)?.expect("v2", None, Some("v1"))?;
    let list = self::places(&mut machine)?;
    same("the ESP that booted", &list[0]["partition"], &Value::from(partition.as_str()))?;
    same("its XBOOTLDR partition", &list[0]["xbootldr"], &Value::from(true))?;
    tell.say("without a boot loader on the first disk, v2 boots from the second");

    bench.publish(&images::release("v3"))?;
    machine.read(&["selkie", "upgrade"])?;
    Status::of(&mut machine)?.expect("v2", Some("v3"), Some("v2"))?;
    is_in_step(&mut machine)?;
    machine.cut_power()?;
    machine.boot()?;
    Status::of(&mut machine)?.expect("v3", None, Some("v2"))?;
    machine.settle()?;
    is_in_step(&mut machine)?;
    tell.say("v3, installed from there, is up, and the first disk's ESP has followed");
    Ok(())
}

/// A disk of release v1 whose root is named: `root=gpt-auto` would look for it on the disk that booted.
fn first_disk(bench: &Bench<'_>) -> Result<PathBuf> {
    let root = ["--karg", "root=PARTLABEL=root"];
    disk::write_another(bench.lab, bench.programs, &bench.here(), &bench.followed(), &root, "two-disks.raw")
}

/// A disk with an empty ESP and an empty XBOOTLDR partition.
fn second_disk(bench: &Bench<'_>) -> Result<PathBuf> {
    let disk = bench.lab.dir.join("second.raw");
    let file = std::fs::File::create(&disk).context("making the second disk")?;
    file.set_len(XBOOTLDR.0 + XBOOTLDR.1 + MIB).context("making the second disk")?;
    let kinds = ["1:c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "2:bc13c2ff-59e6-4262-a352-b275fd6f7172"];
    let extent = |number: u32, (start, size): (u64, u64)| format!("--new={number}:{}:{}", start / 512, (start + size) / 512 - 1);
    let sgdisk = Argv::new(["sgdisk", &extent(1, ESP), &extent(2, XBOOTLDR)]).with(kinds.map(|kind| format!("--typecode={kind}")));
    sgdisk.with([&disk]).read()?;
    for (start, size) in [ESP, XBOOTLDR] {
        format(bench, &disk, start, size)?;
    }
    Ok(disk)
}

/// Puts a FAT32 file system into a part of a disk.
fn format(bench: &Bench<'_>, disk: &Path, start: u64, size: u64) -> Result<()> {
    let image = bench.lab.dir.join("second-part.img");
    std::fs::File::create(&image).and_then(|file| file.set_len(size)).context("making a file system")?;
    Argv::new(["/sbin/mkfs.vfat", "-F", "32"]).with([&image]).read()?;
    let names = [format!("if={}", image.display()), format!("of={}", disk.display()), format!("seek={}", start / MIB)];
    Argv::new(["dd", "status=none", "bs=1M", "conv=notrunc,sparse"]).with(names).read().map(drop)
}

fn places(machine: &mut Machine) -> Result<Vec<Value>> {
    let list = machine.json(&["selkie", "esp", "list", "--json"])?;
    Ok(list["places"].as_array().context("reading selkie esp list: no places")?.clone())
}

/// Both are in step, and status finds nothing wrong. The mirror follows a good boot by a unit that may still be running.
fn is_in_step(machine: &mut Machine) -> Result<()> {
    machine.shell("systemctl is-active --quiet selkie-esp.service || systemctl start selkie-esp.service")?;
    let places = places(machine)?;
    let states: Vec<&Value> = places.iter().map(|place| &place["in-step"]).collect();
    same(&format!("the state of each ESP: {places:#?}"), states.as_slice(), &[&Value::from(true), &Value::from(true)])?;
    same("problems", Status::of(machine)?.get("/problems"), &Value::Array(Vec::new()))
}
