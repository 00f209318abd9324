//! The repository side of a repair.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::report::{Fetched, Means};
use super::repository::Look;
use super::sources::{Candidate, candidates};
use super::target::Target;
use super::{Key, Options, key};
use crate::error::{FREE_SPACE, Failure, FailureKind};
use crate::finding::{Damage, Finding, Kind, Remedy};
use crate::image::{Receiver, Source, Wanted, Way};
use crate::ops::runtime::block_on_kept;
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::fsck::{self, DamagedFile, LayerWants, Restore, Wants, Writer};
use crate::store::{ObjectWriter, Store};

/// What a repair came to.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Why findings are left, as far as that is known.
    pub(super) reasons: HashMap<Key, String>,
    /// What was fetched.
    pub(super) fetched: Vec<Fetched>,
}

/// Repairs findings of the repository, in the order of the plan. What does not work is told and does not stop the rest.
pub(super) fn repair(target: &Target, look: &Look, plan: &[&Finding], options: &Options, progress: &Arc<dyn Progress>) -> Result<Done> {
    let mut done = Done::default();
    if let Some(metadata) = plan.iter().find(|finding| finding.kind == Kind::Repository) {
        let restored = restore_metadata(target, look, progress.as_ref());
        if restored.as_ref().is_err_and(|error| Failure::is(error, FailureKind::Busy)) {
            restored?;
        } else {
            note(&mut done, metadata, restored);
        }
        // All else is seen and repaired through a repository that was opened by the new file.
        return Ok(done);
    }
    let Some(store) = &look.store else { return Ok(done) };
    rename(store, look, plan, &mut done, progress.as_ref());
    let wants = &look.inspection.wants;
    if !(wants.layers.is_empty() && wants.documents.is_empty() && wants.images.is_empty()) {
        progress.phase("repairing the repository".to_owned());
        let problems = block_on_kept(restore(target, store, look, options, progress, &mut done))?;
        explain(plan, &problems, &target.way_out(), &mut done);
    }
    for finding in plan.iter().filter(|finding| finding.remedy == Remedy::Remove) {
        let removed = store.remove_damaged(finding).map(|()| progress.step("remove leftover"));
        note(&mut done, finding, removed);
    }
    for (tag, manifest) in &look.untagged {
        let Some(manifest) = manifest else { continue };
        let tagged = store.tag(manifest, tag).and_then(|()| store.sync()).map(|()| progress.step("tag image"));
        if let Err(error) = tagged {
            done.reasons.insert((Kind::Tag, tag.clone()), format!("{error:#}"));
        }
    }
    Ok(done)
}

fn note(done: &mut Done, finding: &Finding, result: Result<()>) {
    if let Err(error) = result {
        done.reasons.insert(key(finding), format!("{error:#}"));
    }
}

fn restore_metadata(target: &Target, look: &Look, progress: &dyn Progress) -> Result<()> {
    let directory = target.repository()?.context("looking for the repository: there is none")?;
    // Where it could be opened, nobody else has it open already.
    let _lock = if look.alone.is_none() { target.lock_unreadable()? } else { None };
    fsck::restore_metadata(directory).context("making meta.json again")?;
    progress.step("restore meta.json");
    Ok(())
}

/// What needs nothing but what is here: names of objects that are well, and fs-verity for those that lack it.
fn rename(store: &Store, look: &Look, plan: &[&Finding], done: &mut Done, progress: &dyn Progress) {
    for object in &look.inspection.wants.seals {
        if let Err(error) = store.reseal(object).map(|()| progress.step("seal object")) {
            let unsealed = plan.iter().filter(|finding| finding.damage == Damage::Unsealed);
            done.reasons.extend(unsealed.map(|finding| (key(finding), format!("{error:#}"))));
        }
    }
    for (path, object) in &look.inspection.wants.links {
        if let Err(error) = store.relink(path, object).map(|()| progress.step("name stream")) {
            let name = path.split_once('/').map_or(&**path, |(_, name)| name);
            let named = plan.iter().filter(|finding| finding.name == name);
            done.reasons.extend(named.map(|finding| (key(finding), format!("{error:#}"))));
        }
    }
}

