//! Removing what no name leads to, from a repository where names are all that there is to keep something for.
//!
//! What is to be removed is what a check finds not needed, so a check comes first: of names, streams and images, each by its bytes, and of whether the objects are there. What is in
//! those is not read: it leads nowhere. Where something that is needed is not as it should be, nobody knows what it leads to, or what it could be made again from: nothing is
//! removed then.

use std::collections::HashSet;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use serde::Serialize;

use super::contents::{CONFIG, LAYER, MANIFEST};
use super::graph::{Graph, Known, Place};
use super::links::Links;
use super::{Inspect, Kept, leftovers, links, objects, verdict};
use crate::error::{Failure, FailureKind};
use crate::finding::{Finding, Kind, Remedy};
use crate::progress::{Event, Progress, Unit};
use crate::store::objects::ObjectId;
use crate::store::unsynced::UNSYNCED;
use crate::store::{Alone, Store, with_repository};
use crate::sys::dir;

/// What a collection removes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Collected {
    /// Objects.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Names of EROFS images.
    pub images: u64,
    /// Names of layers, configurations and manifests.
    pub streams: u64,
    /// What writes that were stopped have left, and references that are no tags and lead nowhere.
    pub leftovers: u64,
}

impl Store {
    /// What [`Alone::collect`] would remove.
    ///
    /// # Errors
    ///
    /// Those of [`Alone::collect`].
    pub fn collectable(&self, progress: &dyn Progress) -> Result<Collected> {
        with_repository!(self, repository => Plan::make(repository, progress).map(|plan| plan.collected))
            .context("planning garbage collection")
    }
}

impl Alone {
    /// Removes what no tag and no other reference leads to, from root to leaf: names of manifests, configurations, layers, images, each durable before the next, then the objects. Durable when it
    /// returns; where it is stopped before, another one ends it.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Corrupt`] where something that is needed is damaged: nothing was removed then.
    pub fn collect(&self, progress: &dyn Progress) -> Result<Collected> {
        let store = self.store();
        let collected = with_repository!(store, repository => {
            Plan::make(repository, progress).and_then(|plan| plan.apply(store, progress).map(|()| plan.collected))
        });
        collected.context("collecting garbage")
    }
}

/// What is to go.
struct Plan {
    /// Leftovers, and references that lead nowhere.
    left: Vec<Finding>,
    /// Paths of names in `streams`, in the order in which they go: each group before what it leads to.
    streams: Vec<(&'static str, Vec<String>)>,
    /// Names in `images`.
    images: Vec<String>,
    objects: Vec<ObjectId>,
    collected: Collected,
}

impl Plan {
    fn make<H: FsVerityHashValue>(repository: &Repository<H>, progress: &dyn Progress) -> Result<Self> {
        let mut named: HashSet<H> = links(repository, "streams")?.into_values().flatten().collect();
        named.extend(links(repository, "images")?.into_values().flatten());
        let advance = |done, total| {
            progress.event(Event::Advance { item: "objects".to_owned(), done, total, unit: Unit::Items });
        };
        let scan = objects::scan(repository, &|id| !named.contains(id), &advance)?;
        let options = Inspect { manifests: Vec::new(), kept: Kept::Tags, all_known: true };
        // What layers are made of is not read, nor is an image taken to have the files of layers: those may go that it does not keep itself.
        let graph = Graph::load(repository, &scan, &options, Known { hashed: &|name| name.starts_with(LAYER), covers: false })?;
        require_links(&graph)?;
        let mut findings = verdict::judge(&graph, &scan, &options).findings;
        findings.append(&mut leftovers::leftovers(repository)?);
        findings.extend(scan.findings.iter().cloned());
        require_whole(&findings)?;
        let unneeded = |place: Place| !graph.reached.places.contains_key(&place.path());
        let streams: Vec<&String> = graph.streams.keys().filter(|name| unneeded(Place::Stream((*name).clone()))).collect();
        let images: Vec<String> = graph.images.keys().filter(|name| unneeded(Place::Image((*name).clone()))).cloned().collect();
        let mut objects = Vec::new();
        let left: Vec<Finding> =
            findings.into_iter().filter(|f| f.remedy == Remedy::Remove && matches!(f.kind, Kind::Leftover | Kind::Tag)).collect();
        let mut collected =
            Collected { images: images.len() as u64, streams: streams.len() as u64, leftovers: left.len() as u64, ..Collected::default() };
        for id in scan.health.keys().filter(|id| !graph.is_needed(id)) {
            collected.objects += 1;
            collected.bytes += crate::store::objects::size(repository, id)?.unwrap_or_default();
            objects.push(ObjectId::of(id));
        }
        // One directory after the other.
        objects.sort();
        Ok(Self { left, streams: by_kind(&streams), images, objects, collected })
    }

