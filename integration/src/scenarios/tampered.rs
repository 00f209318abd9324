//! Somebody changes the disk while the machine is off: what was changed is refused, and the console says what is missing; a damaged object comes back from the
//! registry.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Bench, same};
use crate::{
    command::Argv,
    disk::{partition, read_esp, root, write_esp},
    images,
    lab::Lab,
    selkie::Status,
    story::Teller,
    vm::Machine,
};

/// A file that nothing needs to boot, and that is too large to be inside the root image.
const FILE: &str = "/usr/share/common-licenses/GPL-3";
/// A line that no other file has.
const LINE: &str = "  The GNU General Public License is a free, copyleft license for";

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let mut machine = Machine::new(bench.lab, "tampered", &bench.disk, bench.accel)?;
    let (object, length) = object(bench.lab)?;
    flip_a_byte(&machine.disk(), &object)?;
    machine.boot()?;
    let outcome = machine.run(&["cat", FILE])?;
    same("the refusal to read a changed file", outcome.stderr.contains("Input/output error"), true)?;
    same("what was read of it", outcome.stdout.as_str(), "")?;
    let status = Status::of(&mut machine)?;
    status.expect("v1", None, None)?;
    let id = status.booted()?.to_owned();
    tell.say("one flipped byte is an I/O error, never wrong data");

    repair(&mut machine, &object)?;
    machine.cut_power()?;
    machine.boot()?;
    same("what is read after a repair and a power cut", machine.run(&["cat", FILE])?.stdout.len(), length)?;
    tell.say("fsck names the object, fetches it again, and the file reads well after a power cut");
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

/// The object of [`FILE`]: its path on the disk, and its size in bytes. It has the same name in the repository into which v1 was pulled on this machine.
fn object(lab: &Lab) -> Result<(String, usize)> {
    let repository = lab.dir.join("repo");
    let found =
        Argv::new(["grep", "--recursive", "--files-with-matches", "--line-regexp", LINE]).with([repository.join("objects")]).read()?;
    let objects: Vec<&str> = found.lines().collect();
    let &[object] = &objects[..] else { bail!("looking for the object of {FILE}: {objects:?} (expected one)") };
    let path = Path::new(object).strip_prefix(&repository).context("naming the object of a file")?;
    let length = std::fs::metadata(object).with_context(|| format!("looking at {object}"))?.len();
    Ok((format!("/composefs/{}", path.display()), usize::try_from(length).context("measuring an object")?))
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
