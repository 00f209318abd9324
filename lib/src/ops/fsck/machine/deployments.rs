//! What is wrong below `state`. Pure.

use std::collections::BTreeSet;

use super::decide::{Action, Decided, mended, told};
use super::facts::Facts;
use crate::deploy::check::{Etc, Inspection, Look, Unread};
use crate::deploy::{DEPLOY, ORIGIN};
use crate::finding::{Damage, Kind};
use crate::image_id::ImageId;

/// Findings about deployments, what others need first.
pub(super) fn decide(facts: &Facts) -> Vec<Decided> {
    let Some(state) = &facts.state else { return Vec::new() };
    let mut decided = missing(facts);
    for deployment in &state.deployments {
        decided.extend(image(facts, deployment));
        decided.extend(origin(facts, deployment));
        decided.extend(etc(facts, deployment));
    }
    decided.extend(others(state));
    decided
}

/// Roots that an entry names, or that run, without a deployment.
fn missing(facts: &Facts) -> Vec<Decided> {
    let entries = facts.place.iter().flat_map(|place| &place.entries);
    let roots: BTreeSet<&ImageId> = entries.filter_map(|entry| facts.root_of(entry)).chain(&facts.booted).collect();
    let unreadable = |root: &ImageId| facts.state.iter().flat_map(|state| &state.unreadable).any(|(id, _)| id == root);
    roots.into_iter().filter(|root| facts.deployment(root).is_none() && !unreadable(root)).filter_map(|root| lost(facts, root)).collect()
}

fn lost(facts: &Facts, root: &ImageId) -> Option<Decided> {
    let name = root.to_string();
    if facts.booted.as_ref() == Some(root) {
        let message = format!(
            "{DEPLOY}/{root} of the root that runs is not there, and with it the local changes of /etc (expected it): save what is in /etc now, \
             then `selkie switch IMAGE` with the image that runs makes it again"
        );
        return Some(told(Kind::Deployment, name, Damage::Missing, message));
    }
    let image = facts.image(root)?;
    if !image.there && !image.tagged {
        // Nothing is left of it: its entries are dealt with as such.
        return None;
    }
    let etc_from = etc_source(facts, root);
    let message = format!(
        "{DEPLOY}/{root} is not there, and with it the local changes of /etc that were made in it (expected it, as a boot entry names that root); \
         it is made again without them{}",
        etc_from.as_ref().map(|from| format!(", and its first boot carries those of {}", from.short())).unwrap_or_default()
    );
    Some(mended(Kind::Deployment, name, Damage::Missing, message, Action::MakeDeployment { id: root.clone(), etc_from }))
}

/// Whose local changes a root without any begins with: those of the root that runs, else of the one under which it was made, else of the one
/// that was activated last.
pub(super) fn etc_source(facts: &Facts, root: &ImageId) -> Option<ImageId> {
    let origin = facts.deployment(root).and_then(|deployment| deployment.origin.as_ref().ok());
    let made_under = origin.and_then(|origin| origin.made_under.clone());
    let mut entries: Vec<_> = facts.live().collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.serial));
    let newest = entries.into_iter().map(|entry| entry.image.clone());
    let usable = |from: &ImageId| {
        let there = facts.deployment(from).is_some_and(|source| source.request == Ok(None) && source.etc != Etc::NoUpper);
        from != root && there && facts.image(from).is_some_and(|image| image.there)
    };
    facts.booted.clone().into_iter().chain(made_under).chain(newest).find(usable)
}

/// The image must be in the repository, and stay there.
fn image(facts: &Facts, deployment: &Look) -> Option<Decided> {
    let id = &deployment.id;
    // With a tag, what is missing is told with the repository; and so is a missing tag.
    facts.image(id).filter(|image| !image.there && !image.tagged)?;
    let from = deployment.origin.as_ref().map_or("IMAGE", |origin| &origin.image);
    let message = format!(
        "the image of deployment {} is not in the repository, and no tag says what it was part of (expected it there): \
         `selkie switch {from}` fetches what that names now, and `selkie gc` removes what has no role",
        id.short()
    );
    Some(told(Kind::Deployment, format!("{id}/image"), Damage::Incomplete, message))
}

