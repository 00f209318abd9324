//! A machine's life: v1, local changes, an upgrade that a power cut follows, v2, a rollback, v1, and another image altogether.

use anyhow::{Context, Result, bail};

use super::{Bench, same, sealed};
use crate::{images, selkie::Status, story::Teller, vm::Machine};

const WEB_TAG: &str = "web:stable";

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let mut machine = Machine::new(bench.lab, "lifecycle", &bench.disk, bench.accel)?;
    let took = machine.boot()?;
    tell.say(format!("v1 is up after {} s", took.as_secs()));
    let v1 = fresh_machine(bench, &mut machine)?;
    root_is_sealed(&mut machine, &v1)?;
    local_changes(&mut machine)?;

    bench.publish(&images::release("v2"))?;
    check_only_asks(&mut machine)?;
    machine.read(&["selkie", "upgrade"])?;
    machine.cut_power()?;
    tell.say("upgrade returned; the power is cut");

    let took = machine.boot()?;
    tell.say(format!("v2 is up after {} s", took.as_secs()));
    let v2 = Status::of(&mut machine)?;
    v2.expect("v2", None, Some("v1"))?;
    same("the release in /usr", machine.shell("cat /usr/share/lab/release")?.as_str(), "v2")?;
    root_is_sealed(&mut machine, v2.booted()?)?;
    changes_are_kept(&mut machine)?;
    has_proven_itself(&mut machine)?;
    v2_is_current(&mut machine)?;

    machine.read(&["selkie", "rollback"])?;
    let took = machine.reboot()?;
    tell.say(format!("v1 is back after {} s", took.as_secs()));
    let back = Status::of(&mut machine)?;
    back.expect("v1", None, Some("v2"))?;
    same("the image after the rollback", back.booted()?, v1.as_str())?;
    same("the release in /usr", machine.shell("cat /usr/share/lab/release")?.as_str(), "v1")?;
    same("the file in /var", machine.shell("cat /var/lib/lab-data")?.as_str(), "data")?;
    becomes_a_web_server(bench, &mut machine, tell)?;
    becomes_a_sealed_one_and_goes_back(bench, &mut machine, tell)
}

/// A sealed image on a host of plain ones, without Secure Boot, and back.
fn becomes_a_sealed_one_and_goes_back(bench: &Bench<'_>, machine: &mut Machine, tell: &Teller) -> Result<()> {
    const TAG: &str = "os:sealed-unsigned";
    let sealed = sealed::seal(bench, None, "v3", TAG)?;
    machine.read(&["selkie", "switch", &bench.registry.for_guest(TAG)])?;
    let took = machine.reboot()?;
    tell.say(format!("a sealed v3 is up after {} s", took.as_secs()));
    let status = Status::of(machine)?;
    status.expect("v3", None, Some("1.0"))?;
    same("the sealed root", status.get("/booted/id"), &sealed["boot-image"])?;
    same("whether it is sealed", status.get("/booted/sealed"), &serde_json::Value::Bool(true))?;
    let outcome = machine.run(&["selkie", "verify", "--json"])?;
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).context("reading selkie verify")?;
    same("the exit code of verify without Secure Boot", outcome.code, 1)?;
    let broken: Vec<_> =
        report["links"].as_array().into_iter().flatten().filter(|link| link["holds"] == false).map(|link| &link["name"]).collect();
    same(
        "the links that are broken without Secure Boot and a signature",
        format!("{broken:?}").as_str(),
        r#"[String("firmware"), String("loader")]"#,
    )?;

    machine.read(&["selkie", "rollback"])?;
    let took = machine.reboot()?;
    tell.say(format!("the plain web server is back after {} s", took.as_secs()));
    let status = Status::of(machine)?;
    status.expect("1.0", None, Some("v3"))?;
    same("whether it is sealed", status.get("/booted/sealed"), &serde_json::Value::Bool(false))
}

/// `selkie switch` to the example that is derived from the base: its service, its user and its directories in /var are there.
fn becomes_a_web_server(bench: &Bench<'_>, machine: &mut Machine, tell: &Teller) -> Result<()> {
    bench.images.push(images::LAB_WEB, &bench.registry.here(WEB_TAG))?;
    let reference = bench.registry.for_guest(WEB_TAG);
    machine.read(&["selkie", "switch", &reference])?;
    let took = machine.reboot()?;
    tell.say(format!("the web server is up after {} s", took.as_secs()));
    let status = Status::of(machine)?;
    status.expect("1.0", None, Some("v1"))?;
    same("the reference that the machine follows", status.text("/booted/image")?, reference.as_str())?;
    // The lab's agent answers before everything has been started.
    machine.shell("systemctl start nginx.service")?;
    let get = r"exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3";
    let page = machine.read(&["/bin/bash", "-euc", get])?;
    same("the page, as a part of the image", page.contains("part of the operating system image"), true)?;
    let visits = machine.shell("systemctl start example-counter.service; cat /var/lib/example-web/visits")?;
    same("the visits that the image's own service counts", visits.as_str(), "1")?;
    same("failed units", machine.shell("systemctl list-units --failed --no-legend --plain")?.as_str(), "")?;
    same("the file that was made under v1", machine.shell("cat /etc/lab/mine.conf")?.as_str(), "mine")
}

