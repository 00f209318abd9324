//! Odd conditions on a machine made of directories: another process at work, a signal at any moment, an ESP that is read-only or gone. Killed processes
//! are in `crash.rs`, full file systems in `no_space.rs`, a clock in 1970 in `sys/clock.rs`, and all of them on a real machine in the lab.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::host::{Machine, silent};
use common::layout;
use rustix::mount::MountFlags;
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::host::Host;
use selkie::ops::upgrade::{self, Options, Outcome, Report, Until};
use selkie::ops::{gc, pin, rollback, status};
use selkie::progress::{Event, Progress, Silent};
use selkie::sys::interrupt::{self, Signal};
use selkie::sys::{dir, mount};

/// A process has one state about signals, and here all tests are one process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn upgrade(host: &Host, progress: &Arc<dyn Progress>) -> anyhow::Result<Report> {
    upgrade::run(host, &Options { image: None, source: SourceOptions::default(), until: Until::Stage, keep: 0, retry: false }, progress)
}

fn failure(outcome: anyhow::Result<impl std::fmt::Debug>) -> Failure {
    let error = outcome.unwrap_err();
    let failure = Failure::find(&error).unwrap_or_else(|| panic!("not a failure: {error:?}"));
    Failure { message: format!("{error:#}"), ..failure }
}

/// A machine that runs version 1, while the tag is version 2 already.
fn behind(root: &std::path::Path) -> (Machine, ImageId) {
    let (machine, first) = Machine::install(root);
    machine.release("stable", &layout::bootable("2"));
    (machine, first)
}

#[test]
fn the_second_of_two_is_told_who_is_at_work() {
    let _alone = alone();
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = behind(temp.path());
    let before = machine.snapshot();
    let held = machine.host(&first).lock().unwrap();
    let host = machine.host(&first);
    for refused in [
        failure(upgrade(&host, &silent())),
        failure(rollback::run(&host, &Silent)),
        failure(gc::run(&host, gc::Options::default(), &Silent)),
        failure(pin::run(&host, None, true, &Silent)),
    ] {
        assert_eq!(refused.kind, FailureKind::Busy);
        let holder = format!("(process {})", std::process::id());
        assert!(refused.message.ends_with(&holder) && refused.hint.is_some(), "{refused}");
    }
    assert_eq!(machine.snapshot(), before);
    assert_eq!(status::run(&host).problems, [""; 0]);
    drop(held);
    assert_eq!(upgrade(&host, &silent()).unwrap().outcome, Outcome::Staged);
}

/// Sends itself a signal at one of the events.
struct Interrupter {
    at: usize,
    seen: AtomicUsize,
}

impl Progress for Interrupter {
    fn event(&self, event: Event) {
        if !matches!(event, Event::Advance { .. }) && self.seen.fetch_add(1, Ordering::SeqCst) == self.at {
            interrupt::ask(Signal::Interrupt);
        }
    }
}

#[test]
fn an_interrupt_at_any_moment_leaves_the_old_root_or_the_new_one() {
    let _alone = alone();
    let (mut called_off, mut finished) = (0, 0);
    for at in 0.. {
        let temp = tempfile::tempdir().unwrap();
        let (machine, first) = behind(temp.path());
        let interrupter = Arc::new(Interrupter { at, seen: AtomicUsize::new(0) });
        let progress: Arc<dyn Progress> = interrupter.clone();
        let outcome = upgrade(&machine.host(&first), &progress);
        let status = status::run(&machine.host(&first));
        assert_eq!(status.problems, [""; 0], "at event {at}");
        if outcome.is_ok() {
            assert!(status.staged.is_some(), "at event {at}");
            finished += 1;
        } else {
            let failure = failure(outcome);
            assert!(failure.hint.as_ref().unwrap().contains(": it goes on from what is there"), "{failure:?}");
            assert_eq!((failure.kind, failure.kind.exit_code()), (FailureKind::Interrupted, 130), "at event {at}: {failure}");
            assert_eq!((status.staged, status.booted.id), (None, first.clone()), "at event {at}");
            called_off += 1;
            assert_eq!(finished, 0, "what comes too late for one comes too late for what is after it");
        }
        // The next call ends the work, and leaves nothing to be removed.
        let next = upgrade(&machine.host(&first), &silent()).unwrap();
        assert!(next.reboot_needed, "at event {at}");
        let left = gc::run(&machine.host(&first), gc::Options { dry_run: true, ..gc::Options::default() }, &Silent).unwrap();
        assert_eq!((left.entries, left.deployments, left.tags, left.objects), (vec![], vec![], vec![], 0), "at event {at}");
        if interrupter.seen.load(Ordering::SeqCst) <= at {
            break;
        }
    }
    assert!(called_off >= 3 && finished >= 5, "{called_off} were called off, {finished} finished");
}

#[test]
fn a_read_only_esp_is_told_and_the_machine_stays_as_it_is() {
    let _alone = alone();
    let temp = tempfile::tempdir().unwrap();
    mount::enter_private_namespace().expect("this test mounts file systems: run it as root");
    let esp = temp.path().join("esp");
    std::fs::create_dir(&esp).unwrap();
    rustix::mount::mount("tmpfs", &esp, "tmpfs", MountFlags::empty(), None).unwrap();
    let (machine, first) = behind(temp.path());
    let files = || machine.snapshot().into_iter().filter(|(path, _)| path.starts_with(&esp)).collect::<Vec<_>>();
    let before = files();
    rustix::mount::mount_remount(&esp, MountFlags::RDONLY, "").unwrap();
    let refused = failure(upgrade(&machine.host(&first), &silent()));
    assert_eq!(refused.kind, FailureKind::NotPermitted, "{refused}");
    assert!(refused.message.contains("Read-only file system") && refused.hint.unwrap().contains("dmesg"), "{}", refused.message);
    let told = status::run(&machine.host(&first));
    assert_eq!((told.staged, told.problems, files()), (None, vec![], before));
    rustix::mount::mount_remount(&esp, MountFlags::empty(), "").unwrap();
    assert_eq!(upgrade(&machine.host(&first), &silent()).unwrap().outcome, Outcome::Staged);
}

#[test]
fn without_its_esp_a_machine_tells_so_and_fetches_nothing() {
    let _alone = alone();
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = behind(temp.path());
    let before = machine.snapshot();
    let open = |part: &str| dir::open_path(machine.root.join(part)).unwrap();
    let gone = mount::vfat("/dev/disk/by-partuuid/none".as_ref(), &temp.path().join("esp"), true).unwrap_err();
    let host = Host::partly_at(open("sysroot"), Err(gone), open("run"), first.clone());
    let refused = failure(upgrade(&host, &silent()));
    assert_eq!(refused.kind, FailureKind::NotAHost);
    assert!(refused.message.contains("none at ") && refused.message.contains("there is no such device"), "{refused}");
    assert!(refused.hint.unwrap().contains("lsblk"));
    let told = status::run(&host);
    assert_eq!((told.booted.id, told.booted.os_version.as_deref(), told.problems.len()), (first, Some("1"), 1), "{:?}", told.problems);
    assert!(told.problems[0].contains("there is no such device"), "{:?}", told.problems);
    assert_eq!(machine.snapshot(), before);
}
