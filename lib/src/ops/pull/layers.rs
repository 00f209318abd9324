//! The layers of a pull: those that are missing are fetched, each in the way that costs the fewest bytes (by a delta, in parts, as a whole), and
//! imported, two at a time. However a layer came, the repository is the same afterwards, and so is the proof: its diff_id.

use std::cmp::Reverse;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use super::deltas::Delta;
use super::naming::Naming;
use super::waiting::{Imported, Waiting, import_made};
use crate::error::{Failure, FailureKind};
use crate::image::{Contents, Here, Layer, LayerReader, Partial, PartialPlan, Resolved, Source, TagWatch};
use crate::progress::Progress;
use crate::store::{self, ContentDigest, ImportStats, LayerTar, Store, Taken, Unsynced};

/// How many layers are fetched and imported at a time. The large layers of an image are few, and each has four threads already.
const TOGETHER: usize = 2;

/// How a layer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It was here.
    Here,
    /// Only what was missing of it was fetched.
    Partial,
    /// By a delta from an image that was here.
    Delta,
    /// As a whole.
    Whole,
}

/// What fetching one layer took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FetchedLayer {
    /// Digest of its blob.
    pub digest: String,
    /// How it came.
    pub way: Way,
    /// Bytes that were fetched for it: of the blob, of its table of contents, of a delta.
    pub bytes: u64,
    /// Bytes of the blob.
    pub size: u64,
    /// Why it was fetched as a whole, where it was, and what did not work before.
    pub reason: Option<String>,
}

/// What fetching layers has done.
#[derive(Default)]
pub(in crate::ops) struct Fetched {
    pub(in crate::ops) stats: ImportStats,
    /// In the order of the image.
    pub(in crate::ops) layers: Vec<FetchedLayer>,
    /// The tag of the image, as it was before anything was fetched.
    pub(in crate::ops) tag: Option<TagWatch>,
    /// Layers came in, and what belongs to them may be written, too, before this ends.
    pub(super) unsynced: Option<Unsynced>,
}

/// Fetches the layers that are missing.
pub(in crate::ops) async fn fetch_layers(store: &Store, source: &Source, progress: &Arc<dyn Progress>) -> Result<Fetched> {
    let resolved = source.resolved();
    progress.phase(format!("pulling {}", resolved.reference));
    let mut fetched = Fetched { layers: known(store, resolved)?, ..Fetched::default() };
    let mut waiting = VecDeque::new();
    for (index, layer) in fetched.layers.iter().enumerate() {
        match layer.way {
            Way::Here => fetched.stats.merge(&ImportStats::REUSED),
            _ => waiting.push_back(Waiting { index, ..Default::default() }),
        }
    }
    // The largest first: those that are left for the end are small, and no large one is alone then.
    waiting.make_contiguous().sort_by_key(|layer| Reverse(fetched.layers[layer.index].size));
    if !waiting.is_empty() {
        fetched.tag = source.watch_tag().await;
        let unsynced = begin_unsynced(store, progress).await?;
        let here = here(store)?;
        let missing: Vec<usize> = waiting.iter().map(|layer| layer.index).collect();
        let delta = Delta::find(store, source, &missing, progress.as_ref()).await;
        let naming = Arc::new(Naming::new(store, unsynced, progress));
        let (looking, importing, names) = (JoinSet::new(), JoinSet::new(), Arc::clone(&naming));
        let again = VecDeque::new();
        let layers = Layers { store, source, progress, here, delta, naming, fetched: &mut fetched, waiting, again, looking, importing };
        let taken = layers.run().await;
        // However it ended: what came in need not come again.
        let ended = taken.is_err();
        let named = tokio::task::spawn_blocking(move || {
            names.name()?;
            // Where it has failed, others may still be at it; the last of them drops the names.
            anyhow::Ok(Arc::into_inner(names).filter(|_| !ended).and_then(Naming::into_unsynced))
        });
        let named = named.await;
        let taken = taken?;
        fetched.unsynced = named.context("naming layers in a thread")??;
        tell_of_index(store.remember(taken), progress.as_ref());
    }
    Ok(fetched)
}

/// In a thread, because it may have much to read.
async fn begin_unsynced(store: &Store, progress: &Arc<dyn Progress>) -> Result<Unsynced> {
    let (store, progress) = (store.clone(), Arc::clone(progress));
    let begun = tokio::task::spawn_blocking(move || store.begin_unsynced(progress.as_ref()));
    begun.await.context("looking at what a pull has left, in a thread")?
}

/// The layers of an image, before anything is fetched: those that are here, or come twice, and others.
pub(in crate::ops) fn known(store: &Store, resolved: &Resolved) -> Result<Vec<FetchedLayer>> {
    let mut begun = HashSet::new();
    let known = |layer: &Layer| {
        let here = !begun.insert(layer.diff_id.clone()) || store.has_layer(&layer.diff_id)?;
        let way = if here { Way::Here } else { Way::Whole };
        Ok(FetchedLayer { digest: layer.digest.clone(), way, bytes: 0, size: layer.size, reason: None })
    };
    resolved.layers.iter().map(known).collect()
}

