//! Whether a repository is whole: every object against its name, every stream and image against what it must consist of, every name
//! against what it leads to. Reads only; [`restore`] puts things back.
//!
//! What is read may be damaged or hostile: tables and contents are read with bounds ([`stream`]), and the library parses an image only when
//! its bytes are those of its name.

mod collect;
mod contents;
mod covered;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod graph;
mod ids;
mod leftovers;
mod links;
mod lost;
mod metadata;
mod objects;
pub(crate) mod pool;
mod restore;
mod stream;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context, Error, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;

pub use collect::Collected;
pub(super) use leftovers::is_temporary;
pub(super) use links::links;
pub(super) use lost::remove_lost;
pub use metadata::{Metadata, check_metadata, require_repairable, restore_metadata};
pub use restore::{DamagedFile, Restore, Writer};

use self::graph::{Graph, Known};
use super::objects::ObjectId;
use super::{Store, StoredImage, hash, place, with_repository};
use crate::error::{Failure, FailureKind};
use crate::finding::{Damage, Finding, Kind, Remedy};
use crate::image_id::ImageId;
use crate::progress::{Event, Progress, Unit};

/// What is to be known for a check.
#[derive(Debug, Clone, Default)]
pub struct Inspect {
    /// Digests of manifests that are needed whether a tag leads to them or not.
    pub manifests: Vec<String>,
    /// Tags that are kept: what they lead to is needed, and comes back.
    pub kept: Kept,
    /// Whether everything that is needed is known: only then is anything else not needed.
    pub all_known: bool,
}

/// Which tags stay where they lead nowhere. Others go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kept {
    /// None.
    #[default]
    None,
    /// Those that begin so: a machine's own.
    Prefix(&'static str),
    /// All that are names of images: they are all that the repository is there for.
    Tags,
}

/// What a check found, and what is wanted to make it whole.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// What is damaged.
    pub findings: Vec<Finding>,
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Images that were looked at.
    pub images: u64,
    /// Streams that were looked at.
    pub streams: u64,
    /// Tags that were looked at.
    pub tags: u64,
    /// What to put back.
    pub wants: Wants,
    /// Manifests that are whole enough to say so, with the image that each boots.
    pub boots: Vec<(String, ImageId)>,
    /// The layers of each manifest that can be read, by diff_id.
    pub layers: BTreeMap<String, BTreeSet<String>>,
    /// Objects and streams that are well, which a second look need not read again.
    good: HashSet<ObjectId>,
    /// Images that are well, and whose objects are all there.
    complete: HashSet<ImageId>,
    hashed: HashSet<String>,
}

/// What has to be put back into a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// Layers with something damaged, by diff_id.
    pub layers: BTreeMap<String, LayerWants>,
    /// Manifests whose own bytes, or those of their configuration, are damaged, by digest.
    pub documents: BTreeSet<String>,
    /// Manifests whose images have to be built again.
    pub images: BTreeSet<String>,
    /// Names that are gone, by path, with the objects that they led to, which are well.
    pub links: BTreeMap<String, ObjectId>,
    /// Objects that are what their names say and lack fs-verity.
    pub seals: BTreeSet<ObjectId>,
}

/// What is damaged of a layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerWants {
    /// Objects with its files.
    pub objects: BTreeSet<ObjectId>,
    /// Whether its stream is.
    pub stream: bool,
    /// Whether it is not known what else of it is: all is put back that is not well.
    pub all: bool,
}

impl Store {
    /// Checks everything. `before` is an earlier check: what it found well is not read again.
    ///
    /// # Errors
    ///
    /// Where the check cannot be made: a directory cannot be listed, or [`FailureKind::StoreMismatch`] where the kernel cannot read files with
    /// fs-verity. What is damaged is no error.
    pub fn inspect(&self, options: &Inspect, before: Option<&Inspection>, progress: &dyn Progress) -> Result<Inspection> {
        with_repository!(self, repository => inspect(repository, options, before, progress)).context("checking the repository")
    }

