//! `selkie upgrade` and `selkie switch`: the image that a reference names now becomes the root that boots next.

mod news;

use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;

use super::catch_up;
use super::health;
use super::host::Host;
use super::lasting;
use super::preview::{self, Preview};
use super::prune;
use super::pull::{self, Pulled};
use super::runtime::{block_on, block_on_kept};
use super::stage::{self, Bootable, Provenance};
use super::{seal, space};
use crate::cmdline::Cmdline;
use crate::deploy::FailedBoot;
use crate::error::{Failure, FailureKind};
use crate::image::{Source, SourceOptions};
use crate::image_id::ImageId;
use crate::kargs;
use crate::origin::Origin;
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::Store;
use crate::sys::interrupt;
use crate::system::System;

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Only ask the registry; nothing is written anywhere.
    Check,
    /// The same, and tell what taking it would cost and change.
    Preview,
    /// Fetch everything, change nothing about what boots.
    Download,
    /// Make it the root that boots next.
    Stage,
}

impl Until {
    /// Whether nothing is written.
    pub fn only_reads(self) -> bool {
        matches!(self, Self::Check | Self::Preview)
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// The reference to follow from now on (`switch`); the one that is followed already by default.
    pub image: Option<ImageReference>,
    /// How to reach the registry.
    pub source: SourceOptions,
    /// How far to go.
    pub until: Until,
    /// How many older roots stay besides those with a role, where there is room.
    pub keep: usize,
    /// Whether an image that failed on this machine is taken all the same.
    pub retry: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The machine runs, or boots next, what the reference names.
    UpToDate,
    /// There is something newer; nothing was changed.
    Available,
    /// It was fetched; what boots next was not changed.
    Downloaded,
    /// It boots next.
    Staged,
    /// What the reference names failed on this machine before, and was not asked for again: nothing was changed.
    FailedBefore,
    /// The root is the one that is there already; from now on it follows another reference.
    Followed,
}

/// What was found and done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The reference.
    pub image: String,
    /// The manifest that boots next as things stood before, where that is known.
    pub from_manifest: Option<String>,
    /// The manifest that the reference names now.
    pub to_manifest: String,
    /// What the image calls its version, where that is known: a label says so, or a deployment of it is here.
    pub version: Option<String>,
    /// Whether a root waits for a reboot, staged by this call or before.
    pub reboot_needed: bool,
    /// The root that boots next now, where this call decided it.
    pub staged: Option<ImageId>,
    /// How the image failed on this machine before, where that is why it was left alone.
    pub failed: Option<FailedBoot>,
    /// What fetching took, where anything was fetched.
    pub pulled: Option<Pulled>,
    /// What taking the image would cost and change, compared with the root that runs, where that was asked for.
    pub preview: Option<Preview>,
}

impl Report {
    /// Of a call that has found this image, and has not done anything yet.
    fn up_to_date(system: &System, image: String, to_manifest: String, version: Option<String>) -> Self {
        Self {
            outcome: Outcome::UpToDate,
            image,
            from_manifest: system.origin(followed(system)).ok().map(|origin| origin.manifest_digest.clone()),
            to_manifest,
            version,
            reboot_needed: false,
            staged: None,
            failed: None,
            pulled: None,
            preview: None,
        }
    }
}

/// What is to be done about the image that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: it boots next already.
    Nothing,
    /// Only the reference of the root that boots next changes.
    Follow(ImageId),
    /// Fetch and stage it.
    Stage,
    /// Leave it alone: it failed on this machine before.
    LeaveAlone(Box<FailedBoot>),
}

/// Decides from the machine as it is and the manifest that the reference names now. An entry that cannot boot, or a deployment
/// whose origin cannot be read, is not what was asked for: staging the image again repairs it. An image that failed here is not taken again, but for
/// `retry`, or where it is what runs or boots next anyway.
pub fn plan(system: &System, image: &str, manifest_digest: &str, retry: bool) -> Plan {
    match wanted(system, image, manifest_digest) {
        Plan::Stage if !retry => {
            failed_before(system, manifest_digest).map_or(Plan::Stage, |failed| Plan::LeaveAlone(Box::new(failed.clone())))
        }
        plan => plan,
    }
}

fn failed_before<'a>(system: &'a System, manifest_digest: &str) -> Option<&'a FailedBoot> {
    let here = [&system.booted, followed(system)];
    let failed = system.failed.iter().find(|failed| failed.manifest_digest.as_deref() == Some(manifest_digest));
    failed.filter(|failed| !here.contains(&&failed.id))
}

fn wanted(system: &System, image: &str, manifest_digest: &str) -> Plan {
    let id = followed(system);
    if system.default_entry().is_none_or(|entry| !system.can_boot(entry)) {
        return Plan::Stage;
    }
    match system.origin(id) {
        Ok(origin) if origin.manifest_digest == manifest_digest && origin.image == image => Plan::Nothing,
        Ok(origin) if origin.manifest_digest == manifest_digest => Plan::Follow(id.clone()),
        _ => Plan::Stage,
    }
}

