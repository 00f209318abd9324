//! Odd conditions of one machine, one after another: two at once, ^C, SIGKILL, a power cut, an ESP that is read-only or gone, a clock in 1970. Each gets
//! a clear message and its exit code, and nothing is lost: what boots next is v1 until an upgrade has ended well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Bench, MOUNT_ESP, held_pull::HeldPull, same};
use crate::{
    images,
    selkie::Status,
    story::Teller,
    vm::{Accel, Machine},
};

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let mut machine = Machine::new(bench.lab, "odd-conditions", &bench.disk, bench.accel)?;
    machine.boot()?;
    machine.settle()?;
    bench.publish(&images::release("v3"))?;
    let machine = &mut machine;
    let held = HeldPull::new(bench, machine)?;

    two_at_once_and_interrupted(machine, &held, bench.accel).context("two at once, then SIGINT")?;
    tell.say("of two at once, the second is told who is at work; ^C stops the first with exit code 130");
    killed(machine, &held, bench.accel).context("SIGKILL")?;
    tell.say("an upgrade that was killed (137) has changed nothing that boots");
    power_cut(machine, &held).context("a power cut")?;
    tell.say("the power went in the middle of an upgrade, and v1 is up");
    read_only_esp(machine).context("a read-only ESP")?;
    tell.say("a read-only ESP is told (9), and nothing is changed");
    missing_esp(machine).context("a missing ESP")?;
    tell.say("a missing ESP is told (10), and status tells the rest");
    clock_in_1970(machine).context("a clock in 1970")?;
    tell.say("an upgrade under a clock in 1970 works, and has no date");
    nothing_is_left_over(machine).context("looking for leftovers")?;

    machine.reboot()?;
    Status::of(machine)?.expect("v3", None, Some("v1"))?;
    same("the release in /usr", machine.shell("cat /usr/share/lab/release")?.as_str(), "v3")?;
    same("the payload", machine.shell("cd /usr/share/lab/payload && sha256sum --quiet -c SUMS")?.as_str(), "")?;
    tell.say("v3 boots");
    Ok(())
}

/// A second process is refused while one is at work; that one is then stopped by SIGINT.
fn two_at_once_and_interrupted(machine: &mut Machine, held: &HeldPull, accel: Accel) -> Result<()> {
    let pid = held.start_upgrade(machine)?;
    for words in [&["selkie", "upgrade", "--json"][..], &["selkie", "gc", "--json"], &["selkie", "rollback", "--json"]] {
        let message = refused(machine, words, 11, "busy")?;
        let holder = format!("selkie upgrade --progress json (process {pid})");
        same(&format!("the holder of the lock in {message:?}"), message.contains(&holder), true)?;
    }
    unchanged(machine)?;
    machine.shell(&format!("kill -INT {pid}"))?;
    let errors = ended(machine, 130, accel)?;
    let last: Value = serde_json::from_str(errors.lines().last().unwrap_or_default()).with_context(|| format!("reading {errors}"))?;
    same("the event at the end", &last["event"], &Value::from("error"))?;
    same("the exit code in it", &last["exit-code"], &Value::from(130))?;
    let message = last["message"].as_str().unwrap_or_default();
    same(&format!("the signal in {message:?}"), message.contains("stopped by SIGINT"), true)?;
    same("what still runs", machine.shell("cat /proc/[0-9]*/comm | grep -E '^(selkie|skopeo)$' || true")?.as_str(), "")?;
    unchanged(machine)
}

fn killed(machine: &mut Machine, held: &HeldPull, accel: Accel) -> Result<()> {
    let pid = held.start_upgrade(machine)?;
    machine.shell(&format!("kill -KILL {pid}"))?;
    ended(machine, 137, accel)?;
    unchanged(machine)?;
    // The lock has died with it.
    machine.read(&["selkie", "gc"]).map(drop)
}

/// The same command completes after it: see what follows.
fn power_cut(machine: &mut Machine, held: &HeldPull) -> Result<()> {
    held.start_upgrade(machine)?;
    machine.cut_power()?;
    held.release();
    machine.boot()?;
    machine.settle()?;
    unchanged(machine)
}

/// As a disk with a write protection has it.
fn read_only_esp(machine: &mut Machine) -> Result<()> {
    let before = machine.shell(&listing())?;
    machine.shell(&format!("{ESP}; blockdev --flushbufs $esp; blockdev --setro $esp"))?;
    let message = refused(machine, &["selkie", "upgrade", "--json"], 9, "not-permitted")?;
    same(&format!("the reason in {message:?}"), message.contains("the device is write-protected"), true)?;
    unchanged(machine)?;
    machine.shell(&format!("{ESP}; blockdev --setrw $esp"))?;
    same("the files on the ESP and the deployments", machine.shell(&listing())?, before)
}

