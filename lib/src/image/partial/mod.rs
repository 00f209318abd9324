//! Layers of which only those files are fetched that are not here: for layers in the format zstd:chunked, from sources that give ranges.
//!
//! The table of contents says which files there are. Those whose contents are here, by SHA-256, are read here ([`Contents`]); the others, and what the
//! tar has between files, are fetched by ranges. What comes out is the tar of the layer to the last bit, or an error: its digest is compared with
//! the diff_id, which the configuration has, and thereby the manifest, of which skopeo and the signature policy decided. So neither the table nor
//! whoever knows the contents has to be believed of any byte; which object has these bytes, the store knows (`store/content/`). Whatever goes wrong with
//! parts is a reason to read the whole layer; an outage of the registry is none.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};

use super::chunked::{Position, Ranged, Table, TarSplit, Unpacker};
use super::layer::LayerReader;
use super::manifest::Layer;
use super::reason::Reason;
use super::together::Together;
use super::{Source, ranges};
use crate::progress::Progress;

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod pipe;
mod plan;
mod preview;
mod rebuild;
mod runs;
mod split;
mod tables;

pub(super) use pipe::{Sink, spawn};
use plan::{HOLES, Plan};
pub use preview::LayerPreview;
use rebuild::Rebuild;
use runs::Runs;
pub use tables::LayerTable;
pub(super) use tables::Tables;

/// Smaller layers are one answer of a registry, which parts cannot beat.
const SMALL: u64 = 64 << 10;

/// A skippable frame of zstd, such as one with a table in it, has so many bytes before what is in it.
const FRAME: u64 = 8;

/// How a content is here.
pub enum Here {
    /// These bytes, which are all of it. They are handed over: nobody else has them by a name.
    Small(Vec<u8>),
    /// A file, which is read for the proof of the layer, and handed over by name.
    File(Box<dyn Read + Send>),
}

/// Contents of files that are here already.
pub trait Contents: Send + Sync {
    /// Whether there are none.
    fn is_empty(&self) -> bool;

    /// Whether there is a file with a content of this SHA-256 and size.
    fn has(&self, sha256: &[u8; 32], size: u64) -> bool;

    /// Reads it. Nobody relies on its bytes being right, but on that it has this size.
    ///
    /// # Errors
    ///
    /// It is not there, or damaged.
    fn open(&self, sha256: &[u8; 32], size: u64) -> Result<Here>;
}

/// How a layer can be read.
pub enum Partial<T> {
    /// In parts.
    Parts(T),
    /// Only as a whole.
    Whole {
        /// Why.
        reason: Reason,
        /// Bytes that were fetched to find that out.
        bytes: u64,
    },
}

/// How a layer would be read in parts: nothing but its table of contents was fetched for it yet.
pub struct PartialPlan {
    cost: u64,
    state: Arc<State>,
    start: Start,
}

type Start = Box<dyn FnOnce() -> Result<LayerReader, Reason> + Send>;

impl PartialPlan {
    /// Bytes that starting now will take, requests included.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Bytes that were fetched to find that out.
    pub fn spent(&self) -> u64 {
        self.state.tables.load(Ordering::Relaxed)
    }

    /// Starts to read it.
    ///
    /// # Errors
    ///
    /// Never that parts do not work.
    pub async fn start(self) -> Result<Partial<PartialLayer>> {
        let Self { state, start, .. } = self;
        let started = tokio::task::spawn_blocking(start).await.context("reading a list of tar headers")?;
        Ok(match started {
            Ok(reader) => Partial::Parts(PartialLayer::new(reader, state)),
            Err(reason) => Partial::Whole { reason, bytes: state.tables.load(Ordering::Relaxed) },
        })
    }
}

/// A layer that is made of what is here and what is fetched.
pub struct PartialLayer {
    reader: Option<LayerReader>,
    state: Arc<State>,
}

/// What is known of a layer that is being made.
#[derive(Default)]
pub(super) struct State {
    reason: Mutex<Option<Reason>>,
    /// Bytes for tables.
    tables: AtomicU64,
    /// Bytes of ranges.
    pub(super) asked: Arc<AtomicU64>,
    /// Sizes of large files of which the blob itself has the header.
    headers: Mutex<HashSet<u64>>,
}

impl State {
    pub(super) fn fail(&self, reason: Reason) {
        if let Ok(mut first) = self.reason.lock() {
            first.get_or_insert(reason);
        }
    }

    /// The blob has the header of a file of this size, which comes now.
    fn found_header(&self, size: u64) {
        if let Ok(mut headers) = self.headers.lock() {
            headers.insert(size);
        }
    }
}

impl PartialLayer {
    pub(super) fn new(reader: LayerReader, state: Arc<State>) -> Self {
        Self { reader: Some(reader), state }
    }

    /// The reader of its tar, which promises what every [`LayerReader`] of a tar promises; the digest of the blob is not known. Files that are here do not
    /// come as bytes ([`LayerReader::file_here`]). Once.
    ///
    /// # Errors
    ///
    /// It was taken before.
    pub fn reader(&mut self) -> Result<LayerReader> {
        self.reader.take().context("reading a layer in parts: it is being read already")
    }

