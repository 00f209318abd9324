//! A machine updates itself: the timer stages v2, the restart waits for an inhibitor and comes when that ends; at the next release the inhibitor stays, and the machine
//! restarts past it once it has waited long enough.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Bench, same};
use crate::{images, selkie::Status, story::Teller, vm::Machine};

/// Says which release runs.
const RELEASE: &str = "cat /usr/share/lab/release";
const HOLD: &str =
    "systemd-run --quiet --unit=lab-inhibitor systemd-inhibit --what=shutdown --mode=block --who=backup --why=nightly sleep infinity";
/// How long the timer may take on hardware to find a release, and how long another process may hold the lock.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let mut machine = Machine::new(bench.lab, "automatic", &bench.disk, bench.accel)?;
    let limit = PATIENCE * bench.accel.patience();
    machine.boot()?;
    does_nothing_unless_told(&mut machine)?;
    tell.say("nothing is configured, and nothing happens");

    machine.shell(HOLD)?;
    configure(&mut machine, "1d")?;
    bench.publish(&images::release("v2"))?;
    is_staged_by_itself(&mut machine, "v2", limit)?;
    waits_for_the_inhibitor(&mut machine, limit)?;
    Status::of(&mut machine)?.expect("v1", Some("v2"), Some("v1"))?;
    tell.say("the timer staged v2; the restart waits for an inhibitor");

    machine.shell("systemctl stop lab-inhibitor.service")?;
    machine.wait_for_another_boot(RELEASE, "v2")?;
    Status::of(&mut machine)?.expect("v2", None, Some("v1"))?;
    tell.say("the inhibitor ended, and v2 came up by itself");

    machine.shell(HOLD)?;
    bench.publish(&images::release("v1"))?;
    is_staged_by_itself(&mut machine, "v1", limit)?;
    waits_for_the_inhibitor(&mut machine, limit)?;
    machine.shell("systemctl stop selkie-update.timer; while systemctl is-active --quiet selkie-update.service; do sleep 1; done")?;
    configure_file(&mut machine, "1s")?;
    machine.spawn(&["/bin/sh", "-c", "selkie auto-update --json > /var/lib/lab-report.json"])?;
    machine.wait_for_another_boot(RELEASE, "v1")?;
    let report = machine.json(&["cat", "/var/lib/lab-report.json"])?;
    same("what was done about the inhibitor", &report["restart"]["action"], &json!("restart-anyway"))?;
    says_who(&report)?;
    Status::of(&mut machine)?.expect("v1", None, Some("v2"))?;
    tell.say("past update.wait-limit the machine restarted although an inhibitor was held, and said so");
    Ok(())
}

/// The image enables the timer; what it starts ends at once.
fn does_nothing_unless_told(machine: &mut Machine) -> Result<()> {
    machine.settle()?;
    same(
        "the timer",
        machine.shell("systemctl is-enabled selkie-update.timer; systemctl is-active selkie-update.timer")?.as_str(),
        "enabled\nactive",
    )?;
    machine.shell("systemctl start selkie-update.service")?;
    same("the policy in status", Status::of(machine)?.get("/automatic/policy"), &json!("none"))?;
    let report = machine.json(&["selkie", "auto-update", "--now", "--json"])?;
    same("what was done", (&report["policy"], &report["outcome"]), (&json!("none"), &Value::Null))?;
    same("the record", machine.shell("ls /sysroot/state")?.contains("auto-update"), false)
}

/// Everything by itself; the timer runs every ten seconds, and asks the registry every twenty or thirty.
fn configure(machine: &mut Machine, limit: &str) -> Result<()> {
    configure_file(machine, limit)?;
    machine
        .shell(
            "mkdir -p /etc/systemd/system/selkie-update.timer.d
             printf '[Timer]\\nOnCalendar=\\nOnCalendar=*:*:0/10\\nRandomizedDelaySec=0\\nAccuracySec=1s\\n' > /etc/systemd/system/selkie-update.timer.d/lab.conf
             systemctl daemon-reload
             systemctl restart selkie-update.timer",
        )
        .map(drop)?;
    let shown = machine.json(&["selkie", "config", "show", "--json"])?;
    let policy = shown["settings"].as_array().into_iter().flatten().find(|setting| setting["key"] == "update.policy");
    let expected = json!({"key": "update.policy", "value": "apply", "from": {"file": "/etc/selkie/config.d/50-lab.toml", "line": 2}});
    same("the policy, and who says it", policy, Some(&expected))
}

fn configure_file(machine: &mut Machine, limit: &str) -> Result<()> {
    let text = format!("[update]\npolicy = \"apply\"\ninterval = \"20s\"\nrandomized-delay = \"0s\"\nwait-limit = \"{limit}\"\n");
    machine.shell(&format!("mkdir -p /etc/selkie/config.d; printf '%s' '{text}' > /etc/selkie/config.d/50-lab.toml")).map(drop)
}

/// Nobody but the timer does anything.
fn is_staged_by_itself(machine: &mut Machine, release: &str, limit: Duration) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let status = Status::of(machine)?;
        // The entry is there a little before the record of it, and a later try may have begun already.
        let recorded = *status.get("/automatic/outcome") == "staged" && !status.get("/automatic/waiting-since").is_null();
        if status.get("/staged/os-version") == release && recorded {
            return Ok(());
        }
        sleep(Duration::from_secs(5));
    }
    let log = machine.shell("journalctl --no-pager --unit=selkie-update.service | tail -40")?;
    bail!("waiting for {release} to be staged: it was not after {} s\n{log}", begin.elapsed().as_secs())
}

fn waits_for_the_inhibitor(machine: &mut Machine, limit: Duration) -> Result<()> {
    let report = report(machine, limit)?;
    same("what is done about the restart", &report["restart"]["action"], &json!("wait"))?;
    same("until when at most, as a moment", report["restart"]["until"].is_string(), true)?;
    says_who(&report)
}

fn says_who(report: &Value) -> Result<()> {
    let because = report["restart"]["because"].as_str().context("reading why: no text")?;
    same(&format!("the inhibitor in {because:?}"), because.starts_with("backup (nightly) inhibits it"), true)
}

/// A call by hand, between two of the timer.
fn report(machine: &mut Machine, limit: Duration) -> Result<Value> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let report = machine.json(&["selkie", "auto-update", "--json"])?;
        let because = report["restart"]["because"].as_str().context("reading why: no text")?;
        if !because.contains("another selkie process") {
            return Ok(report);
        }
        sleep(Duration::from_secs(1));
    }
    bail!("running selkie auto-update: another process is always there")
}
