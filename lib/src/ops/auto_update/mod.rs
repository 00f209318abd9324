//! `selkie auto-update`: what the machine does by itself about updates, as its configuration says. A timer runs it often; most times nothing is due.
//!
//! It never takes again a release that failed here, nor one that somebody went back from by hand, and it restarts only into what it staged itself.

mod apply;
mod plan;
mod sessions;
mod summary;

pub use apply::run;
pub use plan::{Action, Answer, Next, Restart, Situation, answer, back_off, next, next_try, restart};
pub use sessions::{Busy, look};
pub use summary::{Automatic, summary};

use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use super::host::Access;
use crate::config::{Policy, Update};
use crate::deploy::{Deployments, Outcome};
use crate::error::{Failure, FailureKind};
use crate::image::SourceOptions;
use crate::image_id::ImageId;
use crate::sys::dir;

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How to reach the registry.
    pub source: SourceOptions,
    /// Whether to try now, whatever interval and back-off say. The policy counts all the same, and so do windows.
    pub now: bool,
    /// What time it is: seconds since 1970, where the clock was set.
    pub clock: fn() -> Option<u64>,
    /// The root below which logind tells who is there.
    pub root: PathBuf,
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// How far the machine goes by itself.
    pub policy: Policy,
    /// How the try of this call ended; `None` where none was due.
    pub outcome: Option<Outcome>,
    /// The reference that was asked for last.
    pub image: Option<String>,
    /// The manifest that it named.
    pub manifest_digest: Option<String>,
    /// The version of that, as the image calls it.
    pub os_version: Option<String>,
    /// The root that waits for a restart, whoever staged it.
    pub staged: Option<ImageId>,
    /// What is done about that. The restart itself is the caller's to do.
    pub restart: Restart,
    /// When the next try is due (RFC 3339), as far as the clock tells.
    pub next_try: Option<String>,
}

impl Report {
    /// The report of a machine that does nothing by itself.
    pub fn off() -> Self {
        Self::nothing(Policy::None, Restart { action: Action::None, because: "update.policy is \"none\"".to_owned(), until: None })
    }

    /// The report of a call that found something else at work, and did nothing.
    fn waiting(policy: Policy, because: String) -> Self {
        Self::nothing(policy, Restart { action: Action::Wait, because, until: None })
    }

    fn nothing(policy: Policy, restart: Restart) -> Self {
        Self { policy, outcome: None, image: None, manifest_digest: None, os_version: None, staged: None, restart, next_try: None }
    }
}

/// Whether a try is due, by the record on the physical root, which is at a path below `root`. Nothing is read where the policy is that nothing happens.
///
/// # Errors
///
/// [`FailureKind::NotAHost`] where there is no physical root, or no state directory in it.
pub fn due(root: impl AsFd, physical_root: &str, update: &Update, options: &Options) -> Result<Next> {
    if update.policy == Policy::None {
        return Ok(Next::Off);
    }
    let opened = dir::open_optional(root, physical_root).with_context(|| format!("opening {physical_root}"))?;
    let physical_root = opened.ok_or_else(|| {
        let message = format!("opening {physical_root}: no such directory (expected the physical root of a machine)");
        Failure::new(FailureKind::NotAHost, message).hint("automatic updates are for a machine that selkie installed")
    })?;
    let (record, _) = Deployments::open(physical_root)?.auto_update();
    Ok(next(update, &record, (options.clock)(), options.now))
}

/// What [`run`] needs to do to the machine: to keep a record, or more.
pub fn access(next: &Next, policy: Policy) -> Access {
    if *next == Next::Try && policy >= Policy::Fetch { Access::Write } else { Access::Notes }
}
