//! The configuration of a machine: drop-in files `*.toml` of three folders make one typed [`Config`]. Pure: `ops::config` reads the files.
//!
//! As with systemd, the files of all folders are read in the order of their names, and a file in a higher folder replaces the one of the same name in a lower
//! one; of several files that say a key, the last one counts. Everything that is not understood is an error that names file and line: a machine that ignores
//! half of what it was told is worse than one that says so.

mod document;
mod duration;
mod keys;
mod window;
mod zone;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;

pub use duration::{DurationError, duration, in_words};
pub use window::{Window, WindowError, next_opening, opening};
pub use zone::zone;

/// The folders, the least important first, seen from the root.
pub const FOLDERS: [&str; 3] = ["usr/lib/selkie/config.d", "etc/selkie/config.d", "run/selkie/config.d"];

/// Finds a time zone by its name, or the machine's own for `None`.
pub type Zones<'a> = dyn Fn(Option<&str>) -> Option<TimeZone> + 'a;

/// Everything that a machine can be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How many older roots stay besides those with a role.
    pub keep: usize,
    /// How often the boot loader tries a new root.
    pub tries: u32,
    /// Health checks.
    pub health: Health,
    /// Automatic updates.
    pub update: Update,
}

/// How a boot is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How long a check may run.
    pub timeout: Duration,
    /// Whether a failed unit of systemd makes the boot a bad one.
    pub failed_units: bool,
}

/// What the machine does by itself about updates.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// How far it goes.
    pub policy: Policy,
    /// How long between two tries.
    pub interval: Duration,
    /// What is added to that at most, so that not all machines come at once.
    pub randomized_delay: Duration,
    /// When it may restart; at any time where there are none.
    pub windows: Vec<Window>,
    /// Whether it restarts.
    pub reboot: Reboot,
    /// Whether a restart waits until nobody is logged in.
    pub wait_for_users: bool,
    /// Whether a restart waits until no inhibitor is held.
    pub wait_for_inhibitors: bool,
    /// How long a restart waits for either, from the staging on.
    pub wait_limit: Duration,
    /// After failures.
    pub back_off: BackOff,
}

/// How long to wait after a try that failed: twice as long each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// After the first failure.
    pub first: Duration,
    /// Never longer than this.
    pub limit: Duration,
}

/// How far automatic updates go; each does what the one before does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Nothing happens by itself.
    None,
    /// The registry is asked, and the answer kept.
    Check,
    /// What is new is fetched.
    Fetch,
    /// It becomes the root that boots next.
    Stage,
    /// The machine restarts into it.
    Apply,
}

/// When a machine restarts into what was staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// Whatever the windows are.
    Now,
    /// In a window.
    InWindow,
    /// Never by itself.
    Never,
}

impl Default for Config {
    /// Nothing happens by itself until somebody says so: a machine that restarts at night because it got a new tool surprises its owner.
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        let update = Update {
            policy: Policy::None,
            interval: Duration::from_secs(6 * HOUR),
            randomized_delay: Duration::from_secs(30 * MINUTE),
            windows: Vec::new(),
            reboot: Reboot::InWindow,
            wait_for_users: true,
            wait_for_inhibitors: true,
            wait_limit: Duration::from_secs(24 * HOUR),
            back_off: BackOff { first: Duration::from_secs(15 * MINUTE), limit: Duration::from_secs(24 * HOUR) },
        };
        Self { keep: 0, tries: 3, health: Health { timeout: Duration::from_secs(MINUTE), failed_units: false }, update }
    }
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Location {
    /// Path of the file.
    pub file: String,
    /// Line, from 1 on.
    pub line: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A file that says what is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading configuration {location}: {what}")]
pub struct ConfigError {
    /// Where.
    pub location: Location,
    /// What was found, and what was expected.
    pub what: String,
}

/// A drop-in file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path, for people.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// A configuration, and where each part of it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The configuration.
    pub config: Config,
    /// Where a key was said; what is not here is as it is by default.
    from: BTreeMap<&'static str, Location>,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// Full name.
    pub key: &'static str,
    /// As a file would say it.
    pub value: serde_json::Value,
    /// Where that was said; `None` by default.
    pub from: Option<Location>,
}

/// Which files count, in the order in which they are read: the index of a folder, and a name in it. `folders` has the names of each, the least important
/// first. Hidden files and those that do not end in `.toml` do not count.
pub fn order(folders: &[Vec<String>]) -> Vec<(usize, String)> {
    let mut by_name = BTreeMap::new();
    for (folder, names) in folders.iter().enumerate() {
        let meant = names.iter().filter(|name| name.ends_with(".toml") && !name.starts_with('.'));
        by_name.extend(meant.map(|name| (name.clone(), folder)));
    }
    by_name.into_iter().map(|(name, folder)| (folder, name)).collect()
}

/// Reads files, the most important last.
///
/// # Errors
///
/// A file is not TOML, has a key that there is not, or a value that the key does not take.
pub fn read(files: &[File], zones: &Zones<'_>) -> Result<Effective, ConfigError> {
    let mut effective = Effective { config: Config::default(), from: BTreeMap::new() };
    for file in files {
        document::apply(file, zones, &mut effective)?;
    }
    Ok(effective)
}

impl Effective {
    /// Every key with its value, by name.
    pub fn settings(&self) -> Vec<Setting> {
        let setting = |key: &keys::Key| Setting { key: key.name, value: (key.show)(&self.config), from: self.from.get(key.name).cloned() };
        keys::ALL.iter().map(setting).collect()
    }
}

#[cfg(test)]
mod tests;