/// What is still wanted while sources are asked one after the other.
struct Open {
    wants: Wants,
    layers: BTreeSet<String>,
}

/// What went wrong with what had to be fetched or built.
struct Problems {
    /// One sentence each.
    said: Vec<String>,
    /// Whether the last of them was a file system without room.
    full: bool,
}

/// Fetches what is wanted and builds the rest.
async fn restore(
    target: &Target,
    store: &Store,
    look: &Look,
    options: &Options,
    progress: &Arc<dyn Progress>,
    done: &mut Done,
) -> Result<Problems> {
    let wants = look.inspection.wants.clone();
    let restore = Restore::new(store, &look.inspection, &options.scratch)?;
    let mut open = Open { layers: wants.layers.keys().cloned().collect(), wants };
    let (mut problems, mut full) = (Vec::new(), false);
    let mut documents = BTreeMap::new();
    for candidate in candidates(target, store, options.image.as_ref())? {
        if (open.layers.is_empty() && open.wants.documents.is_empty()) || !candidate.may_have(look, &open.layers, &open.wants.documents) {
            continue;
        }
        let fetched = fetch(&restore, &candidate, &mut open, &mut documents, options, progress, done).await;
        if let Err(error) = fetched {
            full = Failure::is(&error, FailureKind::NoSpace);
            problems.push(format!("{error:#}"));
            if full {
                // Another source would not fit either, and this one has it.
                return Ok(Problems { said: problems, full });
            }
        }
    }
    problems.extend(open.layers.iter().map(|layer| format!("nothing that was asked has layer {layer}")));
    problems.extend(open.wants.documents.iter().map(|digest| format!("nothing that was asked has manifest {digest}")));
    for digest in &open.wants.images {
        if !documents.contains_key(digest) {
            match restore.documents(digest) {
                Ok(found) => drop(documents.insert(digest.clone(), found)),
                Err(error) => problems.push(format!("{error:#}")),
            }
        }
    }
    for (manifest, config) in documents.into_values() {
        if let Err(error) = restore.image(&manifest, &config, progress.as_ref()) {
            problems.push(format!("{error:#}"));
        }
    }
    Ok(Problems { said: problems, full })
}

type Documents = BTreeMap<String, (Vec<u8>, Vec<u8>)>;

/// Takes from one source what it has of what is wanted.
async fn fetch(
    restore: &Restore,
    candidate: &Candidate,
    open: &mut Open,
    documents: &mut Documents,
    options: &Options,
    progress: &Arc<dyn Progress>,
    done: &mut Done,
) -> Result<()> {
    let source = Source::open(&candidate.reference, &options.source, progress.as_ref()).await?;
    let resolved = source.resolved();
    let (digest, manifest) = resolved.oci_manifest()?;
    let useful_document = open.wants.documents.remove(&digest);
    if useful_document {
        documents.insert(digest.clone(), (manifest, resolved.config.clone()));
    }
    let mut useful = useful_document;
    // Without the manifest nobody knew that they are needed, and the images are made of them. All of them are wanted before one fails: another source may have them, too.
    let lacking = resolved.layers.iter().filter(|layer| useful_document && restore.lacks(&layer.diff_id));
    for layer in lacking {
        if !open.wants.layers.contains_key(&layer.diff_id) {
            open.wants.layers.insert(layer.diff_id.clone(), LayerWants { stream: true, all: true, ..LayerWants::default() });
            open.layers.insert(layer.diff_id.clone());
        }
    }
    for (index, layer) in resolved.layers.iter().enumerate() {
        if !open.layers.remove(&layer.diff_id) {
            continue;
        }
        useful = true;
        let wants = &open.wants.layers[&layer.diff_id];
        let fetched = match restore.files(&layer.diff_id, wants) {
            Ok(files) if !files.is_empty() => single_files(restore, &source, index, files, progress).await,
            _ => whole_layer(restore, &source, index, wants, progress).await,
        };
        match fetched {
            Ok((bytes, reason)) => {
                let means = if reason.is_none() { Means::Ranges } else { Means::WholeLayer };
                let image = candidate.reference.to_string();
                done.fetched.push(Fetched { image, layer: layer.digest.clone(), means, bytes, reason });
            }
            Err(error) => {
                // Another source may have it whole.
                open.layers.insert(layer.diff_id.clone());
                return Err(in_layer(error, &layer.digest, &candidate.reference));
            }
        }
    }
    let name = format!("{} (manifest {digest})", candidate.reference);
    source.close().await?;
    anyhow::ensure!(useful, "{name} has nothing of what is damaged (expected the image that was pulled, or one that shares its layers)");
    Ok(())
}

