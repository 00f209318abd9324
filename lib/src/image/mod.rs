//! Images where they come from and where they go to: references are resolved, blobs are fetched, images with a layer more are written, and
//! nothing leaves unverified.
//!
//! Layouts (`oci:`) are read here, without another program; registries and everything else through skopeo's image proxy. On both
//! ways every blob is checked against its digest and every layer against its diff_id. [`Derived`] is an image that does not exist yet;
//! [`write()`] is the one way to make it exist: layouts and `oci-archive:` files are written here, registries and `containers-storage:`
//! through `skopeo copy`. [`Source::fetch_files`] reads single files of a layer, by ranges where that works.

mod ahead;
mod archive;
mod blob;
mod chunked;
mod decode;
mod delta;
mod derive;
mod digest;
mod entry;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod layer;
mod layer_tar;
mod layout;
mod layout_writer;
mod manifest;
mod named;
mod output;
mod partial;
mod patience;
mod pick;
mod platform;
mod policy;
mod proxy;
mod proxy_error;
mod pump;
mod ranges;
mod reason;
mod rebuild;
mod registry;
mod skopeo;
mod tag;
mod together;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};

pub use ahead::FileHere;
pub use delta::{
    Delta, DeltaBlob, DeltaLayer, FoundDelta, PatchWriter, SourceFile, SourceFiles, apply_delta, check_delta_output, compress,
    compress_against, operations, pieces, prove_delta,
};
pub use derive::{Derived, NewLayer};
pub use entry::{Entry, EntryKind};
pub use layer::LayerReader;
pub use layer_tar::{LayerFile, layer_tar};
pub use manifest::{Layer, Resolved};
pub use named::check_named;
pub use output::{OutputKind, OutputOptions, Written, check_output, write};
pub use partial::{Contents, Here, LayerPreview, LayerTable, Partial, PartialLayer, PartialPlan};
pub use platform::this_machine as host_architecture;
pub use ranges::{Fetched, Receiver, Wanted, Way};
pub use reason::Reason;
pub use rebuild::{LayerWriter, Rebuilt, WrittenLayer};
pub use tag::TagWatch;

use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::reference::{ImageReference, Transport};
use blob::{Expected, Reader};
use layout::Layout;
use proxy::Proxy;
use ranges::RangedBlob;

/// How to reach an image.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// A file of credentials, see containers-auth.json(5); the usual places where `None`.
    pub authfile: Option<PathBuf>,
    /// Whether HTTPS with a valid certificate is required; as registries.conf says where `None`.
    pub tls_verify: Option<bool>,
    /// The architecture that is wanted, in Go's words (`amd64`, `arm64`); this machine's where `None`.
    pub architecture: Option<String>,
    /// How often a registry that is busy, or a connection that breaks, is tried again.
    pub retries: Retries,
}

/// How what fails for a while is asked for again: a registry that is busy (429) or starts anew (5xx), a connection that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// The most failures in a row; each mebibyte that comes begins a new row.
    pub most: u32,
    /// The pause after the first; it doubles with each.
    pub first: Duration,
}

impl Default for Retries {
    /// A minute and a half in all.
    fn default() -> Self {
        Self { most: 8, first: Duration::from_millis(500) }
    }
}

impl SourceOptions {
    /// A file of credentials that somebody named has to be there: without them, a registry may show other images, or none.
    fn check(&self) -> Result<()> {
        let Some(path) = self.authfile.as_ref().filter(|path| !path.exists()) else { return Ok(()) };
        let message = format!("reading credentials: there is no file {}", path.display());
        Err(Failure::new(FailureKind::NotFound, message).hint("`skopeo login --authfile FILE REGISTRY` makes one").into())
    }

    fn architecture(&self) -> String {
        self.architecture.clone().unwrap_or_else(platform::this_machine)
    }
}

/// The digest of the manifest or index that a registry says it has for the tag of `reference` now, by a single request for it. Nothing is verified, and no
/// signature policy is asked: good for finding out that a tag still names what is here already, and for nothing else. Needs a tokio runtime.
///
/// # Errors
///
/// Why that cannot be had in this way: [`Source::open`] then says what is really the matter.
pub async fn digest_of_tag(reference: &ImageReference, options: &SourceOptions) -> Result<String, String> {
    options.check().map_err(|e| e.to_string())?;
    let (reference, options) = (reference.clone(), options.clone());
    let ask = move || registry::Repository::open(&reference, &options)?.digest_of(&reference);
    let asked = tokio::task::spawn_blocking(ask);
    asked.await.map_err(|e| format!("asking in a thread: {e}"))?
}

/// The layout in a scratch directory to which skopeo copies an image, and its tag there.
const COPY: &str = "image";

/// How long the registry may take to say how it is spoken with, once skopeo has the image.
const GREETING: Duration = Duration::from_secs(2);

/// An image that was resolved and whose layers can be read.
pub struct Source {
    resolved: Resolved,
    from: From,
    options: SourceOptions,
    /// What it takes to ask a registry without skopeo, or why that does not work.
    repository: OnceLock<Result<registry::Repository, String>>,
    /// Tables of contents that somebody has looked at.
    tables: partial::Tables,
    /// Its readers see when it is gone.
    alive: Arc<()>,
    /// Where the image is read from, if it had to be copied.
    _scratch: Option<tempfile::TempDir>,
}

