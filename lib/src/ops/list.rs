//! `selkie list`: every generation on this machine, newest first. Degrades per generation; never fails as a whole.

use serde::Serialize;

use super::host::Host;
use crate::boot::Tries;
use crate::calendar;
use crate::image_id::ImageId;
use crate::system::System;

/// All generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct List {
    /// Newest first.
    pub generations: Vec<Generation>,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// One root, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Generation {
    /// Its number on this machine.
    pub number: Option<u64>,
    /// fs-verity digest of the root image.
    pub id: ImageId,
    /// Name, as os-release calls it.
    pub os_name: Option<String>,
    /// Version, as the image calls it.
    pub os_version: Option<String>,
    /// When it was staged last, as RFC 3339 has it.
    pub date: Option<String>,
    /// The reference that it follows.
    pub image: Option<String>,
    /// Digest of its manifest.
    pub manifest_digest: Option<String>,
    /// What it is for; nothing for one that is only kept.
    pub state: Vec<State>,
    /// Boot counting, while its entry has not proven itself.
    pub tries: Option<Tries>,
}

/// What a generation is for, and what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It runs.
    Booted,
    /// It boots next, unless there is another for one boot.
    Next,
    /// It boots next, once.
    Once,
    /// `selkie rollback` goes there.
    Previous,
    /// It stays until it is unpinned.
    Pinned,
    /// The boot loader has given it up.
    Bad,
    /// Something is missing that it needs.
    Broken,
}

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Booted => "booted",
            Self::Next => "next",
            Self::Once => "once",
            Self::Previous => "previous",
            Self::Pinned => "pinned",
            Self::Bad => "bad",
            Self::Broken => "broken",
        }
    }
}

/// Reads the machine, as far as it can be read; what cannot is among the problems.
pub fn run(host: &Host) -> List {
    list(&host.survey())
}

/// The same from a machine that was loaded before.
pub fn list(system: &System) -> List {
    List { generations: system.generations().into_iter().map(|id| generation(system, id)).collect(), problems: system.problems.clone() }
}

fn generation(system: &System, id: &ImageId) -> Generation {
    let origin = system.origin(id).ok();
    Generation {
        number: system.number(id),
        id: id.clone(),
        os_name: origin.and_then(|o| o.os_name.clone()),
        os_version: origin.and_then(|o| o.os_version.clone()),
        date: origin.and_then(|o| o.staged).and_then(calendar::rfc3339),
        image: origin.map(|o| o.image.clone()),
        manifest_digest: origin.map(|o| o.manifest_digest.clone()),
        state: state(system, id),
        tries: system.entry(id).and_then(|e| e.tries),
    }
}

fn state(system: &System, id: &ImageId) -> Vec<State> {
    let is = |role: Option<&ImageId>| role == Some(id);
    let entries = || system.entries.iter().filter(|e| e.image == *id);
    [
        (State::Booted, system.booted == *id),
        (State::Next, is(system.default_entry().map(|e| &e.image))),
        (State::Once, is(system.once.as_ref())),
        (State::Previous, is(system.previous().map(|e| &e.image))),
        (State::Pinned, system.deployments.iter().any(|d| d.id == *id && d.pinned)),
        (State::Bad, entries().count() > 0 && entries().all(|e| e.tries.is_some_and(Tries::is_bad))),
        (State::Broken, !entries().any(|e| system.can_boot(e))),
    ]
    .into_iter()
    .filter_map(|(state, holds)| holds.then_some(state))
    .collect()
}
