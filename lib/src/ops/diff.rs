//! `selkie diff`: what an update changes, from one root on this machine to another. Read-only.

use anyhow::{Context, Result};
use serde::Serialize;

use super::changes::{self, Changes};
use super::host::Host;
use super::prune;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::store::{Store, Tree};
use crate::system::System;

/// Which roots: numbers of `selkie list`, or at least four digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The first; the one that runs where none is given.
    pub from: Option<String>,
    /// The second; the one that boots next where none is given.
    pub to: Option<String>,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The first root.
    pub from: Side,
    /// The second.
    pub to: Side,
    /// What differs between them.
    #[serde(flatten)]
    pub changes: Changes,
    /// Objects of the second root that the first has not.
    pub new_objects: u64,
    /// Their size in bytes.
    pub new_bytes: u64,
    /// Objects that both have.
    pub shared_objects: u64,
}

/// One of the two roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Side {
    /// fs-verity digest of the root image.
    pub id: ImageId,
    /// Its number on this machine.
    pub number: Option<u64>,
    /// Version, as the image calls it.
    pub os_version: Option<String>,
}

/// Compares two roots.
///
/// # Errors
///
/// [`FailureKind::NotFound`] where there is no such root, or where none is named and nothing waits for a reboot.
pub fn run(host: &Host, options: &Options) -> Result<Report> {
    let system = host.survey();
    let (from, to) = plan(&system, options)?;
    let store = host.store()?;
    let (before, after) = (open(&store, &from)?, open(&store, &to)?);
    let (known, wanted) = (before.objects(), after.objects());
    let new: Vec<u64> = wanted.difference(&known).map(|(_, size)| *size).collect();
    Ok(Report {
        changes: changes::between(&before, &after, &mut |tree, file| tree.read(file).map(Ok))?,
        new_objects: new.len() as u64,
        new_bytes: new.iter().sum(),
        shared_objects: (wanted.len() - new.len()) as u64,
        from: side(&system, from),
        to: side(&system, to),
    })
}

/// Which roots are meant.
fn plan(system: &System, options: &Options) -> Result<(ImageId, ImageId), Failure> {
    let named = |asked: &Option<String>| asked.as_deref().map(|asked| system.find(asked)).transpose();
    let from = named(&options.from)?.unwrap_or(&system.booted);
    let next = || {
        system.staged().map(|entry| &entry.image).ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                "comparing roots: nothing waits for a reboot (expected a staged update, or two roots by name)",
            )
            .hint("`selkie list` shows the roots; `selkie upgrade` stages an update")
        })
    };
    let to = named(&options.to)?.map_or_else(next, Ok)?;
    Ok((from.clone(), to.clone()))
}

pub(super) fn open(store: &Store, id: &ImageId) -> Result<Tree> {
    let stored = prune::stored(store, id)?;
    store.tree(&stored.image).with_context(|| format!("reading root {}", id.short()))
}

pub(super) fn side(system: &System, id: ImageId) -> Side {
    Side { number: system.number(&id), os_version: system.origin(&id).ok().and_then(|origin| origin.os_version.clone()), id }
}
