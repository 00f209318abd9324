//! What leads to what: from the names that people gave to manifests, configurations, layers, images and objects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;

use anyhow::{Result, anyhow};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::BOOT_IMAGE_REF_KEY_V1;

use super::contents::{self, BLOB, CONFIG, Facts, LAYER, MANIFEST};
use super::covered::covered;
use super::ids::{Ids, Numbers};
use super::links::{Links, Reference, links, references};
use super::objects::Scan;
use super::{Inspect, Kept, TAGS, pool, tag_name};
use crate::image_id::ImageId;
use crate::store::image_id;

/// Names of images in the tables of configurations begin so.
pub(super) const IMAGE: &str = "composefs.image";
/// Names of configurations in the tables of manifests begin so.
const CONFIG_KEY: &str = "config:";

/// A place in the repository that something must be at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Stream(String),
    Image(String),
}

impl Place {
    pub(super) fn path(&self) -> String {
        match self {
            Self::Stream(name) => format!("streams/{name}"),
            Self::Image(name) => format!("images/{name}"),
        }
    }
}

/// The repository, read.
pub(super) struct Graph<H> {
    pub(super) streams: Links<H>,
    pub(super) images: Links<H>,
    pub(super) stream_facts: HashMap<String, Facts<H>>,
    pub(super) image_facts: HashMap<String, Facts<H>>,
    /// The objects by their numbers.
    pub(super) ids: Ids<H>,
    /// Names in `streams/refs` and `images/refs`.
    pub(super) references: Vec<Reference>,
    pub(super) reached: Reached<H>,
}

/// What is taken for granted.
#[derive(Clone, Copy)]
pub(super) struct Known<'k> {
    /// Streams whose content need not be compared with their names.
    pub(super) hashed: &'k (dyn Fn(&str) -> bool + Sync),
    /// Whether images have the files of the layers that a configuration has beside them.
    pub(super) covers: bool,
}

/// What the names lead to.
#[derive(Debug)]
pub(super) struct Reached<H> {
    /// Places that are needed, with the object that each must lead to, where something says so.
    pub(super) places: BTreeMap<String, (Place, Option<H>)>,
    /// Objects that are needed, by number.
    pub(super) objects: Numbers,
    /// Whether all that is needed could be read, so that nothing else is needed.
    pub(super) complete: bool,
}

impl<H: FsVerityHashValue> Graph<H> {
    pub(super) fn load(repository: &Repository<H>, scan: &Scan<H>, options: &Inspect, known: Known<'_>) -> Result<Self> {
        let (streams, images) = (links(repository, "streams")?, links(repository, "images")?);
        let mut all = references(repository, "streams")?;
        all.append(&mut references(repository, "images")?);
        let ids = Mutex::new(Ids::new());
        let items = followed(&streams);
        let facts = pool::each(&items, || (), |(), (name, id)| contents::stream(repository, scan, &ids, (name, id), (known.hashed)(name)))?;
        let stream_facts = items.iter().map(|(name, _)| (*name).clone()).zip(facts).collect();
        let covered = if known.covers { covered(repository, &streams, &stream_facts) } else { HashSet::new() };
        let items = followed(&images);
        let facts = pool::each(&items, || (), |(), (_, id)| contents::image(repository, scan, &ids, id, covered.contains(*id)))?;
        let image_facts = items.iter().map(|(name, _)| (*name).clone()).zip(facts).collect();
        let mut ids = ids.into_inner().map_err(|_| anyhow!("a thread of the check ended early"))?;
        let reached = Reached { places: BTreeMap::new(), objects: Numbers::default(), complete: true };
        let mut graph = Self { streams, images, stream_facts, image_facts, ids: Ids::new(), references: all, reached };
        graph.reached = graph.reach(options, &mut ids)?;
        graph.ids = ids;
        Ok(graph)
    }

    /// Follows everything from its beginnings.
    fn reach(&self, options: &Inspect, ids: &mut Ids<H>) -> Result<Reached<H>> {
        let mut reached = Reached { places: BTreeMap::new(), objects: Numbers::default(), complete: options.all_known };
        let mut open: Vec<(Place, Option<H>)> = Vec::new();
        let by_object: HashMap<&H, &String> = self.streams.iter().filter_map(|(name, link)| Some((link.as_ref().ok()?, name))).collect();
        open.extend(self.references.iter().filter_map(|reference| {
            let target = reference.target.clone()?;
            let stream = reference.path.starts_with("streams/");
            let wanted = self.exists(stream, &target) || is_own(reference, options);
            wanted.then(|| (if stream { Place::Stream(target) } else { Place::Image(target) }, None))
        }));
        open.extend(options.manifests.iter().map(|digest| (Place::Stream(format!("{MANIFEST}{digest}")), None)));
        while let Some((place, expected)) = open.pop() {
            let path = place.path();
            if let Some((_, known)) = reached.places.get_mut(&path) {
                if known.is_none() {
                    *known = expected;
                }
                continue;
            }
            reached.places.insert(path, (place.clone(), expected));
            let Some(facts) = self.facts(&place) else {
                reached.complete = false;
                continue;
            };
            if let Some(id) = self.target(&place) {
                reached.objects.insert(ids.number(id)?);
            }
            facts.objects.iter().for_each(|number| reached.objects.insert(*number));
            reached.complete &= facts.fault.is_none();
            for (key, id) in &facts.named {
                match place_of(key, id).map(|place| self.blob_of(key).unwrap_or(place)) {
                    Some(place) => open.push((place, Some(id.clone()))),
                    // What another tool names in its own way: where it is, says the object.
                    None => {
                        reached.objects.insert(ids.number(id)?);
                        open.extend(by_object.get(id).map(|name| (Place::Stream((*name).clone()), Some(id.clone()))));
                    }
                }
            }
        }
        for id in reached.places.values().filter_map(|(_, id)| id.as_ref()) {
            reached.objects.insert(ids.number(id)?);
        }
        Ok(reached)
    }

