//! From what leads to what, and what is damaged, to findings and to what is wanted. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use composefs::fsverity::FsVerityHashValue;

use super::contents::{CONFIG, Fault, LAYER, MANIFEST};
use super::graph::{Graph, IMAGE, Place, is_own};
use super::objects::{Health, Scan};
use super::{Inspect, Wants, finding, tag_name};
use crate::finding::{Damage, Finding, Kind, Remedy};
use crate::store::objects::ObjectId;

/// What a check comes to.
pub(super) struct Judged {
    pub(super) findings: Vec<Finding>,
    pub(super) wants: Wants,
}

/// Judges a repository.
pub(super) fn judge<H: FsVerityHashValue>(graph: &Graph<H>, scan: &Scan<H>, options: &Inspect) -> Judged {
    let mut judge = Judge { graph, scan, findings: Vec::new(), wants: Wants::default(), damaged: HashMap::new() };
    judge.places();
    judge.objects();
    judge.references(options);
    judge.findings.sort_by(|a, b| a.subject().cmp(&b.subject()));
    judge.wants();
    Judged { findings: judge.findings, wants: judge.wants }
}

struct Judge<'g, H> {
    graph: &'g Graph<H>,
    scan: &'g Scan<H>,
    findings: Vec<Finding>,
    wants: Wants,
    /// Places that have to be filled again.
    damaged: HashMap<String, Place>,
}