/// Tells whether the content index was written. Without it the next pull fetches more and nothing is damaged, so trouble is told and is no failure.
pub(in crate::ops) fn tell_of_index(written: Result<bool>, progress: &dyn Progress) {
    match written {
        Ok(true) => progress.step("write content index"),
        Ok(false) => {}
        Err(error) => progress.note(format!("{error:#}: the next update may fetch more than it needs")),
    }
}

struct Layers<'a> {
    store: &'a Store,
    source: &'a Source,
    progress: &'a Arc<dyn Progress>,
    here: Arc<store::Contents>,
    delta: Option<Delta>,
    naming: Arc<Naming>,
    fetched: &'a mut Fetched,
    /// Layers to import, which were not looked at yet.
    waiting: VecDeque<Waiting>,
    /// Those that did not come in one way, and are next.
    again: VecDeque<Waiting>,
    /// Those that were looked at, or are, and not started yet.
    looking: JoinSet<Result<Looked>>,
    importing: JoinSet<Result<(Waiting, Imported)>>,
}

/// A layer, and how it would be read in parts, where somebody has looked.
type Looked = (Waiting, Option<Partial<PartialPlan>>);

impl Layers<'_> {
    async fn run(mut self) -> Result<Taken> {
        let taken = self.import_all().await;
        if taken.as_ref().is_err_and(|error| Failure::is(error, FailureKind::NoSpace)) {
            // Whoever makes room now removes what no name leads to, and others are still at it.
            while self.importing.join_next().await.is_some() {}
        }
        taken
    }

    async fn import_all(&mut self) -> Result<Taken> {
        let mut taken = Taken::default();
        loop {
            while self.importing.len() < TOGETHER
                && let Some(waiting) = self.again.pop_front()
            {
                let looked = self.look(waiting).await?;
                self.start(looked).await?;
            }
            self.look_ahead();
            tokio::select! {
                biased;
                Some(imported) = self.importing.join_next() => {
                    let (waiting, imported) = imported.context("importing in a thread")??;
                    self.ended(waiting, imported, &mut taken);
                }
                Some(looked) = self.looking.join_next(), if self.importing.len() < TOGETHER => {
                    self.start(looked.context("looking at a layer")??).await?;
                }
                else => return Ok(taken),
            }
        }
    }

    /// Where there is room for two layers, their tables of contents are read side by side, and the one that is read first does not wait for the other. While two
    /// come in, the table of the next is read, but not more: each takes room.
    fn look_ahead(&mut self) {
        while self.looking.len() < (TOGETHER - self.importing.len()).max(1) {
            let Some(next) = self.waiting.pop_front() else { return };
            let look = self.look(next);
            self.looking.spawn(look);
        }
    }

    /// Takes note of how an import ended.
    fn ended(&mut self, waiting: Waiting, imported: Imported, taken: &mut Taken) {
        let layer = &mut self.fetched.layers[waiting.index];
        match imported {
            Imported::Done(stats, contents, way, bytes) => {
                layer.bytes += bytes;
                layer.way = way;
                layer.reason = waiting.reason(way);
                self.fetched.stats.merge(&stats);
                taken.append(contents);
                self.progress.step("import layer");
            }
            Imported::NotSo(bytes) => {
                layer.bytes += bytes;
                self.again.push_back(waiting);
            }
        }
    }

    /// Starts to import a layer in the cheapest way that is left, after a [`look`](Self::look) at it.
    async fn start(&mut self, (mut waiting, looked): Looked) -> Result<()> {
        let layers = &self.source.resolved().layers;
        let layer = &layers[waiting.index];
        let doing = format!(
            "pulling {}: importing layer {} ({} of {})",
            self.source.resolved().reference,
            layer.digest,
            waiting.index + 1,
            layers.len()
        );
        if let Some(outage) = waiting.outage.take() {
            let reader = self.source.open_layer_once(waiting.index, Arc::clone(self.progress)).await?;
            self.whole(waiting, reader.ok_or(outage).context(doing.clone())?, doing);
            return Ok(());
        }
        let by_delta = self.by_delta(&waiting);
        let plan = self.plan(&mut waiting, looked)?;
        if waiting.outage.is_some() {
            self.again.push_front(waiting);
            return Ok(());
        }
        let way = cheapest(by_delta, plan.as_ref().map(PartialPlan::cost));
        let made = match (way, plan, &self.delta) {
            (Way::Delta, plan, Some(delta)) => {
                self.fetched.layers[waiting.index].bytes += plan.map_or(0, |plan| plan.spent());
                waiting.no_delta = true;
                let (files, progress) = (Arc::clone(&delta.files), Arc::clone(self.progress));
                Some(self.source.open_delta(waiting.index, &delta.found, files, progress).await?)
            }
            (Way::Partial, Some(plan), _) => {
                waiting.no_parts = true;
                Some(plan.start().await?)
            }
            _ => None,
        };
        match made {
            Some(Partial::Parts(parts)) => {
                let known = self.known(&waiting);
                let (store, naming, layer) = (self.store.clone(), Arc::clone(&self.naming), layer.clone());
                self.importing.spawn_blocking(move || {
                    let imported = import_made((&store, &naming), &layer, parts, way, &known, &mut waiting).context(doing)?;
                    Ok((waiting, imported))
                });
            }
            Some(Partial::Whole { reason, bytes }) => {
                self.fetched.layers[waiting.index].bytes += bytes;
                waiting.fail(way, &reason).context(doing)?;
                self.again.push_front(waiting);
            }
            None => {
                let reader = self.source.open_layer(waiting.index, Arc::clone(self.progress)).await?;
                self.whole(waiting, reader, doing);
            }
        }
        Ok(())
    }

    /// Starts to import all of a layer.
    fn whole(&mut self, waiting: Waiting, reader: LayerReader, doing: String) {
        let layer = &self.source.resolved().layers[waiting.index];
        let (store, naming) = (self.store.clone(), Arc::clone(&self.naming));
        let (diff_id, size) = (layer.diff_id.clone(), layer.size);
        let known = self.known(&waiting);
        self.importing.spawn_blocking(move || {
            let taken = store.take_layer(&diff_id, reader, &known);
            let imported = taken.and_then(|arrival| Imported::named(&naming, arrival, Way::Whole, size)).context(doing)?;
            Ok((waiting, imported))
        });
    }

    /// What is known before a layer comes in.
    fn known(&self, waiting: &Waiting) -> store::Known {
        store::Known { contents: Arc::clone(&self.here), digests: self.source.has_table(waiting.index), doubted: waiting.doubted }
    }

    /// Bytes of the delta that stands for the layer, where there is one to try.
    fn by_delta(&self, waiting: &Waiting) -> Option<u64> {
        let delta = self.delta.as_ref().filter(|_| !waiting.no_delta)?;
        Some(delta.blob(&self.source.resolved().layers[waiting.index])?.size)
    }

    /// How the layer would be read in parts, unless it is clear by its table alone that a delta costs less. Ends with whoever waits for it.
    fn look(&self, waiting: Waiting) -> impl Future<Output = Result<Looked>> + Send + use<> {
        let by_delta = self.by_delta(&waiting);
        let table = self.source.table_size(waiting.index).unwrap_or_default();
        let in_parts = waiting.outage.is_none() && !waiting.no_parts && by_delta.is_none_or(|size| size > table);
        let planned = in_parts.then(|| self.source.plan_partial(waiting.index, self.here.clone(), Arc::clone(self.progress)));
        async move {
            let looked = match planned {
                Some(planned) => Some(planned?.await?),
                None => None,
            };
            Ok((waiting, looked))
        }
    }

    /// The plan that came of a look, or what there is to note of it.
    fn plan(&mut self, waiting: &mut Waiting, looked: Option<Partial<PartialPlan>>) -> Result<Option<PartialPlan>> {
        match looked {
            None => Ok(None),
            Some(Partial::Parts(plan)) => Ok(Some(plan)),
            Some(Partial::Whole { reason, bytes }) => {
                self.fetched.layers[waiting.index].bytes += bytes;
                waiting.no_parts = true;
                if reason.failure().is_some() {
                    waiting.fail(Way::Partial, &reason)?;
                } else {
                    waiting.whole = Some(reason.to_string());
                }
                Ok(None)
            }
        }
    }
}

/// The way of the fewest bytes, where a delta has so many and parts cost so much, requests included.
pub(in crate::ops) fn cheapest(delta: Option<u64>, parts: Option<u64>) -> Way {
    match (delta, parts) {
        (Some(delta), parts) if parts.is_none_or(|cost| delta <= cost) => Way::Delta,
        (_, Some(_)) => Way::Partial,
        (_, None) => Way::Whole,
    }
}

/// The objects of a repository, as the image side asks for them.
pub(in crate::ops) fn here(store: &Store) -> Result<Arc<store::Contents>> {
    Ok(Arc::new(store.contents()?))
}

impl Contents for store::Contents {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn has(&self, sha256: &[u8; 32], size: u64) -> bool {
        self.has(sha256, size)
    }

    fn open(&self, sha256: &[u8; 32], size: u64) -> Result<Here> {
        Ok(match self.small(sha256, size) {
            Some(bytes) => Here::Small(bytes.to_vec()),
            None => Here::File(Box::new(self.open(sha256, size)?)),
        })
    }
}

impl LayerTar for LayerReader {
    fn file_here(&mut self) -> io::Result<Option<(ContentDigest, u64)>> {
        Ok(Self::file_here(self)?.map(|file| (file.sha256, file.size)))
    }
}
