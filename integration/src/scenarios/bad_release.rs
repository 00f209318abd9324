//! Bad releases take themselves back: one whose health check fails, one whose kernel panics, and one that hangs, until the watchdog resets the machine. The
//! machine comes up on the root before by itself, says what failed, and does not take the same release again.
//!
//! Each gets one try instead of three, because boots are what takes time here; that all tries are used is tested without machines.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, MOUNT_ESP, same};
use crate::{images, selkie::Status, story::Teller, vm::Machine};

/// Says which release runs.
const RELEASE: &str = "cat /usr/share/lab/release";

/// Runs the scenario of releases that end by themselves.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    let mut machine = Machine::new(bench.lab, "bad-release", &bench.disk, bench.accel)?;
    begins(bench, &mut machine, tell)?;
    fail_and_panic(bench, &mut machine, tell)
}

/// Runs the scenario of a release that hangs.
pub(crate) fn run_hanging(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    let mut machine = Machine::new(bench.lab, "hanging-release", &bench.disk, bench.accel)?.with_watchdog();
    begins(bench, &mut machine, tell)?;
    let opened = machine.shell("cat /sys/class/watchdog/watchdog0/state /sys/class/watchdog/watchdog0/timeout | xargs")?;
    same("the watchdog, in the hands of the service manager", opened.as_str(), "active 60")?;
    takes(bench, &mut machine, "bad-hang")?;
    machine.go_down()?;
    same("a reset by the watchdog", machine.is_reset_by_watchdog()?, true)?;
    tell.say("the watchdog has reset a release that hangs");
    came_back(&mut machine)?;
    did_not_come_up(&mut machine, "bad-hang")?;
    tell.say("it came back by itself, and is not taken again");
    is_well(&mut machine)
}

fn begins(bench: &Bench<'_>, machine: &mut Machine, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    machine.boot()?;
    is_well(machine)?;
    tell.say("v1 is up and well");
    Ok(())
}

fn fail_and_panic(bench: &Bench<'_>, machine: &mut Machine, tell: &Teller) -> Result<()> {
    comes_back_from(bench, machine, "bad-check")?;
    let failed = failure(machine, "bad-check")?;
    same("how it failed", &failed["cause"], &Value::from("checks-failed"))?;
    same("restarts for it", &failed["reboots"], &Value::from(1))?;
    let check = &failed["checks"][0];
    same("the check that failed", &check["name"], &Value::from("10-database"))?;
    same("how that ended", &check["ended"], &Value::from("exit code 5"))?;
    same("what it said", &check["lines"], &serde_json::json!(["looking for the database", "no database here"]))?;
    is_left_alone(machine)?;
    tell.say("a release whose health check fails came back by itself; status says which check, and what it said; it is not taken again");

    comes_back_from(bench, machine, "bad-boot")?;
    did_not_come_up(machine, "bad-boot")?;
    same("the other release that failed", &failure(machine, "bad-check")?["cause"], &Value::from("checks-failed"))?;
    tell.say("a release whose kernel panics came back by itself, and is not taken again");

    is_well(machine)?;
    Ok(())
}

/// Status says of a release that it never told how it is, and it is not taken again.
fn did_not_come_up(machine: &mut Machine, release: &str) -> Result<()> {
    machine.settle()?;
    let failed = failure(machine, release)?;
    same("how it failed", &failed["cause"], &Value::from("did-not-come-up"))?;
    same("whether that is on record", failed["at"].is_string(), true)?;
    is_left_alone(machine)
}

/// Takes a release with one try, restarts, and waits until v1 is up again.
fn comes_back_from(bench: &Bench<'_>, machine: &mut Machine, release: &str) -> Result<()> {
    takes(bench, machine, release)?;
    machine.go_down()?;
    came_back(machine)
}

/// Takes a release with one try.
fn takes(bench: &Bench<'_>, machine: &mut Machine, release: &str) -> Result<()> {
    bench.publish(&images::release(release))?;
    machine.read(&["selkie", "upgrade"])?;
    let status = Status::of(machine)?;
    status.expect("v1", Some(release), Some("v1"))?;
    one_try(machine, status.text("/staged/entry")?)?;
    same("the tries of the new root", Status::of(machine)?.get("/staged/tries/left"), &Value::from(1))
}

/// v1 is up again, and nothing else is to boot.
fn came_back(machine: &mut Machine) -> Result<()> {
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
        "{MOUNT_ESP}
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
    machine.settle()?;
    same("failed units", machine.shell("systemctl list-units --failed --no-legend --plain")?.as_str(), "")?;
    let states = machine.shell("systemctl show --property=ActiveState --value selkie-health.service boot-complete.target | xargs")?;
    same("selkie-health.service and boot-complete.target", states.as_str(), "active active")?;
    let report = machine.json(&["selkie", "health", "--json", "--failed-units"])?;
    same("the verdict of selkie health", &report["verdict"], &Value::from("good"))
}