impl<H: FsVerityHashValue> Judge<'_, H> {
    /// Streams and images: those that are there, then those that are not.
    fn places(&mut self) {
        let streams = self.graph.streams.iter().map(|(name, link)| (Place::Stream(name.clone()), link));
        let images = self.graph.images.iter().map(|(name, link)| (Place::Image(name.clone()), link));
        for (place, link) in streams.chain(images) {
            let fault = match link {
                Err(message) => Some((Damage::Unreadable, message.clone())),
                Ok(id) => self.graph.facts(&place).and_then(|facts| facts.fault.clone()).or_else(|| misnamed(&place, id)),
            };
            match (fault, self.graph.reached.places.get(&place.path())) {
                (Some((damage, message)), needed) => {
                    self.place(place, damage, message, needed.and_then(|(_, id)| id.as_ref()), needed.is_some())
                }
                (None, Some((_, Some(expected)))) => self.elsewhere(place, expected),
                (None, Some((_, None))) => {}
                (None, None) => self.unneeded(place),
            }
        }
        for (place, id) in self.graph.reached.places.values() {
            let there = match place {
                Place::Stream(name) => self.graph.streams.contains_key(name),
                Place::Image(name) => self.graph.images.contains_key(name),
            };
            if !there {
                self.place(place.clone(), Damage::Missing, "it is not there, and is needed".to_owned(), id.as_ref(), true);
            }
        }
    }

    /// A damaged place. `expected` is the object that it has to lead to, where something says so.
    fn place(&mut self, place: Place, damage: Damage, message: String, expected: Option<&H>, needed: bool) {
        let elsewhere = expected.filter(|id| self.scan.is_good(id) && self.graph.target(&place) != Some(*id));
        let remedy = match (needed, elsewhere, damage, &place) {
            (false, ..) => self.removal(),
            (true, Some(id), ..) => {
                self.wants.links.insert(place.path(), ObjectId::of(id));
                Remedy::Rebuild
            }
            (true, None, Damage::Unsealed, _) | (true, None, _, Place::Image(_)) => Remedy::Rebuild,
            (true, None, _, Place::Stream(_)) => Remedy::Fetch,
        };
        let (kind, name) = match &place {
            Place::Stream(name) => (Kind::Stream, name.clone()),
            Place::Image(name) => (Kind::Image, name.clone()),
        };
        if needed && elsewhere.is_none() && damage != Damage::Unsealed {
            self.damaged.insert(place.path(), place);
        }
        self.findings.push(finding(kind, name, damage, message, remedy));
    }

    /// A place that leads to something good, and not to the good thing that is expected there.
    fn elsewhere(&mut self, place: Place, expected: &H) {
        if self.graph.target(&place) != Some(expected) && !self.scan.is_good(expected) {
            let message = format!("it is expected at {}, which leads to another object", place.path());
            self.damaged.insert(place.path(), place);
            self.findings.push(finding(Kind::Object, expected.to_hex(), Damage::Missing, message, Remedy::Fetch));
        }
    }

    /// What is not needed is damaged when it lacks something: the rest of a removal that was stopped, or of a pull.
    fn unneeded(&mut self, place: Place) {
        let Some(facts) = self.graph.facts(&place) else { return };
        let missing = self.graph.objects(facts).filter(|id| !self.scan.is_there(id)).count();
        if missing > 0 {
            let message = format!("{missing} of its objects are missing, and nothing needs it");
            self.place(place, Damage::Incomplete, message, None, false);
        }
    }

    /// How what nothing needs is repaired: by removal, once it is known that nothing needs it.
    fn removal(&self) -> Remedy {
        if self.graph.reached.complete { Remedy::Remove } else { Remedy::Follows }
    }

    /// Objects that are no streams or images themselves: of those, the name was said to be damaged.
    fn objects(&mut self) {
        let links = self.graph.streams.values().chain(self.graph.images.values());
        let named: HashSet<&H> = links.filter_map(|link| link.as_ref().ok()).collect();
        let expected: HashSet<&H> = self.graph.reached.places.values().filter_map(|(_, id)| id.as_ref()).collect();
        for (id, health) in &self.scan.health {
            let Health::Bad(damage, message) = health else { continue };
            if named.contains(id) || expected.contains(id) {
                continue;
            }
            let remedy = match (self.graph.is_needed(id), damage) {
                (false, _) => self.removal(),
                (true, Damage::Unsealed) => Remedy::Rebuild,
                (true, _) => Remedy::Fetch,
            };
            self.findings.push(finding(Kind::Object, id.to_hex(), *damage, message.clone(), remedy));
        }
        for id in self.graph.needed().filter(|id| !self.scan.is_there(id) && !named.contains(id) && !expected.contains(id)) {
            self.findings.push(finding(Kind::Object, id.to_hex(), Damage::Missing, "it is not there, and is needed", Remedy::Fetch));
        }
    }

    /// Names that lead nowhere, or to what is neither a stream nor an image.
    fn references(&mut self, options: &Inspect) {
        for reference in &self.graph.references {
            let mut foreign = |message: String| {
                let message = format!("{message}; remove it by hand if nothing needs it");
                self.findings.push(finding(Kind::Tag, tag_name(&reference.path), Damage::Unreadable, message, Remedy::None));
            };
            let Some(target) = &reference.target else {
                foreign("it is no symbolic link (expected one to a stream or an image)".to_owned());
                continue;
            };
            let (category, names) = match reference.path.starts_with("streams/") {
                true => ("stream", &self.graph.streams),
                false => ("image", &self.graph.images),
            };
            // One step further on the damage has its own finding, and this name leads there again when that is repaired.
            let there = names.contains_key(target);
            if reference.resolves {
                if !there {
                    foreign(format!("it leads to {target}, which is no {category} (expected one)"));
                }
                continue;
            }
            let remedy = if there || is_own(reference, options) { Remedy::Follows } else { Remedy::Remove };
            let message = format!("it leads to {target}, which is not there");
            self.findings.push(finding(Kind::Tag, tag_name(&reference.path), Damage::Dangling, message, remedy));
        }
    }

    /// What has to be put back, and where it belongs.
    fn wants(&mut self) {
        let mut open: HashSet<&H> = HashSet::new();
        let places = self.graph.reached.places.values();
        let own: HashSet<&H> = places.flat_map(|(place, id)| id.iter().chain(self.graph.target(place))).collect();
        for id in self.graph.needed() {
            match self.scan.health.get(id) {
                Some(Health::Good) => {}
                Some(Health::Bad(Damage::Unsealed, _)) => drop(self.wants.seals.insert(ObjectId::of(id))),
                // What a name leads to is put back with the name.
                Some(Health::Bad(..)) | None if own.contains(id) => {}
                Some(Health::Bad(..)) | None => drop(open.insert(id)),
            }
        }
        let mut broken = BTreeSet::new();
        for place in self.damaged.values() {
            match place {
                Place::Stream(name) => match name.strip_prefix(LAYER) {
                    Some(diff_id) => drop(broken.insert(diff_id.to_owned())),
                    None => self.wants.documents.extend(self.manifests_with(name)),
                },
                Place::Image(name) => self.wants.images.extend(self.manifests_with(name)),
            }
        }
        let mut layers: Vec<_> = self.graph.stream_facts.iter().filter_map(|(name, f)| Some((name.strip_prefix(LAYER)?, f))).collect();
        layers.sort_by_key(|(diff_id, _)| *diff_id);
        for (diff_id, facts) in layers {
            let objects: BTreeSet<ObjectId> = self.graph.objects(facts).filter(|id| open.remove(id)).map(ObjectId::of).collect();
            if !objects.is_empty() {
                self.wants.layers.entry(diff_id.to_owned()).or_default().objects = objects;
            }
        }
        for (name, facts) in &self.graph.stream_facts {
            let document = name.starts_with(MANIFEST) || name.starts_with(CONFIG);
            if document && self.graph.objects(facts).any(|id| open.contains(id)) {
                self.wants.documents.extend(self.manifests_with(name));
                for id in self.graph.objects(facts) {
                    open.remove(id);
                }
            }
        }
        // What no readable layer has must be in those that cannot be read.
        let unclaimed: BTreeSet<ObjectId> = open.into_iter().map(ObjectId::of).collect();
        for diff_id in broken {
            let layer = self.wants.layers.entry(diff_id).or_default();
            layer.stream = true;
            layer.objects.extend(unclaimed.iter().cloned());
        }
    }

    /// The digests of the manifests that a configuration, an image, or the manifest itself belongs to.
    fn manifests_with(&self, name: &str) -> Vec<String> {
        if let Some(digest) = name.strip_prefix(MANIFEST) {
            return vec![digest.to_owned()];
        }
        let has_image = |config: &str| {
            let facts = self.graph.stream_facts.get(&format!("{CONFIG}{config}"));
            facts.is_some_and(|facts| facts.named.iter().any(|(key, id)| key.starts_with(IMAGE) && id.to_hex() == name))
        };
        let of = |config: &str| name.strip_prefix(CONFIG).map_or_else(|| has_image(config), |digest| digest == config);
        let manifests = self.graph.manifests().filter(|(_, _, config)| config.is_some_and(of));
        manifests.map(|(digest, ..)| digest.to_owned()).collect()
    }
}

/// The name of an image is the digest of what it leads to.
fn misnamed<H: FsVerityHashValue>(place: &Place, id: &H) -> Option<Fault> {
    let other = matches!(place, Place::Image(name) if *name != id.to_hex());
    other.then(|| (Damage::Changed, format!("it leads to image {} (expected that of its name)", id.to_hex())))
}
