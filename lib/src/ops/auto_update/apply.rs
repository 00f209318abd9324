//! Doing it. Every try is on record before it begins, as one that failed: whatever cuts it, the next one waits longer.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::plan::{self, Action, Answer, Next, Restart, Situation};
use super::sessions::{self, Busy};
use super::{Options, Report};
use crate::calendar;
use crate::config::Policy;
use crate::deploy::{AutoUpdate, Outcome, StagedByUs};
use crate::image_id::ImageId;
use crate::ops::health;
use crate::ops::host::{Host, is_busy};
use crate::ops::upgrade::{self, Until};
use crate::progress::Progress;
use crate::sys::{dir, random};
use crate::system::System;

/// Runs the verb: a try where `next` says that one is due, and then what follows for a root that waits for a restart. Takes the lock.
///
/// # Errors
///
/// Those of `upgrade`; they are on record.
pub fn run(host: &Host, next: &Next, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    if *next == Next::Off {
        return Ok(Report::off());
    }
    let _lock = match host.lock() {
        // The next run comes soon, and finds what the other has done.
        Err(error) if is_busy(&error) => return Ok(Report::waiting(host.config().update.policy, format!("{error:#}"))),
        taken => taken?,
    };
    let (record, unreadable) = host.deployments()?.auto_update();
    if let Some(reason) = unreadable {
        progress.note(format!("{reason}; it is put aside, and a new record begins"));
    }
    let mut work = Work { host, options, progress, kept: record.clone(), record };
    work.refresh(&host.system()?);
    let outcome = if *next == Next::Try { Some(work.attempt()?) } else { None };
    let system = host.system()?;
    work.refresh(&system);
    let restart = work.settle(&system)?;
    Ok(work.report(&system, outcome, restart))
}

struct Work<'a> {
    host: &'a Host,
    options: &'a Options,
    progress: &'a Arc<dyn Progress>,
    /// As it is on the disk.
    kept: AutoUpdate,
    record: AutoUpdate,
}

