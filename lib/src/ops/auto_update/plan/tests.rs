use jiff::tz::TimeZone;

use super::*;
use crate::config::{Config, Window};

const HOUR: u64 = 3600;
/// 2026-11-25, a Wednesday, 12:00 UTC.
const NOON: u64 = 1_795_608_000;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Everything by itself, at once; six hours between tries.
fn update() -> Update {
    Update { policy: Policy::Apply, randomized_delay: seconds(0), reboot: Reboot::Now, ..Config::default().update }
}

fn record(last_try: Option<u64>, failures: u32) -> AutoUpdate {
    AutoUpdate { last_try, failures, ..AutoUpdate::default() }
}

#[test]
fn a_try_is_due_after_the_interval_and_after_a_failure_later() {
    let update = update();
    for (last, failures, now, expected) in [
        (None, 0, Some(NOON), Next::Try),
        (Some(NOON), 0, Some(NOON), Next::At(NOON + 6 * HOUR)),
        (Some(NOON), 0, Some(NOON + 6 * HOUR - 1), Next::At(NOON + 6 * HOUR)),
        (Some(NOON), 0, Some(NOON + 6 * HOUR), Next::Try),
        (Some(NOON), 1, Some(NOON), Next::At(NOON + HOUR / 4)),
        (Some(NOON), 2, Some(NOON), Next::At(NOON + HOUR / 2)),
        (Some(NOON), 5, Some(NOON), Next::At(NOON + 4 * HOUR)),
        (Some(NOON), 8, Some(NOON), Next::At(NOON + 24 * HOUR)),
        (Some(NOON), u32::MAX, Some(NOON), Next::At(NOON + 24 * HOUR)),
        // A clock that is not set, or was set back: decades must not be waited for.
        (Some(NOON), 8, None, Next::Try),
        (None, 8, Some(NOON), Next::Try),
        (Some(NOON), 8, Some(NOON - 1), Next::Try),
        (Some(u64::MAX), 8, Some(NOON), Next::Try),
        (Some(NOON), 8, Some(u64::MAX), Next::Try),
    ] {
        assert_eq!(next(&update, &record(last, failures), now, false), expected, "{last:?} {failures} {now:?}");
    }
    assert_eq!(next(&update, &record(Some(NOON), 8), Some(NOON), true), Next::Try);
    for asked_for in [false, true] {
        assert_eq!(next(&Update { policy: Policy::None, ..update.clone() }, &record(None, 0), None, asked_for), Next::Off);
    }
}

#[test]
fn machines_come_one_after_the_other() {
    let update = Update { randomized_delay: seconds(1000), ..update() };
    let due = |failures, spread| next_try(&update, &AutoUpdate { spread, ..record(Some(NOON), failures) }).unwrap() - NOON;
    assert_eq!((due(0, 0), due(0, 1 << 31), due(0, u32::MAX)), (6 * HOUR, 6 * HOUR + 500, 6 * HOUR + 999));
    assert_eq!((due(1, 0), due(1, 1 << 31)), (900, 1350), "never more than the wait itself");
    assert_eq!(next_try(&update, &record(None, 0)), None);
}

#[test]
fn waits_double_up_to_a_limit() {
    let limits = BackOff { first: seconds(60), limit: seconds(1000) };
    let waits: Vec<u64> = (0..8).map(|failures| back_off(limits, failures).as_secs()).collect();
    assert_eq!(waits, [60, 60, 120, 240, 480, 960, 1000, 1000]);
    assert_eq!(back_off(BackOff { first: seconds(5000), ..limits }, 1), seconds(1000));
    assert_eq!([32, 33, 64, u32::MAX].map(|failures| back_off(limits, failures)), [seconds(1000); 4]);
}

fn checked(outcome: upgrade::Outcome, reboot_needed: bool) -> upgrade::Report {
    upgrade::Report {
        outcome,
        image: "quay.io/acme/os:stable".into(),
        from_manifest: None,
        to_manifest: "sha256:aa".into(),
        version: None,
        reboot_needed,
        staged: None,
        failed: None,
        pulled: None,
        preview: None,
    }
}

#[test]
fn the_policy_says_how_far_it_goes() {
    use upgrade::Outcome as Found;
    for (policy, found, reboot_needed, left, expected) in [
        (Policy::Check, Found::Available, false, false, Answer::Ended(Outcome::Available)),
        (Policy::Fetch, Found::Available, false, false, Answer::Go(Until::Download)),
        (Policy::Stage, Found::Available, false, false, Answer::Go(Until::Stage)),
        (Policy::Apply, Found::Available, true, false, Answer::Go(Until::Stage)),
        (Policy::Apply, Found::Available, false, true, Answer::Ended(Outcome::LeftAlone)),
        (Policy::Check, Found::Available, false, true, Answer::Ended(Outcome::LeftAlone)),
        (Policy::Apply, Found::FailedBefore, false, false, Answer::Ended(Outcome::FailedBefore)),
        (Policy::Apply, Found::FailedBefore, false, true, Answer::Ended(Outcome::FailedBefore)),
        (Policy::Apply, Found::UpToDate, false, false, Answer::Ended(Outcome::UpToDate)),
        (Policy::Apply, Found::UpToDate, true, false, Answer::Ended(Outcome::Staged)),
        (Policy::None, Found::Available, false, false, Answer::Ended(Outcome::Available)),
    ] {
        assert_eq!(answer(policy, &checked(found, reboot_needed), left), expected, "{policy:?} {found:?} {reboot_needed} {left}");
    }
}

fn id(byte: &str) -> ImageId {
    byte.repeat(32).parse().unwrap()
}

