//! `auto-update` on a machine made of temporary directories: what each policy does, what is left alone, when the machine restarts, and what a stop at any step leaves.
#![expect(clippy::print_stdout, reason = "the number of cut points is worth knowing")]

mod common;

use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::host::Machine;
use common::layout;
use jiff::tz::TimeZone;
use selkie::config::{self, Config, File};
use selkie::deploy::{AutoUpdate, Deployments, Outcome};
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::auto_update::{self, Action, Next, Options, Report};
use selkie::ops::upgrade::{self, Until};
use selkie::ops::{rollback, status};
use selkie::progress::{Event, Progress, Recorder, Silent};
use selkie::sys::dir;

/// 2026-11-25, a Wednesday, 12:00 UTC.
const NOON: u64 = 1_795_608_000;
const HOUR: u64 = 3600;

thread_local! {
    /// What the clock of this test's machine shows.
    static CLOCK: Cell<Option<u64>> = const { Cell::new(Some(NOON)) };
}

fn clock() -> Option<u64> {
    CLOCK.get()
}

fn configuration(text: &str) -> Config {
    let file = File { path: "x.toml".into(), text: format!("update.randomized-delay = '0s'\n{text}") };
    config::read(&[file], &|_| Some(TimeZone::UTC)).unwrap().config
}

/// One call, as the timer makes it; what it reported, and its durable steps.
fn call(machine: &Machine, booted: &ImageId, text: &str, now: bool) -> (anyhow::Result<Report>, Vec<String>) {
    let config = configuration(text);
    let options = Options { source: SourceOptions::default(), now, clock, root: machine.root.clone() };
    let recorder = Arc::new(Recorder::default());
    let progress: Arc<dyn Progress> = recorder.clone();
    let next = auto_update::due(dir::open_path(&machine.root).unwrap(), "sysroot", &config.update, &options).unwrap();
    let report = auto_update::run(&machine.host(booted).configured(config), &next, &options, &progress);
    (report, recorder.steps())
}

fn timer(machine: &Machine, booted: &ImageId, text: &str) -> Report {
    call(machine, booted, text, false).0.unwrap()
}

fn now(machine: &Machine, booted: &ImageId, text: &str) -> Report {
    call(machine, booted, text, true).0.unwrap()
}

fn record(machine: &Machine) -> AutoUpdate {
    let deployments = Deployments::open(dir::open_path(machine.root.join("sysroot")).unwrap()).unwrap();
    let (record, unreadable) = deployments.auto_update();
    assert_eq!(unreadable, None);
    record
}

/// A machine that runs v1, and v2 in its registry.
fn with_an_update(root: &Path) -> (Machine, ImageId) {
    let (machine, first) = Machine::install(root);
    machine.release("stable", &layout::bootable("2"));
    (machine, first)
}

fn next(machine: &Machine, booted: &ImageId) -> Option<ImageId> {
    machine.host(booted).system().unwrap().staged().map(|entry| entry.image.clone())
}

const STAGE: &str = "update.policy = 'stage'";
const APPLY: &str = "update.policy = 'apply'";

