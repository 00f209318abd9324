//! What is wrong with boot entries, their counters, and the firmware's choices among them. Pure.

use super::decide::{Action, Decided, Standing, mended, told};
use super::facts::Facts;
use super::kernels::{paths, unlabelled};
use super::standing;
use crate::boot::{BootEntry, Choice, EntryLook, EntryName, FileState, Inspection, Reading, Tries, Variable};
use crate::deploy::check::Unread;
use crate::finding::{Damage, Kind};
use crate::image_id::ImageId;

/// Findings about entries, those that are made before those that go.
pub(super) fn decide(facts: &Facts) -> Vec<Decided> {
    let Some(place) = &facts.place else { return Vec::new() };
    let mut decided: Vec<Decided> = place.entries.iter().filter_map(|entry| one(facts, place, entry)).collect();
    decided.extend(place.entries.iter().filter_map(|entry| counter(facts, entry)));
    decided.extend(missing(facts, place, &decided));
    decided.extend(choices(facts, place, &decided));
    decided
}

fn one(facts: &Facts, place: &Inspection, look: &EntryLook) -> Option<Decided> {
    if place.superseded.contains(&look.file) {
        return superseded(place, look);
    }
    if let Some(proven) = twin(place, look) {
        let message = format!("boot entry {} is {proven} once more, with a counter (expected one of them)", look.file);
        return Some(mended(Kind::Entry, &look.file, Damage::Leftover, message, Action::RemoveEntry { file: look.file.clone() }));
    }
    match &look.reading {
        Reading::Garbage { reason, starts } => Some(garbage(facts, look, reason, *starts)),
        Reading::Dead => dead(facts, look),
        Reading::Live(live) => of_root(facts, place, look, live),
    }
}

/// A stopped call left it beside the one that replaces it. It goes only while that can boot.
fn superseded(place: &Inspection, look: &EntryLook) -> Option<Decided> {
    let root = &look.live()?.image;
    let is_whole = |other: &EntryLook| other.files.iter().all(|file| place.files.get(file) == Some(&FileState::Whole));
    let others = place.entries.iter().filter(|other| other.file != look.file && !place.superseded.contains(&other.file));
    let newer = others.into_iter().find(|other| other.live().is_some_and(|live| live.image == *root))?;
    let message = format!("boot entry {} is replaced by {}, of the same root (expected one of them)", look.file, newer.file);
    if !is_whole(newer) {
        return Some(told(Kind::Entry, &look.file, Damage::Leftover, format!("{message}; it stays until that one can boot")));
    }
    Some(mended(Kind::Entry, &look.file, Damage::Leftover, message, Action::RemoveEntry { file: look.file.clone() }))
}

/// The same entry as `look`, without its counter: a file system that was cut has kept both names of one.
fn twin<'p>(place: &'p Inspection, look: &EntryLook) -> Option<&'p str> {
    let counted = look.live().filter(|live| live.tries.is_some())?;
    let is_twin = |other: &BootEntry| other.image == counted.image && other.serial == counted.serial && other.tries.is_none();
    place.entries.iter().find(|other| other.live().is_some_and(is_twin)).map(|other| other.file.as_str())
}

/// It says nothing; its name says which root and which place it was for.
fn garbage(facts: &Facts, look: &EntryLook, reason: &str, starts: bool) -> Decided {
    let message = format!("reading boot entry {}: {reason}", look.file);
    let stands_for = |live: &BootEntry, name: &EntryName| live.serial == name.serial && live.image.short() == name.short;
    if look.name.as_ref().is_some_and(|name| facts.live().any(|live| stands_for(live, name))) {
        let message = format!("{message}; there is another in its place");
        return mended(Kind::Entry, &look.file, Damage::Unreadable, message, Action::RemoveEntry { file: look.file.clone() });
    }
    if let Some(standing) = by_name(facts, look) {
        return mended(Kind::Entry, &look.file, Damage::Unreadable, message, Action::RestoreEntry(standing));
    }
    if !starts {
        let message = format!("{message}; it starts nothing, and no root here is known to it");
        return mended(Kind::Entry, &look.file, Damage::Unreadable, message, Action::RemoveEntry { file: look.file.clone() });
    }
    let message =
        format!("{message}; it may start something, and no root here is known to it: look at it, and remove it if nobody needs it");
    told(Kind::Entry, &look.file, Damage::Unreadable, message)
}

