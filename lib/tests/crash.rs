//! The process is killed after every durable step of every verb that writes. Whatever is left must boot the old root or the new one, and the
//! same command again must finish the work.
//!
//! Each stop is a real one: a child process runs the verb and aborts, so that no clean-up code runs.
#![expect(clippy::print_stdout, reason = "the number of cut points is worth knowing")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use common::host::Machine;
use common::layout;
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::upgrade::{self, Options, Until};
use selkie::ops::{boot_once, gc, health, pin, rollback};
use selkie::progress::{Event, Progress, Silent};

/// Variables by which a child knows that it is one.
const DIRECTORY: &str = "SELKIE_CRASH_DIRECTORY";
const BOOTED: &str = "SELKIE_CRASH_BOOTED";
const VERB: &str = "SELKIE_CRASH_VERB";
const STOP: &str = "SELKIE_CRASH_STOP";

/// A child has its parent's files open until it runs its own program, among them the lock of a machine that another test has just given up. So
/// children are started (written) while no test prepares a machine (reads).
static STARTS: RwLock<()> = RwLock::new(());

/// Aborts after so many durable steps.
struct Killer {
    stop: usize,
    steps: AtomicUsize,
}

impl Progress for Killer {
    fn event(&self, event: Event) {
        if matches!(event, Event::Step { .. }) && self.steps.fetch_add(1, Ordering::SeqCst) + 1 == self.stop {
            std::process::abort();
        }
    }
}

/// Not a test by itself: what a child does. Without the variables there is nothing to do.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let booted: ImageId = std::env::var(BOOTED).unwrap().parse().unwrap();
    let killer = Arc::new(Killer { stop: std::env::var(STOP).unwrap().parse().unwrap(), steps: AtomicUsize::new(0) });
    let host_directory = Path::new(&directory).to_owned();
    let host = Machine { root: directory.into() }.host(&booted);
    match std::env::var(VERB).unwrap().as_str() {
        "rollback" => drop(rollback::run(&host, killer.as_ref()).unwrap()),
        "rollback to 1" => drop(rollback::to(&host, "1", killer.as_ref()).unwrap()),
        "pin" => drop(pin::run(&host, Some("1"), true, killer.as_ref()).unwrap()),
        "unpin" => drop(pin::run(&host, Some("1"), false, killer.as_ref()).unwrap()),
        "boot-once" => drop(boot_once::run(&host, "1", killer.as_ref()).unwrap()),
        "gc" => drop(gc::run(&host, gc::Options::default(), killer.as_ref()).unwrap()),
        "health" => {
            let options = health::Options {
                root: host_directory.join("checks"),
                limit: Duration::from_secs(60),
                failed_units: false,
                follow_up: true,
            };
            let mut report = health::check(&options, &Silent).unwrap();
            health::apply(&host, &mut report, Duration::ZERO, killer.as_ref());
        }
        verb => {
            let until = if verb == "download" { Until::Download } else { Until::Stage };
            let progress: Arc<dyn Progress> = killer;
            upgrade::run(&host, &Options { image: None, source: SourceOptions::default(), until, keep: 0, retry: true }, &progress)
                .unwrap();
        }
    }
}

