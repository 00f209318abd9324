//! `health` on real scripts in temporary directories, and what follows from it on a machine made of temporary directories whose boot loader counts.

mod common;

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::host::Machine;
use common::layout;
use selkie::deploy::{Cause, Deployments};
use selkie::image_id::ImageId;
use selkie::ops::health::{self, Action, Finding, Kind, Options, Outcome, Report, Verdict};
use selkie::ops::upgrade::{self, Until};
use selkie::ops::{rollback, status};
use selkie::progress::{Recorder, Silent};
use selkie::sys::dir;

const OWN: &str = "usr/lib/selkie/health.d";
const OWN_ETC: &str = "etc/selkie/health.d";
const REQUIRED: &str = "etc/greenboot/check/required.d";

/// A file with this mode. Another process writes it: the kernel runs no file that is open for writing, and a child that another test is just
/// starting would have a copy of this process's handle.
fn put(root: &Path, path: &str, text: impl AsRef<[u8]>, mode: u32) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = Command::new("sh").args(["-c", "cat > \"$1\"", "sh"]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(text.as_ref()).unwrap();
    assert!(writer.wait().unwrap().success());
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
}

fn script(root: &Path, path: &str, text: &str) {
    put(root, path, format!("#!/bin/sh\n{text}\n"), 0o755);
}

fn options(root: &Path) -> Options {
    Options { root: root.to_owned(), limit: Duration::from_secs(60), failed_units: false, follow_up: true }
}

fn check(root: &Path) -> Report {
    health::check(&options(root), &Silent).unwrap()
}

fn outcomes(report: &Report) -> Vec<(&str, Kind, Outcome)> {
    report.checks.iter().map(|check| (check.name.as_str(), check.kind, check.outcome)).collect()
}

fn only(report: &Report) -> &Finding {
    assert_eq!(report.checks.len(), 1, "{report:#?}");
    &report.checks[0]
}

#[test]
fn without_checks_all_is_well() {
    let temp = tempfile::tempdir().unwrap();
    let report = check(temp.path());
    assert_eq!((report.verdict, report.checks), (Verdict::Good, vec![]));
}

#[test]
fn both_layouts_run_in_order_and_only_the_required_decide() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    script(root, &format!("{OWN}/20-second"), "true");
    script(root, &format!("{OWN}/10-first"), "true");
    script(root, &format!("{OWN}/30-masked"), "false");
    std::fs::create_dir_all(root.join(OWN_ETC)).unwrap();
    symlink("/dev/null", root.join(OWN_ETC).join("30-masked")).unwrap();
    script(root, &format!("{OWN_ETC}/15-of-the-machine"), "true");
    // greenboot asks bash, not the mode.
    put(root, &format!("{REQUIRED}/b.sh"), "[[ 1 -eq 1 ]]", 0o644);
    put(root, "usr/lib/greenboot/check/required.d/z.sh", "true", 0o644);
    put(root, &format!("{REQUIRED}/README"), "no script", 0o755);
    put(root, "etc/greenboot/check/wanted.d/w.sh", "echo hm; exit 7", 0o755);
    put(root, "etc/greenboot/green.d/g.sh", "exit 1", 0o755);
    put(root, "etc/greenboot/red.d/r.sh", "true", 0o755);
    let report = check(root);
    use {Kind::*, Outcome::*};
    let expected = [
        ("10-first", Required, Passed),
        ("15-of-the-machine", Required, Passed),
        ("20-second", Required, Passed),
        ("z.sh", Required, Passed),
        ("b.sh", Required, Passed),
        ("w.sh", Wanted, Failed),
        ("g.sh", Green, Failed),
    ];
    assert_eq!((report.verdict, outcomes(&report)), (Verdict::Good, expected.to_vec()));
    assert_eq!((report.checks[5].ended.as_str(), &report.checks[5].lines), ("exit code 7", &vec!["hm".to_owned()]));

    script(root, &format!("{OWN}/10-first"), "echo out; echo err >&2; exit 3");
    let report = check(root);
    assert_eq!((report.verdict, outcomes(&report)[0].2, outcomes(&report).last().unwrap()), (Verdict::Bad, Failed, &("r.sh", Red, Passed)));
    assert_eq!((report.checks[0].ended.as_str(), &report.checks[0].lines[..]), ("exit code 3", &["out".to_owned(), "err".to_owned()][..]));
    let by_hand = health::check(&Options { follow_up: false, ..options(root) }, &Silent).unwrap();
    assert_eq!((by_hand.verdict, by_hand.checks.len()), (Verdict::Bad, report.checks.len() - 1));
}

