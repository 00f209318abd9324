//! The power is cut at dozens of moments of verbs that write, and each time the machine boots the old root or the new one.
//!
//! One machine runs the verbs once, with a log of its writes. Its disk is rebuilt as it may be after a cut at each of these moments and looked at
//! without a boot; a handful are booted, and the verb that was cut is run to its end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, same};
use crate::{
    images,
    replay::{self, Cut, Disk, Found, Look, Random, SEED},
    selkie::Status,
    story::Teller,
    vm::Machine,
};

/// A verb that is cut.
#[derive(Debug)]
struct Act {
    /// What is told about it.
    name: &'static str,
    /// What is run again after a cut that is booted, in a shell.
    again: &'static str,
    /// Requests of the log during which it ran.
    range: Range<usize>,
    /// The roots that may boot next.
    may: Vec<String>,
    /// How many cuts.
    cuts: usize,
    /// How many of them are booted.
    boots: usize,
}

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let mut machine = Machine::new(bench.lab, "power-cuts", &bench.disk, bench.accel)?.with_write_log();
    let took = machine.boot()?;
    machine.settle()?;
    tell.say(format!("v1 is up after {} s", took.as_secs()));
    let v1 = Status::of(&mut machine)?.booted()?.to_owned();
    let acts = play(bench, &mut machine, &v1, tell)?;
    machine.cut_power()?;

    let seed = replay::seed();
    tell.say(format!("cutting by seed {seed} ({SEED}={seed} makes the same choices)"));
    let directory = bench.lab.fresh_subdir("vm/power-cuts-replay")?;
    let mut replay = Replay {
        bench,
        disk: Disk::new(&bench.disk, &machine.write_log(), &directory)?,
        look: Look::new(bench.lab, &directory)?,
        random: Random::new(seed),
        booted: v1,
    };
    for act in &acts {
        replay.act(act, tell).with_context(|| format!("cutting {} ({SEED}={seed})", act.name))?;
    }
    let cuts: usize = acts.iter().map(|act| act.cuts).sum();
    tell.say(format!("{cuts} power cuts in all, and the old root or the new one boots after each"));
    fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))
}

/// Runs all verbs, and notes when.
fn play(bench: &Bench<'_>, machine: &mut Machine, v1: &str, tell: &Teller) -> Result<Vec<Act>> {
    let push = |version| bench.publish(&images::release(version));
    let mut acts = Vec::new();
    let mut act = |machine: &mut Machine, name, script: &'static str, again, (cuts, boots)| -> Result<()> {
        let before = next(machine)?;
        let begin = mark(machine)?;
        machine.shell(script).with_context(|| format!("running {name}"))?;
        let range = begin..mark(machine)?;
        let mut may = vec![before];
        may.extend(Some(next(machine)?).filter(|after| may[0] != *after));
        tell.say(format!("{name}: {} requests to the disk", range.len()));
        acts.push(Act { name, again, range, may, cuts, boots });
        Ok(())
    };
    push("v3")?;
    act(machine, "upgrade", "selkie upgrade", "selkie upgrade", (18, 2))?;
    act(machine, "rollback", "selkie rollback", "selkie rollback || true", (15, 1))?;
    push("v2")?;
    // Three roots, of which the middle one has no role: what gc removes has a kernel of its own.
    machine.shell("selkie upgrade --keep 9; selkie rollback")?;
    same("roots before gc", roots(machine)?, 3)?;
    act(machine, "gc", "selkie gc", "selkie gc", (12, 1))?;
    same("roots after gc", roots(machine)?, 2)?;
    push("v3")?;
    act(machine, "upgrade, disk full", DISK_FULL, "", (9, 0))?;
    machine.shell("rm -f /var/ballast*")?;
    machine.shell(FILL_ESP)?;
    act(machine, "upgrade, ESP full", ESP_FULL, "", (9, 0))?;
    let status = Status::of(machine)?;
    same("the root that runs", status.booted()?, v1)?;
    Ok(acts)
}

/// Fills the disk while an upgrade fetches; that must end it, with the exit code that says so.
const DISK_FULL: &str = r#"
    selkie upgrade --progress json > /run/progress 2> /run/errors & pid=$!
    until grep -qs '"unit":"bytes"' /run/progress /run/errors || ! kill -0 $pid 2> /dev/null; do sleep 0.2; done
    n=0
    while kill -0 $pid 2> /dev/null; do
        n=$((n + 1))
        fallocate -l 64M /var/ballast-$n 2> /dev/null || fallocate -l 1M /var/ballast-$n-small 2> /dev/null || sleep 0.3
    done
    code=0; wait $pid || code=$?
    test $code = 8 || { cat /run/errors >&2; exit 1; }"#;