/// Its unified kernel image is gone or damaged. Mostly that is written again, and nothing is wrong with the entry.
fn dead(facts: &Facts, look: &EntryLook) -> Option<Decided> {
    let path = look.files.first().map_or("", |path| unlabelled(path));
    let has_it = |root: &ImageId| paths(facts, root).any(|file| file == path);
    if facts.images.iter().flatten().any(|(root, _)| has_it(root)) {
        return None;
    }
    let root = facts.root_of(look);
    if root.and_then(|root| facts.image(root)).is_some_and(|image| image.tagged && image.files.is_err()) {
        return None;
    }
    let message = format!("boot entry {} starts {path}, which is not there or damaged, and which no image here has", look.file);
    if let Some(standing) = by_name(facts, look) {
        return Some(mended(Kind::Entry, &look.file, Damage::Dangling, message, Action::RestoreEntry(standing)));
    }
    root.is_none().then(|| mended(Kind::Entry, &look.file, Damage::Dangling, message, Action::RemoveEntry { file: look.file.clone() }))
}

fn of_root(facts: &Facts, place: &Inspection, look: &EntryLook, live: &BootEntry) -> Option<Decided> {
    let (root, file) = (&live.image, &look.file);
    let image = facts.image(root)?;
    if facts.state.is_some() && facts.deployment(root).is_none() && !image.there && !image.tagged {
        return nowhere(facts, look, live);
    }
    let sound = |path: &String| place.files.get(path) == Some(&FileState::Whole);
    let somebody_has =
        |path: &String| facts.images.iter().flatten().any(|(root, _)| paths(facts, root).any(|file| file == unlabelled(path)));
    let wrong = look.files.iter().find(|path| !sound(path) && !somebody_has(path));
    let files = image.files.as_ref().ok()?;
    let without_initrd = live.uki.is_none() && !look.files.iter().any(|path| path.ends_with(".initrd")) && files.len() > 1;
    let message = match wrong {
        Some(path) => format!("boot entry {file} needs {path}, which is not there or damaged, and which no image here has"),
        None if without_initrd => format!("boot entry {file} has no initramfs (expected one, as its root cannot be mounted without)"),
        None => return None,
    };
    let standing = Standing { root: root.clone(), serial: live.serial, tries: look.tries, instead_of: Some(look.file.clone()) };
    if image.stored.is_some() && takes_the_place_of(look, &standing) {
        return Some(mended(Kind::Entry, file, Damage::Changed, message, Action::RestoreEntry(standing)));
    }
    let message = format!("{message}; it is not one that selkie wrote: mend it by hand, or remove it");
    without_initrd.then(|| told(Kind::Entry, file, Damage::Changed, message))
}

/// It names a root of which nothing is here. Its own name may know better; else it goes, but never the last that may boot, nor that of the root
/// that runs.
fn nowhere(facts: &Facts, look: &EntryLook, live: &BootEntry) -> Option<Decided> {
    let message = format!("boot entry {} names root {}, of which nothing is on this machine", look.file, live.image.short());
    let runs = facts.booted.as_ref() == Some(&live.image);
    let named = by_name(facts, look).filter(|standing| !facts.live().any(|other| other.image == standing.root));
    if let Some(standing) = named {
        return Some(mended(Kind::Entry, &look.file, Damage::Dangling, message, Action::RestoreEntry(standing)));
    }
    let others = facts.live().any(|other| other.image != live.image && facts.deployment(&other.image).is_some() && other.offered);
    if others && !runs && facts.images.is_some() {
        return Some(mended(Kind::Entry, &look.file, Damage::Dangling, message, Action::RemoveEntry { file: look.file.clone() }));
    }
    let message = format!("{message} (expected its deployment and its image): `selkie switch IMAGE` makes a root that boots");
    Some(told(Kind::Entry, &look.file, Damage::Dangling, message))
}

/// What the name of an entry file says about it, where its root can be given an entry. A counter that cannot be read counts as none was: what
/// becomes of it is decided as for an entry that is gone.
fn by_name(facts: &Facts, look: &EntryLook) -> Option<Standing> {
    let name = look.name.as_ref()?;
    let root = facts.root_named(name)?;
    if !facts.can_make_entry(root) {
        return None;
    }
    let tries = if facts.has_failed(root) && look.tries.is_none() && facts.booted.as_ref() != Some(root) {
        Some(standing::given_up(facts, root))
    } else {
        look.tries
    };
    Some(Standing { root: root.clone(), serial: name.serial, tries, instead_of: Some(look.file.clone()) })
}

