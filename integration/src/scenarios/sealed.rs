//! Secure Boot enforced, from keys that the disk image brings: a sealed image boots and is proven; one byte changed, or no signature, and the
//! firmware refuses, and the machine comes up on the root before.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Bench, same};
use crate::{
    command::Argv,
    disk::{read_esp, write_esp},
    images,
    keys::Keys,
    selkie::{self, Status},
    story::Teller,
    vm::Machine,
};

/// The tag that the machine follows.
const SEALED: &str = "os:sealed";
/// What systemd-boot says when the firmware refuses to start something: `EFI_ACCESS_DENIED` in words.
const REFUSED: &str = "access denied";
/// How often the boot loader tries a new root.
const TRIES: usize = 3;

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    let keys = Keys::make(bench.lab)?;
    let v1 = seal(bench, Some(&keys), "v1", SEALED)?;
    same("the boot image of the sealed image", &v1["boot-image"], &bench.pulled["boot-image"])?;
    same("its digest, computed anew", digest(bench)?, v1["boot-image"].clone())?;
    let disk = disk(bench, &keys)?;
    let mut machine = Machine::new(bench.lab, "sealed", &disk, bench.accel)?.with_secure_boot();
    let took = machine.boot()?;
    tell.say(format!("keys are enrolled, and v1 is up after {} s", took.as_secs()));
    proven(&mut machine, &v1, &bench.registry.for_guest(SEALED))?;
    tell.say("v1 is proven, from the firmware to every object");
    boots_with_its_own_arguments(&mut machine, &v1)?;

    let v2 = seal(bench, Some(&keys), "v2", SEALED)?;
    let uki = upgraded(&mut machine, &["selkie", "upgrade"])?;
    let good = read_esp(&machine.disk(), &uki)?;
    write_esp(&machine.disk(), &uki, &with_another_command_line(&good)?)?;
    for _ in 0..TRIES {
        machine.boot_until(REFUSED)?;
        machine.cut_power()?;
    }
    machine.boot()?;
    machine.settle()?;
    same("the release that runs", Status::of(&mut machine)?.text("/booted/os-version")?, "v1")?;
    tell.say(format!("with one byte of its command line changed v2 does not boot; after {TRIES} tries v1 is up by itself"));

    // Nobody takes again by itself what was given up. Staging it on request repairs the file, and gives it new tries.
    same("the exit code of an upgrade to what was given up", machine.run(&["selkie", "upgrade"])?.code, 1)?;
    same("the file", upgraded(&mut machine, &["selkie", "upgrade", "--retry"])?.as_str(), uki.as_str())?;
    same("the repaired file", read_esp(&machine.disk(), &uki)? == good, true)?;
    write_esp(&machine.disk(), &uki, &unsigned(bench, &good)?)?;
    machine.boot_until(REFUSED)?;
    machine.cut_power()?;
    tell.say("without its signature v2 does not boot");
    write_esp(&machine.disk(), &uki, &good)?;
    let took = machine.boot()?;
    proven(&mut machine, &v2, &bench.registry.for_guest(SEALED))?;
    tell.say(format!("as it was sealed, v2 is up after {} s, and proven", took.as_secs()));
    machine.settle()?;
    same("the counter of tries after a good boot", Status::of(&mut machine)?.get("/booted/tries"), &Value::Null)?;

    let plain = machine.run(&["selkie", "switch", &bench.registry.for_guest("os:plain-v1")])?;
    same("the exit code of a switch to what the firmware would not start", plain.code, 7)?;
    same("what boots next", Status::of(&mut machine)?.get("/staged"), &Value::Null)?;
    tell.say("an image that the firmware would not start is refused beforehand");
    Ok(())
}