    /// The image with this manifest, if it is here with all its parts, as [`Store::find`] says. What `inspection` found complete is not read
    /// again: of that, a repair removes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Store::find`].
    pub fn find_inspected(&self, manifest_digest: &str, inspection: &Inspection) -> Result<Option<StoredImage>> {
        self.find_with(manifest_digest, |image| inspection.complete.contains(image))
    }

    /// Removes what a finding with [`Remedy::Remove`] names: a leftover, or what is damaged and nothing needs. Its directory is synced.
    pub fn remove_damaged(&self, finding: &Finding) -> Result<()> {
        let path = match finding.kind {
            Kind::Object => format!("objects/{}/{}", &finding.name[..2], &finding.name[2..]),
            Kind::Image => format!("images/{}", finding.name),
            Kind::Stream => format!("streams/{}", finding.name),
            Kind::Tag => tag_path(&finding.name),
            _ => finding.name.clone(),
        };
        place::remove(self.dir(), &path)
    }

    /// Makes a name lead to its object again.
    pub fn relink(&self, path: &str, object: &ObjectId) -> Result<()> {
        with_repository!(self, repository => place::link(repository, path, &hash(object.hex())?))
    }

    /// Gives an object the fs-verity that it lacks, by a copy that takes its place.
    pub fn reseal(&self, object: &ObjectId) -> Result<()> {
        with_repository!(self, repository => {
            let id = hash(object.hex())?;
            place::place(repository, &id, contents::open(repository, &id)?)
        })
    }
}

fn inspect<H: FsVerityHashValue>(
    repository: &Repository<H>,
    options: &Inspect,
    before: Option<&Inspection>,
    progress: &dyn Progress,
) -> Result<Inspection> {
    let known = before.map(|b| b.good.iter().map(|id| hash(id.hex())).collect::<Result<HashSet<H>>>()).transpose()?.unwrap_or_default();
    let advance = |done, total| {
        progress.event(Event::Advance { item: "objects".to_owned(), done, total, unit: Unit::Items });
    };
    let mut scan = objects::scan(repository, &|id| known.contains(id), &advance)?;
    let mut findings = leftovers::leftovers(repository)?;
    findings.append(&mut scan.findings);
    let hashed = |name: &str| before.is_some_and(|before| before.hashed.contains(name));
    let graph = Graph::load(repository, &scan, options, Known { hashed: &hashed, covers: true })?;
    let mut judged = verdict::judge(&graph, &scan, options);
    judged.findings.append(&mut findings);
    let good = scan.health.keys().filter(|id| scan.is_good(id)).map(ObjectId::of).collect();
    Ok(Inspection {
        findings: judged.findings,
        objects: scan.objects,
        bytes: scan.bytes,
        images: graph.images.len() as u64,
        streams: graph.streams.len() as u64,
        tags: graph.references.len() as u64,
        wants: judged.wants,
        boots: graph.boots()?,
        layers: graph.layers(),
        good,
        complete: graph.complete(&scan)?,
        hashed: graph.hashed(),
    })
}

/// Where tags are.
const TAGS: &str = "streams/refs/oci/";

/// The path of a tag, by its name in findings: that of people for those of images, and the path itself for any other.
fn tag_path(name: &str) -> String {
    let other = name.starts_with("streams/refs/") || name.starts_with("images/refs/");
    if other { name.to_owned() } else { format!("{TAGS}{}", super::tags::encoded(name)) }
}

/// The name of a tag in findings.
fn tag_name(path: &str) -> String {
    path.strip_prefix(TAGS).map_or_else(|| path.to_owned(), super::tags::decoded)
}

fn finding(kind: Kind, name: impl Into<String>, damage: Damage, message: impl Into<String>, remedy: Remedy) -> Finding {
    Finding::new(kind, name, damage, message, remedy)
}

/// The kernel says nothing about the files: no finding, and above all nothing to repair.
fn cannot_check(found: String) -> Error {
    Failure::new(FailureKind::StoreMismatch, format!("{found} (expected a kernel that knows fs-verity)"))
        .hint("boot a kernel with CONFIG_FS_VERITY, such as that of the machine itself; nothing was changed")
        .into()
}
