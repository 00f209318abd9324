//! What `selkie status` tells about automatic updates.

use serde::Serialize;

use super::plan;
use crate::calendar;
use crate::config::{Policy, Reboot, Update, next_opening, opening};
use crate::deploy::{AutoUpdate, Outcome};

/// Automatic updates, for people and programs. Moments are as RFC 3339 has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Automatic {
    /// How far the machine goes by itself.
    pub policy: Policy,
    /// When it restarts.
    pub reboot: Reboot,
    /// The windows, as they were said.
    pub windows: Vec<String>,
    /// Whether one is open, or there are none; unknown where the clock is not set.
    pub window_open: Option<bool>,
    /// When the next one opens, where there are any; now, where one is open.
    pub next_window: Option<String>,
    /// When the last try began.
    pub last_try: Option<String>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// What went wrong.
    pub error: Option<String>,
    /// How many tries in a row have failed.
    pub failures: u32,
    /// The manifest that the reference named then.
    pub manifest_digest: Option<String>,
    /// The version of that.
    pub os_version: Option<String>,
    /// When the next try is due; in the past for one that waits for the timer.
    pub next_try: Option<String>,
    /// Since when a root that automatic updates staged has been waiting for a restart.
    pub waiting_since: Option<String>,
}

/// Sums up. Pure.
pub fn summary(update: &Update, record: &AutoUpdate, now: Option<u64>) -> Automatic {
    Automatic {
        policy: update.policy,
        reboot: update.reboot,
        windows: update.windows.iter().map(ToString::to_string).collect(),
        window_open: now.map(|now| opening(&update.windows, now)),
        next_window: now.and_then(|now| next_opening(&update.windows, now)).and_then(calendar::rfc3339),
        last_try: record.last_try.and_then(calendar::rfc3339),
        outcome: record.outcome,
        error: record.error.clone(),
        failures: record.failures,
        manifest_digest: record.manifest_digest.clone(),
        os_version: record.os_version.clone(),
        next_try: plan::next_try(update, record).and_then(calendar::rfc3339),
        waiting_since: record.staged.as_ref().and_then(|staged| staged.since).and_then(calendar::rfc3339),
    }
}