#[test]
fn each_policy_goes_one_step_further() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    let before = machine.snapshot();
    let report = timer(&machine, &first, "");
    assert_eq!((report, machine.snapshot()), (Report::off(), before));

    let report = timer(&machine, &first, "update.policy = 'check'");
    assert_eq!((report.outcome, report.restart.action), (Some(Outcome::Available), Action::None));
    assert_eq!(report.next_try.as_deref(), Some("2026-11-25T18:00:00Z"));
    let told = record(&machine);
    assert_eq!((told.image, told.manifest_digest.is_some(), told.failures), (Some(machine.reference("stable")), true, 0));
    assert_eq!(status::run(&machine.host(&first)).other.len(), 0);

    // Not due, until it is asked for or its time has come.
    assert_eq!(timer(&machine, &first, "update.policy = 'fetch'").outcome, None);
    assert_eq!(now(&machine, &first, "update.policy = 'fetch'").outcome, Some(Outcome::Downloaded));
    assert_eq!((next(&machine, &first), status::run(&machine.host(&first)).problems), (None, vec![]));
    CLOCK.set(Some(NOON + 6 * HOUR));
    let report = timer(&machine, &first, STAGE);
    let second = next(&machine, &first).unwrap();
    assert_eq!((report.outcome, report.staged.as_ref()), (Some(Outcome::Staged), Some(&second)));
    assert_eq!((report.restart.action, report.restart.because.as_str()), (Action::Leave, "update.policy is not \"apply\""));

    // What is staged already is staged, not up to date.
    assert_eq!(now(&machine, &first, STAGE).outcome, Some(Outcome::Staged));
    let report = timer(&machine, &first, APPLY);
    assert_eq!((report.outcome, report.restart.action), (None, Action::Restart), "another policy takes up what waits");
    machine.boot(&second);
    let report = now(&machine, &second, APPLY);
    assert_eq!((report.outcome, report.restart.action, report.staged), (Some(Outcome::UpToDate), Action::None, None));
    assert_eq!(record(&machine).staged, None);
}

#[test]
fn every_durable_step_is_told_in_order() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    let (report, steps) = call(&machine, &first, APPLY, false);
    assert_eq!(report.unwrap().restart.action, Action::Restart);
    let ours: Vec<&str> = steps.iter().map(String::as_str).filter(|step| step.starts_with("record")).collect();
    assert_eq!(ours, ["record attempt", "record staging", "record outcome", "record restart"]);
    assert_eq!(steps.first().map(String::as_str), Some("record attempt"));
    let (report, steps) = call(&machine, &first, STAGE, false);
    assert_eq!((report.unwrap().outcome, steps), (None, vec![]), "nothing is due, and nothing is written");
}

#[test]
fn failures_wait_longer_each_time_and_success_ends_that() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    let images = temp.path().join("images");
    let away = temp.path().join("away");
    std::fs::rename(&images, &away).unwrap();
    for (failures, wait) in [(1, 900), (2, 1800), (3, 3600)] {
        let at = clock().unwrap();
        let (failed, steps) = call(&machine, &first, STAGE, false);
        assert_eq!(Failure::find(&failed.unwrap_err()).unwrap().kind, FailureKind::NotFound);
        assert_eq!(steps, ["record attempt", "record outcome"]);
        let told = record(&machine);
        assert_eq!((told.failures, told.outcome, told.last_try), (failures, Some(Outcome::Failed), Some(at)));
        assert!(told.error.unwrap().contains("images"));
        CLOCK.set(Some(at + wait - 1));
        assert_eq!(timer(&machine, &first, STAGE).outcome, None, "after {failures}");
        CLOCK.set(Some(at + wait));
    }
    let automatic = status::run(&machine.host(&first).configured(configuration(STAGE))).automatic.unwrap();
    assert_eq!((automatic.failures, automatic.outcome, automatic.error.is_some()), (3, Some(Outcome::Failed), true));
    std::fs::rename(&away, &images).unwrap();
    assert_eq!(timer(&machine, &first, STAGE).outcome, Some(Outcome::Staged));
    let told = record(&machine);
    assert_eq!((told.failures, told.error), (0, None));
}

#[test]
fn a_clock_that_nobody_set_or_that_was_set_back_stops_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    CLOCK.set(Some(NOON + 50 * 365 * 24 * HOUR));
    assert_eq!(timer(&machine, &first, "update.policy = 'check'").outcome, Some(Outcome::Available));
    CLOCK.set(None);
    assert_eq!(timer(&machine, &first, "update.policy = 'check'").outcome, Some(Outcome::Available));
    CLOCK.set(Some(NOON + 50 * 365 * 24 * HOUR));
    let inhibited = format!("{APPLY}\nupdate.wait-limit = '1d'");
    inhibit(&machine, true);
    assert_eq!(now(&machine, &first, &inhibited).restart.action, Action::Wait);
    // What has been waiting since the future begins to wait now.
    CLOCK.set(Some(NOON));
    let report = timer(&machine, &first, &inhibited);
    assert_eq!((report.outcome, report.restart.until.as_deref()), (Some(Outcome::Staged), Some("2026-11-26T12:00:00Z")));
}

