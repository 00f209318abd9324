//! The process is killed after every durable step of every verb that changes a machine. Whatever is left must boot the old root or the new one, and
//! the same command again must finish the work.

mod common;
mod crash_common;
#[path = "crash_common/host.rs"]
mod crash_host;

use std::path::Path;
use std::time::Duration;

use common::host::Machine;
use common::layout;
use crash_common::{Job, Scene, kill_at_every_step, killed};
use crash_host::Running;
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::upgrade::{self, Options, Until};
use selkie::ops::{boot_once, gc, health, pin, rollback};
use selkie::progress::Silent;

#[test]
fn child() {
    crash_common::child(&[
        ("upgrade", |job| upgrade(job, None, Until::Stage)),
        ("upgrade --download-only", |job| upgrade(job, None, Until::Download)),
        ("switch", |job| upgrade(job, Some("other"), Until::Stage)),
        ("rollback", |job| drop(rollback::run(&job.host(), &*job.progress).unwrap())),
        ("rollback 1", |job| drop(rollback::to(&job.host(), "1", &*job.progress).unwrap())),
        ("pin", |job| drop(pin::run(&job.host(), Some("1"), true, &*job.progress).unwrap())),
        ("unpin", |job| drop(pin::run(&job.host(), Some("1"), false, &*job.progress).unwrap())),
        ("boot-once", |job| drop(boot_once::run(&job.host(), "1", &*job.progress).unwrap())),
        ("boot-once --cancel", |job| drop(boot_once::cancel(&job.host(), &*job.progress).unwrap())),
        ("gc", |job| drop(gc::run(&job.host(), gc::Options::default(), &*job.progress).unwrap())),
        ("health", health),
    ]);
}

fn upgrade(job: &Job, tag: Option<&str>, until: Until) {
    let image = tag.map(|tag| job.machine().reference(tag).parse().unwrap());
    upgrade::run(&job.host(), &Options { image, source: SourceOptions::default(), until, keep: 0, retry: true }, &job.progress).unwrap();
}

fn health(job: &Job) {
    let limit = Duration::from_secs(60);
    let options = health::Options { root: job.directory.join("checks"), limit, failed_units: false, follow_up: true };
    let mut report = health::check(&options, &Silent).unwrap();
    health::apply(&job.host(), &mut report, Duration::ZERO, &*job.progress);
}

/// What the other root of a test is called, found out on another machine.
fn id_of(files: &layout::Files) -> ImageId {
    let temp = crash_common::temporary();
    let (machine, first) = Machine::install(temp.path());
    machine.release("stable", files);
    machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap()
}

#[test]
fn upgrade_survives_a_stop_after_every_step() {
    let second = id_of(&layout::bootable("2"));
    kill_at_every_step("upgrade", 10, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("stable", &layout::bootable("2"));
        Running::going_to(machine, &first, &second)
    });
}

#[test]
fn an_upgrade_that_also_removes_an_old_root_survives_a_stop_after_every_step() {
    let second = id_of(&layout::bootable("2"));
    kill_at_every_step("upgrade", 14, |root| {
        let (machine, first) = Machine::install(root);
        let staged = ["3", "4"].map(|version| {
            machine.release("stable", &layout::bootable(version));
            machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap()
        });
        machine.release("stable", &layout::bootable("2"));
        let mut running = Running::going_to(machine, &first, &second);
        running.may.extend(staged);
        running
    });
}

#[test]
fn download_survives_a_stop_after_every_step() {
    kill_at_every_step("upgrade --download-only", 3, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("stable", &layout::bootable("2"));
        Running::unchanged(machine, &first)
    });
}

#[test]
fn switch_survives_a_stop_after_every_step() {
    let other = id_of(&layout::bootable("other"));
    kill_at_every_step("switch", 10, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("other", &layout::bootable("other"));
        Running::going_to(machine, &first, &other)
    });
    // The same image under another name: only what the machine follows changes.
    kill_at_every_step("switch", 1, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("other", &layout::bootable("1"));
        Running::unchanged(machine, &first)
    });
}

#[test]
fn rollback_survives_a_stop_after_every_step() {
    kill_at_every_step("rollback", 2, |root| {
        let (machine, first) = Machine::install(root);
        let second = machine.next(&first, "2", 0);
        machine.boot(&second);
        Staged(Running::going_to(machine, &second, &first))
    });
}

/// The verb run twice goes there and back again.
struct Staged(Running);

impl Scene for Staged {
    fn booted(&self) -> Option<&ImageId> {
        self.0.booted()
    }

    fn check(&self, when: &str) {
        self.0.check(when);
    }

    fn check_end(&self, when: &str) {
        let system = self.0.machine.host(&self.0.booted).system().unwrap();
        let next = &system.default_entry().unwrap().image;
        // Of a call that was stopped after its last step, the next one takes the effect back.
        assert!(self.0.may.contains(next), "{when}");
        assert_eq!(system.entries.len(), 2, "{when}");
    }
}

/// A machine that runs the last of five generations and has kept all of them.
fn five(root: &Path) -> (Machine, Vec<ImageId>) {
    let (machine, first) = Machine::install(root);
    std::fs::create_dir(root.join("firmware")).unwrap();
    let mut ids = vec![first];
    for version in ["2", "3", "4", "5"] {
        ids.push(machine.next(ids.last().unwrap(), version, 9));
        machine.boot(ids.last().unwrap());
    }
    assert_eq!(machine.host(&ids[4]).system().unwrap().entries.len(), 5);
    (machine, ids)
}

/// The same with pins.
fn five_with(root: &Path, pins: &[&str]) -> (Machine, Vec<ImageId>) {
    let (machine, ids) = five(root);
    for pin in pins {
        pin::run(&machine.host(&ids[4]), Some(pin), true, &Silent).unwrap();
    }
    (machine, ids)
}