#[test]
fn a_check_that_hangs_is_killed_with_its_children() {
    let temp = tempfile::tempdir().unwrap();
    script(temp.path(), &format!("{OWN}/hangs"), "trap '' TERM; echo waiting; sleep 1000 & wait; sleep 1000");
    let begin = Instant::now();
    let report = health::check(&Options { limit: Duration::from_millis(300), ..options(temp.path()) }, &Silent).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30));
    let hung = only(&report);
    assert_eq!((hung.outcome, hung.ended.as_str(), &hung.lines), (Outcome::TimedOut, "not done after 0.3 s", &vec!["waiting".to_owned()]));
    assert!(hung.is_bad() && hung.duration_ms >= 300);
}

#[test]
fn checks_that_cannot_be_run_fail_and_those_that_need_not_be_are_skipped() {
    let temp = tempfile::tempdir().unwrap();
    put(temp.path(), &format!("{OWN}/README"), "no program", 0o644);
    std::fs::create_dir_all(temp.path().join(OWN).join("directory")).unwrap();
    let report = check(temp.path());
    assert_eq!(
        (report.verdict, only(&report).outcome, only(&report).ended.as_str()),
        (Verdict::Good, Outcome::Skipped, "it is not executable")
    );
    put(temp.path(), &format!("{OWN}/README"), "#!/nowhere/interpreter\n", 0o755);
    let report = check(temp.path());
    assert_eq!((report.verdict, only(&report).outcome), (Verdict::Bad, Outcome::NotStarted));
    std::fs::remove_file(temp.path().join(OWN).join("README")).unwrap();
    symlink("nowhere", temp.path().join(OWN).join("README")).unwrap();
    let report = check(temp.path());
    assert_eq!((report.verdict, only(&report).outcome), (Verdict::Bad, Outcome::NotStarted));
    std::fs::remove_dir_all(temp.path().join(OWN)).unwrap();
    put(temp.path(), OWN, "a file where a folder should be", 0o644);
    health::check(&options(temp.path()), &Silent).unwrap_err();
}

#[test]
fn whatever_a_check_says_a_few_lines_of_text_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    script(temp.path(), &format!("{OWN}/loud"), "yes 0123456789 | head -c 5000000; printf '\\377\\376 \\033[31mred\\nlast'; kill -9 $$");
    let report = check(temp.path());
    let loud = only(&report);
    assert_eq!((loud.outcome, loud.ended.as_str(), loud.lines.len()), (Outcome::Failed, "signal 9", 10));
    assert_eq!(loud.lines[7..], ["0123456789".to_owned(), loud.lines[8].clone(), "last".to_owned()]);
    assert!(loud.lines[8].contains("\u{fffd}[31mred"), "{:?}", loud.lines[8]);
    serde_json::to_string(&report).unwrap();
}

/// A machine that runs v1, with v2, which fails, staged: the ids of both.
fn with_a_bad_release(root: &Path) -> (Machine, ImageId, ImageId) {
    let (machine, first) = Machine::install(root);
    machine.release("stable", &release("2"));
    let second = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
    assert_eq!(counter(&machine, &second).as_deref(), Some("+3"));
    (machine, first, second)
}

fn release(version: &str) -> layout::Files {
    layout::with(layout::bootable(version), "usr/lib/systemd/systemd-bless-boot", "bless")
}

/// The file name of the entry of `id` that was made last, without the counter, and the counter.
fn entry(machine: &Machine, id: &ImageId) -> (String, Option<String>) {
    let entries = machine.host(id).system().unwrap().entries;
    let file = &entries.iter().filter(|entry| entry.image == *id).max_by_key(|entry| entry.serial).unwrap().file;
    let stem = file.strip_suffix(".conf").unwrap();
    stem.split_once('+').map_or((stem.to_owned(), None), |(name, counter)| (name.to_owned(), Some(format!("+{counter}"))))
}

fn counter(machine: &Machine, id: &ImageId) -> Option<String> {
    entry(machine, id).1
}

/// What systemd-boot does before it starts an entry, and systemd-bless-boot after a good boot (`None`).
fn count(machine: &Machine, id: &ImageId, to: Option<&str>) {
    let (stem, from) = entry(machine, id);
    let name = |counter: &str| machine.root.join(format!("esp/loader/entries/{stem}{counter}.conf"));
    std::fs::rename(name(&from.unwrap_or_default()), name(to.unwrap_or_default())).unwrap();
}

/// The end of a boot of `id` whose checks end with `script`.
fn boot(machine: &Machine, id: &ImageId, text: &str) -> (Report, health::Consequence) {
    let temp = tempfile::tempdir().unwrap();
    script(temp.path(), &format!("{OWN}/lab"), text);
    let mut report = check(temp.path());
    health::apply(&machine.host(id), &mut report, Duration::ZERO, &Silent);
    let consequence = report.consequence.clone().unwrap();
    (report, consequence)
}

const BAD: &str = "echo no database; exit 5";