/// Seals a release, pushes it to `tag`, and tells what `selkie seal --json` says.
pub(super) fn seal(bench: &Bench<'_>, keys: Option<&Keys>, version: &str, tag: &str) -> Result<Value> {
    let plain = format!("os:plain-{version}");
    bench.images.push(&images::release(version), &bench.registry.here(&plain))?;
    let mut argv = Argv::new([&bench.programs.selkie])
        .with(["seal", &bench.registry.here(&plain), "--tls-verify=false", "--json", "--output", &bench.registry.here(tag)])
        .with([Path::new("--scratch"), &bench.lab.dir])
        .with(selkie::kargs());
    if let Some([key, certificate]) = keys.map(Keys::signing) {
        argv = argv.with(["--key".into(), key, "--cert".into(), certificate]);
    }
    json(&argv)
}

/// The boot image of what the tag names, by `selkie digest`.
fn digest(bench: &Bench<'_>) -> Result<Value> {
    let argv = Argv::new([&bench.programs.selkie]).with(["digest", &bench.registry.here(SEALED), "--tls-verify=false", "--json"]);
    Ok(json(&argv)?["boot-image"].clone())
}

fn disk(bench: &Bench<'_>, keys: &Keys) -> Result<PathBuf> {
    let output = bench.lab.dir.join("sealed.raw");
    let _ = std::fs::remove_file(&output);
    Argv::new([&bench.programs.selkie])
        .with(["disk", &bench.registry.here(SEALED), "--tls-verify=false", "--target-image", &bench.registry.for_guest(SEALED)])
        .with([Path::new("--output"), &output, Path::new("--secure-boot-keys"), keys.dir()])
        .read()?;
    Ok(output)
}

fn json(argv: &Argv) -> Result<Value> {
    let text = argv.read()?;
    serde_json::from_str(&text).with_context(|| format!("reading the output of {argv}: {text}"))
}

/// The machine runs `sealed` and can prove it.
fn proven(machine: &mut Machine, sealed: &Value, reference: &str) -> Result<()> {
    let outcome = machine.run(&["selkie", "verify", "--deep", "--against", reference, "--json"])?;
    let report: Value = serde_json::from_str(&outcome.stdout).with_context(|| format!("reading selkie verify: {outcome:?}"))?;
    if outcome.code != 0 || report["proven"] != true {
        bail!("verifying: {report:#}");
    }
    same("the root that is proven", &report["booted"], &sealed["boot-image"])
}

fn boots_with_its_own_arguments(machine: &mut Machine, sealed: &Value) -> Result<()> {
    let status = Status::of(machine)?;
    same("whether it is sealed", status.get("/booted/sealed"), &Value::Bool(true))?;
    let cmdline = machine.shell("cat /proc/cmdline")?;
    same("the kernel's arguments", Some(cmdline.trim()), sealed["kernel-arguments"].as_str())
}

/// Upgrades, cuts the power, and tells where the new root's unified kernel image lies on the ESP.
fn upgraded(machine: &mut Machine, upgrade: &[&str]) -> Result<String> {
    machine.read(upgrade)?;
    let status = Status::of(machine)?;
    same("the tries of a new root", status.get("/staged/tries/left"), &Value::from(TRIES))?;
    machine.cut_power()?;
    let entry = read_esp(&machine.disk(), &format!("/loader/entries/{}", status.text("/staged/entry")?))?;
    let entry = String::from_utf8(entry).context("reading a boot entry")?;
    let path = entry.lines().find_map(|line| line.strip_prefix("efi ")).context("finding the key efi in a boot entry")?;
    Ok(path.trim().to_owned())
}

/// Changes one byte of the command line: `rw` to `rW`.
fn with_another_command_line(uki: &[u8]) -> Result<Vec<u8>> {
    let needle = b"root=gpt-auto rw";
    let at = uki.windows(needle.len()).position(|window| window == needle).context("finding the command line")?;
    let mut changed = uki.to_vec();
    changed[at + needle.len() - 1] ^= 0x20;
    Ok(changed)
}

/// The same binary without its signature.
fn unsigned(bench: &Bench<'_>, uki: &[u8]) -> Result<Vec<u8>> {
    let path = bench.lab.dir.join("unsigned.efi");
    std::fs::write(&path, uki).context("writing an EFI binary")?;
    Argv::new(["sbattach", "--remove"]).with([&path]).read()?;
    std::fs::read(&path).context("reading an EFI binary")
}