    /// Why reading it in parts did not work, where that is why the reader failed: then the whole layer may still be good, unless there was an outage.
    pub fn reason(&self) -> Option<Reason> {
        self.state.reason.lock().ok()?.clone()
    }

    /// Whether the blob itself has the header of a large file of this size, as far as it was read: then who reads all of it finds that file, too.
    pub fn has_header(&self, size: u64) -> bool {
        self.state.headers.lock().is_ok_and(|headers| headers.contains(&size))
    }

    /// Bytes that were asked for so far, with tables.
    pub fn bytes(&self) -> u64 {
        self.state.tables.load(Ordering::Relaxed) + self.state.asked.load(Ordering::Relaxed)
    }
}

impl Source {
    /// Whether layer `index` says that it has a table of contents, so that the digests of its files' contents may be of use.
    pub fn has_table(&self, index: usize) -> bool {
        let layer = self.resolved.layers.get(index);
        let annotations = ranges::annotations(&self.resolved, index).unwrap_or_default();
        layer.is_some_and(|layer| matches!(Position::of_annotations(&annotations, layer.size), Ok(Some(_))))
    }

    /// Bytes that have to be fetched of layer `index` to find out what parts of it cost: its table of contents, where it says that it has one.
    pub fn table_size(&self, index: usize) -> Option<u64> {
        let layer = self.resolved.layers.get(index)?;
        Some(Position::of_annotations(&ranges::annotations(&self.resolved, index).ok()?, layer.size).ok()??.size)
    }

    /// Finds out whether layer `index` can be read in parts, which only fetch what is not among `contents`, and whether that pays. Whoever does not want to know any more drops what
    /// is returned.
    ///
    /// # Errors
    ///
    /// There is no such layer. Never that parts do not work.
    pub fn plan_partial(
        &self,
        index: usize,
        contents: Arc<dyn Contents>,
        progress: Arc<dyn Progress>,
    ) -> Result<impl Future<Output = Result<Partial<PartialPlan>>> + Send + use<>> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("reading layer {index}: no such layer"))?.clone();
        let annotations = ranges::annotations(&self.resolved, index)?;
        let blob = match position(&annotations, &layer).and_then(|position| worth_a_look(&layer, &*contents).map(|()| position)) {
            Ok(position) => self.ranged(&layer, &progress)?.map(|blob| (position, blob)),
            Err(reason) => Err(reason),
        };
        let (alive, tables) = (Arc::clone(&self.alive), self.tables.clone());
        let (together, state) = (Together::default(), Arc::<State>::default());
        let (wanted, of) = (together.wanted(), Arc::clone(&state));
        let plan = move || {
            let (position, mut blob) = blob?;
            blob.bind(&together);
            of.tables.fetch_add(position.size, Ordering::Relaxed);
            let (table, _) = tables.take(&layer.digest, &position, &mut blob)?;
            let headers = TarSplit::of_annotations(&annotations, layer.size);
            let choice = choose(&layer, &table, (&position, headers), &*contents)?;
            Ok(Prepared { layer, blob, table, choice, contents })
        };
        Ok(async move {
            let planned: Result<_, Reason> = tokio::task::spawn_blocking(plan).await.context("reading a table of contents")?;
            Ok(match planned {
                Ok(prepared) => {
                    let (cost, of) = (prepared.choice.cost, Arc::clone(&state));
                    let start = move || {
                        let _wanted = wanted;
                        prepared.start(&of, progress).map(|reader| reader.of(&alive))
                    };
                    Partial::Parts(PartialPlan { cost, state, start: Box::new(start) })
                }
                Err(reason) => Partial::Whole { reason, bytes: state.tables.load(Ordering::Relaxed) },
            })
        })
    }
}