/// The deployment whose reference `upgrade` follows: the one that boots next, so that an upgrade after `switch` stays on the new track.
fn followed(system: &System) -> &ImageId {
    system.default_entry().map_or(&system.booted, |entry| &entry.image)
}

/// Runs the verb. Takes the lock, except for a check, which changes nothing on the disk.
pub fn run(host: &Host, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    let _lock = if options.until.only_reads() { None } else { Some(host.lock()?) };
    locked(host, options, progress)
}

/// The same for a verb that holds the lock.
pub(super) fn locked(host: &Host, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    if !options.until.only_reads() {
        catch_up::begin(host, progress.as_ref())?;
    }
    let system = host.system()?;
    let reference = match &options.image {
        Some(image) => image.clone(),
        None => {
            let followed =
                &system.origin(followed(&system)).context("finding out which image this machine follows (`selkie switch` sets it)")?.image;
            followed.parse().with_context(|| format!("reading the followed reference {followed:?}"))?
        }
    };
    let image = lasting::from_root(&reference)?;
    let work = async {
        if let Some(report) = news::none(&system, &image, options).await {
            return Ok(report);
        }
        let source = Source::open(&image, &options.source, progress.as_ref()).await.map_err(|error| match &options.image {
            None if reference.is_from_here() => lasting::not_found_from_here(error, &reference),
            _ => error,
        })?;
        let report = upgrade(host, &system, &source, options, progress).await?;
        source.close().await?;
        Ok(report)
    };
    if options.until.only_reads() { block_on(work) } else { block_on_kept(work) }
}

async fn upgrade(host: &Host, system: &System, source: &Source, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    let resolved = source.resolved();
    let image = resolved.reference.to_string();
    let version = resolved.label("org.opencontainers.image.version");
    let mut report = Report::up_to_date(system, image.clone(), resolved.manifest_digest.clone(), version);
    match (plan(system, &image, &resolved.manifest_digest, options.retry), options.until) {
        (Plan::Nothing, _) | (Plan::Follow(_), Until::Check | Until::Preview | Until::Download) => {}
        (Plan::Follow(id), Until::Stage) => {
            host.deployments()?.create(&id, &Origin { image, ..system.origin(&id)?.clone() })?;
            progress.step("replace origin");
            report.outcome = Outcome::Followed;
        }
        (Plan::LeaveAlone(failed), _) => {
            report.outcome = Outcome::FailedBefore;
            report.failed = Some(*failed);
        }
        (Plan::Stage, Until::Check) => report.outcome = Outcome::Available,
        (Plan::Stage, Until::Preview) => {
            report.outcome = Outcome::Available;
            report.preview = Some(preview::of(host, system, (source, progress), &system.booted).await?);
        }
        (Plan::Stage, until) => Fetch { host, system, source, progress, keep: options.keep }.run(until, &mut report).await?,
    }
    report.reboot_needed = report.outcome == Outcome::Staged || host.system()?.staged().is_some();
    Ok(report)
}

/// Everything that fetching and staging an image needs.
struct Fetch<'a> {
    host: &'a Host,
    system: &'a System,
    source: &'a Source,
    progress: &'a Arc<dyn Progress>,
    keep: usize,
}