#[test]
fn a_damaged_record_is_told_and_begun_anew() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    let state = temp.path().join("sysroot/state");
    std::fs::write(state.join("auto-update.json"), "{\"version\": 99}").unwrap();
    let problems = status::run(&machine.host(&first)).problems;
    assert!(problems.len() == 1 && problems[0].contains("format version 99"), "{problems:?}");
    assert_eq!(timer(&machine, &first, STAGE).outcome, Some(Outcome::Staged));
    assert_eq!(std::fs::read_to_string(state.join("auto-update.json.unreadable")).unwrap(), "{\"version\": 99}");
    assert_eq!(record(&machine).failures, 0);
}

#[test]
fn what_somebody_went_back_from_is_left_alone_until_something_newer_comes() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    timer(&machine, &first, STAGE);
    let second = next(&machine, &first).unwrap();
    machine.boot(&second);
    rollback::run(&machine.host(&second), &Silent).unwrap();
    for booted in [&second, &first] {
        let report = now(&machine, booted, APPLY);
        assert_eq!(report.outcome, Some(Outcome::LeftAlone));
        assert_eq!(machine.host(booted).system().unwrap().default_entry().unwrap().image, first);
    }
    // The restart back is the business of who rolled back.
    let report = now(&machine, &second, APPLY);
    assert_eq!((report.restart.action, report.staged.as_ref()), (Action::Leave, Some(&first)));
    let automatic = status::run(&machine.host(&first).configured(configuration(APPLY))).automatic.unwrap();
    assert_eq!(automatic.outcome, Some(Outcome::LeftAlone));

    // Its deployment may go; the release is left all the same.
    selkie::ops::gc::run(&machine.host(&first), selkie::ops::gc::Options::default(), &Silent).unwrap();
    machine.release("stable", &layout::bootable("3"));
    assert_eq!(now(&machine, &first, STAGE).outcome, Some(Outcome::Staged));
    let third = next(&machine, &first).unwrap();
    rollback::run(&machine.host(&first), &Silent).unwrap();
    assert_eq!(now(&machine, &first, STAGE).outcome, Some(Outcome::LeftAlone), "also one that never ran");

    // Whoever takes it by hand takes that back.
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().staged, Some(third.clone()));
    let report = now(&machine, &first, APPLY);
    assert_eq!((report.outcome, report.restart.action, report.staged), (Some(Outcome::Staged), Action::Leave, Some(third)));
    machine.release("stable", &layout::bootable("2"));
    assert_eq!(now(&machine, &first, STAGE).outcome, Some(Outcome::LeftAlone), "somebody had a reason");
}

#[test]
fn a_release_that_failed_is_not_taken_again() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    machine.release("stable", &layout::with(layout::bootable("2"), "usr/lib/systemd/systemd-bless-boot", "bless"));
    let tries = format!("{STAGE}\ntries = 5");
    timer(&machine, &first, &tries);
    let second = next(&machine, &first).unwrap();
    let entry = |counter: &str| temp.path().join(format!("esp/loader/entries/selkie-{}-2{counter}.conf", second.short()));
    std::fs::rename(entry("+5"), entry("+0-5")).unwrap();
    assert_eq!(now(&machine, &first, APPLY).outcome, Some(Outcome::FailedBefore));
    assert_eq!(next(&machine, &first), None);
}

#[test]
fn a_try_does_not_replace_what_another_process_is_doing() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    let other = machine.host(&first);
    let lock = other.lock().unwrap();
    let (busy, steps) = call(&machine, &first, STAGE, false);
    let busy = busy.unwrap();
    assert_eq!((busy.outcome, busy.restart.action, steps), (None, Action::Wait, vec![]));
    assert!(busy.restart.because.contains("another selkie process is changing this machine"), "{}", busy.restart.because);
    drop(lock);
    assert_eq!(record(&machine), AutoUpdate::default(), "it is no failure");
    assert_eq!(timer(&machine, &first, STAGE).outcome, Some(Outcome::Staged));
}

