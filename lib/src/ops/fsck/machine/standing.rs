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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::facts::Image;
    use super::*;
    use crate::boot::{Choice, Inspection, Reading, Variable};
    use crate::cmdline::Cmdline;
    use crate::deploy::check;
    use crate::deploy::{Cause, FailedBoot};
    use crate::origin::Origin;

    fn id(n: u8) -> ImageId {
        format!("{n:02x}").repeat(32).parse().unwrap()
    }

    fn origin(number: Option<u64>) -> Origin {
        Origin {
            version: Origin::VERSION,
            image: "quay.io/acme/os:stable".into(),
            manifest_digest: "sha256:aa".into(),
            index_digest: None,
            config_digest: "sha256:bb".into(),
            kernel_arguments: "rw".into(),
            image_arguments: vec![],
            os_version: None,
            os_name: None,
            made_under: Some(id(0)),
            number,
            staged: None,
        }
    }

    /// A root with its number, and whether it has run.
    fn deployment(n: u8, number: Option<u64>, has_run: bool) -> Look {
        let (etc, request) = if has_run { (Etc::Ready, None) } else { (Etc::None, Some(id(0))) };
        Look { id: id(n), origin: Ok(origin(number)), etc, request: Ok(request) }
    }

    fn entry(n: u8, serial: u64, tries: Option<Tries>) -> EntryLook {
        let file = format!("selkie-{}-{serial}.conf", id(n).short());
        let live = BootEntry {
            file: file.clone(),
            image: id(n),
            verity_required: true,
            serial,
            tries,
            title: String::new(),
            arguments: Cmdline::default(),
            uki: None,
            offered: true,
            missing: vec![],
        };
        EntryLook { name: EntryName::parse(&file), file, tries, reading: Reading::Live(Box::new(live)), files: vec![] }
    }

    /// A machine that runs root 2; root 1 ran before, and 3 is staged.
    fn facts(entries: &[(u8, u64)]) -> Facts {
        let deployments = vec![deployment(1, Some(1), true), deployment(2, Some(2), true), deployment(3, Some(3), false)];
        let image = |tries| Image { there: true, tagged: true, stored: None, files: Ok(vec![]), tries };
        Facts {
            booted: Some(id(2)),
            state: Some(check::Inspection { deployments, ..check::Inspection::default() }),
            place: Some(Inspection {
                entries: entries.iter().map(|(n, serial)| entry(*n, *serial, None)).collect(),
                ..Inspection::default()
            }),
            images: Some((1..5).map(|n| (id(n), image(Some(Tries::new(3))))).collect::<BTreeMap<_, _>>()),
            ..Facts::default()
        }
    }

    fn standing(facts: &Facts, n: u8) -> (u64, Option<Tries>) {
        let standing = of(facts, &id(n));
        assert_eq!((standing.root, standing.instead_of), (id(n), None));
        (standing.serial, standing.tries)
    }

    #[test]
    fn an_entry_comes_back_where_it_was_and_the_order_stays() {
        let new = Some(Tries::new(3));
        for (entries, n, expected) in [
            // Each of the three.
            (&[(2, 2), (3, 3)][..], 1, (1, None)),
            (&[(1, 1), (3, 3)], 2, (2, None)),
            (&[(1, 1), (2, 2)], 3, (3, new)),
            // All that is left.
            (&[], 1, (1, new)),
            (&[], 2, (2, None)),
            (&[], 3, (3, new)),
            // The second was activated again: a number that was passed is no place to come back to first.
            (&[(2, 4), (3, 3)], 1, (1, None)),
            (&[(1, 1), (2, 4)], 3, (3, new)),
            // The first was activated again, and nothing is staged: what runs comes first.
            (&[(1, 4)], 2, (5, None)),
            // Its number is taken.
            (&[(2, 1), (3, 3)], 1, (2, None)),
            (&[(1, 2), (3, 3)], 2, (1, None)),
            (&[(1, 2), (3, 1)], 2, (4, None)),
        ] {
            assert_eq!(standing(&facts(entries), n), expected, "{n} beside {entries:?}");
        }
    }

    #[test]
    fn a_root_that_failed_is_taken_last_wherever_it_stands() {
        let failed = FailedBoot {
            version: FailedBoot::VERSION,
            id: id(3),
            image: None,
            manifest_digest: None,
            os_version: None,
            cause: Cause::DidNotComeUp,
            at: None,
            boot_id: None,
            tries_left: None,
            reboots: 0,
            checks: vec![],
        };
        let bad = Some(Tries { left: 0, done: 3 });
        let mut machine = facts(&[(1, 1), (2, 2)]);
        machine.state.as_mut().unwrap().failed.push(failed);
        assert_eq!(standing(&machine, 3), (3, bad));
        // One that nobody can read the reason of has failed all the same; and the failed one is no reason to stay behind it.
        let mut machine = Facts { place: facts(&[(3, 3)]).place, ..machine };
        machine.state.as_mut().unwrap().failed_unreadable.push((id(1), "{".into()));
        assert_eq!((standing(&machine, 1), standing(&machine, 2)), ((1, bad), (4, None)));
    }

    #[test]
    fn the_firmware_may_know_the_serial() {
        let mut machine = facts(&[(2, 2), (3, 3)]);
        let choice = |n: u8, serial: u64| Choice { variable: Variable::Default, entry: format!("selkie-{}-{serial}.conf", id(n).short()) };
        machine.choices = vec![choice(1, 7)];
        assert_eq!(standing(&machine, 1), (7, Some(Tries::new(3))), "it would boot next, and is counted");
        machine.choices = vec![choice(1, 3)];
        assert_eq!(standing(&machine, 1), (1, None), "somebody has that");
    }

    #[test]
    fn an_image_that_nothing_takes_the_counter_from_has_none() {
        let mut machine = facts(&[(1, 1), (2, 2)]);
        for image in machine.images.as_mut().unwrap().values_mut() {
            image.tries = None;
        }
        assert_eq!(standing(&machine, 3), (3, None));
    }
}