impl Fetch<'_> {
    async fn run(&self, until: Until, report: &mut Report) -> Result<()> {
        let arguments = self.arguments()?;
        let store = self.host.store()?;
        if !store.is_sealed() {
            self.progress.note("the repository has no fs-verity: nothing checks files when they are read".to_owned());
        }
        seal::algorithm(self.source.resolved(), Some(store.algorithm()))?;
        if until == Until::Stage {
            space::short_mirrors(self.host, self.system, space::missing(&store, self.source.resolved())?)?
                .into_iter()
                .for_each(|short| self.progress.note(short));
        }
        self.make_room(&store, until).await?;
        let pulled = self.fetch(&store).await?;
        let bootable = Bootable::open(&store, &pulled.stored())?;
        interrupt::last_call()?;
        if until == Until::Download {
            store.tag(&pulled.stored_manifest, DOWNLOADED)?;
            self.host.sync()?;
            self.progress.step("tag download");
            report.outcome = Outcome::Downloaded;
        } else {
            let image_arguments = bootable.kargs(self.source.resolved())?;
            let arguments = kargs::carry(&arguments.0, &arguments.1, &image_arguments);
            let provenance = Provenance {
                reference: &report.image,
                arguments: &arguments,
                image_arguments: &image_arguments,
                made_under: Some(&self.system.booted),
            };
            let origin = stage::origin(self.source.resolved(), &pulled, &bootable.os, &provenance);
            self.make_room_on_esp(&store, &bootable)?;
            let entry = stage::stage(self.host, &store, &pulled, &bootable, &origin, self.progress.as_ref())?;
            // The same root may come with another seal: other arguments or another key.
            let before = self.system.default_entry();
            let same = before.is_some_and(|old| old.image == entry.image && old.uki == entry.uki && old.arguments == entry.arguments);
            let nothing_new = same && entry.image == self.system.booted;
            report.outcome = if nothing_new { Outcome::UpToDate } else { Outcome::Staged };
            report.staged = Some(entry.image);
            store.untag(DOWNLOADED)?;
        }
        self.clean_up(&store);
        report.pulled = Some(pulled);
        Ok(())
    }

    /// The kernel arguments of the machine, and those among them that its image brought. The entry of the running root says them, else
    /// its origin; the entry of a sealed root has the image's own, and the origin keeps those of the machine.
    fn arguments(&self) -> Result<(Cmdline, Vec<String>)> {
        let booted = &self.system.booted;
        let origin = self.system.origin(booted);
        let of_image = origin.as_ref().map(|origin| origin.image_arguments.clone()).unwrap_or_default();
        match self.system.entry(booted).filter(|entry| entry.uki.is_none()) {
            Some(entry) => Ok((entry.arguments.clone(), of_image)),
            None => {
                let origin = origin.context("finding out the kernel arguments of this machine")?;
                Ok((Cmdline::parse(&origin.kernel_arguments), of_image))
            }
        }
    }

    /// Takes away what an earlier call left half-done and what has no role, and checks that what is missing can fit at all. Objects stay at
    /// first: they may be what a pull that was cut short goes on from. Older roots are worth less than the new one.
    async fn make_room(&self, store: &Store, until: Until) -> Result<()> {
        for record in health::silent(self.system) {
            self.host.deployments()?.record_failed(&record)?;
            self.progress.step("record failed boot");
        }
        self.prune(store, self.keep)?;
        match self.check_space(store, until).await {
            Err(error) if Failure::is(&error, FailureKind::NoSpace) => {}
            // It fits, or nobody knows, and nothing is given up for an outage.
            checked => return checked,
        }
        self.give_up_spare(store)?;
        self.check_space(store, until).await
    }

    /// Fetches the image. What was foreseen of its size is the least; where there is less room than it takes, older roots are given up for it, too.
    async fn fetch(&self, store: &Store) -> Result<Pulled> {
        let free = self.host.free_bytes()?;
        let error = match pull::fetch(store, self.source, self.progress).await {
            Err(error) if Failure::is(&error, FailureKind::NoSpace) => error,
            fetched => return fetched,
        };
        self.give_up_spare(store)?;
        if self.host.free_bytes()? <= free {
            return Err(error);
        }
        self.progress.note(format!("{error:#}; what has no role made room, and it is fetched again"));
        pull::fetch(store, self.source, self.progress).await
    }

    /// Removes older roots that are only kept as long as there is room, and all objects that nothing needs.
    fn give_up_spare(&self, store: &Store) -> Result<()> {
        self.prune(store, 0)?;
        prune::collect(self.system, self.host, store, 0, self.progress.as_ref()).map(drop)
    }

    /// Refuses before anything is fetched what cannot fit.
    async fn check_space(&self, store: &Store, until: Until) -> Result<()> {
        let missing = space::missing(store, self.source.resolved())?;
        space::check_root(self.host, store, (&self.system.booted, missing), self.source, self.progress).await?;
        self.check_esp(until, missing)
    }

    fn prune(&self, store: &Store, keep: usize) -> Result<()> {
        prune::apply(&prune::plan(self.system, &prune::tags(store)?, keep), self.host, store, self.progress.as_ref())
    }

    /// Refuses before anything is fetched what cannot fit on the ESP. A kernel that is not inside a unified image may be the one that is there
    /// already, and only the layers tell: there, being short of room is only told.
    fn check_esp(&self, until: Until, missing: u64) -> Result<()> {
        if until != Until::Stage {
            return Ok(());
        }
        match space::check_esp(self.host, self.system, missing) {
            Err(error) if seal::sealed_root(self.source.resolved())?.is_none() => {
                self.progress.note(format!("{error:#}; it is enough if the image has the kernel that is there already"));
                Ok(())
            }
            checked => checked,
        }
    }

    /// Lets older roots go where the kernel does not fit beside theirs; whether that is enough, staging finds out.
    fn make_room_on_esp(&self, store: &Store, bootable: &Bootable) -> Result<()> {
        if self.keep > 0 && self.host.boot()?.place().check_space_for(&bootable.boot_files()?).is_err() {
            self.prune(store, 0)?;
        }
        Ok(())
    }

    /// Removes what lost its role. The work is done by then, so trouble here is told and does not undo it.
    fn clean_up(&self, store: &Store) {
        let cleaned = (|| {
            let system = self.host.system()?;
            prune::apply(&prune::plan(&system, &prune::tags(store)?, self.keep), self.host, store, self.progress.as_ref())?;
            prune::collect(&system, self.host, store, self.keep, self.progress.as_ref())
        })();
        if let Err(e) = cleaned.map(drop) {
            self.progress.note(format!("removing what is no longer needed: {e:#}; the next upgrade tries again"));
        }
    }
}

/// Tag of an image that was fetched ahead of its staging.
pub const DOWNLOADED: &str = "downloaded";
