//! The disk image that all scenarios boot, and what is checked about it before any machine does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    build::Programs,
    command::Argv,
    lab::Lab,
    registry::Registry,
    scenarios::TAG,
    selkie::{self, Nobody},
    story::Teller,
};

/// Writes the disk image twice, compares the two, and lets the usual checkers look at one.
pub(crate) fn write(lab: &Lab, programs: &Programs, registry: &Registry, tell: &Teller) -> Result<PathBuf> {
    let nobody = Nobody::new(programs)?;
    let outputs = [nobody.file("one.raw"), nobody.file("two.raw")];
    for output in &outputs {
        selkie::disk(&nobody, &registry.here(TAG), &registry.for_guest(TAG), output).read()?;
    }
    Argv::new(["cmp"]).with(&outputs).read().context("comparing two disk images of the same input")?;
    let disk = lab.dir.join("test.raw");
    Argv::new(["cp", "--sparse=always"]).with([&outputs[0], &disk]).read()?;
    check(lab, &disk)?;
    tell.say("both are the same; sgdisk, e2fsck and fsck.vfat find nothing");
    Ok(disk)
}

/// Writes a disk image of `image` for machines that follow `target`, with more arguments of `selkie disk`, as `name` of the lab.
pub(crate) fn write_another(lab: &Lab, programs: &Programs, image: &str, target: &str, more: &[&str], name: &str) -> Result<PathBuf> {
    let nobody = Nobody::new(programs)?;
    let (output, disk) = (nobody.file(name), lab.dir.join(name));
    selkie::disk(&nobody, image, target, &output).with(more).read()?;
    Argv::new(["cp", "--sparse=always"]).with([&output, &disk]).read()?;
    Ok(disk)
}

/// Start and size of a partition in bytes: 0 is the ESP, 1 the root file system.
pub(crate) fn partition(disk: &Path, number: usize) -> Result<(u64, u64)> {
    let table = Argv::new(["sfdisk", "--json"]).with([disk]).read()?;
    let table: serde_json::Value = serde_json::from_str(&table).context("reading the partition table")?;
    let entry = &table["partitiontable"]["partitions"][number];
    let bytes = |key: &str| entry[key].as_u64().map(|sectors| sectors * 512);
    Ok((bytes("start").context("reading a partition's start")?, bytes("size").context("reading a partition's size")?))
}

/// The root file system of a disk image, as e2fsprogs names it.
pub(crate) fn root(disk: &Path) -> Result<String> {
    Ok(format!("{}?offset={}", disk.display(), partition(disk, 1)?.0))
}

/// The EFI system partition of a disk image, as mtools name it.
pub(crate) fn esp(disk: &Path) -> Result<String> {
    Ok(format!("{}@@{}", disk.display(), partition(disk, 0)?.0))
}

/// Reads a file of the EFI system partition.
pub(crate) fn read_esp(disk: &Path, path: &str) -> Result<Vec<u8>> {
    let copy = disk.with_file_name("from-esp");
    Argv::new(["mcopy", "-n", "-o", "-i", &esp(disk)?, &format!("::{path}")]).with([&copy]).read()?;
    std::fs::read(&copy).with_context(|| format!("reading {}", copy.display()))
}

/// Writes a file of the EFI system partition.
pub(crate) fn write_esp(disk: &Path, path: &str, bytes: &[u8]) -> Result<()> {
    let copy = disk.with_file_name("to-esp");
    std::fs::write(&copy, bytes).with_context(|| format!("writing {}", copy.display()))?;
    Argv::new(["mcopy", "-D", "o", "-i", &esp(disk)?]).with([&copy]).with([format!("::{path}")]).read().map(drop)
}

fn check(lab: &Lab, disk: &Path) -> Result<()> {
    let verified = Argv::new(["sgdisk", "-v"]).with([disk]).read()?;
    if !verified.contains("No problems found") {
        bail!("checking the partition table: {verified}");
    }
    let (esp_start, esp_size) = partition(disk, 0)?;
    let esp = lab.dir.join("esp.img");
    let extent = [format!("skip={esp_start}"), format!("count={esp_size}")];
    let names = [format!("if={}", disk.display()), format!("of={}", esp.display())];
    Argv::new(["dd", "status=none", "bs=1M", "iflag=skip_bytes,count_bytes"]).with(extent).with(names).read()?;
    Argv::new(["/sbin/fsck.vfat", "-n"]).with([&esp]).read()?;
    Argv::new(["/sbin/e2fsck", "-fn", &root(disk)?]).read().map(drop)
}
