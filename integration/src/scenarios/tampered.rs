//! Somebody changes the disk while the machine is off: what was changed is refused, and the console says what is missing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, same};
use crate::{
    command::Argv,
    disk::{partition, read_esp, root, write_esp},
    images,
    selkie::Status,
    story::Teller,
    vm::Machine,
};

/// A file that nothing needs to boot, and that is too large to be inside the root image.
const FILE: &str = "/usr/share/common-licenses/GPL-3";

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    let mut machine = Machine::new(bench.lab, "tampered", &bench.disk, bench.accel)?;
    let Flipped { id, object, .. } = flipped(bench, &mut machine, tell)?;
    machine.shell("sync")?;
    machine.cut_power()?;

    swap_the_image(&machine.disk(), &id, &object)?;
    machine.boot_until("its fs-verity digest is")?;
    machine.cut_power()?;
    tell.say("another file in the place of the root image stops in the initramfs, and the console names its digest");

    boot_another_image(&machine.disk(), &id)?;
    machine.boot_until("looking for the root image: composefs/images has none of")?;
    machine.cut_power()?;
    tell.say("an entry for an image that is not there stops in the initramfs, and the console says so");

    unseal(&machine.disk())?;
    machine.boot_until("looking for fs-verity on meta.json")?;
    tell.say("a repository that has lost its seal stops in the initramfs, and the console says so");
    Ok(())
}

/// Runs the scenario of a repair.
pub(crate) fn run_repair(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    let mut machine = Machine::new(bench.lab, "damaged-object", &bench.disk, bench.accel)?;
    let Flipped { object, length, .. } = flipped(bench, &mut machine, tell)?;
    repair(&mut machine, &object)?;
    machine.cut_power()?;
    machine.boot()?;
    let read = machine.run(&["cat", FILE])?;
    same("what is read after a repair and a power cut", read.stdout.len(), length)?;
    tell.say("fsck names the object, fetches it again, and the file reads well after a power cut");
    Ok(())
}

/// A machine with one flipped byte in the object of a file.
struct Flipped {
    /// The root that runs.
    id: String,
    /// The path of the object, from the physical root.
    object: String,
    /// How many bytes the file has.
    length: usize,
}

fn flipped(bench: &Bench<'_>, machine: &mut Machine, tell: &Teller) -> Result<Flipped> {
    bench.publish(&images::release("v1"))?;
    machine.boot()?;
    let id = Status::of(machine)?.booted()?.to_owned();
    let length = machine.run(&["cat", FILE])?.stdout.len();
    let search = format!("find /sysroot/composefs/objects -type f -size $(stat -c %s {FILE})c -exec cmp -s {{}} {FILE} \\; -print");
    let object = machine.shell(&search)?;
    let object = object.strip_prefix("/sysroot").context("finding the object of a file: it is not in the repository")?.to_owned();
    machine.shell("sync")?;
    machine.cut_power()?;

    flip_a_byte(&machine.disk(), &object)?;
    machine.boot()?;
    let outcome = machine.run(&["cat", FILE])?;
    same("the refusal to read a changed file", outcome.stderr.contains("Input/output error"), true)?;
    same("what was read of it", outcome.stdout.as_str(), "")?;
    Status::of(machine)?.expect("v1", None, None)?;
    tell.say("one flipped byte is an I/O error, never wrong data");
    Ok(Flipped { id, object, length })
}

/// The changed object is found and named, and comes back from the registry.
fn repair(machine: &mut Machine, object: &str) -> Result<()> {
    let name = object.trim_start_matches("/composefs/objects/").replace('/', "");
    let looked = machine.run(&["selkie", "fsck", "--json"])?;
    let report: Value = serde_json::from_str(&looked.stdout).context("reading the report of fsck")?;
    let findings: Vec<_> = report["findings"].as_array().into_iter().flatten().collect();
    same("the number of things that fsck found", findings.len(), 1)?;
    for (field, expected) in [("kind", "object"), ("name", &*name), ("damage", "changed"), ("remedy", "fetch")] {
        same(field, findings[0][field].as_str(), Some(expected))?;
    }
    same("the exit code of fsck", looked.code, 1)?;
    same("the exit code of a repair", machine.run(&["selkie", "fsck", "--repair"])?.code, 20)?;
    same("the exit code of fsck after it", machine.run(&["selkie", "fsck"])?.code, 0)
}

/// Changes one byte in the middle of a file's first block.
fn flip_a_byte(disk: &Path, path: &str) -> Result<()> {
    let blocks = Argv::new(["/sbin/debugfs", "-R", &format!("blocks {path}"), &root(disk)?]).read()?;
    let block: u64 =
        blocks.split_whitespace().next().context("finding the blocks of an object")?.parse().context("reading a block number")?;
    let at = partition(disk, 1)?.0 + block * 4096 + 100;
    let image = File::options().read(true).write(true).open(disk).context("opening the disk image")?;
    let mut byte = [0];
    image.read_exact_at(&mut byte, at).context("reading the disk image")?;
    image.write_all_at(&[byte[0] ^ 1], at).context("changing the disk image")
}

/// Gives the name of the root image to another object, whose own fs-verity is in order.
fn swap_the_image(disk: &Path, id: &str, object: &str) -> Result<()> {
    // The power was cut: the journal goes first.
    Argv::new(["/sbin/e2fsck", "-p", &root(disk)?]).output()?;
    change(disk, &format!("rm /composefs/images/{id}"))?;
    change(disk, &format!("symlink /composefs/images/{id} ..{}", object.trim_start_matches("/composefs")))
}

/// Takes fs-verity away from the file that says that everything has it.
fn unseal(disk: &Path) -> Result<()> {
    const EXTENTS: &str = "0x80000";
    change(disk, &format!("set_inode_field /composefs/meta.json flags {EXTENTS}"))
}

fn change(disk: &Path, request: &str) -> Result<()> {
    Argv::new(["/sbin/debugfs", "-w", "-R", request, &root(disk)?]).read().map(drop)
}

/// Makes the boot entry name an image that is not in the repository.
fn boot_another_image(disk: &Path, id: &str) -> Result<()> {
    let path = format!("/loader/entries/selkie-{}-1.conf", &id[..12]);
    let entry = String::from_utf8(read_esp(disk, &path)?).context("reading a boot entry")?;
    write_esp(disk, &path, entry.replace(id, &"0".repeat(id.len())).as_bytes())
}