/// A boot that went well takes the counter of tries away.
fn has_proven_itself(machine: &mut Machine) -> Result<()> {
    machine.settle()?;
    let status = Status::of(machine)?;
    same("the counter of tries", status.get("/booted/tries"), &serde_json::Value::Null)?;
    let entry = status.text("/booted/entry")?;
    same("a counter in the entry's name", entry.contains('+'), false)
}

/// A machine that has only just been installed; the result is the id of its image.
fn fresh_machine(bench: &Bench<'_>, machine: &mut Machine) -> Result<String> {
    let status = Status::of(machine)?;
    status.expect("v1", None, None)?;
    same("the reference that the machine follows", status.text("/booted/image")?, bench.followed().as_str())?;
    let printed = bench.pulled["boot-image"].as_str().context("reading selkie pull --json: no boot-image")?;
    same("the booted image, against what pull printed at build time", status.booted()?, printed)?;
    same("failed units", machine.shell("systemctl list-units --failed --no-legend --plain")?.as_str(), "")?;
    Ok(status.booted()?.to_owned())
}

/// The root file system is the overlay that was verified, and nobody can write to it.
fn root_is_sealed(machine: &mut Machine, id: &str) -> Result<()> {
    let mount = machine.shell("findmnt -no SOURCE,FSTYPE,OPTIONS /")?;
    let words: Vec<_> = mount.split_whitespace().collect();
    let [source, "overlay", options] = words[..] else { bail!("checking the root mount: {mount} (expected an overlay)") };
    same("the source of the root mount", source, format!("composefs:{id}").as_str())?;
    same("verity=require among the options of the root mount", options.split(',').any(|o| o == "verity=require"), true)?;
    for script in ["touch /usr/written", "touch /written", "touch /sysroot/written", "echo x >> /usr/lib/os-release"] {
        let outcome = machine.run(&["/bin/sh", "-c", script])?;
        same(&format!("the refusal of {script:?}"), outcome.stderr.contains("Read-only file system"), true)?;
    }
    let unsealed = "find /sysroot/composefs/objects -type f -exec lsattr -- {} + | awk '$1 !~ /V/' | wc -l";
    same("objects without fs-verity", machine.shell(unsealed)?.as_str(), "0")?;
    let sealed = machine.shell("lsattr /sysroot/composefs/meta.json | awk '$1 ~ /V/' | wc -l")?;
    same("fs-verity on the repository's meta.json", sealed.as_str(), "1")
}

/// Every kind of change: an edit, a new file, a deletion, a mode; and data in /var.
fn local_changes(machine: &mut Machine) -> Result<()> {
    machine
        .shell(
            "echo edited >> /etc/lab/edited.conf
             echo mine > /etc/lab/mine.conf
             rm /etc/lab/deleted.conf
             chmod 0600 /etc/lab/mode.conf
             echo data > /var/lib/lab-data",
        )
        .map(drop)
}

fn changes_are_kept(machine: &mut Machine) -> Result<()> {
    same("the edited file", machine.shell("cat /etc/lab/edited.conf")?.as_str(), "from the image\nedited")?;
    same("the new file", machine.shell("cat /etc/lab/mine.conf")?.as_str(), "mine")?;
    same("the deleted file", machine.shell("ls /etc/lab")?.contains("deleted.conf"), false)?;
    same("the mode", machine.shell("stat -c %a /etc/lab/mode.conf; cat /etc/lab/mode.conf")?.as_str(), "600\nfrom the image")?;
    same("the file in /var", machine.shell("cat /var/lib/lab-data")?.as_str(), "data")?;
    same("a file that only v2 changed", machine.shell("cat /etc/lab/image.conf")?.as_str(), "v2")?;
    same("a file that is new in v2", machine.shell("cat /etc/lab/new.conf")?.as_str(), "v2")
}

/// `upgrade --check` finds v2 (exit code 0 with the answer in JSON), and stages nothing.
fn check_only_asks(machine: &mut Machine) -> Result<()> {
    let answer = machine.json(&["selkie", "upgrade", "--check", "--json"])?;
    same("what upgrade --check found", answer["version"].as_str(), Some("v2"))?;
    Status::of(machine)?.expect("v1", None, None)
}

/// Nothing to do: `--check` answers no, and an upgrade makes no deployment.
fn v2_is_current(machine: &mut Machine) -> Result<()> {
    let outcome = machine.run(&["selkie", "upgrade", "--check"])?;
    same("the exit code of upgrade --check on a current machine", outcome.code, 1)?;
    machine.read(&["selkie", "upgrade"])?;
    Status::of(machine)?.expect("v2", None, Some("v1"))
}
