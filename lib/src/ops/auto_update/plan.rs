//! What is to be done, from what is known. Pure.

use std::time::Duration;

use serde::Serialize;

use super::sessions::Busy;
use crate::calendar;
use crate::config::{BackOff, Policy, Reboot, Update, next_opening, opening};
use crate::deploy::{AutoUpdate, Outcome, StagedByUs};
use crate::image_id::ImageId;
use crate::ops::upgrade::{self, Until};

/// Whether to ask the registry now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The policy is that nothing happens by itself.
    Off,
    /// Not before this second since 1970.
    At(u64),
    /// Now.
    Try,
}

/// Whether a try is due. Times on record count only as far as they make sense: a clock that nobody has set, or that was set back, ends no waiting and begins none.
pub fn next(update: &Update, record: &AutoUpdate, now: Option<u64>, asked_for: bool) -> Next {
    if update.policy == Policy::None {
        return Next::Off;
    }
    let (Some(now), Some(last), false) = (now, record.last_try, asked_for) else { return Next::Try };
    let at = last.saturating_add(pause(update, record).as_secs());
    if now < last || now >= at { Next::Try } else { Next::At(at) }
}

/// When the next try is due by the record, as far as that is known.
pub fn next_try(update: &Update, record: &AutoUpdate) -> Option<u64> {
    record.last_try.filter(|_| update.policy != Policy::None).map(|last| last.saturating_add(pause(update, record).as_secs()))
}

/// How long to wait after the last try.
fn pause(update: &Update, record: &AutoUpdate) -> Duration {
    let (base, most) = match record.failures {
        0 => (update.interval, update.randomized_delay),
        failures => {
            let wait = back_off(update.back_off, failures);
            (wait, update.randomized_delay.min(wait))
        }
    };
    base.saturating_add(most.mul_f64(f64::from(record.spread) / (f64::from(u32::MAX) + 1.0)))
}

/// How long to wait after so many failures in a row.
pub fn back_off(limits: BackOff, failures: u32) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1)).and_then(|factor| limits.first.checked_mul(factor));
    doubled.map_or(limits.limit, |wait| wait.min(limits.limit))
}

/// What follows from what the registry said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing more.
    Ended(Outcome),
    /// Go on.
    Go(Until),
}

/// Decides from an `upgrade --check`. `left_alone` says whether somebody went back from that release by hand.
pub fn answer(policy: Policy, checked: &upgrade::Report, left_alone: bool) -> Answer {
    match (checked.outcome, policy) {
        (upgrade::Outcome::FailedBefore, _) => Answer::Ended(Outcome::FailedBefore),
        (upgrade::Outcome::Available, _) if left_alone => Answer::Ended(Outcome::LeftAlone),
        (upgrade::Outcome::Available, Policy::None | Policy::Check) => Answer::Ended(Outcome::Available),
        (upgrade::Outcome::Available, Policy::Fetch) => Answer::Go(Until::Download),
        (upgrade::Outcome::Available, Policy::Stage | Policy::Apply) => Answer::Go(Until::Stage),
        _ if checked.reboot_needed => Answer::Ended(Outcome::Staged),
        _ => Answer::Ended(Outcome::UpToDate),
    }
}

/// What is done about a root that waits for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// No root waits.
    None,
    /// The machine restarts.
    Restart,
    /// It restarts, although somebody minds: they were waited for long enough.
    RestartAnyway,
    /// It is to restart, and not yet.
    Wait,
    /// It does not restart by itself.
    Leave,
}

/// What is done about it, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Restart {
    /// What is done.
    pub action: Action,
    /// Why.
    pub because: String,
    /// Until when, at most, where that is known (RFC 3339).
    pub until: Option<String>,
}

/// What a restart depends on.
#[derive(Debug, Clone)]
pub struct Situation<'a> {
    /// Seconds since 1970, where the clock was set.
    pub now: Option<u64>,
    /// The boot that runs, as the kernel names it.
    pub boot_id: Option<&'a str>,
    /// The root that boots next, if it is another than the one that runs.
    pub next: Option<&'a ImageId>,
    /// Whether the firmware is told to boot anything else, once or always, or may be: what it is told cannot be read.
    pub elsewhere: bool,
    /// What automatic updates have staged.
    pub staged: Option<&'a StagedByUs>,
    /// Who would mind.
    pub busy: &'a Busy,
}

/// Decides whether the machine restarts.
pub fn restart(update: &Update, situation: &Situation<'_>) -> Restart {
    let Some(next) = situation.next else { return said(Action::None, "no root waits for a restart") };
    let Some(staged) = situation.staged.filter(|staged| staged.id == *next) else {
        return said(Action::Leave, "somebody staged it by hand, and restarts by hand");
    };
    if situation.elsewhere {
        return said(Action::Leave, "the firmware is told to boot something else, or what it is told cannot be read");
    }
    if update.policy != Policy::Apply {
        return said(Action::Leave, "update.policy is not \"apply\"");
    }
    if update.reboot == Reboot::Never {
        return said(Action::Leave, "update.reboot is \"never\"");
    }
    if staged.restarted_in.as_deref().is_some_and(|boot| Some(boot) != situation.boot_id) {
        return said(Action::Leave, "the machine was restarted for it before, and something else came up");
    }
    let windows = if update.reboot == Reboot::InWindow { &update.windows[..] } else { &[] };
    match situation.now {
        None if !windows.is_empty() => return said(Action::Wait, "the clock is not set, so no window can be told"),
        Some(now) if !opening(windows, now) => {
            let until = next_opening(windows, now).and_then(calendar::rfc3339);
            return Restart { until, ..said(Action::Wait, "no window is open") };
        }
        _ => {}
    }
    mind(update, situation.busy, situation.now, staged.since)
}

/// Waits for those who mind, but not for ever.
fn mind(update: &Update, busy: &Busy, now: Option<u64>, since: Option<u64>) -> Restart {
    let users = busy.users.iter().filter(|_| update.wait_for_users).map(|user| format!("{user} is logged in"));
    let inhibitors = busy.inhibitors.iter().filter(|_| update.wait_for_inhibitors).map(|who| format!("{who} inhibits it"));
    let who: Vec<String> = users.chain(inhibitors).collect();
    if who.is_empty() {
        return said(Action::Restart, "nothing is in its way");
    }
    let limit = since.map(|since| since.saturating_add(update.wait_limit.as_secs()));
    let over = update.wait_limit.is_zero() || now.zip(limit).is_some_and(|(now, limit)| now >= limit);
    match over {
        true => said(Action::RestartAnyway, &format!("{}, and update.wait-limit is over", who.join(", "))),
        false => Restart { until: limit.and_then(calendar::rfc3339), ..said(Action::Wait, &who.join(", ")) },
    }
}

fn said(action: Action, because: &str) -> Restart {
    Restart { action, because: because.to_owned(), until: None }
}

#[cfg(test)]
mod tests;