/// Runs a verb that is killed after `stop` steps; whether it was, or ended before.
fn killed(verb: &str, directory: &Path, booted: &ImageId, stop: usize) -> bool {
    let alone = STARTS.write().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(BOOTED, booted.hex())
        .env(VERB, verb)
        .env(STOP, stop.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(alone);
    let output = child.wait_with_output().unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(6);
    assert!(aborted || output.status.success(), "{verb} after {stop}: {}", String::from_utf8_lossy(&output.stderr));
    aborted
}

/// Invariants I1 to I4: every entry leads to a deployment and a whole image, and the booted root is one of them.
fn check(machine: &Machine, booted: &ImageId, may_boot_next: &[&ImageId], when: &str) {
    let host = machine.host(booted);
    let system = host.system().unwrap();
    assert_eq!(system.problems, [""; 0], "{when}");
    let next = &system.default_entry().unwrap().image;
    assert!(may_boot_next.contains(&next), "{when}: {} boots next", next.short());
    assert!(system.entries.iter().any(|e| e.image == *booted), "{when}: the booted root has lost its entry");
    let store = host.store().unwrap();
    for entry in &system.entries {
        let tree = store.tree(&entry.image).unwrap();
        tree.walk("/", |_, node| {
            if let selkie::store::NodeKind::File(file) = &node.kind {
                assert_eq!(tree.read(file).unwrap().len() as u64, file.size, "{when}");
            }
            Ok(())
        })
        .unwrap();
    }
}

/// Kills `verb` after every step in turn, each time on a machine made anew by `prepare`, which tells what runs and what may boot next.
fn kill_at_every_step(verb: &str, least: usize, prepare: impl Fn(&Path) -> (Machine, ImageId, Vec<ImageId>)) {
    for stop in 1.. {
        let temp = tempfile::tempdir().unwrap();
        let others_wait = STARTS.read().unwrap();
        let (machine, booted, may) = prepare(temp.path());
        drop(others_wait);
        let may: Vec<&ImageId> = may.iter().collect();
        let was_killed = killed(verb, temp.path(), &booted, stop);
        check(&machine, &booted, &may, &format!("{verb} stopped after step {stop}"));
        // Without a limit the verb runs to its end.
        assert!(!killed(verb, temp.path(), &booted, 0));
        check(&machine, &booted, &may, &format!("{verb} repeated after a stop at step {stop}"));
        if !was_killed {
            assert!(stop > least, "{verb} has only {} steps (expected at least {least})", stop - 1);
            println!("{verb}: {} cut points", stop - 1);
            return;
        }
    }
}

fn second_id() -> ImageId {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    machine.release("stable", &layout::bootable("2"));
    machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap()
}

#[test]
fn upgrade_survives_a_stop_after_every_step() {
    let second = second_id();
    kill_at_every_step("upgrade", 10, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("stable", &layout::bootable("2"));
        (machine, first.clone(), vec![first, second.clone()])
    });
}

#[test]
fn an_upgrade_that_also_removes_an_old_root_survives_a_stop_after_every_step() {
    let second = second_id();
    kill_at_every_step("upgrade", 14, |root| {
        let (machine, first) = Machine::install(root);
        let mut may = vec![first.clone(), second.clone()];
        for version in ["3", "4"] {
            machine.release("stable", &layout::bootable(version));
            may.push(machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap());
        }
        machine.release("stable", &layout::bootable("2"));
        (machine, first, may)
    });
}

#[test]
fn download_survives_a_stop_after_every_step() {
    kill_at_every_step("download", 3, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("stable", &layout::bootable("2"));
        (machine, first.clone(), vec![first])
    });
}

#[test]
fn rollback_survives_a_stop_after_every_step() {
    kill_at_every_step("rollback", 2, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("stable", &layout::bootable("2"));
        let second = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
        rollback::run(&machine.host(&second), &Silent).unwrap();
        rollback::run(&machine.host(&second), &Silent).unwrap();
        (machine, second.clone(), vec![first, second])
    });
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

#[test]
fn rollback_to_an_old_root_survives_a_stop_after_every_step() {
    kill_at_every_step("rollback to 1", 2, |root| {
        let (machine, ids) = five(root);
        (machine, ids[4].clone(), vec![ids[4].clone(), ids[0].clone()])
    });
}

#[test]
fn a_pin_survives_a_stop_after_every_step() {
    for verb in ["pin", "unpin"] {
        kill_at_every_step(verb, 1, |root| {
            let (machine, ids) = five(root);
            pin::run(&machine.host(&ids[4]), Some("1"), verb == "unpin", &Silent).unwrap();
            (machine, ids[4].clone(), vec![ids[4].clone()])
        });
    }
}

