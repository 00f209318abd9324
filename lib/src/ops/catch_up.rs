//! Keeping the places that a machine boots from in step: every verb that changes what boots lets the mirrors follow. A mirror that is away or
//! cannot be written keeps no update from happening: it is told, its record keeps what it may boot, and it catches up with the next verb that writes.

use anyhow::{Context, Result};

use super::host::Host;
use crate::boot::{Boot, Mirror, Place};
use crate::deploy::BootPlace;
use crate::image_id::ImageId;
use crate::progress::Progress;

/// At the beginning of a verb that writes: what has come back catches up, and whatever cannot is told.
///
/// Where the machine came up from a place that was away while it went on from another, that place takes over what is newer: what the machine decided last
/// stays decided.
///
/// # Errors
///
/// What is on record about the places cannot be read or written.
pub(super) fn begin(host: &Host, progress: &dyn Progress) -> Result<()> {
    let Some(boot) = kept_in_step(host, progress)? else { return Ok(()) };
    for mirror in boot.mirrors() {
        if let Err(failure) = &mirror.place {
            progress.note(format!("ESP {} is out of reach and stays as it is: {}", mirror.partition, failure.message));
        }
    }
    if let Some(newer) = newest(boot)? {
        announce_all(host, boot.place().partition(), newer)?;
        // An entry whose root is gone would boot nothing.
        let deployments = host.deployments()?.list()?.found;
        let exists = |id: &ImageId| deployments.iter().any(|found| found.id == *id);
        let adopted = boot.place().adopt(newer, exists, progress);
        let from = newer.partition();
        if adopted.with_context(|| format!("taking over what ESP {from} has and the one that booted lacks"))? {
            progress.note(format!("the machine came up from an ESP that was behind; what ESP {from} boots next boots next"));
        }
    }
    follow(host, progress)
}

/// Lets the mirrors follow what has changed.
///
/// # Errors
///
/// As those of [`begin`].
pub(super) fn follow(host: &Host, progress: &dyn Progress) -> Result<()> {
    let Some(boot) = kept_in_step(host, progress)? else { return Ok(()) };
    let leader = boot.place();
    for mirror in boot.mirrors() {
        let Ok(place) = &mirror.place else { continue };
        let followed = (|| {
            if place.steps_after(leader)?.copy.is_empty() {
                place.follow(leader, progress)
            } else {
                announce_all(host, place.partition(), leader)?;
                place.follow(leader, progress)
            }
        })();
        // Whatever came of it: what the place did not get must not stay on its account.
        let recorded = record(host, place, progress);
        if let Err(error) = followed.and(recorded) {
            progress.note(format!("bringing ESP {} in step: {error:#}; the next verb that writes tries again", mirror.partition));
        }
    }
    record(host, leader, progress)
}

/// Before `id` gets an entry with this serial on the place that booted: its record says so first.
///
/// # Errors
///
/// The record cannot be read or written.
pub(super) fn announce(host: &Host, serial: u64, id: &ImageId) -> Result<()> {
    let booted = host.boot()?.place().partition();
    match find(host, booted)? {
        Some(before) => write(host, &before.with(serial, std::slice::from_ref(id)), Some(&before)).map(drop),
        None => Ok(()),
    }
}

/// Roots that places may still boot which did not follow, whatever the reason.
pub(super) fn held(host: &Host) -> Result<Vec<ImageId>> {
    let boot = host.boot()?;
    let records = host.deployments()?.boot_places()?;
    Ok(records.into_iter().filter(|record| record.partition != boot.place().partition()).flat_map(|record| record.roots).collect())
}

/// The places, if there are several. Where the one that booted is not one of them, nothing follows it: it may be anything.
fn kept_in_step<'a>(host: &'a Host, progress: &dyn Progress) -> Result<Option<&'a Boot>> {
    let (boot, records) = (host.boot()?, host.deployments()?.boot_places()?);
    if records.is_empty() {
        return Ok(None);
    }
    let booted = boot.place().partition();
    if records.iter().any(|record| record.partition == booted) {
        return Ok(Some(boot));
    }
    progress.note(format!("the machine booted from ESP {booted}, which is not among those that are kept in step: they stay as they are"));
    Ok(None)
}

/// The mirror that went on while the place that booted was away.
fn newest(boot: &Boot) -> Result<Option<&Place>> {
    let mut newest = (boot.place().content()?.last_serial, None);
    for place in boot.mirrors().iter().filter_map(|mirror: &Mirror| mirror.place.as_ref().ok()) {
        // One that cannot be read is told by who wants to write it.
        let serial = place.content().map_or(0, |content| content.last_serial);
        if serial > newest.0 {
            newest = (serial, Some(place));
        }
    }
    Ok(newest.1)
}

/// Before `partition` gets what `source` has.
pub(super) fn announce_all(host: &Host, partition: &str, source: &Place) -> Result<()> {
    let content = source.content()?;
    let before = find(host, partition)?.unwrap_or_else(|| BootPlace::new(partition, 0, Vec::new()));
    write(host, &before.with(content.last_serial, &content.roots), Some(&before)).map(drop)
}

/// Writes down exactly what a place has.
pub(super) fn record(host: &Host, place: &Place, progress: &dyn Progress) -> Result<()> {
    let content = place.content()?;
    let now = BootPlace::new(place.partition(), content.last_serial, content.roots);
    if write(host, &now, find(host, place.partition())?.as_ref())? {
        progress.step("record boot place");
    }
    Ok(())
}

fn find(host: &Host, partition: &str) -> Result<Option<BootPlace>> {
    Ok(host.deployments()?.boot_places()?.into_iter().find(|record| record.partition == partition))
}

fn write(host: &Host, record: &BootPlace, before: Option<&BootPlace>) -> Result<bool> {
    if before == Some(record) {
        return Ok(false);
    }
    host.deployments()?.record_boot_place(record)?;
    Ok(true)
}
