//! What is wrong with the files that entries load. Pure.

use super::decide::{Action, Decided, mended, told};
use super::facts::Facts;
use crate::boot::{FileState, Inspection};
use crate::finding::{Damage, Kind};
use crate::image_id::ImageId;

/// Findings about files on the ESP. `entries` is what was decided about entries: those that are made anew bring their files.
pub(super) fn decide(facts: &Facts, entries: &[Decided]) -> Vec<Decided> {
    let Some(place) = &facts.place else { return Vec::new() };
    let mut decided: Vec<Decided> = place.files.iter().filter_map(|(path, state)| damaged(facts, place, entries, path, state)).collect();
    let coming: Vec<&str> = entries.iter().filter_map(|entry| root_that_comes(entry)).flat_map(|root| paths(facts, root)).collect();
    for path in &place.unused {
        if coming.iter().any(|file| unlabelled(path).starts_with(file)) {
            continue;
        }
        let message = format!("no boot entry needs {path}");
        decided.push(mended(Kind::Kernel, path.clone(), Damage::Leftover, message, Action::RemoveFile { path: path.clone() }));
    }
    for path in &place.leftovers {
        let message = format!("{path} is what a stopped call left");
        decided.push(mended(Kind::Kernel, path.clone(), Damage::Leftover, message, Action::RemoveFile { path: path.clone() }));
    }
    decided
}

fn damaged(facts: &Facts, place: &Inspection, entries: &[Decided], path: &str, state: &FileState) -> Option<Decided> {
    let provider =
        facts.images.iter().flatten().find_map(|(root, _)| paths(facts, root).any(|file| file == unlabelled(path)).then_some(root));
    let expected = provider.and_then(|root| size(facts, root, unlabelled(path)));
    let of_digest = "(expected the file that its name promises)";
    let (damage, message) = match state {
        FileState::Whole => return None,
        FileState::Missing => (Damage::Missing, format!("{path} is not there (expected it, as a boot entry needs it)")),
        FileState::Changed { size } => match expected {
            Some(whole) if *size < whole => (Damage::Truncated, format!("{path} has {size} bytes (expected {whole})")),
            _ => (Damage::Changed, format!("{path} has other bytes than its name promises, or other addons {of_digest}")),
        },
        FileState::Unreadable(reason) => (Damage::Unreadable, format!("{path}: {reason} {of_digest}")),
    };
    // Where the image is damaged itself, the file may be in there once that is repaired.
    let users: Vec<&_> = place.entries.iter().filter(|entry| entry.files.iter().any(|file| file == path)).collect();
    let may_have = || {
        let roots = users.iter().filter_map(|entry| facts.root_of(entry));
        roots.into_iter().find(|root| facts.image(root).is_some_and(|image| image.tagged && image.files.is_err()))
    };
    if let Some(root) = provider.or_else(may_have) {
        let action = Action::RestoreFile { path: path.to_owned(), root: root.clone() };
        return Some(mended(Kind::Kernel, path, damage, message, action));
    }
    let is_replaced = |file: &str| entries.iter().any(|entry| replaces(entry, file));
    if users.iter().all(|entry| is_replaced(&entry.file)) {
        return None;
    }
    let hint = "no image here has it: boot another entry, then `selkie switch IMAGE` makes a new one";
    Some(told(Kind::Kernel, path, damage, format!("{message}; {hint}")))
}

/// Whether this takes an entry file away, or puts another in its place.
fn replaces(decided: &Decided, file: &str) -> bool {
    decided.finding.kind == Kind::Entry
        && decided.finding.name == file
        && matches!(decided.action, Some(Action::RestoreEntry(_) | Action::RemoveEntry { .. }))
}

fn root_that_comes(decided: &Decided) -> Option<&ImageId> {
    match &decided.action {
        Some(Action::RestoreEntry(standing)) => Some(&standing.root),
        _ => None,
    }
}

/// The paths of the files of a root, as far as they are known.
pub(super) fn paths<'f>(facts: &'f Facts, root: &ImageId) -> impl Iterator<Item = &'f str> {
    facts.image(root).into_iter().filter_map(|image| image.files.as_ref().ok()).flatten().map(|file| file.path.as_str())
}

fn size(facts: &Facts, root: &ImageId, path: &str) -> Option<u64> {
    let files = facts.image(root)?.files.as_ref().ok()?;
    files.iter().find(|file| file.path == path).map(|file| file.size)
}

/// A path without the partition that it is on.
pub(super) fn unlabelled(path: &str) -> &str {
    path.split_once(':').map_or(path, |(_, path)| path)
}
