//! Where an entry that is lost belongs among the others: its serial and its counter. Pure.
//!
//! A repair does not change what boots next, but for one case: where the root that runs has lost its entry, and nothing is staged, it boots
//! next. A root that failed never comes first by a repair.

use std::collections::BTreeSet;

use super::decide::Standing;
use super::entries::is_given_up;
use super::facts::Facts;
use crate::boot::{BootEntry, EntryLook, EntryName, Tries};
use crate::deploy::check::{Etc, Look};
use crate::image_id::ImageId;

/// The place of a root that has no entry.
pub(super) fn of(facts: &Facts, root: &ImageId) -> Standing {
    let used = used(facts);
    let number = number(facts, root).filter(|number| !used.contains(number));
    let chosen = facts.choices.iter().filter_map(|choice| EntryName::parse(&choice.entry.to_lowercase()));
    let chosen = chosen.filter(|name| name.short == root.short() && !used.contains(&name.serial)).map(|name| name.serial).next();
    let below = |limit: u64| (0..limit).rev().find(|serial| !used.contains(serial)).unwrap_or(0);
    let serial = match chosen {
        Some(serial) => serial,
        None if facts.booted.as_ref() == Some(root) => match staged(facts, root) {
            Some(staged) => number.filter(|number| *number < staged).unwrap_or_else(|| below(staged)),
            None => number.filter(|number| used.iter().all(|other| other < number)).unwrap_or_else(|| next(facts, &used)),
        },
        None => number.unwrap_or_else(|| below(first(facts, root).map_or(1, |entry| entry.serial))),
    };
    Standing { root: root.clone(), serial, tries: tries(facts, root, serial), instead_of: None }
}

/// The counter of a root: given up where it failed; none where it runs, or has run and does not boot next; else it is counted, because whether it
/// ever went well cannot be known, and one good boot takes the counter away.
pub(super) fn tries(facts: &Facts, root: &ImageId, serial: u64) -> Option<Tries> {
    if facts.has_failed(root) {
        return Some(given_up(facts, root));
    }
    if facts.booted.as_ref() == Some(root) {
        return None;
    }
    let has_run = facts.deployment(root).is_some_and(has_run);
    let would_be_first = first(facts, root).is_none_or(|first| first.serial < serial);
    if has_run && !would_be_first { None } else { facts.image(root).and_then(|image| image.tries) }
}

/// The counter of a root that the boot loader tries when there is nothing else.
pub(super) fn given_up(facts: &Facts, root: &ImageId) -> Tries {
    let made = facts.image(root).and_then(|image| image.tries).map_or(1, |tries| tries.left);
    Tries { left: 0, done: made }
}

/// The first boot makes an /etc, and takes the request to carry one away.
fn has_run(deployment: &Look) -> bool {
    let made_under_another = deployment.origin.as_ref().is_ok_and(|origin| origin.made_under.is_some());
    deployment.request == Ok(None) && (deployment.etc != Etc::None || !made_under_another)
}

/// What boots next, as far as entries can be read, and whatever `root` has.
fn first<'f>(facts: &'f Facts, root: &ImageId) -> Option<&'f BootEntry> {
    let others = facts.live().filter(|entry| entry.image != *root && entry.offered && !is_given_up(entry.tries));
    others.max_by_key(|entry| entry.serial)
}

/// The lowest serial of a root that waits for its first boot, and has not failed.
fn staged(facts: &Facts, booted: &ImageId) -> Option<u64> {
    let waits = |entry: &&BootEntry| {
        let has_run = facts.deployment(&entry.image).is_none_or(has_run);
        entry.image != *booted && !has_run && !is_given_up(entry.tries) && !facts.has_failed(&entry.image)
    };
    let newest_run = facts.live().filter(|entry| entry.image != *booted && !waits(entry)).map(|entry| entry.serial).max().unwrap_or(0);
    facts.live().filter(waits).map(|entry| entry.serial).filter(|serial| *serial > newest_run).min()
}

fn number(facts: &Facts, root: &ImageId) -> Option<u64> {
    facts.deployment(root).and_then(|deployment| deployment.origin.as_ref().ok()?.number)
}

/// The serials of all entries, also of those of which only the name can be read.
fn used(facts: &Facts) -> BTreeSet<u64> {
    let of = |entry: &EntryLook| entry.live().map(|live| live.serial).or(entry.name.as_ref().map(|name| name.serial));
    facts.place.iter().flat_map(|place| &place.entries).filter_map(of).collect()
}

fn next(facts: &Facts, used: &BTreeSet<u64>) -> u64 {
    let numbers = facts.state.iter().flat_map(|state| &state.deployments).filter_map(|d| d.origin.as_ref().ok()?.number);
    numbers.chain(used.last().copied()).max().unwrap_or(0) + 1
}