/// Where the table of contents is, or why there is none.
fn position(annotations: &HashMap<String, String>, layer: &Layer) -> Result<Position, String> {
    match Position::of_annotations(annotations, layer.size) {
        Ok(Some(position)) => Ok(position),
        Ok(None) => Err("the layer has no table of contents".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Why no table has to be read to know that the whole layer is to be fetched, where that is so.
fn worth_a_look(layer: &Layer, contents: &dyn Contents) -> Result<(), String> {
    if layer.size < SMALL {
        return Err("the layer is small".to_owned());
    }
    if contents.is_empty() {
        return Err("no layer with a table of contents came before, so no files are known here by their contents".to_owned());
    }
    Ok(())
}

/// What to fetch of a layer.
struct Choice {
    plan: Plan,
    /// The list of tar headers, where the plan has no bytes between files.
    headers: Option<TarSplit>,
    /// Bytes that go over the wire for it, requests included.
    cost: u64,
}

impl Choice {
    /// Bytes that are fetched besides the table of contents.
    fn bytes(&self) -> u64 {
        self.plan.bytes() + self.headers.as_ref().map_or(0, |headers| headers.size)
    }
}

/// Chooses the cheapest way to have the layer in parts, where that pays.
fn choose(
    layer: &Layer,
    table: &Table,
    (position, headers): (&Position, Option<TarSplit>),
    contents: &dyn Contents,
) -> Result<Choice, String> {
    let here = |file: &super::chunked::File| file.digest.is_some_and(|digest| file.size > 0 && contents.has(&digest, file.size));
    let here: Vec<bool> = table.files().iter().map(here).collect();
    let mut choices = HOLES.into_iter().map(|hole| cheapest(table, &here, (position, headers.as_ref()), hole));
    // Nine tenths: what is fetched by ranges is decompressed in small pieces, and the rest is read from the disk once more.
    choices.find(|choice| choice.cost < layer.size / 10 * 9).ok_or_else(|| "nearly all of it is missing here".to_owned())
}

/// The cheaper of the ways to have a layer in parts: with or without the list of tar headers.
fn cheapest(table: &Table, here: &[bool], (position, headers): (&Position, Option<&TarSplit>), hole: u64) -> Choice {
    let end = headers.iter().map(|headers| headers.offset).fold(position.offset, u64::min).saturating_sub(FRAME);
    let mut plan = Plan::new(table, here.to_vec(), Some(end), hole);
    let mut cost = plan.cost();
    let mut list = None;
    if let Some(headers) = headers {
        let with = Plan::new(table, plan.here.clone(), None, hole);
        if with.cost() + headers.size < cost {
            (cost, plan, list) = (with.cost() + headers.size, with, Some(headers.clone()));
        }
    }
    Choice { plan, headers: list, cost }
}

/// A plan, and what it takes to follow it.
struct Prepared<B> {
    layer: Layer,
    blob: B,
    table: Table,
    choice: Choice,
    contents: Arc<dyn Contents>,
}

impl<B: Ranged + Clone + Send + 'static> Prepared<B> {
    /// Starts to rebuild.
    fn start(self, state: &Arc<State>, progress: Arc<dyn Progress>) -> Result<LayerReader, Reason> {
        let Self { layer, mut blob, table, choice: Choice { plan, headers, .. }, contents } = self;
        let headers = match headers {
            None => None,
            Some(list) => {
                state.tables.fetch_add(list.size, Ordering::Relaxed);
                Some((ranges::bytes(&mut blob, list.offset, list.size)?, list.uncompressed))
            }
        };
        let runs = Runs::new(blob, plan.runs.clone(), Arc::clone(&state.asked));
        let (unpacker, state) = (Unpacker::new()?, Arc::clone(state));
        let rebuild = Rebuild { layer, table, plan, headers, runs, unpacker, contents, state, progress, reported: None };
        let started = spawn(move |sink| rebuild.run(sink)).map(LayerReader::verified);
        started.map_err(|e| format!("starting a thread: {e}").into())
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::MediaType;

    use super::*;

    /// Knows the files whose digest ends in zero.
    struct Some0;

    impl Contents for Some0 {
        fn is_empty(&self) -> bool {
            false
        }

        fn has(&self, sha256: &[u8; 32], _: u64) -> bool {
            sha256[31] == 0
        }

        fn open(&self, _: &[u8; 32], _: u64) -> Result<Here> {
            Ok(Here::File(Box::new(std::io::empty())))
        }
    }

    /// Chooses for 600 files of `each` bytes in the blob, of which every second is here.
    fn choose_of(each: usize) -> Result<Choice, String> {
        let entry = |n: usize| {
            let digest = format!("sha256:{:064x}", n % 2);
            format!(
                r#"{{"type":"reg","name":"{n}","size":{each},"digest":"{digest}","offset":{},"endOffset":{}}}"#,
                n * each,
                (n + 1) * each
            )
        };
        let entries: Vec<String> = (0..600).map(entry).collect();
        let size = 600 * each as u64;
        let table = Table::parse(format!("{{\"version\":1,\"entries\":[{}]}}", entries.join(",")).as_bytes(), size).unwrap();
        let annotation = [("io.github.containers.zstd-chunked.manifest-position".to_owned(), format!("{}:1:1:1", size + FRAME))].into();
        let position = Position::of_annotations(&annotation, u64::MAX).unwrap().unwrap();
        let layer = Layer { digest: "sha256:00".into(), diff_id: "sha256:00".into(), size, media_type: MediaType::ImageLayerZstd };
        choose(&layer, &table, (&position, None), &Some0)
    }

    #[test]
    fn where_small_holes_make_too_much_of_a_layer_only_tiny_ones_are_fetched() {
        // Holes for which a request is made anyway; holes of which only then enough stay; holes that are less than a request.
        for (each, runs) in [(20_000, Some(300)), (6_000, Some(300)), (1_000, None)] {
            assert_eq!(choose_of(each).ok().map(|choice| choice.plan.runs.len()), runs, "{each}");
        }
    }
}