impl Work<'_> {
    /// Keeps the record, where it has changed.
    fn keep(&mut self, step: &str) -> Result<()> {
        if self.record != self.kept {
            self.host.deployments()?.record_auto_update(&self.record)?;
            self.progress.step(step);
            self.kept = self.record.clone();
        }
        Ok(())
    }

    fn attempt(&mut self) -> Result<Outcome> {
        self.record.last_try = (self.options.clock)();
        self.record.failures = self.record.failures.saturating_add(1);
        self.record.spread = random::number()?;
        (self.record.outcome, self.record.error) = (Some(Outcome::Begun), None);
        self.keep("record attempt")?;
        let tried = self.update();
        match &tried {
            Ok(outcome) => {
                self.record.failures = 0;
                self.record.outcome = Some(*outcome);
                self.keep("record outcome")?;
            }
            Err(error) => {
                (self.record.outcome, self.record.error) = (Some(Outcome::Failed), Some(format!("{error:#}")));
                if let Ok(system) = self.host.system() {
                    self.refresh(&system);
                }
                if let Err(unkept) = self.keep("record outcome") {
                    self.progress.note(format!("{unkept:#}"));
                }
            }
        }
        tried
    }

    fn update(&mut self) -> Result<Outcome> {
        let checked = self.upgrade(Until::Check)?;
        let left_alone = self.host.deployments()?.is_left_alone(&checked.to_manifest)?;
        let until = match plan::answer(self.host.config().update.policy, &checked, left_alone) {
            Answer::Ended(outcome) => return Ok(outcome),
            Answer::Go(until) => until,
        };
        if until == Until::Stage {
            self.record.staging = Some(checked.to_manifest);
            self.keep("record staging")?;
        }
        let done = self.upgrade(until)?;
        self.record.staging = None;
        Ok(match done.outcome {
            upgrade::Outcome::Staged => {
                let id = done.staged.context("finding out which root was staged")?;
                self.note_staged(id);
                Outcome::Staged
            }
            upgrade::Outcome::Downloaded => Outcome::Downloaded,
            upgrade::Outcome::FailedBefore => Outcome::FailedBefore,
            upgrade::Outcome::Available => Outcome::Available,
            upgrade::Outcome::UpToDate | upgrade::Outcome::Followed if done.reboot_needed => Outcome::Staged,
            upgrade::Outcome::UpToDate | upgrade::Outcome::Followed => Outcome::UpToDate,
        })
    }

    fn upgrade(&mut self, until: Until) -> Result<upgrade::Report> {
        let options =
            upgrade::Options { image: None, source: self.options.source.clone(), until, keep: self.host.config().keep, retry: false };
        let report = upgrade::locked(self.host, &options, self.progress)?;
        self.record.image = Some(report.image.clone());
        self.record.manifest_digest = Some(report.to_manifest.clone());
        self.record.os_version = report.version.clone();
        Ok(report)
    }

    /// Notes a root that was staged by this verb. Where one has been waiting already, the wait is theirs: on a tag that moves often it would never end.
    fn note_staged(&mut self, id: ImageId) {
        let since = self.record.staged.as_ref().and_then(|waiting| waiting.since).or((self.options.clock)());
        self.record.staged = Some(StagedByUs { id, since, restarted_in: None });
    }

    /// Brings the record up to date with what boots next.
    fn refresh(&mut self, system: &System) {
        let next = next(system);
        // A try that was cut may have staged what it was about to stage.
        if let Some(manifest) = self.record.staging.take()
            && let Some(id) = next.filter(|id| system.origin(id).is_ok_and(|origin| origin.manifest_digest == manifest))
            && self.record.staged.as_ref().is_none_or(|staged| staged.id != *id)
        {
            self.note_staged(id.clone());
        }
        let now = (self.options.clock)();
        self.record.staged = self.record.staged.take().filter(|staged| Some(&staged.id) == next).map(|staged| {
            // A clock that was set since, or set back, begins the wait anew.
            let since = staged.since.filter(|since| now.is_none_or(|now| *since <= now)).or(now);
            StagedByUs { since, ..staged }
        });
    }

    /// Decides about a restart; that is on record before it happens, so that a machine on which something else comes up is not restarted for ever.
    fn settle(&mut self, system: &System) -> Result<Restart> {
        let update = &self.host.config().update;
        let now = (self.options.clock)();
        let next = next(system);
        let busy = match next {
            Some(_) if update.policy == Policy::Apply => self.look()?,
            _ => Busy::default(),
        };
        let boot_id = health::boot_id();
        let (choices, unreadable) = self.host.choices();
        let default = system.default_entry().map(|entry| entry.file.as_str());
        let elsewhere = !unreadable.is_empty() || choices.iter().any(|choice| !default.is_some_and(|file| choice.is(file)));
        let staged = self.record.staged.as_ref();
        let situation = Situation { now, boot_id: boot_id.as_deref(), next, elsewhere, staged, busy: &busy };
        let restart = plan::restart(update, &situation);
        let restarts = matches!(restart.action, Action::Restart | Action::RestartAnyway);
        if let Some(staged) = self.record.staged.as_mut().filter(|_| restarts) {
            staged.restarted_in = Some(boot_id.unwrap_or_else(|| "unknown".to_owned()));
        }
        self.keep(if restarts { "record restart" } else { "record what waits" })?;
        Ok(restart)
    }

    fn look(&self) -> Result<Busy> {
        let root = &self.options.root;
        let opened = dir::open_path(root).with_context(|| format!("opening {}", root.display()))?;
        sessions::look(opened).context("finding out who would mind a restart")
    }

    fn report(self, system: &System, outcome: Option<Outcome>, restart: Restart) -> Report {
        let update = &self.host.config().update;
        let next_try = plan::next_try(update, &self.record).and_then(calendar::rfc3339);
        let AutoUpdate { image, manifest_digest, os_version, .. } = self.record;
        let staged = system.staged().map(|entry| entry.image.clone());
        Report { policy: update.policy, outcome, image, manifest_digest, os_version, staged, restart, next_try }
    }
}

/// The root that waits for a restart, if it can boot.
fn next(system: &System) -> Option<&ImageId> {
    system.staged().filter(|entry| system.can_boot(entry)).map(|entry| &entry.image)
}