#[test]
fn a_bad_release_uses_its_tries_up_and_is_left_alone_from_then_on() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first, second) = with_a_bad_release(temp.path());
    for (to, reboots) in [("+2-1", 1), ("+1-2", 2), ("+0-3", 3)] {
        count(&machine, &second, Some(to));
        let (report, consequence) = boot(&machine, &second, BAD);
        assert_eq!((report.verdict, consequence.action, consequence.reboots), (Verdict::Bad, Action::Reboot, reboots));
        assert_eq!(report.problems, [""; 0]);
    }
    // Had the loader nothing else to go to, it would count on:
    count(&machine, &second, Some("+0-4"));
    assert_eq!(boot(&machine, &second, BAD).1.action, Action::StayUp);

    let (_, back) = boot(&machine, &first, "true");
    assert_eq!(back.action, Action::GoOn);
    let told = status::run(&machine.host(&first));
    assert_eq!((told.booted.id, told.staged, told.problems), (first.clone(), None, vec![]));
    let [failed] = &told.failed[..] else { panic!("{:#?}", told.failed) };
    assert_eq!((&failed.id, failed.cause, failed.os_version.as_deref(), failed.reboots), (&second, Cause::ChecksFailed, Some("2"), 3));
    assert!(failed.at.is_some() && failed.boot_id.is_some() && failed.tries_left == Some(0), "{failed:#?}");
    let [why] = &failed.checks[..] else { panic!("{failed:#?}") };
    assert_eq!((why.name.as_str(), why.ended.as_str(), &why.lines), ("lab", "exit code 5", &vec!["no database".to_owned()]));

    let before = machine.snapshot();
    for until in [Until::Check, Until::Download, Until::Stage] {
        let report = machine.upgrade(&first, None, until).unwrap();
        assert_eq!((report.outcome, report.failed.as_ref(), report.staged), (upgrade::Outcome::FailedBefore, Some(failed), None));
        assert_eq!(machine.snapshot(), before);
    }
}

#[test]
fn retry_takes_it_again_with_new_tries_and_a_new_release_is_taken_anyway() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first, second) = with_a_bad_release(temp.path());
    count(&machine, &second, Some("+0-3"));
    boot(&machine, &second, BAD);
    let retried = machine.retry(&first).unwrap();
    assert_eq!((retried.outcome, retried.staged.as_ref()), (upgrade::Outcome::Staged, Some(&second)));
    assert_eq!((counter(&machine, &second).as_deref(), status::run(&machine.host(&first)).failed), (Some("+3"), vec![]));
    count(&machine, &second, Some("+2-1"));
    let (report, consequence) = boot(&machine, &second, BAD);
    assert_eq!((report.verdict, consequence.action, consequence.reboots), (Verdict::Bad, Action::Reboot, 1));

    machine.release("stable", &release("3"));
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, upgrade::Outcome::Staged);
    machine.release("stable", &release("4"));
    machine.upgrade(&first, None, Until::Stage).unwrap();
    machine.release("stable", &release("5"));
    let fifth = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
    machine.release("stable", &release("6"));
    machine.upgrade(&fifth, None, Until::Stage).unwrap();
    assert!(!temp.path().join(format!("sysroot/state/deploy/{second}")).exists());
    machine.release("stable", &release("2"));
    let report = machine.upgrade(&fifth, None, Until::Stage).unwrap();
    assert_eq!(report.outcome, upgrade::Outcome::FailedBefore, "the record outlives the deployment");
}

#[test]
fn a_release_that_never_comes_up_is_told_and_put_on_record_by_the_next_good_boot() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first, second) = with_a_bad_release(temp.path());
    count(&machine, &second, Some("+0-3"));
    let seen = || status::run(&machine.host(&first)).failed;
    let (failed, before) = (seen(), machine.snapshot());
    assert_eq!((failed.len(), &failed[0].id, failed[0].cause, &failed[0].at), (1, &second, Cause::DidNotComeUp, &None));
    let report = machine.upgrade(&first, None, Until::Check).unwrap();
    assert_eq!((report.outcome, report.failed.as_ref()), (upgrade::Outcome::FailedBefore, Some(&failed[0])));
    assert_eq!(machine.snapshot(), before);
    boot(&machine, &first, "true");
    let recorded = seen();
    assert_eq!((recorded.len(), recorded[0].cause, recorded[0].at.is_some()), (1, Cause::DidNotComeUp, true));
    let before = machine.snapshot();
    boot(&machine, &first, "true");
    assert_eq!(machine.snapshot(), before, "once is enough");
}

