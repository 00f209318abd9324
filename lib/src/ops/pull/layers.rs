//! The layers of a pull: those that are missing are fetched, in parts where that pays, and imported, two at a time. However a layer came, the
//! repository is the same afterwards, and so is the proof: its diff_id.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::image::{Contents, Layer, Partial, PartialLayer, Resolved, Source};
use crate::progress::Progress;
use crate::store::{self, ImportStats, Store, Taken};

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
    /// Bytes of the blob that were fetched, with tables of contents.
    pub bytes: u64,
    /// Bytes of the blob.
    pub size: u64,
    /// Why it was fetched as a whole, where it was.
    pub reason: Option<String>,
}

/// What fetching layers has done.
#[derive(Debug, Default)]
pub(in crate::ops) struct Fetched {
    pub(in crate::ops) stats: ImportStats,
    /// In the order of the image.
    pub(in crate::ops) layers: Vec<FetchedLayer>,
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
            _ => waiting.push_back((index, None)),
        }
    }
    if !waiting.is_empty() {
        let here = here(store)?;
        let taken = Layers { store, source, progress, here, fetched: &mut fetched, waiting, importing: JoinSet::new() }.run().await?;
        tell_of_index(store.remember(taken), progress.as_ref());
    }
    Ok(fetched)
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
    here: Arc<dyn Contents>,
    fetched: &'a mut Fetched,
    /// Layers to import, by index; with a reason those that have to be read as a whole.
    waiting: VecDeque<(usize, Option<String>)>,
    importing: JoinSet<Result<(usize, Imported)>>,
}

/// How an import ended.
enum Imported {
    Done(ImportStats, Taken, Option<u64>),
    /// It could not be read in parts, and the whole layer may be good: why, and bytes that were fetched.
    NotInParts(String, u64),
}

impl Layers<'_> {
    async fn run(mut self) -> Result<Taken> {
        let mut taken = Taken::default();
        loop {
            while self.importing.len() < TOGETHER {
                let Some((index, reason)) = self.waiting.pop_front() else { break };
                self.start(index, reason).await?;
            }
            let Some(imported) = self.importing.join_next().await else { return Ok(taken) };
            let (index, imported) = imported.context("importing in a thread")??;
            let layer = &mut self.fetched.layers[index];
            match imported {
                Imported::Done(stats, contents, in_parts) => {
                    layer.bytes += in_parts.unwrap_or(layer.size);
                    layer.way = if in_parts.is_some() { Way::Partial } else { Way::Whole };
                    self.fetched.stats.merge(&stats);
                    taken.append(contents);
                    self.progress.step("import layer");
                }
                Imported::NotInParts(reason, bytes) => {
                    layer.bytes += bytes;
                    self.waiting.push_front((index, Some(reason)));
                }
            }
        }
    }

    async fn start(&mut self, index: usize, reason: Option<String>) -> Result<()> {
        let layers = &self.source.resolved().layers;
        let layer = &layers[index];
        let doing =
            format!("pulling {}: importing layer {} ({} of {})", self.source.resolved().reference, layer.digest, index + 1, layers.len());
        let reason = match reason {
            Some(reason) => reason,
            None => match self.source.open_partial(index, self.here.clone(), Arc::clone(self.progress)).await? {
                Partial::Parts(parts) => {
                    let (store, layer) = (self.store.clone(), layer.clone());
                    self.importing.spawn_blocking(move || Ok((index, import_parts(&store, &layer, parts).context(doing)?)));
                    return Ok(());
                }
                Partial::Whole { reason, bytes } => {
                    self.fetched.layers[index].bytes += bytes;
                    reason
                }
            },
        };
        self.fetched.layers[index].reason = Some(reason);
        let reader = self.source.open_layer(index, Arc::clone(self.progress)).await?;
        let (store, diff_id, contents) = (self.store.clone(), layer.diff_id.clone(), self.source.has_table(index));
        self.importing.spawn_blocking(move || {
            let imported = if contents {
                store.import_layer_and_contents(&diff_id, reader)
            } else {
                store.import_layer(&diff_id, reader).map(|stats| (stats, Taken::default()))
            };
            let (stats, taken) = imported.context(doing)?;
            Ok((index, Imported::Done(stats, taken, None)))
        });
        Ok(())
    }
}

fn import_parts(store: &Store, layer: &Layer, mut parts: PartialLayer) -> Result<Imported> {
    let reader = parts.reader()?;
    match store.import_layer_and_contents(&layer.diff_id, reader) {
        Ok((stats, taken)) => Ok(Imported::Done(stats, taken, Some(parts.bytes()))),
        Err(error) => match parts.failure() {
            Some(reason) => Ok(Imported::NotInParts(reason, parts.bytes())),
            None => Err(error),
        },
    }
}

/// The objects of a repository, as the image side asks for them.
pub(in crate::ops) fn here(store: &Store) -> Result<Arc<dyn Contents>> {
    Ok(Arc::new(Here(store.contents()?)))
}

struct Here(store::Contents);

impl Contents for Here {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, sha256: &[u8; 32], size: u64) -> bool {
        self.0.has(sha256, size)
    }

    fn open(&self, sha256: &[u8; 32], size: u64) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.0.open(sha256, size)?))
    }
}
