//! What taking an image would cost and change, told before anything but metadata is fetched: manifest, configuration, tables of contents of layers, and
//! databases of packages. Read-only.

use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use super::changes::{self, Changes};
use super::diff::{self, Side};
use super::host::Host;
use super::prune;
use super::pull::{self, Delta, FetchedLayer, Way};
use super::runtime::block_on;
use crate::image::{Contents, LayerPreview, Resolved, Source, SourceOptions};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::{Content, File, Foretold, ForetoldLayer, Store, Tree};
use crate::system::System;

/// How many tables of contents are fetched at a time.
const TOGETHER: usize = 4;

/// The largest database of packages that is fetched, in bytes.
const MAX_DATABASE: u64 = 64 << 20;

/// So many file system images are made of an image, each about as large as those of the root before.
const IMAGES: u64 = 2;

/// What taking an image would cost and change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Preview {
    /// How each layer would come, lowest first, with bytes: what a pull reports as `fetched`.
    pub fetch: Vec<FetchedLayer>,
    /// Bytes that would be fetched.
    pub bytes: u64,
    /// Bytes that were fetched to find all this out, besides manifest and configuration.
    pub looked_at: u64,
    /// Room on the root file system.
    pub room: Room,
    /// What would be new and what would change, where that is known.
    pub root: Option<ForetoldRoot>,
    /// Why it is not known.
    pub unknown: Option<String>,
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Room {
    /// Bytes that are needed; at least so many, where it is not known what would be new.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
}

/// A root that is foretold, compared with the one that runs. Nobody has proven it: the tables of contents say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ForetoldRoot {
    /// Files whose contents would be stored.
    pub objects_new: u64,
    /// Bytes of these.
    pub bytes_new: u64,
    /// Files whose contents are here.
    pub objects_reused: u64,
    /// What would change.
    #[serde(flatten)]
    pub changes: Changes,
}

/// Which image, and for whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// The root to compare it with: a number of `selkie list`, or at least four digits; the one that runs where none is given.
    pub from: Option<String>,
    /// The image.
    pub image: ImageReference,
    /// How to reach it.
    pub source: SourceOptions,
}

/// A root and an image that is compared with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The root.
    pub from: Side,
    /// The image.
    pub image: String,
    /// Its manifest.
    pub to_manifest: String,
    /// What taking it would cost and change.
    pub preview: Preview,
}

/// Compares a root with an image that need not be here.
///
/// # Errors
///
/// Those of [`Source::open`]; [`NotFound`](crate::error::FailureKind::NotFound) where there is no such root.
pub fn run(host: &Host, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    let system = host.survey();
    let from = options.from.as_deref().map(|asked| system.find(asked)).transpose()?.unwrap_or(&system.booted).clone();
    block_on(async {
        let source = Source::open(&options.image, &options.source, progress.as_ref()).await?;
        let preview = of(host, &system, (&source, progress), &from).await?;
        let to_manifest = source.resolved().manifest_digest.clone();
        source.close().await?;
        Ok(Report { from: diff::side(&system, from), image: options.image.to_string(), to_manifest, preview })
    })
}