    /// The stream of a layer that is no tar, and is here as a blob only.
    fn blob_of(&self, key: &str) -> Option<Place> {
        let blob = format!("{BLOB}{key}");
        let only = is_digest(key) && self.streams.contains_key(&blob) && !self.streams.contains_key(&format!("{LAYER}{key}"));
        only.then_some(Place::Stream(blob))
    }

    fn exists(&self, stream: bool, name: &str) -> bool {
        if stream { self.streams.contains_key(name) } else { self.images.contains_key(name) }
    }

    pub(super) fn facts(&self, place: &Place) -> Option<&Facts<H>> {
        match place {
            Place::Stream(name) => self.stream_facts.get(name),
            Place::Image(name) => self.image_facts.get(name),
        }
    }

    /// The object that a place leads to now.
    pub(super) fn target(&self, place: &Place) -> Option<&H> {
        let link = match place {
            Place::Stream(name) => self.streams.get(name),
            Place::Image(name) => self.images.get(name),
        };
        link.and_then(|link| link.as_ref().ok())
    }

    /// The manifests, each with its configuration's digest.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (&str, &Facts<H>, Option<&str>)> {
        self.stream_facts.iter().filter_map(|(name, facts)| {
            let digest = name.strip_prefix(MANIFEST)?;
            Some((digest, facts, facts.named.iter().find_map(|(key, _)| key.strip_prefix(CONFIG_KEY))))
        })
    }

    /// The layers of each manifest.
    pub(super) fn layers(&self) -> BTreeMap<String, BTreeSet<String>> {
        let layers = |facts: &Facts<H>| facts.named.iter().filter(|(key, _)| is_digest(key)).map(|(key, _)| key.clone()).collect();
        self.manifests()
            .filter(|(_, facts, _)| facts.fault.is_none())
            .map(|(digest, facts, _)| (digest.to_owned(), layers(facts)))
            .collect()
    }

    /// The manifests with the images that they boot.
    pub(super) fn boots(&self) -> Result<Vec<(String, ImageId)>> {
        let mut boots = Vec::new();
        for (digest, _, config) in self.manifests() {
            let config = config.and_then(|config| self.stream_facts.get(&format!("{CONFIG}{config}")));
            let image = config.and_then(|facts| facts.named.iter().find(|(key, _)| key == BOOT_IMAGE_REF_KEY_V1));
            if let Some((_, image)) = image {
                boots.push((digest.to_owned(), image_id(image)?));
            }
        }
        boots.sort();
        Ok(boots)
    }

    /// Objects that are needed.
    pub(super) fn needed(&self) -> impl Iterator<Item = &H> {
        self.ids.of(&self.reached.objects)
    }

    /// Whether an object is needed.
    pub(super) fn is_needed(&self, id: &H) -> bool {
        self.ids.is_in(&self.reached.objects, id)
    }

    /// The objects of a stream or an image.
    pub(super) fn objects<'g>(&'g self, facts: &'g Facts<H>) -> impl Iterator<Item = &'g H> {
        facts.objects.iter().map(|number| self.ids.id(*number))
    }

    /// Images that are well, and whose objects are all there.
    pub(super) fn complete(&self, scan: &Scan<H>) -> Result<HashSet<ImageId>> {
        let well = |facts: &Facts<H>| facts.fault.is_none() && self.objects(facts).all(|id| scan.is_there(id));
        let followed = self.images.iter().filter_map(|(name, link)| Some((name, link.as_ref().ok()?)));
        let named = followed.filter(|(name, id)| **name == id.to_hex() && self.image_facts.get(*name).is_some_and(well));
        named.map(|(_, id)| image_id(id)).collect()
    }

    /// Streams whose content is that of their names.
    pub(super) fn hashed(&self) -> HashSet<String> {
        let well = |(name, facts): (&String, &Facts<H>)| facts.hashed.then(|| name.clone());
        self.stream_facts.iter().filter_map(well).collect()
    }
}

/// Whether a reference is one of those that are always kept.
pub(super) fn is_own(reference: &Reference, options: &Inspect) -> bool {
    match options.kept {
        Kept::None => false,
        Kept::Prefix(prefix) => tag_name(&reference.path).starts_with(prefix),
        Kept::Tags => reference.path.starts_with(TAGS),
    }
}

/// Where what a table names has to be.
fn place_of<H: FsVerityHashValue>(key: &str, id: &H) -> Option<Place> {
    if key.starts_with(IMAGE) {
        return Some(Place::Image(id.to_hex()));
    }
    if let Some(digest) = key.strip_prefix(CONFIG_KEY) {
        return Some(Place::Stream(format!("{CONFIG}{digest}")));
    }
    is_digest(key).then(|| Place::Stream(format!("{LAYER}{key}")))
}

/// Whether a key is the diff_id of a layer, of any algorithm.
fn is_digest(key: &str) -> bool {
    ["sha256:", "sha512:"].iter().any(|algorithm| key.starts_with(algorithm))
}

fn followed<H>(links: &Links<H>) -> Vec<(&String, &H)> {
    links.iter().filter_map(|(name, id)| Some((name, id.as_ref().ok()?))).collect()
}