fn origin(facts: &Facts, deployment: &Look) -> Option<Decided> {
    let id = &deployment.id;
    let name = format!("{id}/{ORIGIN}");
    let (damage, found) = match deployment.origin.as_ref().err()? {
        Unread::Missing => (Damage::Missing, "there is none".to_owned()),
        Unread::Damaged(reason) => (Damage::Unreadable, reason.clone()),
        Unread::Newer(reason) => {
            let message = format!("reading {ORIGIN} of deployment {}: {reason}; check this machine with that selkie", id.short());
            return Some(told(Kind::Deployment, name, Damage::Unreadable, message));
        }
    };
    let message = format!("reading {ORIGIN} of deployment {}: {found} (expected where the image came from)", id.short());
    if facts.can_make_entry(id) {
        return Some(mended(Kind::Deployment, name, damage, message, Action::WriteOrigin { id: id.clone() }));
    }
    Some(told(Kind::Deployment, name, damage, format!("{message}; `selkie switch IMAGE` writes it")))
}

fn etc(facts: &Facts, deployment: &Look) -> Option<Decided> {
    let id = &deployment.id;
    let runs = facts.booted.as_ref() == Some(id);
    if deployment.etc == Etc::NoUpper {
        let save = if runs { "; what is in /etc now can still be saved, and is gone at the next boot" } else { "" };
        let message = format!(
            "etc/upper of deployment {} is not there, and with it the local changes of /etc (expected it, as a boot needs it); it is made again \
             without them{save}",
            id.short()
        );
        return Some(mended(Kind::Deployment, format!("{id}/etc/upper"), Damage::Missing, message, Action::MakeUpper { id: id.clone() }));
    }
    let short = id.short();
    let (part, damage, message) = match &deployment.request {
        Err(reason) => {
            ("etc-from.json", Damage::Unreadable, format!("deployment {short} cannot boot: {reason} (expected whose /etc it carries)"))
        }
        Ok(Some(from)) if facts.images.is_some() && !is_source(facts, from) => {
            let message = format!(
                "deployment {short} is to carry /etc from {}, which is not here (expected a deployment and its image)",
                from.short()
            );
            ("etc-from.json", Damage::Dangling, message)
        }
        Ok(None) if deployment.etc == Etc::None && !runs && was_made_under_another(deployment) => {
            let message = format!(
                "deployment {short} has no /etc, and nothing says whose local changes it begins with: its staging was stopped (expected one of them)"
            );
            ("etc", Damage::Incomplete, message)
        }
        Ok(_) => return None,
    };
    let name = format!("{id}/{part}");
    match etc_source(facts, id) {
        Some(from) => {
            let message = format!("{message}; it gets those of {}", from.short());
            Some(mended(Kind::Deployment, name, damage, message, Action::RequestEtc { id: id.clone(), from }))
        }
        None => {
            let message = format!(
                "{message}; no other deployment has an /etc to begin with: `selkie switch IMAGE` on the running machine stages it anew"
            );
            Some(told(Kind::Deployment, name, damage, message))
        }
    }
}

/// Whether /etc can be carried from there. One that is missing and will be made again counts: it is repaired first.
fn is_source(facts: &Facts, from: &ImageId) -> bool {
    facts.deployment(from).is_some() && facts.image(from).is_some_and(|image| image.there || image.tagged)
}

fn was_made_under_another(deployment: &Look) -> bool {
    let made_under = deployment.origin.as_ref().ok().and_then(|origin| origin.made_under.as_ref());
    made_under.is_some_and(|under| *under != deployment.id)
}

fn others(state: &Inspection) -> Vec<Decided> {
    let unreadable = state.unreadable.iter().map(|(id, reason)| {
        let message = format!("looking at deployment {}: {reason}; nothing is changed there", id.short());
        told(Kind::Deployment, id.to_string(), Damage::Unreadable, message)
    });
    let unknown = state.unknown.iter().map(|name| {
        let message = format!("{DEPLOY}/{name} is no deployment, and is left alone: look at it, and remove it if nobody needs it");
        told(Kind::Deployment, name.clone(), Damage::Unreadable, message)
    });
    let failed = state.failed_unreadable.iter().map(|(id, reason)| {
        let message = format!(
            "reading why a root failed: {reason}; as long as it is there, that root counts as failed: remove the file to forget that"
        );
        told(Kind::Deployment, format!("failed/{id}"), Damage::Unreadable, message)
    });
    let leftovers = state.leftovers.iter().map(|path| {
        mended(Kind::Deployment, path.clone(), Damage::Leftover, format!("{path} is what a stopped call left"), Action::SweepState)
    });
    unreadable.chain(unknown).chain(failed).chain(leftovers).collect()
}