/// What is done, why, and until when, in a situation that the closure changes: at noon, what was staged at eleven waits.
fn decided(change: impl FnOnce(&mut Update, &mut StagedByUs, &mut Busy, &mut Option<u64>)) -> (Action, String, Option<String>) {
    let (mut update, mut busy, mut now) = (update(), Busy::default(), Some(NOON));
    let mut staged = StagedByUs { id: id("ab"), since: Some(NOON - HOUR), restarted_in: None };
    change(&mut update, &mut staged, &mut busy, &mut now);
    let next = id("ab");
    let situation = Situation { now, boot_id: Some("this"), next: Some(&next), elsewhere: false, staged: Some(&staged), busy: &busy };
    let Restart { action, because, until } = restart(&update, &situation);
    (action, because, until)
}

fn window(text: &str) -> Vec<Window> {
    vec![Window::parse(text, &|_| Some(TimeZone::UTC)).unwrap()]
}

#[test]
fn a_restart_waits_for_its_window() {
    let at = |text: &str, reboot, now| {
        let (action, _, until) = decided(|update, _, _, clock| (update.windows, update.reboot, *clock) = (window(text), reboot, now));
        (action, until)
    };
    let now = Some(NOON);
    assert_eq!(at("02:00-04:00", Reboot::InWindow, now), (Action::Wait, Some("2026-11-26T02:00:00Z".into())));
    assert_eq!(at("11:00-13:00", Reboot::InWindow, now), (Action::Restart, None));
    assert_eq!(at("02:00-04:00", Reboot::Now, now), (Action::Restart, None));
    assert_eq!(at("11:00-13:00", Reboot::Never, now), (Action::Leave, None));
    assert_eq!(at("11:00-13:00", Reboot::InWindow, None), (Action::Wait, None), "nobody knows whether it is open");
    assert_eq!(at("11:00-13:00", Reboot::Now, None), (Action::Restart, None));
    assert_eq!(decided(|update, _, _, _| update.reboot = Reboot::InWindow).0, Action::Restart, "without windows, at any time");
}

#[test]
fn a_restart_waits_for_those_who_mind_but_not_for_ever() {
    let busy = || Busy { users: vec!["ann".into()], inhibitors: vec!["backup (nightly)".into()] };
    let until = Some("2026-11-26T11:00:00Z".to_owned());
    let both = "ann is logged in, backup (nightly) inhibits it";
    assert_eq!(decided(|_, _, who, _| *who = busy()), (Action::Wait, both.into(), until.clone()));
    let past = decided(|_, _, who, now| (*who, *now) = (busy(), Some(NOON + 23 * HOUR)));
    assert_eq!(past, (Action::RestartAnyway, format!("{both}, and update.wait-limit is over"), None));
    assert_eq!(decided(|_, _, who, now| (*who, *now) = (busy(), Some(NOON + 23 * HOUR - 1))).0, Action::Wait);
    let (action, because, _) = decided(|update, _, who, _| (*who, update.wait_for_users) = (busy(), false));
    assert_eq!((action, because.as_str()), (Action::Wait, "backup (nightly) inhibits it"));
    let neither = decided(|update, _, who, _| {
        (*who, update.wait_for_users, update.wait_for_inhibitors) = (busy(), false, false);
    });
    assert_eq!(neither.0, Action::Restart);
    assert_eq!(decided(|update, _, who, _| (*who, update.wait_limit) = (busy(), seconds(0))).0, Action::RestartAnyway);
    // Nobody knows how long they were waited for.
    assert_eq!(decided(|_, staged, who, _| (*who, staged.since) = (busy(), None)), (Action::Wait, both.into(), None));
    assert_eq!(decided(|_, _, who, now| (*who, *now) = (busy(), None)), (Action::Wait, both.into(), until));
    // The limit does not open a window.
    let (action, because, _) = decided(|update, _, who, now| {
        (*who, *now) = (busy(), Some(NOON + 23 * HOUR));
        (update.reboot, update.windows) = (Reboot::InWindow, window("02:00-04:00"));
    });
    assert_eq!((action, because.as_str()), (Action::Wait, "no window is open"));
}

#[test]
fn a_machine_restarts_once_and_only_for_what_it_staged_itself() {
    assert_eq!(decided(|_, _, _, _| ()), (Action::Restart, "nothing is in its way".into(), None));
    assert_eq!(decided(|update, _, _, _| update.policy = Policy::Stage).0, Action::Leave);
    let by_hand = decided(|_, staged, _, _| staged.id = id("cd"));
    assert_eq!(by_hand, (Action::Leave, "somebody staged it by hand, and restarts by hand".into(), None));
    assert_eq!(
        decided(|_, staged, _, _| staged.restarted_in = Some("this".into())).0,
        Action::Restart,
        "it was asked for, and has not happened"
    );
    let given_up = decided(|_, staged, _, _| staged.restarted_in = Some("another".into()));
    assert_eq!(given_up, (Action::Leave, "the machine was restarted for it before, and something else came up".into(), None));

    let (update, next, busy) = (update(), id("ab"), Busy::default());
    let staged = StagedByUs { id: id("ab"), since: None, restarted_in: None };
    let here = Situation { now: None, boot_id: None, next: Some(&next), elsewhere: false, staged: Some(&staged), busy: &busy };
    assert_eq!(restart(&update, &Situation { next: None, ..here.clone() }).action, Action::None);
    assert_eq!(restart(&update, &Situation { staged: None, ..here.clone() }).action, Action::Leave);
    assert_eq!(restart(&update, &Situation { elsewhere: true, ..here.clone() }).action, Action::Leave);
    assert_eq!(restart(&update, &here).action, Action::Restart);
}