/// Somebody holds an inhibitor, or does no longer.
fn inhibit(machine: &Machine, held: bool) {
    let folder = machine.root.join("run/systemd/inhibit");
    std::fs::create_dir_all(&folder).unwrap();
    match held {
        true => std::fs::write(folder.join("1"), "WHAT=shutdown\nMODE=block\nWHO=backup\nWHY=nightly\n").unwrap(),
        false => std::fs::remove_file(folder.join("1")).unwrap(),
    }
}

#[test]
fn the_restart_waits_for_window_users_and_inhibitors() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    let text = format!("{APPLY}\nupdate.window = 'Wed 12:30-14:00'\nupdate.wait-limit = '1h'");
    inhibit(&machine, true);
    let at = |minutes: u64| {
        CLOCK.set(Some(NOON + minutes * 60));
        let restart = timer(&machine, &first, &text).restart;
        (restart.action, restart.because, restart.until)
    };
    assert_eq!(at(0), (Action::Wait, "no window is open".into(), Some("2026-11-25T12:30:00Z".into())));
    let automatic = status::run(&machine.host(&first).configured(configuration(&text))).automatic.unwrap();
    assert_eq!(automatic.waiting_since.as_deref(), Some("2026-11-25T12:00:00Z"));
    let inhibited = (Action::Wait, "backup (nightly) inhibits it".to_owned(), Some("2026-11-25T13:00:00Z".to_owned()));
    assert_eq!(at(45), inhibited);
    inhibit(&machine, false);
    assert_eq!(at(46), (Action::Restart, "nothing is in its way".into(), None));
    // It was asked for in this boot and has not happened; now somebody minds again.
    inhibit(&machine, true);
    assert_eq!(at(59), inhibited);
    assert_eq!(at(60).0, Action::RestartAnyway);
    // Another boot of the same old root: the restart did not help.
    let path = temp.path().join("sysroot/state/auto-update.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["staged"]["restarted-in"] = "another".into();
    std::fs::write(&path, json.to_string()).unwrap();
    assert_eq!(at(61), (Action::Leave, "the machine was restarted for it before, and something else came up".into(), None));
    // Until something newer comes.
    machine.release("stable", &layout::bootable("3"));
    inhibit(&machine, false);
    assert_eq!(now(&machine, &first, &text).restart.action, Action::Restart);
}

#[test]
fn a_tag_that_moves_often_does_not_make_the_wait_begin_anew() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    inhibit(&machine, true);
    let until = Some("2026-11-26T12:00:00Z".to_owned());
    assert_eq!(timer(&machine, &first, APPLY).restart.until, until);
    machine.release("stable", &layout::bootable("3"));
    CLOCK.set(Some(NOON + 6 * HOUR));
    let report = timer(&machine, &first, APPLY);
    assert_eq!((report.outcome, report.restart.until), (Some(Outcome::Staged), until));
    // What was booted waits no more: the next one has a wait of its own.
    let third = next(&machine, &first).unwrap();
    machine.boot(&third);
    machine.release("stable", &layout::bootable("4"));
    CLOCK.set(Some(NOON + 24 * HOUR));
    assert_eq!(timer(&machine, &third, APPLY).restart.until.as_deref(), Some("2026-11-27T12:00:00Z"));
}

#[test]
fn a_machine_of_another_kind_is_no_host() {
    let temp = tempfile::tempdir().unwrap();
    let options = Options { source: SourceOptions::default(), now: false, clock, root: temp.path().to_owned() };
    let due = |text: &str| auto_update::due(dir::open_path(temp.path()).unwrap(), "sysroot", &configuration(text).update, &options);
    assert_eq!(due("").unwrap(), Next::Off);
    assert_eq!(Failure::find(&due(STAGE).unwrap_err()).unwrap().kind, FailureKind::NotAHost);
    std::fs::create_dir(temp.path().join("sysroot")).unwrap();
    assert_eq!(Failure::find(&due(STAGE).unwrap_err()).unwrap().kind, FailureKind::NotAHost);
}

