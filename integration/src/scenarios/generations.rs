//! Many upgrades, of which few are ever booted: what has no role goes, so nothing grows, and a pinned root is there and boots after ten of them.

use anyhow::{Context, Result, bail};

use super::{Bench, same};
use crate::{images, selkie::Status, story::Teller, vm::Machine};

/// How many releases come after v1.
const RELEASES: usize = 10;
/// Upgrades after which the machine restarts.
const RESTARTS: [usize; 2] = [1, 5];
/// Between these two, what the machine has on its disk must not grow: both times there are the pinned root, the one that runs, the one that ran before, and
/// another that waits.
const COMPARED: [usize; 2] = [6, 9];

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let mut machine = Machine::new(bench.lab, "generations", &bench.disk, bench.accel)?;
    machine.boot()?;
    machine.settle()?;
    let v1 = Status::of(&mut machine)?.booted()?.to_owned();
    machine.read(&["selkie", "pin"])?;

    let mut amounts = Vec::new();
    for number in 1..=RELEASES {
        let image = bench.images.generation(number, tell)?;
        bench.publish(&image)?;
        machine.read(&["selkie", "upgrade"])?;
        let version = format!("g{number}");
        same("what boots next", Status::of(&mut machine)?.text("/staged/os-version")?, version.as_str())?;
        if COMPARED.contains(&number) {
            let amount = Amount::of(&mut machine)?;
            tell.say(format!("after {number} upgrades: {amount}"));
            amounts.push(amount);
        }
        if RESTARTS.contains(&number) {
            let took = machine.reboot()?;
            machine.settle()?;
            tell.say(format!("{version} is up after {} s", took.as_secs()));
            same("the release in /usr", machine.shell("cat /usr/share/lab/release")?.as_str(), version.as_str())?;
        }
    }
    let [before, after] = &amounts[..] else { bail!("measuring twice: {amounts:?}") };
    same("what is on the disk, after more upgrades", after, before)?;
    pinned_root_boots_once(&mut machine, &v1, tell)
}

/// The pinned root boots, once; after that it is the default again.
fn pinned_root_boots_once(machine: &mut Machine, v1: &str, tell: &Teller) -> Result<()> {
    let list = machine.json(&["selkie", "list", "--json"])?;
    let generations = list["generations"].as_array().context("reading selkie list --json: no generations")?;
    let pinned = generations.iter().find(|generation| generation["id"] == v1).context("looking for the pinned root: it is not listed")?;
    same("its state", &pinned["state"], &serde_json::json!(["pinned"]))?;
    let number = pinned["number"].to_string();
    machine.read(&["selkie", "boot-once", &number])?;
    machine.reboot()?;
    let status = Status::of(machine)?;
    same("the root that was pinned ten upgrades ago", status.booted()?, v1)?;
    same("the release in /usr", machine.shell("cat /usr/share/lab/release")?.as_str(), "v1")?;
    status.expect("v1", Some("g10"), Some("v1"))?;
    tell.say("the pinned v1 boots after ten upgrades");

    machine.reboot()?;
    let status = Status::of(machine)?;
    same("the release that boots by default", status.text("/booted/os-version")?, "g10")?;
    same("what is to boot next", status.get("/staged"), &serde_json::Value::Null)?;
    same("problems", status.get("/problems"), &serde_json::json!([]))
}

/// How much there is on the disk.
#[derive(Debug, PartialEq, Eq)]
struct Amount {
    /// Files on the ESP.
    files: u64,
    /// What they take there, in KiB.
    kib: u64,
    /// Objects in the repository.
    objects: u64,
    /// Images, streams and tags of the repository.
    names: u64,
    /// Directories of deployments.
    deployments: u64,
}

impl Amount {
    fn of(machine: &mut Machine) -> Result<Self> {
        let said = machine.shell(&format!(
            "{}
             find /run/lab-esp -type f | wc -l
             du -sk /run/lab-esp | cut -f 1
             umount /run/lab-esp
             find /sysroot/composefs/objects -type f | wc -l
             find /sysroot/composefs/images /sysroot/composefs/streams -type l | wc -l
             ls /sysroot/state/deploy | wc -l",
            super::MOUNT_ESP
        ))?;
        let numbers: Vec<u64> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
        let [files, kib, objects, names, deployments] = numbers[..] else { bail!("measuring what is on the disk: {said:?}") };
        Ok(Self { files, kib, objects, names, deployments })
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { files, kib, objects, names, deployments } = self;
        write!(f, "{files} files and {kib} KiB on the ESP, {objects} objects, {names} names, {deployments} deployments")
    }
}