/// An error of fetching a layer, which names it once.
fn in_layer(error: anyhow::Error, digest: &str, reference: &ImageReference) -> anyhow::Error {
    let layer = if format!("{error:#}").contains(digest) { "a layer".to_owned() } else { format!("layer {digest}") };
    error.context(format!("fetching {layer} of {reference}"))
}

/// Fetches the damaged files of a layer, by ranges where that is possible: how many bytes that took, and why it was the whole layer.
async fn single_files(
    restore: &Restore,
    source: &Source,
    index: usize,
    files: Vec<DamagedFile>,
    progress: &Arc<dyn Progress>,
) -> Result<(u64, Option<String>)> {
    let wanted: Vec<Wanted> = files.iter().map(|file| Wanted { path: file.path.clone(), size: file.size }).collect();
    let objects = Objects { writer: restore.writer(), files, current: None, progress: Arc::clone(progress) };
    let (objects, fetched) = source.fetch_files(index, &wanted, objects, Arc::clone(progress)).await?;
    let missing: Vec<_> = fetched.missing.iter().map(|file| objects.files[*file].path.display().to_string()).collect();
    anyhow::ensure!(missing.is_empty(), "it does not have {} as the repository had it", missing.join(", "));
    let reason = match fetched.way {
        Way::Ranges => None,
        Way::WholeLayer(reason) => Some(reason),
    };
    Ok((fetched.bytes + fetched.table_bytes, reason))
}

/// Reads a whole layer and puts back what is damaged of it, its stream too.
async fn whole_layer(
    restore: &Restore,
    source: &Source,
    index: usize,
    wants: &LayerWants,
    progress: &Arc<dyn Progress>,
) -> Result<(u64, Option<String>)> {
    let layer = &source.resolved().layers[index];
    let reader = source.open_layer(index, Arc::clone(progress)).await?;
    tokio::task::block_in_place(|| restore.layer(&layer.diff_id, reader, wants, progress.as_ref()))?;
    Ok((layer.size, Some("its stream is damaged, which only the whole layer gives".to_owned())))
}

/// Puts files that arrive in the places of their objects.
struct Objects {
    writer: Writer,
    files: Vec<DamagedFile>,
    current: Option<Box<dyn ObjectWriter>>,
    progress: Arc<dyn Progress>,
}

impl Receiver for Objects {
    fn start(&mut self, file: usize) -> Result<()> {
        // What was begun before goes first: it may be the same file.
        self.current = None;
        self.current = Some(self.writer.begin(&self.files[file].object)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.current.as_mut().context("writing a file that was not started")?.write(bytes)
    }

    fn end(&mut self) -> Result<bool> {
        let right = self.current.take().context("ending a file that was not started")?.end()?;
        if right {
            self.progress.step("restore object");
        }
        Ok(right)
    }
}

/// Gives the reasons to the findings that had to be fetched or built.
fn explain(plan: &[&Finding], problems: &Problems, way_out: &str, done: &mut Done) {
    if problems.said.is_empty() {
        return;
    }
    let advice = match problems.full {
        true => FREE_SPACE.to_owned(),
        false => format!("reach where the image came from, or name one that has it with --image, and repair again{way_out}"),
    };
    let reason = format!("{}; {advice}", problems.said.join("; "));
    let concerned = plan.iter().filter(|finding| matches!(finding.remedy, Remedy::Fetch | Remedy::Rebuild));
    for finding in concerned {
        done.reasons.entry(key(finding)).or_insert_with(|| reason.clone());
    }
}