#[test]
fn how_much_is_kept_is_the_configurations_to_say() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, mut booted) = Machine::install(temp.path());
    for version in ["2", "3", "4", "5"] {
        machine.release("stable", &layout::bootable(version));
        now(&machine, &booted, &format!("{STAGE}\nkeep = 1"));
        booted = next(&machine, &booted).unwrap();
        machine.boot(&booted);
    }
    // Booted, previous, and one more, when the last was staged: 4, 3 and 2 beside 5.
    let left = machine.host(&booted).system().unwrap().generations().len();
    assert_eq!(left, 4);
}

/// Variables by which a child knows that it is one.
const DIRECTORY: &str = "SELKIE_AUTO_UPDATE_DIRECTORY";
const BOOTED: &str = "SELKIE_AUTO_UPDATE_BOOTED";
const STOP: &str = "SELKIE_AUTO_UPDATE_STOP";

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
    let machine = Machine { root: directory.into() };
    let options = Options { source: SourceOptions::default(), now: true, clock, root: machine.root.clone() };
    let killer: Arc<dyn Progress> = Arc::new(Killer { stop: std::env::var(STOP).unwrap().parse().unwrap(), steps: AtomicUsize::new(0) });
    auto_update::run(&machine.host(&booted).configured(configuration(APPLY)), &Next::Try, &options, &killer).unwrap();
}

/// Runs a try that is killed after `stop` steps; whether it was, or ended before.
fn killed(directory: &Path, booted: &ImageId, stop: usize) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(BOOTED, booted.hex())
        .env(STOP, stop.to_string())
        .output()
        .unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(6);
    assert!(aborted || output.status.success(), "after {stop}: {}", String::from_utf8_lossy(&output.stderr));
    aborted
}

#[test]
fn a_stop_after_every_step_leaves_a_machine_that_boots_and_goes_on() {
    for stop in 1.. {
        let temp = tempfile::tempdir().unwrap();
        let (machine, first) = with_an_update(temp.path());
        let was_killed = killed(temp.path(), &first, stop);
        let when = format!("stopped after step {stop}");
        let system = machine.host(&first).system().unwrap();
        assert_eq!(system.problems, [""; 0], "{when}");
        assert!(system.can_boot(system.default_entry().unwrap()), "{when}");
        let told = record(&machine);
        assert!(told.last_try.is_some(), "{when}: the try is on record");
        if told.outcome == Some(Outcome::Begun) {
            assert_eq!(timer(&machine, &first, APPLY).outcome, None, "{when}: the next one waits as after a failure");
        }
        // Whoever published the entry, it was staged by the machine itself, and so the machine restarts into it.
        let report = now(&machine, &first, APPLY);
        assert_eq!((report.outcome, report.restart.action), (Some(Outcome::Staged), Action::Restart), "{when}");
        assert_eq!((report.staged.as_ref(), record(&machine).failures), (next(&machine, &first).as_ref(), 0), "{when}");
        if !was_killed {
            assert!(stop > 12, "a try has only {} steps", stop - 1);
            println!("auto-update: {} cut points", stop - 1);
            return;
        }
    }
}

/// The mark comes before the entry: a rollback that was cut after the entry was written is one that automatic updates respect.
#[test]
fn a_rollback_notes_what_is_left_before_anything_boots() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_an_update(temp.path());
    timer(&machine, &first, STAGE);
    let recorder = Recorder::default();
    rollback::run(&machine.host(&first), &recorder).unwrap();
    assert_eq!(recorder.steps().first().map(String::as_str), Some("note release that is left"));
    let manifest = record(&machine).manifest_digest.unwrap();
    let left = |booted: &ImageId| machine.host(booted).deployments().unwrap().is_left_alone(&manifest).unwrap();
    assert!(left(&first));
    // Forward again by hand.
    rollback::run(&machine.host(&first), &Silent).unwrap();
    assert!(!left(&first));
    let found = machine.upgrade(&first, None, Until::Check).unwrap().outcome;
    assert_eq!(found, upgrade::Outcome::UpToDate);
}