#[test]
fn a_root_that_was_good_gets_one_restart_and_is_well_when_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, _, second) = with_a_bad_release(temp.path());
    count(&machine, &second, Some("+2-1"));
    assert_eq!(boot(&machine, &second, "true").1.action, Action::GoOn);
    count(&machine, &second, None);
    for action in [Action::Reboot, Action::StayUp, Action::StayUp] {
        assert_eq!(boot(&machine, &second, BAD).1.action, action);
    }
    let told = status::run(&machine.host(&second)).failed;
    assert_eq!((told.len(), told[0].reboots, told[0].tries_left), (1, 1, None));
    assert_eq!(machine.upgrade(&second, None, Until::Stage).unwrap().outcome, upgrade::Outcome::UpToDate);
    boot(&machine, &second, "true");
    assert_eq!(status::run(&machine.host(&second)).failed, []);
    assert_eq!(boot(&machine, &second, BAD).1.action, Action::Reboot);
}

#[test]
fn nothing_restarts_without_a_record_or_without_an_entry() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, _, second) = with_a_bad_release(temp.path());
    count(&machine, &second, Some("+2-1"));
    let state = temp.path().join("sysroot/state");
    let held = machine.host(&second);
    let lock = held.lock().unwrap();
    let (report, consequence) = boot(&machine, &second, BAD);
    assert_eq!((consequence.action, consequence.reboots, report.problems.len()), (Action::StayUp, 0, 1));
    drop(lock);

    std::fs::create_dir(state.join("failed")).unwrap();
    std::fs::write(state.join(format!("failed/{second}.json")), "{").unwrap();
    let (_, consequence) = boot(&machine, &second, BAD);
    assert_eq!((consequence.action, consequence.reboots), (Action::StayUp, 0), "a damaged record could say anything");
    assert_eq!(boot(&machine, &second, BAD).1.reboots, 1, "it was replaced");

    std::fs::remove_dir_all(state.join("failed")).unwrap();
    std::fs::rename(temp.path().join("esp/loader/entries"), temp.path().join("esp/loader/gone")).unwrap();
    let (report, consequence) = boot(&machine, &second, BAD);
    assert_eq!((report.verdict, consequence.action), (Verdict::Bad, Action::StayUp));
}

#[test]
fn the_wait_for_another_process_has_an_end_and_a_result() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, _, second) = with_a_bad_release(temp.path());
    count(&machine, &second, Some("+2-1"));
    let checks = tempfile::tempdir().unwrap();
    script(checks.path(), &format!("{OWN}/lab"), BAD);
    let mut report = check(checks.path());
    let held = machine.host(&second);
    let lock = held.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            drop(lock);
        });
        health::apply(&machine.host(&second), &mut report, Duration::from_secs(60), &Silent);
    });
    assert_eq!(report.consequence.unwrap().action, Action::Reboot);
}

#[test]
fn activating_a_release_that_failed_gives_it_new_tries() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first, second) = with_a_bad_release(temp.path());
    // Its initramfs came as far as taking the request away, and its checks failed; then somebody chose the first in the menu.
    std::fs::remove_file(temp.path().join(format!("sysroot/state/deploy/{second}/etc-from.json"))).unwrap();
    count(&machine, &second, Some("+1-2"));
    boot(&machine, &second, BAD);
    assert_eq!(rollback::run(&machine.host(&first), &Silent).unwrap().staged, first);
    assert_eq!(status::run(&machine.host(&first)).failed.len(), 1, "the first is what was activated");
    assert_eq!(rollback::run(&machine.host(&first), &Silent).unwrap().staged, second);
    assert_eq!((counter(&machine, &second).as_deref(), status::run(&machine.host(&first)).failed), (Some("+3"), vec![]));
}

#[test]
fn a_release_that_never_came_up_is_put_on_record_before_its_entry_goes() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first, second) = with_a_bad_release(temp.path());
    count(&machine, &second, Some("+0-3"));
    machine.release("stable", &release("3"));
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, upgrade::Outcome::Staged);
    let told = status::run(&machine.host(&first));
    assert!(told.other.is_empty(), "{:#?}", told.other);
    assert_eq!((told.failed.len(), &told.failed[0].id, told.failed[0].cause), (1, &second, Cause::DidNotComeUp));
    machine.release("stable", &release("2"));
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, upgrade::Outcome::FailedBefore);
}

#[test]
fn every_record_is_a_step_that_tests_can_stop_at() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first, second) = with_a_bad_release(temp.path());
    count(&machine, &second, Some("+0-3"));
    let mut report = check(temp.path());
    let recorder = Recorder::default();
    health::apply(&machine.host(&first), &mut report, Duration::ZERO, &recorder);
    assert_eq!(recorder.steps(), ["record failed boot"]);
    let deployments = Deployments::open(dir::open_path(temp.path().join("sysroot")).unwrap()).unwrap();
    assert_eq!(deployments.list().unwrap().failed.len(), 1);
}