enum From {
    Layout(Layout),
    Proxy(Box<Proxy>),
}

impl Source {
    fn new(resolved: Resolved, from: From, options: &SourceOptions, scratch: Option<tempfile::TempDir>) -> Self {
        let options = options.clone();
        Self { resolved, from, options, repository: OnceLock::new(), tables: Default::default(), alive: Arc::default(), _scratch: scratch }
    }

    /// Resolves `reference`: fetches and checks index, manifest and configuration. A registry that is busy or starts anew is asked again, and each pause is told. Needs a
    /// tokio runtime with its clock enabled.
    ///
    /// # Errors
    ///
    /// A [`Failure`](crate::error::Failure) where there is no such image, where it is not for this architecture, where credentials
    /// or signature policy forbid it, where the registry cannot be reached, where a digest does not match, or where the file of credentials is not there.
    pub async fn open(reference: &ImageReference, options: &SourceOptions, progress: &dyn Progress) -> Result<Source> {
        options.check()?;
        let architecture = options.architecture();
        if reference.transport() == Transport::Oci {
            let (layout, resolved) = Layout::open(Path::new(reference.name()), reference.tag(), reference, &architecture)?;
            return Ok(Source::new(resolved, From::Layout(layout), options, None));
        }
        // Who asks for blobs later agrees with the registry while skopeo starts and asks for the manifest.
        let greeted = registry::Repository::greet(reference, options);
        let (proxy, resolved) = Proxy::open(reference, options, &architecture, progress).await?;
        let source = Source::new(resolved, From::Proxy(Box::new(proxy)), options, None);
        // Where skopeo had its answers long before, something is wrong that is for those to tell who want a blob.
        if let Ok(Ok(repository)) = tokio::time::timeout(GREETING, greeted).await {
            source.repository.get_or_init(|| repository);
        }
        Ok(source)
    }

    /// Like [`open`](Self::open), for an image that is to be copied: every blob that its manifest lists can be read by
    /// [`open_blob`](Self::open_blob).
    ///
    /// `containers-storage:` and `docker-archive:` do not keep those blobs. Of an image from there, skopeo first makes a layout in `scratch`,
    /// with its layers compressed and a manifest of its own, which is what was resolved then; it goes away with the source.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and where there is no room for the copy.
    pub async fn open_to_copy(
        reference: &ImageReference,
        options: &SourceOptions,
        scratch: &Path,
        progress: &dyn Progress,
    ) -> Result<Source> {
        if !proxy::unpacks(reference.transport()) {
            return Self::open(reference, options, progress).await;
        }
        options.check()?;
        let scratch = tempfile::Builder::new().prefix(".selkie-base-").tempdir_in(scratch).context("making a scratch directory")?;
        let argv = skopeo::copy_from(reference, &format!("oci:{COPY}:{COPY}"), options)?;
        let copied = skopeo::run_in(scratch.path(), argv).await;
        copied.map_err(|e| proxy_error::explain_command(&format!("resolving {reference}"), reference.transport(), e))?;
        let (layout, resolved) = Layout::open(&scratch.path().join(COPY), Some(COPY), reference, &options.architecture())?;
        Ok(Source::new(resolved, From::Layout(layout), options, Some(scratch)))
    }

    /// What the reference led to.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Whether the blobs that the manifest lists can be read, see [`open_to_copy`](Self::open_to_copy).
    pub fn has_blobs(&self) -> bool {
        matches!(self.from, From::Layout(_)) || !proxy::unpacks(self.resolved.reference.transport())
    }