/// As a disk that has died has it.
fn missing_esp(machine: &mut Machine) -> Result<()> {
    let script = format!(
        "{ESP}; umount -A $esp 2> /dev/null || true; echo $(lsblk -rno PKNAME $esp) $(cat /sys/class/block/${{esp##*/}}/partition)"
    );
    let found = machine.shell(&script)?;
    let (disk, number) = found.split_once(' ').with_context(|| format!("naming the partition: {found:?}"))?;
    machine.shell(&format!("partx --delete --nr {number} /dev/{disk}; udevadm settle"))?;
    let status = Status::of(machine)?;
    same("the release that runs", status.text("/booted/os-version")?, "v1")?;
    let problems = status.get("/problems").to_string();
    same(&format!("the ESP among the problems {problems}"), problems.contains("there is no such device"), true)?;
    for words in [&["selkie", "upgrade", "--json"][..], &["selkie", "rollback", "--json"]] {
        let message = refused(machine, words, 10, "not-a-host")?;
        same(&format!("the reason in {message:?}"), message.contains("there is no such device"), true)?;
    }
    machine.shell(&format!("partx --add --nr {number} /dev/{disk}; udevadm settle"))?;
    unchanged(machine)
}

/// A clock that nobody has set. TLS would not like it; the lab's registry has none.
fn clock_in_1970(machine: &mut Machine) -> Result<()> {
    let now = machine.shell("date +%s")?;
    // Whatever sets it right by itself must not.
    machine.shell("systemctl stop systemd-timesyncd.service 2> /dev/null || true; date -s @1000")?;
    let report = machine.json(&["selkie", "upgrade", "--json"])?;
    same("the outcome", &report["outcome"], &Value::from("staged"))?;
    let status = Status::of(machine)?;
    status.expect("v1", Some("v3"), Some("v1"))?;
    same("the date of what was staged", status.get("/staged/date"), &Value::Null)?;
    same("the problems", status.get("/problems"), &serde_json::json!([]))?;
    machine.read(&["selkie", "list"])?;
    machine.shell(&format!("date -s @{now}")).map(drop)
}

/// After an upgrade that ended well, nothing tells of those that did not.
fn nothing_is_left_over(machine: &mut Machine) -> Result<()> {
    let report = machine.json(&["selkie", "gc", "--dry-run", "--json"])?;
    let removed = ["entries", "deployments", "tags", "objects"].map(|key| report[key].to_string());
    same("what gc would remove", removed, ["[]", "[]", "[]", "0"].map(str::to_owned))?;
    let script = format!("{MOUNT_ESP}\nfind /run/lab-esp /sysroot/state -name '.selkie-tmp-*'\numount /run/lab-esp");
    same("temporaries", machine.shell(&script)?.as_str(), "")
}

/// Finds the ESP, as a part of a script.
const ESP: &str = r#"esp=$(lsblk -rno PATH,PARTTYPE | awk '$2 == "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" { print $1 }')"#;

/// What is on the ESP and among the deployments. Nobody has the ESP mounted after it.
fn listing() -> String {
    format!("{MOUNT_ESP}\n(cd /run/lab-esp; find . -type f -exec sha256sum {{}} + | sort)\numount -A \"$esp\"\nls -A /sysroot/state/deploy")
}

/// Waits for the end of what [`HeldPull::start_upgrade`] has started; the result is what it said.
fn ended(machine: &mut Machine, code: u32, accel: Accel) -> Result<String> {
    const END: Duration = Duration::from_secs(120);
    let begin = Instant::now();
    // The shell that waits for it writes the exit code a little after its end.
    let mut found = String::new();
    while found.is_empty() && begin.elapsed() < END * accel.patience() {
        found = machine.shell("[ -s /run/code ] || sleep 0.2; cat /run/code 2> /dev/null || true")?;
    }
    let errors = machine.shell("cat /run/errors")?;
    same(&format!("the exit code of an upgrade that said\n{errors}\n"), found, code.to_string())?;
    Ok(errors)
}

/// A command fails with this exit code and this kind; the result is its message. It has a hint, too.
fn refused(machine: &mut Machine, words: &[&str], code: i64, kind: &str) -> Result<String> {
    let outcome = machine.run(words)?;
    let report: Value = serde_json::from_str(&outcome.stdout).with_context(|| format!("reading {words:?}: {outcome:?}"))?;
    same(&format!("the exit code of {words:?}: {report}"), outcome.code, code)?;
    same(&format!("the kind of error of {words:?}"), &report["error"]["kind"], &Value::from(kind))?;
    same(&format!("a hint in {report}"), report["error"]["hint"].is_string(), true)?;
    Ok(report["error"]["message"].as_str().unwrap_or_default().to_owned())
}

/// v1 runs and boots next, and nothing is wrong.
fn unchanged(machine: &mut Machine) -> Result<()> {
    let status = Status::of(machine)?;
    status.expect("v1", None, None)?;
    same("the problems", status.get("/problems"), &serde_json::json!([]))
}
