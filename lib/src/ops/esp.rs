//! `selkie esp`: EFI system partitions on several disks that are kept in step, so that the machine boots when one disk is gone. Nothing is formatted.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::catch_up;
use super::host::Host;
use super::loader;
use crate::boot::{Boot, Place};
use crate::deploy::BootPlace;
use crate::error::{Failure, FailureKind};
use crate::image::host_architecture;
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::store;

/// How long `sync`, which runs at boot, waits for an update that is on its way.
const PATIENCE: Duration = Duration::from_secs(600);

/// All places of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct List {
    /// The one that booted first.
    pub places: Vec<Listed>,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listed {
    /// The partition UUID of the ESP.
    pub partition: String,
    /// What it is for.
    pub role: Role,
    /// Whether it is kept in step with others; a machine with one ESP has none that is.
    pub kept: bool,
    /// Whether new entries and kernels go to an XBOOTLDR partition on its disk; unknown for one out of reach.
    pub xbootldr: Option<bool>,
    /// Bytes that are free where new kernels go.
    pub free_bytes: Option<u64>,
    /// Whether it is in step; unknown where that cannot be read.
    pub in_step: Option<bool>,
    /// Why it is not in step, or out of reach.
    pub why: Option<String>,
    /// The version of the newest systemd-boot there.
    pub loader: Option<String>,
    /// Roots that it may boot: of one out of reach, as it was seen last.
    pub roots: Vec<ImageId>,
}

/// What a place is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The boot loader that started the machine came from here.
    Booted,
    /// It follows the one that booted.
    Mirror,
}

/// What was done to one ESP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Changed {
    /// The partition UUID of the ESP.
    pub partition: String,
    /// Roots that it may boot now.
    pub roots: Vec<ImageId>,
    /// The boot loader of another system that stays where firmware looks by default: there has to be an entry in the firmware for ours.
    pub in_the_way: Option<String>,
}

/// What `selkie esp sync` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Synced {
    /// The places afterwards.
    pub places: Vec<Listed>,
    /// The boot loaders; none where the root that runs has not proven itself, or brings none.
    pub loaders: Option<loader::Report>,
}

/// Tells every place, as far as it can be read.
///
/// # Errors
///
/// The place that booted, or the records of the others, cannot be read.
pub fn list(host: &Host) -> Result<List> {
    let boot = host.boot()?;
    // Read anew: what was opened in the beginning may have been changed since.
    let records = host.deployments()?.boot_places()?;
    let mut places = vec![listed(boot, &records, boot.place().partition(), Ok(boot.place()))];
    places.extend(boot.mirrors().iter().map(|mirror| listed(boot, &records, &mirror.partition, mirror.place.as_ref())));
    Ok(List { places })
}

fn listed(boot: &Boot, records: &[BootPlace], partition: &str, place: Result<&Place, &Failure>) -> Listed {
    let record = records.iter().find(|record| record.partition == partition);
    let booted = partition == boot.place().partition();
    let steps = place.map_err(|failure| failure.message.clone()).and_then(|place| {
        if booted { Ok(None) } else { place.steps_after(boot.place()).map(|steps| steps.reason()).map_err(|error| format!("{error:#}")) }
    });
    let place = place.ok();
    let loader = place.and_then(|place| place.newest_loader(store::efi_architecture(&host_architecture())).ok()?);
    let seen = place.and_then(|place| place.content().ok()).map(|content| content.roots);
    Listed {
        partition: partition.to_owned(),
        role: if booted { Role::Booted } else { Role::Mirror },
        kept: record.is_some(),
        xbootldr: place.map(Place::has_xbootldr),
        free_bytes: place.and_then(|place| place.free_bytes().ok()),
        in_step: steps.as_ref().ok().map(Option::is_none),
        why: steps.unwrap_or_else(Some),
        loader: loader.map(|(version, _)| version),
        roots: seen.or_else(|| record.map(|record| record.roots.clone())).unwrap_or_default(),
    }
}

/// Takes an ESP in, and brings it in step: kernels and entries, and a boot loader, last. Called again after a stop, it goes on.
///
/// # Errors
///
/// [`FailureKind::NoSpace`] with numbers, before anything is written, for one that is too small; [`FailureKind::Usage`] for the one that booted;
/// [`FailureKind::Unsuitable`] where the one that booted has no systemd-boot to copy.
pub fn add(host: &Host, place: &Place, progress: &dyn Progress) -> Result<Changed> {
    let _lock = host.lock()?;
    let booted = host.boot()?.place();
    let partition = place.partition();
    if partition == booted.partition() {
        let message = format!("taking in ESP {partition}: it is the one that booted (expected another)");
        return Err(Failure::new(FailureKind::Usage, message).into());
    }
    require_named_root(host, partition)?;
    let architecture = store::efi_architecture(&host_architecture()).to_owned();
    let (_, loader) = booted.newest_loader(&architecture)?.ok_or_else(|| {
        let message =
            format!("taking in ESP {partition}: the one that booted has no systemd-boot in EFI/systemd or EFI/BOOT (expected one to copy)");
        Failure::new(FailureKind::Unsuitable, message)
    })?;
    let records = host.deployments()?.boot_places()?;
    if !records.iter().any(|record| record.partition == partition) {
        require_room(place, booted.bytes_for_mirror()?, 2 * loader.len() as u64)?;
    }
    // Each record says at any time at least what its ESP may boot.
    if !records.iter().any(|record| record.partition == booted.partition()) {
        catch_up::record(host, booted, progress)?;
    }
    catch_up::announce_all(host, partition, booted)?;
    progress.step("record boot place");
    place.follow(booted, progress).with_context(|| format!("taking in ESP {partition}"))?;
    let in_the_way = place.install_loader(&architecture, &loader, progress)?;
    catch_up::record(host, place, progress)?;
    Ok(Changed { partition: partition.to_owned(), roots: place.content()?.roots, in_the_way })
}