/// Whether the entry that is made has the same file name: only then does it replace the other in one step.
fn takes_the_place_of(look: &EntryLook, standing: &Standing) -> bool {
    look.tries == standing.tries
        && look.name.as_ref().is_some_and(|name| name.serial == standing.serial && name.short == standing.root.short() && !name.odd_counter)
}

/// What stands where the counter has its place, and is none: the boot loader takes it for a part of the name, and counts nothing.
fn counter(facts: &Facts, look: &EntryLook) -> Option<Decided> {
    let (name, live) = (look.name.as_ref().filter(|name| name.odd_counter)?, look.live()?);
    let id = format!("selkie-{}-{}.conf", name.short, name.serial);
    let tries = standing::tries(facts, &live.image, live.serial);
    let message = format!("boot entry {}: the counter in its name cannot be read (expected +LEFT or +LEFT-DONE)", look.file);
    Some(mended(Kind::Counter, &look.file, Damage::Unreadable, message, Action::SetCounter { file: look.file.clone(), id, tries }))
}

/// Deployments that can boot, and that nothing boots.
fn missing(facts: &Facts, place: &Inspection, decided: &[Decided]) -> Vec<Decided> {
    let Some(state) = &facts.state else { return Vec::new() };
    let comes = |id: &ImageId| decided.iter().any(|d| matches!(&d.action, Some(Action::RestoreEntry(standing)) if standing.root == *id));
    let has_one = |id: &ImageId| {
        place.entries.iter().any(|entry| facts.root_of(entry) == Some(id) && !matches!(entry.reading, Reading::Garbage { .. })) || comes(id)
    };
    let mut missing = Vec::new();
    for deployment in state.deployments.iter().filter(|deployment| !has_one(&deployment.id)) {
        let id = &deployment.id;
        let Some(image) = facts.image(id) else { continue };
        let runs = if facts.booted.as_ref() == Some(id) { ", and runs now" } else { "" };
        let message = format!("deployment {}{runs} has no boot entry (expected one)", id.short());
        let known = !matches!(deployment.origin, Err(Unread::Newer(_)));
        if facts.can_make_entry(id) && known {
            let standing = standing::of(facts, id);
            missing.push(mended(Kind::Entry, id.hex(), Damage::Missing, message, Action::RestoreEntry(standing)));
        } else if image.there || !runs.is_empty() {
            let message = format!("{message}; what it is made of is not known here: `selkie switch IMAGE` with its image makes one");
            missing.push(told(Kind::Entry, id.hex(), Damage::Missing, message));
        }
    }
    if state.deployments.is_empty() && place.entries.is_empty() {
        let message = "there is no boot entry of selkie and no deployment to make one of (expected both)";
        missing.push(told(Kind::Entry, "default", Damage::Missing, message.to_owned()));
    }
    missing
}

/// Choices of an entry of ours that is not there. The boot loader passes over them; whoever made one should know that it does nothing.
fn choices(facts: &Facts, place: &Inspection, decided: &[Decided]) -> Vec<Decided> {
    let coming = |choice: &Choice| {
        decided.iter().any(|d| match &d.action {
            Some(Action::RestoreEntry(standing)) => choice.is(&format!("selkie-{}-{}.conf", standing.root.short(), standing.serial)),
            _ => false,
        })
    };
    let dangling = facts.choices.iter().filter(|choice| EntryName::parse(&choice.entry.to_lowercase()).is_some());
    let dangling = dangling.filter(|choice| !place.names.iter().any(|file| choice.is(file)) && !coming(choice));
    let say = |choice: &Choice| {
        let name = choice.variable.name();
        let message = format!("the boot loader's variable {name} names {}, which is not there (expected a boot entry)", choice.entry);
        match choice.variable {
            Variable::OneShot => mended(Kind::Entry, name, Damage::Dangling, message, Action::ForgetOnce),
            Variable::Default => told(Kind::Entry, name, Damage::Dangling, format!("{message}; `bootctl set-default ''` removes it")),
        }
    };
    dangling.map(say).collect()
}

/// The counter of an entry that its name tells, for those who compare.
pub(super) fn is_given_up(tries: Option<Tries>) -> bool {
    tries.is_some_and(Tries::is_bad)
}