#[test]
fn rollback_to_an_old_root_survives_a_stop_after_every_step() {
    kill_at_every_step("rollback 1", 2, |root| {
        let (machine, ids) = five_with(root, &["2"]);
        Running { kept: vec![ids[1].clone()], ..Running::going_to(machine, &ids[4], &ids[0]) }
    });
}

#[test]
fn a_pin_survives_a_stop_after_every_step() {
    kill_at_every_step("pin", 1, |root| {
        let (machine, ids) = five_with(root, &["2"]);
        Running { kept: vec![ids[1].clone()], ..Running::unchanged(machine, &ids[4]) }
    });
    kill_at_every_step("unpin", 1, |root| {
        let (machine, ids) = five_with(root, &["1", "2"]);
        Running { kept: vec![ids[1].clone()], ..Running::unchanged(machine, &ids[4]) }
    });
}

#[test]
fn one_boot_of_an_old_root_survives_a_stop_after_every_step() {
    for verb in ["boot-once", "boot-once --cancel"] {
        kill_at_every_step(verb, 1, |root| {
            let (machine, ids) = five(root);
            boot_once::run(&machine.host(&ids[4]), "2", &Silent).unwrap();
            Running::unchanged(machine, &ids[4])
        });
    }
    let temp = crash_common::temporary();
    let (machine, ids) = crash_common::prepared(|| five(temp.path()));
    boot_once::run(&machine.host(&ids[4]), "2", &Silent).unwrap();
    let once = || machine.host(&ids[4]).system().unwrap().once;
    assert!(killed("boot-once", temp.path(), Some(&ids[4]), 1));
    assert_eq!(once(), Some(ids[0].clone()), "it is durable when it is told");
    assert!(killed("boot-once --cancel", temp.path(), Some(&ids[4]), 1));
    assert_eq!(once(), None, "it is durable when it is told");
}

#[test]
fn gc_survives_a_stop_after_every_step() {
    kill_at_every_step("gc", 8, |root| {
        let (machine, ids) = five_with(root, &["2"]);
        Running { kept: vec![ids[1].clone()], ..Running::unchanged(machine, &ids[4]) }
    });
}

/// A release whose roots are on trial at first.
fn counted(version: &str) -> layout::Files {
    layout::with(layout::bootable(version), "usr/lib/systemd/systemd-bless-boot", "bless")
}

/// Makes the boot loader give up the second root.
fn give_up(root: &Path, id: &ImageId) {
    let entry = |counter: &str| root.join(format!("esp/loader/entries/selkie-{}-2{counter}.conf", id.short()));
    std::fs::rename(entry("+3"), entry("+0-3")).unwrap();
}

fn add_check(root: &Path, program: &str) {
    let checks = root.join("checks/usr/lib/selkie/health.d");
    std::fs::create_dir_all(&checks).unwrap();
    std::os::unix::fs::symlink(program, checks.join("check")).unwrap();
}

/// Two records are due: of the root that runs, whose check fails, and of one that never came up.
struct BadBoot(Running);

impl Scene for BadBoot {
    fn booted(&self) -> Option<&ImageId> {
        self.0.booted()
    }

    fn check(&self, when: &str) {
        self.0.check(when);
    }

    fn check_end(&self, when: &str) {
        self.0.check_end(when);
        let failed = self.0.machine.host(&self.0.booted).system().unwrap().failed;
        assert_eq!(failed.len(), 2, "{when}: {failed:#?}");
        assert!(failed.iter().all(|record| record.at.is_some()));
        // What a boot that was cut has counted is kept: the restarts come to their end.
        assert_eq!(failed.iter().find(|record| record.id == self.0.booted).unwrap().reboots, 1);
    }
}

#[test]
fn a_bad_boot_survives_a_stop_after_every_step_and_records_are_whole() {
    kill_at_every_step("health", 2, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("stable", &counted("2"));
        let second = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
        give_up(root, &second);
        add_check(root, "/bin/false");
        BadBoot(Running::unchanged(machine, &first))
    });
}

/// The record of an earlier failure goes.
struct GoodBoot(Running);

impl Scene for GoodBoot {
    fn booted(&self) -> Option<&ImageId> {
        self.0.booted()
    }

    fn check(&self, when: &str) {
        self.0.check(when);
    }

    fn check_end(&self, when: &str) {
        self.0.check_end(when);
        assert_eq!(self.0.machine.host(&self.0.booted).system().unwrap().failed, [], "{when}");
    }
}

#[test]
fn a_good_boot_survives_a_stop_after_every_step() {
    kill_at_every_step("health", 1, |root| {
        let (machine, first) = Machine::install(root);
        let mut bad = health::Report { verdict: health::Verdict::Bad, checks: vec![], consequence: None, problems: vec![] };
        health::apply(&machine.host(&first), &mut bad, Duration::ZERO, &Silent);
        assert_eq!(machine.host(&first).system().unwrap().failed.len(), 1);
        add_check(root, "/bin/true");
        GoodBoot(Running::unchanged(machine, &first))
    });
}

#[test]
fn taking_a_failed_release_again_survives_a_stop_after_every_step() {
    let second = id_of(&counted("2"));
    kill_at_every_step("upgrade", 8, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("stable", &counted("2"));
        machine.upgrade(&first, None, Until::Stage).unwrap();
        give_up(root, &second);
        let mut report = health::Report { verdict: health::Verdict::Good, checks: vec![], consequence: None, problems: vec![] };
        health::apply(&machine.host(&first), &mut report, Duration::ZERO, &Silent);
        assert_eq!(machine.host(&first).system().unwrap().failed.len(), 1);
        Running::going_to(machine, &first, &second)
    });
}