/// With `root=gpt-auto`, systemd looks for the root on the disk that the boot loader came from: a machine that boots from another ESP would find none.
fn require_named_root(host: &Host, partition: &str) -> Result<()> {
    let system = host.system()?;
    let root = system
        .entry(&system.booted)
        .and_then(|entry| entry.arguments.args().filter(|argument| argument.starts_with("root=")).last().map(str::to_owned));
    if root.as_deref() != Some("root=gpt-auto") {
        return Ok(());
    }
    let message = format!(
        "taking in ESP {partition}: this machine boots with root=gpt-auto, and from an ESP on another disk it would not find its root (expected root=UUID=… or the like)"
    );
    Err(Failure::new(FailureKind::Unsuitable, message)
        .hint("name the root file system when the machine is made (selkie disk --karg root=PARTLABEL=root), or in the options of the booted entry: an upgrade carries them on")
        .into())
}

fn require_room(place: &Place, kernels: u64, loaders: u64) -> Result<()> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    if place.has_xbootldr() {
        place.check_esp_space(loaders).with_context(|| format!("taking in ESP {}", place.partition()))?;
    }
    let (free, need) = (place.free_bytes()?, kernels + loaders + (1 << 20));
    if free >= need {
        return Ok(());
    }
    let message = format!(
        "taking in ESP {}: {} MiB free (expected at least {} MiB: what boots now, one more kernel, and the boot loader)",
        place.partition(),
        mib(free),
        mib(need)
    );
    Err(Failure::new(FailureKind::NoSpace, message).hint("use a larger partition, or remove what others have left on it").into())
}

/// Lets an ESP go: where it is within reach, it loses our entries and kernels first, so that it never boots what is given up later. The boot loader stays.
///
/// # Errors
///
/// [`FailureKind::NotFound`] for one that is not kept in step, [`FailureKind::Usage`] for the one that booted while there are others.
pub fn remove(host: &Host, partition: &str, progress: &dyn Progress) -> Result<Changed> {
    let _lock = host.lock()?;
    let partition = partition.to_lowercase();
    let (boot, deployments) = (host.boot()?, host.deployments()?);
    if partition == boot.place().partition() && !boot.mirrors().is_empty() {
        let message = format!("letting ESP {partition} go: it is the one that booted (expected another)");
        return Err(Failure::new(FailureKind::Usage, message).hint("`selkie esp list` shows the others").into());
    }
    let mirror = boot.mirrors().iter().find(|mirror| mirror.partition == partition);
    match mirror.map(|mirror| &mirror.place) {
        Some(Ok(place)) => place.clear(progress).with_context(|| format!("letting ESP {partition} go"))?,
        Some(Err(failure)) => progress.note(format!(
            "ESP {partition} is out of reach and keeps its entries; do not boot from it again before it is erased: {}",
            failure.message
        )),
        None => {
            progress.note(format!("ESP {partition} was not looked at and keeps its entries; do not boot from it again before it is erased"))
        }
    }
    let kept = deployments.forget_boot_place(&partition)?;
    if kept {
        progress.step("forget boot place");
    }
    // The one that booted is kept in step with nothing then.
    let booted = boot.place().partition();
    if matches!(deployments.boot_places()?.as_slice(), [last] if last.partition == booted) && deployments.forget_boot_place(booted)? {
        progress.step("forget boot place");
    }
    if !kept {
        let message = format!("letting ESP {partition} go: it is not kept in step (expected one of `selkie esp list`)");
        return Err(Failure::new(FailureKind::NotFound, message).into());
    }
    Ok(Changed { partition, roots: Vec::new(), in_the_way: None })
}

/// Brings every ESP in step: entries and kernels, and, where the root that runs has proven itself, its boot loader.
///
/// # Errors
///
/// What is on record cannot be read, or what booted cannot be written. A mirror that cannot be written is told by the list.
pub fn sync(host: &Host, progress: &dyn Progress) -> Result<Synced> {
    if let Some(synced) = nothing_to_sync(host)? {
        return Ok(synced);
    }
    let _lock = host.lock_within(PATIENCE)?;
    catch_up::begin(host, progress)?;
    let system = host.system()?;
    let loaders = if system.is_proven(&system.booted) {
        match loader::update(host, progress) {
            Ok(report) => Some(report),
            Err(error) => {
                progress.note(format!("the boot loader stays as it is: {error:#}"));
                None
            }
        }
    } else {
        progress.note("the boot loader stays as it is: the root that runs has not proven itself".to_owned());
        None
    };
    Ok(Synced { places: list(host)?.places, loaders })
}

/// A machine with one ESP and a current boot loader, as most are: the lock is not taken, because this runs at each boot, and whoever wants to work then
/// would find the machine busy.
fn nothing_to_sync(host: &Host) -> Result<Option<Synced>> {
    let system = host.system()?;
    if !host.deployments()?.boot_places()?.is_empty() || !system.is_proven(&system.booted) {
        return Ok(None);
    }
    // What cannot be read may be what another process is writing: with the lock, it is told.
    let Ok(Some(report)) = loader::nothing_to_update(host) else { return Ok(None) };
    Ok(Some(Synced { places: list(host)?.places, loaders: Some(report) }))
}