/// What taking the image of `source` would cost and change, compared with the root `from`.
pub(super) async fn of(host: &Host, system: &System, (source, progress): (&Source, &Arc<dyn Progress>), from: &ImageId) -> Result<Preview> {
    let store = host.store()?;
    let resolved = source.resolved();
    let Look { fetch, layers: looks } = look(&store, source, &(pull::here(&store)? as _), progress).await?;
    // In a thread, because it waits and reads: a signal is heard meanwhile.
    let job = Foretelling { store: store.clone(), resolved: resolved.clone(), from: from.clone(), fetch: fetch.clone(), looks };
    let (foretold, looked_at) = tokio::task::spawn_blocking(move || job.run()).await.context("foretelling in a thread")?;
    let (root, unknown) = match foretold {
        Ok(Ok(root)) => (Some(root), None),
        Ok(Err(reason)) => (None, Some(reason)),
        // That there is an update, and what it costs to fetch, is true all the same.
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let images = IMAGES * store.image_size(&system.booted)?.unwrap_or(0);
    let missing = || fetch.iter().filter(|layer| layer.way != Way::Here).map(|layer| layer.size).sum();
    let new = root.as_ref().map_or_else(missing, |root| root.bytes_new);
    let needed = if fetch.iter().all(|layer| layer.way == Way::Here) { 0 } else { new + images };
    Ok(Preview {
        bytes: fetch.iter().map(|layer| layer.bytes).sum(),
        looked_at,
        room: Room { needed, free: host.free_bytes()? },
        fetch,
        root,
        unknown,
    })
}

/// What is known of the layers of an image before they are fetched.
struct Look {
    /// How each would come.
    fetch: Vec<FetchedLayer>,
    /// What is in those that are not here.
    layers: Vec<Option<LayerPreview>>,
}

/// Looks at the layers that are not here; `here` are the contents that are.
async fn look(store: &Store, source: &Source, here: &Arc<dyn Contents>, progress: &Arc<dyn Progress>) -> Result<Look> {
    let mut fetch = pull::known(store, source.resolved())?;
    let mut layers: Vec<Option<LayerPreview>> = fetch.iter().map(|_| None).collect();
    let mut waiting: Vec<usize> = (0..fetch.len()).filter(|index| fetch[*index].way != Way::Here).rev().collect();
    let delta = if waiting.is_empty() { None } else { Delta::find(store, source, &waiting, progress.as_ref()).await };
    let mut looking = JoinSet::new();
    loop {
        while looking.len() < TOGETHER {
            let Some(index) = waiting.pop() else { break };
            let look = source.preview_layer(index, Arc::clone(here), progress)?;
            looking.spawn_blocking(move || (index, look()));
        }
        let Some(looked) = looking.join_next().await else { return Ok(Look { fetch, layers }) };
        let (index, look) = looked.context("looking at a layer in a thread")?;
        let by_delta = delta.as_ref().and_then(|delta| delta.blob(&source.resolved().layers[index])).map(|blob| blob.size);
        choose(&mut fetch[index], &look, by_delta);
        layers[index] = Some(look);
    }
}

/// The way that a pull takes.
fn choose(layer: &mut FetchedLayer, look: &LayerPreview, by_delta: Option<u64>) {
    // Where the table alone is more than a delta, a pull does not read it.
    let table = by_delta.map_or(look.table, |size| if look.table >= size { 0 } else { look.table });
    let parts = look.parts.as_ref().ok().copied().filter(|_| table == look.table);
    layer.way = pull::cheapest(by_delta, parts);
    layer.bytes = by_delta.filter(|_| layer.way == Way::Delta).map_or(look.bytes, |size| table + size);
    layer.reason = look.parts.as_ref().err().filter(|_| layer.way == Way::Whole).cloned();
}

/// What it takes to foretell a root.
struct Foretelling {
    store: Store,
    resolved: Resolved,
    from: ImageId,
    fetch: Vec<FetchedLayer>,
    looks: Vec<Option<LayerPreview>>,
}

impl Foretelling {
    /// The root, or why it is not known; and bytes that were fetched to find that out.
    fn run(mut self) -> (Result<Result<ForetoldRoot, String>>, u64) {
        let foretold = foretell(&self.store, &self.resolved, &self.from, &self.fetch, &mut self.looks);
        (foretold, self.looks.iter().flatten().map(|look| look.looked_at).sum())
    }
}

/// The root that the layers would make, or why that is not known.
fn foretell(
    store: &Store,
    resolved: &Resolved,
    from: &ImageId,
    fetch: &[FetchedLayer],
    looks: &mut [Option<LayerPreview>],
) -> Result<Result<ForetoldRoot, String>> {
    let before = tree(store, from)?;
    let mut layers = Vec::new();
    for ((layer, look), fetched) in resolved.layers.iter().zip(looks.iter()).zip(fetch) {
        layers.push(match look.as_ref().map(LayerPreview::entries) {
            None => ForetoldLayer::Here(&layer.diff_id),
            Some(Ok(entries)) => ForetoldLayer::Listed(entries),
            Some(Err(reason)) => {
                return Ok(Err(format!("what is in layer {} is not known before it is fetched: {reason}", fetched.digest)));
            }
        });
    }
    // Tables that no tree can be made of are no error of the machine; a pull does not believe them either.
    let after = match store.foretell(&layers, &before) {
        Ok(after) => after,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let (new, reused) = after.objects();
    Ok(Ok(ForetoldRoot {
        objects_new: new.len() as u64,
        bytes_new: new.iter().sum(),
        objects_reused: reused.len() as u64,
        changes: changes::between(&before, &after.tree, &mut |tree, file| read(&after, looks, tree, file))?,
    }))
}

/// The tree of a root as its layers make it, which is what those of an image will make.
fn tree(store: &Store, id: &ImageId) -> Result<Tree> {
    let stored = prune::stored(store, id)?;
    let config = store.config(&stored.manifest_digest)?.context("its configuration is not here");
    config.and_then(|config| store.layers_tree(&config)).with_context(|| format!("reading root {}", id.short()))
}

/// Reads a file, which is fetched where it is not here.
fn read(after: &Foretold, looks: &mut [Option<LayerPreview>], tree: &Tree, file: &File) -> Result<Result<Vec<u8>, String>> {
    let missing = match &file.content {
        Content::Object(object) => after.missing(object),
        Content::Inline(_) => None,
    };
    let Some(content) = missing else { return tree.read(file).map(Ok) };
    let fetched = looks.iter_mut().flatten().find(|look| look.has(content)).map(|look| look.read(content, MAX_DATABASE));
    Ok(fetched.context("no layer has it")?.map_err(|error| format!("{error:#}")))
}