#[test]
fn one_boot_of_an_old_root_survives_a_stop_after_every_step() {
    kill_at_every_step("boot-once", 1, |root| {
        let (machine, ids) = five(root);
        boot_once::run(&machine.host(&ids[4]), "2", &Silent).unwrap();
        (machine, ids[4].clone(), vec![ids[4].clone()])
    });
    let temp = tempfile::tempdir().unwrap();
    let (machine, ids) = five(temp.path());
    boot_once::run(&machine.host(&ids[4]), "2", &Silent).unwrap();
    assert!(killed("boot-once", temp.path(), &ids[4], 1));
    assert_eq!(machine.host(&ids[4]).system().unwrap().once, Some(ids[0].clone()), "it is durable when it is told");
}

#[test]
fn gc_survives_a_stop_after_every_step() {
    kill_at_every_step("gc", 8, |root| {
        let (machine, ids) = five(root);
        // What nobody may remove: it is checked by its entry.
        pin::run(&machine.host(&ids[4]), Some("2"), true, &Silent).unwrap();
        (machine, ids[4].clone(), vec![ids[4].clone()])
    });
}

/// Two records are due: of the root that runs, whose check fails, and of one that never came up.
#[test]
fn health_survives_a_stop_after_every_step_and_records_are_whole() {
    for stop in 1.. {
        let temp = tempfile::tempdir().unwrap();
        let (machine, first) = Machine::install(temp.path());
        machine.release("stable", &layout::with(layout::bootable("2"), "usr/lib/systemd/systemd-bless-boot", "bless"));
        let second = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
        let entries = temp.path().join("esp/loader/entries");
        let entry = |counter: &str| entries.join(format!("selkie-{}-2{counter}.conf", second.short()));
        std::fs::rename(entry("+3"), entry("+0-3")).unwrap();
        let checks = temp.path().join("checks/usr/lib/selkie/health.d");
        std::fs::create_dir_all(&checks).unwrap();
        std::os::unix::fs::symlink("/bin/false", checks.join("fails")).unwrap();

        let was_killed = killed("health", temp.path(), &first, stop);
        check(&machine, &first, &[&first], &format!("health stopped after step {stop}"));
        // What a boot that was cut has counted is kept: the restarts come to their end.
        assert!(!killed("health", temp.path(), &first, 0));
        let failed = machine.host(&first).system().unwrap().failed;
        assert_eq!(failed.len(), 2, "health stopped after step {stop}: {failed:#?}");
        assert!(failed.iter().all(|record| record.at.is_some()));
        assert_eq!(failed.iter().find(|record| record.id == first).unwrap().reboots, 1);
        if !was_killed {
            assert!(stop > 2, "health has only {} steps", stop - 1);
            println!("health: {} cut points", stop - 1);
            return;
        }
    }
}

#[test]
fn taking_a_failed_release_again_survives_a_stop_after_every_step() {
    let (release, second) = {
        let release = || layout::with(layout::bootable("2"), "usr/lib/systemd/systemd-bless-boot", "bless");
        let temp = tempfile::tempdir().unwrap();
        let (machine, first) = Machine::install(temp.path());
        machine.release("stable", &release());
        (release, machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap())
    };
    kill_at_every_step("upgrade", 8, |root| {
        let (machine, first) = Machine::install(root);
        machine.release("stable", &release());
        machine.upgrade(&first, None, Until::Stage).unwrap();
        let entry = |counter: &str| root.join(format!("esp/loader/entries/selkie-{}-2{counter}.conf", second.short()));
        std::fs::rename(entry("+3"), entry("+0-3")).unwrap();
        let mut report = health::Report { verdict: health::Verdict::Good, checks: vec![], consequence: None, problems: vec![] };
        health::apply(&machine.host(&first), &mut report, Duration::ZERO, &Silent);
        assert_eq!(machine.host(&first).system().unwrap().failed.len(), 1);
        (machine, first.clone(), vec![first, second.clone()])
    });
}