    /// Starts reading layer `index`, lowest first. Several may be read at a time; read each to its end or drop it.
    ///
    /// # Errors
    ///
    /// Where the blob cannot be fetched. That its bytes are right is only known when the reader has reached its end.
    pub async fn open_layer(&self, index: usize, progress: Arc<dyn Progress>) -> Result<LayerReader> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("reading layer {index}: no such layer"))?;
        let reader = match (&self.from, self.by_own_requests(layer, &progress).await?) {
            (From::Layout(layout), _) => layout.open_layer(layer, progress),
            (From::Proxy(_), Some(blob)) => LayerReader::new(layer, Expected::of(layer), blob, None, progress),
            (From::Proxy(proxy), None) => proxy.open_layer(layer, progress).await,
        };
        Ok(reader?.of(&self.alive))
    }

    /// Like [`open_layer`](Self::open_layer), for a layer that was given up just now in another way, for an outage: it is asked for once, and given up at the first
    /// failure before a mebibyte has come. `None` where it cannot be had so.
    ///
    /// # Errors
    ///
    /// There is no such layer.
    pub async fn open_layer_once(&self, index: usize, progress: Arc<dyn Progress>) -> Result<Option<LayerReader>> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("reading layer {index}: no such layer"))?;
        let Ok(repository) = self.repository() else { return Ok(None) };
        let blob = repository.blob(&layer.digest, layer.size, Arc::clone(&progress)).given_up_before();
        let Some(reader) = whole(blob).await? else { return Ok(None) };
        Ok(Some(LayerReader::new(layer, Expected::of(layer), reader, None, progress)?.of(&self.alive)))
    }

    /// Starts reading the blob of layer `index` as it is: compressed, where it is compressed. Otherwise like [`open_layer`](Self::open_layer).
    ///
    /// # Errors
    ///
    /// As there; and where the source keeps no blobs and was not opened by [`open_to_copy`](Self::open_to_copy).
    pub async fn open_blob(&self, index: usize, progress: Arc<dyn Progress>) -> Result<LayerReader> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("reading layer {index}: no such layer"))?;
        let reader = match (&self.from, self.by_own_requests(layer, &progress).await?) {
            (From::Layout(layout), _) => layout.open_blob(layer, progress),
            (From::Proxy(_), Some(blob)) => LayerReader::raw(layer, blob, None, progress),
            (From::Proxy(proxy), None) => proxy.open_blob(layer, progress).await,
        };
        Ok(reader?.of(&self.alive))
    }

    /// The blob of a layer in a registry, without skopeo: that goes on from where a connection breaks, and costs less. `None` where skopeo has to bring it, and to tell
    /// what is wrong where something is.
    async fn by_own_requests(&self, layer: &Layer, progress: &Arc<dyn Progress>) -> Result<Option<Reader>> {
        let Ok(repository) = self.repository() else { return Ok(None) };
        whole(repository.blob(&layer.digest, layer.size, Arc::clone(progress))).await
    }

    fn repository(&self) -> Result<&registry::Repository, String> {
        let open = || registry::Repository::open(&self.resolved.reference, &self.options);
        self.repository.get_or_init(open).as_ref().map_err(Clone::clone)
    }

    /// Hands single files of layer `index` to `receiver`, with as few bytes fetched as can be: by ranges of the blob where the layer has a table
    /// of contents and its source allows ranges, else from the whole layer; [`Fetched::way`] says which, and why.
    ///
    /// What comes by ranges was compared with the digests in the table of contents only, and what comes from the whole layer is handed
    /// out before its end was seen: [`Receiver::end`] decides what is right.
    ///
    /// # Errors
    ///
    /// Those of the receiver, and those of reading the whole layer where that was needed. Never that ranges did not work.
    pub async fn fetch_files<R: Receiver + 'static>(
        &self,
        index: usize,
        wanted: &[Wanted],
        mut receiver: R,
        progress: Arc<dyn Progress>,
    ) -> Result<(R, Fetched)> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("reading layer {index}: no such layer"))?.clone();
        let annotations = ranges::annotations(&self.resolved, index)?;
        let (blob, files) = (self.ranged(&layer, &progress)?, wanted.to_vec());
        let by_ranges = move || {
            let ranges = ranges::fetch(blob, &annotations, &files, &mut receiver)?;
            Ok::<_, anyhow::Error>((receiver, ranges, layer))
        };
        let (mut receiver, ranges, layer) = tokio::task::spawn_blocking(by_ranges).await.context("fetching ranges")??;
        let mut fetched = Fetched { way: Way::Ranges, bytes: ranges.bytes, table_bytes: ranges.table_bytes, missing: ranges.left };
        if let Some(reason) = ranges.reason {
            fetched.way = Way::WholeLayer(reason);
            fetched.bytes += layer.size;
            let reader = self.open_layer(index, progress).await?;
            let (files, mut missing) = (wanted.to_vec(), std::mem::take(&mut fetched.missing));
            let pick = move || pick::pick(reader, &files, &mut missing, &mut receiver).map(|()| (receiver, missing));
            let picked = tokio::task::spawn_blocking(pick).await.context("picking files in a thread")?;
            (receiver, fetched.missing) = picked.with_context(|| format!("reading layer {}", layer.digest))?;
        }
        Ok((receiver, fetched))
    }

    /// The blob of `layer` for ranges, or why there are none. Nothing is asked yet.
    fn ranged(&self, layer: &Layer, progress: &Arc<dyn Progress>) -> Result<Result<RangedBlob, String>> {
        if let From::Layout(layout) = &self.from {
            return Ok(Ok(RangedBlob::File(layout.file(layer)?.into(), layer.size)));
        }
        let blob = |repository: &registry::Repository| repository.blob(&layer.digest, layer.size, Arc::clone(progress));
        Ok(self.repository().map(|repository| RangedBlob::Registry(blob(repository))))
    }

    /// Ends the programs that served the image.
    ///
    /// # Errors
    ///
    /// Where such a program is still serving a layer, or ended with an error of its own. Whoever reads otherwise finds that the source is gone.
    pub async fn close(self) -> Result<()> {
        match self.from {
            From::Layout(_) => Ok(()),
            From::Proxy(proxy) => proxy.close().await,
        }
    }
}

/// A reader of all of `blob`; `None` where nobody gives it.
async fn whole(mut blob: registry::Blob) -> Result<Option<Reader>> {
    let opened = tokio::task::spawn_blocking(move || blob.whole()).await.context("asking for a blob in a thread")?;
    Ok(opened.ok())
}
