//! `selkie upgrade` and `selkie switch`: the image that a reference names now becomes the root that boots next.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;

use super::host::Host;
use super::prune;
use super::pull::{self, Pulled};
use super::runtime::block_on;
use super::stage::{self, Bootable, Provenance};
use crate::cmdline::Cmdline;
use crate::error::{Failure, FailureKind};
use crate::image::{Resolved, Source, SourceOptions};
use crate::image_id::ImageId;
use crate::origin::Origin;
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::Store;
use crate::system::System;

/// How far to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Only ask the registry; nothing is written anywhere.
    Check,
    /// Fetch everything, change nothing about what boots.
    Download,
    /// Make it the root that boots next.
    Stage,
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
    /// The manifest that boots next as things stood before.
    pub from_manifest: String,
    /// The manifest that the reference names now.
    pub to_manifest: String,
    /// What the image calls its version, where a label says so.
    pub version: Option<String>,
    /// The root that boots next now, where this call decided it.
    pub staged: Option<ImageId>,
    /// What fetching took, where anything was fetched.
    pub pulled: Option<Pulled>,
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
}

/// Decides from the machine as it is and the manifest that the reference names now.
pub fn plan(system: &System, image: &str, manifest_digest: &str) -> Result<Plan> {
    let (id, origin) = followed(system)?;
    Ok(match (origin.manifest_digest == manifest_digest, origin.image == image) {
        (true, true) => Plan::Nothing,
        (true, false) => Plan::Follow(id.clone()),
        (false, _) => Plan::Stage,
    })
}

/// The deployment whose reference `upgrade` follows: the one that boots next, so that an upgrade after `switch` stays on the new track.
fn followed(system: &System) -> Result<(&ImageId, &Origin)> {
    let id = system.default_entry().map_or(&system.booted, |entry| &entry.image);
    Ok((id, system.origin(id)?))
}

/// Runs the verb. Takes the lock, except for a check, which only reads.
pub fn run(host: &Host, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    let _lock = if options.until == Until::Check { None } else { Some(host.lock()?) };
    let system = host.system()?;
    let (_, origin) = followed(&system)?;
    let image = match &options.image {
        Some(image) => image.clone(),
        None => origin.image.parse().with_context(|| format!("reading the followed reference {:?}", origin.image))?,
    };
    block_on(async {
        let source = Source::open(&image, &options.source).await?;
        let report = upgrade(host, &system, &source, options, progress).await?;
        source.close().await?;
        Ok(report)
    })
}

async fn upgrade(host: &Host, system: &System, source: &Source, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    let resolved = source.resolved();
    let image = resolved.reference.to_string();
    let (_, origin) = followed(system)?;
    let mut report = Report {
        outcome: Outcome::UpToDate,
        from_manifest: origin.manifest_digest.clone(),
        to_manifest: resolved.manifest_digest.clone(),
        version: resolved.label("org.opencontainers.image.version"),
        staged: None,
        pulled: None,
        image: image.clone(),
    };
    match (plan(system, &image, &resolved.manifest_digest)?, options.until) {
        (Plan::Nothing, _) => {}
        (Plan::Follow(_), Until::Check | Until::Download) => {}
        (Plan::Follow(id), Until::Stage) => {
            host.deployments.create(&id, &Origin { image, ..origin.clone() })?;
            progress.step("replace origin");
            report.outcome = Outcome::Followed;
        }
        (Plan::Stage, Until::Check) => report.outcome = Outcome::Available,
        (Plan::Stage, until) => fetch_and_stage(host, system, source, until, &mut report, progress).await?,
    }
    Ok(report)
}

async fn fetch_and_stage(
    host: &Host,
    system: &System,
    source: &Source,
    until: Until,
    report: &mut Report,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let resolved = source.resolved();
    let store = host.store()?;
    check_space(host, &store, resolved)?;
    let pulled = pull::fetch(&store, source, progress).await?;
    let bootable = Bootable::open(&store, &pulled.boot_image)?;
    if until == Until::Download {
        store.tag(&pulled.stored_manifest, DOWNLOADED)?;
        host.sync()?;
        progress.step("tag download");
        report.outcome = Outcome::Downloaded;
    } else {
        let arguments = Cmdline::parse(&system.origin(&system.booted)?.kernel_arguments);
        let context = Provenance { reference: &report.image, arguments: &arguments, made_under: Some(&system.booted) };
        let origin = stage::origin(resolved, &pulled, &bootable.os, &context);
        let entry = stage::stage(host, &store, &pulled, &bootable, &origin, progress.as_ref())?;
        report.outcome = if entry.image == system.booted && system.staged().is_none() { Outcome::UpToDate } else { Outcome::Staged };
        report.staged = Some(entry.image);
        clean_up(host, &store, progress.as_ref());
    }
    report.pulled = Some(pulled);
    Ok(())
}

/// Tag of an image that was fetched ahead of its staging.
const DOWNLOADED: &str = "downloaded";

/// Removes what lost its role. The upgrade is done by then, so trouble here is told and does not undo it.
fn clean_up(host: &Host, store: &Store, progress: &dyn Progress) {
    let cleaned = (|| {
        let tags: Vec<String> = store.tags()?.into_iter().map(|(tag, _)| tag).collect();
        if tags.iter().any(|t| t == DOWNLOADED) {
            store.untag(DOWNLOADED)?;
        }
        prune::apply(&prune::plan(&host.system()?, &tags), host, store, progress)
    })();
    if let Err(e) = cleaned {
        progress.note(format!("removing what is no longer needed: {e:#}; the next upgrade tries again"));
    }
}

/// Refuses before anything is fetched when not even the compressed layers would fit.
fn check_space(host: &Host, store: &Store, resolved: &Resolved) -> Result<()> {
    let mut need = 0;
    for layer in &resolved.layers {
        if !store.has_layer(&layer.diff_id)? {
            need += layer.size;
        }
    }
    let free = host.free_bytes()?;
    if free >= need {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message =
        format!("pulling {}: the root file system has {} MiB free (expected at least {} MiB)", resolved.reference, mib(free), mib(need));
    Err(Failure::new(FailureKind::NoSpace, message).hint("free some space in /var, or enlarge the root partition").into())
}