/// Leaves no room for another kernel on the ESP.
const FILL_ESP: &str = "
    mkdir -p /run/full-esp
    mount -t vfat /dev/disk/by-partlabel/ESP /run/full-esp
    dd if=/dev/zero of=/run/full-esp/ballast bs=1M status=none 2> /dev/null || true
    truncate -s -4M /run/full-esp/ballast
    sync";

/// An upgrade that the ESP has no room for; it must end before anything is written there.
const ESP_FULL: &str = "code=0; selkie upgrade || code=$?; test $code = 8";

/// Makes durable what was written until now; the place in the log.
fn mark(machine: &mut Machine) -> Result<usize> {
    machine.shell("sync; sync -d /var")?;
    let mut log = File::open(machine.write_log()).context("opening the log of writes")?;
    usize::try_from(replay::count(&mut log)?).context("counting requests")
}

/// The root that boots next.
fn next(machine: &mut Machine) -> Result<String> {
    let status = Status::of(machine)?;
    let staged = status.get("/staged/id").as_str().map(str::to_owned);
    staged.map_or_else(|| status.booted().map(str::to_owned), Ok)
}

fn roots(machine: &mut Machine) -> Result<usize> {
    let list = machine.json(&["selkie", "list", "--json"])?;
    let generations = list["generations"].as_array().or(list.as_array()).context("reading selkie list --json")?;
    Ok(generations.len())
}

/// The disk that follows the log, and what is needed to look at it.
struct Replay<'a> {
    bench: &'a Bench<'a>,
    disk: Disk,
    look: Look,
    random: Random,
    /// The root that ran all the time.
    booted: String,
}

impl Replay<'_> {
    fn act(&mut self, act: &Act, tell: &Teller) -> Result<()> {
        let cuts = replay::choose(self.disk.records(), act.range.clone(), &self.disk.esp_range(), act.cuts, &mut self.random);
        ensure!(cuts.len() == act.cuts, "choosing cuts: {} (expected {})", cuts.len(), act.cuts);
        let booted: Vec<usize> = (0..act.boots).map(|_| self.random.below(cuts.len())).collect();
        let mut outcomes = BTreeMap::from([("old", 0), ("new", 0)]);
        for (number, cut) in cuts.iter().enumerate() {
            let undo = self.disk.cut(cut)?;
            let found = self.look.at(&self.disk, &self.booted).with_context(|| format!("a cut {cut}"))?;
            let outcome = judge(&found, act, &self.booted).with_context(|| format!("a cut {cut}"))?;
            *outcomes.entry(outcome).or_default() += 1;
            if booted.contains(&number) {
                self.boot(act, cut, &found, tell).with_context(|| format!("booting after a cut {cut}"))?;
            }
            self.disk.restore(undo)?;
        }
        tell.say(format!("{}: {} cuts, {} boot the old root, {} the new one", act.name, cuts.len(), outcomes["old"], outcomes["new"]));
        Ok(())
    }

    /// Boots the disk as it is, and runs the verb that was cut to its end.
    fn boot(&self, act: &Act, cut: &Cut, found: &Found, tell: &Teller) -> Result<()> {
        let mut machine = Machine::new(self.bench.lab, "power-cuts-boot", &self.bench.disk, self.bench.accel)?;
        self.disk.put_into(&machine.disk())?;
        let took = machine.boot()?;
        machine.settle()?;
        let booted = Status::of(&mut machine)?.booted()?.to_owned();
        same("the root that boots", &booted, &found.next)?;
        machine.shell(act.again).with_context(|| format!("running {:?} again", act.again))?;
        let status = Status::of(&mut machine)?;
        same("what is wrong in the end", status.get("/problems"), &serde_json::json!([]))?;
        tell.say(format!("booted {} in {} s after a cut {cut}; the verb then ended well", &booted[..12], took.as_secs()));
        machine.cut_power()?;
        let directory: PathBuf = self.bench.lab.dir.join("vm/power-cuts-boot");
        fs::remove_dir_all(&directory).with_context(|| format!("removing {}", directory.display()))
    }
}

/// Whether a machine boots the old root or the new one, and keeps the root that ran.
fn judge(found: &Found, act: &Act, booted: &str) -> Result<&'static str> {
    if !found.problems.is_empty() {
        bail!("looking at the machine: {:#?}", found.problems);
    }
    ensure!(
        found.entries.iter().any(|id| id == booted),
        "looking at the machine: the root that ran has lost its entry: {:#?}",
        found.entries
    );
    match act.may.iter().position(|id| *id == found.next) {
        Some(0) => Ok("old"),
        Some(_) => Ok("new"),
        None => bail!("looking at the machine: {} boots next (expected one of {:#?})", found.next, act.may),
    }
}