    fn apply(&self, store: &Store, progress: &dyn Progress) -> Result<()> {
        for finding in &self.left {
            store.remove_damaged(finding)?;
            progress.step("remove leftover");
        }
        for (step, names) in &self.streams {
            remove(store, "streams", names, step, progress)?;
        }
        remove(store, "images", &self.images, "remove names of images", progress)?;
        if !self.objects.is_empty() {
            for object in &self.objects {
                let path = format!("objects/{}", object.path());
                match rustix::fs::unlinkat(store.dir(), &path, AtFlags::empty()) {
                    // Nobody has written that as an object.
                    Ok(()) | Err(Errno::ISDIR) => {}
                    Err(other) => return Err(other).with_context(|| format!("removing {path}")),
                }
            }
            store.sync()?;
            progress.step("collect objects");
        }
        // The pull whose mark it is has nothing left that could be in doubt: what is still here was read, or had its name after a sync.
        if dir::remove_file(store.dir(), UNSYNCED)? {
            progress.step("remove mark");
        }
        Ok(())
    }
}

/// Names of streams by what they are, what leads to others first.
fn by_kind(names: &[&String]) -> Vec<(&'static str, Vec<String>)> {
    let kind = |name: &str| match name {
        name if name.starts_with(MANIFEST) => 0,
        name if name.starts_with(CONFIG) => 1,
        name if name.starts_with(LAYER) => 2,
        _ => 3,
    };
    let steps = ["remove names of manifests", "remove names of configurations", "remove names of layers", "remove names of other streams"];
    let of = |wanted| names.iter().filter(move |name| kind(name) == wanted).map(|name| (*name).clone()).collect();
    steps.into_iter().enumerate().map(|(number, step)| (step, of(number))).collect()
}

/// Removes names from a directory, and makes that durable.
fn remove(store: &Store, directory: &str, names: &[String], step: &str, progress: &dyn Progress) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let opened = dir::open(store.dir(), directory).with_context(|| format!("opening {directory}"))?;
    for name in names {
        rustix::fs::unlinkat(&opened, name, AtFlags::empty()).with_context(|| format!("removing {directory}/{name}"))?;
    }
    dir::sync(&opened).with_context(|| format!("syncing {directory}"))?;
    progress.step(step);
    Ok(())
}

/// Refuses where something has a name that is no link to an object: who made that, and what for, nobody knows.
fn require_links<H: FsVerityHashValue>(graph: &Graph<H>) -> Result<()> {
    let odd = |category: &str, links: &Links<H>| {
        links.iter().find_map(|(name, link)| Some(format!("{category} {name}: {}", link.as_ref().err()?)))
    };
    match odd("stream", &graph.streams).or_else(|| odd("image", &graph.images)) {
        Some(found) => Err(Failure::new(FailureKind::Corrupt, format!("{found}, so nothing was removed")).into()),
        None => Ok(()),
    }
}

/// Refuses where something that is needed is damaged. What lies among the objects and is none is needed by nobody, and stays.
fn require_whole(findings: &[Finding]) -> Result<()> {
    let damaged = || findings.iter().filter(|finding| finding.remedy != Remedy::Remove && finding.kind != Kind::Repository);
    // One that is only damaged because of another says less.
    let Some(first) = damaged().find(|finding| finding.remedy != Remedy::Follows).or_else(|| damaged().next()) else { return Ok(()) };
    let kind = match first.kind {
        Kind::Object => "object",
        Kind::Image => "image",
        Kind::Tag => "tag",
        _ => "stream",
    };
    let more = match damaged().count() {
        1 => String::new(),
        count => format!(" (one of {count} findings)"),
    };
    let message = format!("{kind} {}: {}{more}, so nothing was removed", first.name, first.message);
    Err(Failure::new(FailureKind::Corrupt, message).into())
}
