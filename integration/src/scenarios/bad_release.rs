//! Bad releases take themselves back: one whose health check fails, and one whose kernel panics. The machine comes up on the root before by itself,
//! says what failed, and does not take the same release again.
//!
//! Each gets one try instead of three, because boots are what takes time here; that all tries are used is tested without machines.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, TAG, same};
use crate::{images, selkie::Status, story::Teller, vm::Machine};

/// Says which release runs.
const RELEASE: &str = "cat /usr/share/lab/release";

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.images.push(&images::release("v1"), &bench.registry.here(TAG))?;
    let mut machine = Machine::new(bench.lab, "bad-release", bench.disk, bench.accel)?;
    machine.boot()?;
    is_well(&mut machine)?;
    tell.say("v1 is up and well");

    comes_back_from(bench, &mut machine, "bad-check")?;
    let failed = failure(&mut machine, "bad-check")?;
    same("how it failed", &failed["cause"], &Value::from("checks-failed"))?;
    same("restarts for it", &failed["reboots"], &Value::from(1))?;
    let check = &failed["checks"][0];
    same("the check that failed", &check["name"], &Value::from("10-database"))?;
    same("how that ended", &check["ended"], &Value::from("exit code 5"))?;
    same("what it said", &check["lines"], &serde_json::json!(["looking for the database", "no database here"]))?;
    is_left_alone(&mut machine)?;
    tell.say("a release whose health check fails came back by itself; status says which check, and what it said; it is not taken again");

    comes_back_from(bench, &mut machine, "bad-boot")?;
    machine.shell("systemctl is-system-running --wait || true")?;
    let failed = failure(&mut machine, "bad-boot")?;
    same("how it failed", &failed["cause"], &Value::from("did-not-come-up"))?;
    same("whether that is on record", failed["at"].is_string(), true)?;
    same("the other release that failed", &failure(&mut machine, "bad-check")?["cause"], &Value::from("checks-failed"))?;
    is_left_alone(&mut machine)?;
    is_well(&mut machine)?;
    tell.say("a release whose kernel panics came back by itself, and is not taken again");
    Ok(())
}

/// Takes a release with one try, restarts, and waits until v1 is up again.
fn comes_back_from(bench: &Bench<'_>, machine: &mut Machine, release: &str) -> Result<()> {
    bench.images.push(&images::release(release), &bench.registry.here(TAG))?;
    machine.read(&["selkie", "upgrade"])?;
    let status = Status::of(machine)?;
    status.expect("v1", Some(release), Some("v1"))?;
    one_try(machine, status.text("/staged/entry")?)?;
    same("the tries of the new root", Status::of(machine)?.get("/staged/tries/left"), &Value::from(1))?;
    machine.spawn(&["systemctl", "reboot"])?;
    machine.wait_for_another_boot(RELEASE, "v1")?;
    let status = Status::of(machine)?;
    same("the release that runs", status.text("/booted/os-version")?, "v1")?;
    same("what boots next", status.get("/staged"), &Value::Null)
}

/// Gives an entry one try instead of three.
fn one_try(machine: &mut Machine, entry: &str) -> Result<()> {
    let counted = entry.replace("+3.conf", "+1.conf");
    same("a counter of three in the entry's name", counted != entry, true)?;
    let script = format!(
        "esp=$(lsblk -rno PATH,PARTTYPE | awk '$2 == \"c12a7328-f81f-11d2-ba4b-00a0c93ec93b\" {{ print $1 }}')
         mkdir -p /run/lab-esp
         mount -t vfat \"$esp\" /run/lab-esp
         mv '/run/lab-esp/loader/entries/{entry}' '/run/lab-esp/loader/entries/{counted}'
         umount /run/lab-esp"
    );
    machine.shell(&script).map(drop)
}

/// What status says about a release that failed.
fn failure(machine: &mut Machine, release: &str) -> Result<Value> {
    let status = Status::of(machine)?;
    let failed = status.get("/failed").as_array().context("reading failed of selkie status: no list")?;
    let found = failed.iter().find(|failed| failed["os-version"] == release).cloned();
    found.with_context(|| format!("looking for {release} among what failed: {failed:#?}"))
}

/// Neither asked nor told does the machine take what failed.
fn is_left_alone(machine: &mut Machine) -> Result<()> {
    for words in [&["selkie", "upgrade", "--check", "--json"][..], &["selkie", "upgrade", "--json"]] {
        let outcome = machine.run(words)?;
        let report: Value = serde_json::from_str(&outcome.stdout).with_context(|| format!("reading {words:?}: {outcome:?}"))?;
        same(&format!("the exit code of {words:?}"), outcome.code, 1)?;
        same(&format!("the outcome of {words:?}"), &report["outcome"], &Value::from("failed-before"))?;
    }
    same("what boots next", Status::of(machine)?.get("/staged"), &Value::Null)
}

/// The checks of the boot have passed, and so has a call by hand.
fn is_well(machine: &mut Machine) -> Result<()> {
    machine.shell("systemctl is-system-running --wait || true")?;
    same("failed units", machine.shell("systemctl list-units --failed --no-legend --plain")?.as_str(), "")?;
    let states = machine.shell("systemctl show --property=ActiveState --value selkie-health.service boot-complete.target | xargs")?;
    same("selkie-health.service and boot-complete.target", states.as_str(), "active active")?;
    let report = machine.json(&["selkie", "health", "--json", "--failed-units"])?;
    same("the verdict of selkie health", &report["verdict"], &Value::from("good"))
}
