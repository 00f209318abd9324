//! Reads images through skopeo's image proxy, so that auth.json, registries.conf, mirrors and policy.json apply as everywhere else.
//!
//! What the proxy does and does not (protocol 0.2.3 to 0.2.8): the manifest digest that it reports is the original one, while it
//! converts the bytes of Docker's format and writes configurations anew, so the originals are fetched by digest. It does not show
//! the index that led to a manifest; `skopeo inspect --raw` does.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use containers_image_proxy::{ImageProxy, OpenedImage};
use oci_spec::image::{Descriptor, ImageIndex};
use tokio::task::JoinSet;

use crate::error::{AGAIN, Failure, FailureKind};
use crate::progress::Progress;
use crate::reference::{ImageReference, Transport};
use crate::sys::process;
use crate::sys::scratch::Scratch;

use super::blob::{Expected, Reader};
use super::layer::{LayerReader, Sender, Token};
use super::layout::MAX_JSON;
use super::manifest::{self, Fetched, Layer, Resolved};
use super::patience::patiently;
use super::pump::Pump;
use super::{SourceOptions, digest, platform, policy, proxy_error, skopeo};

/// A running proxy with one open image.
pub(super) struct Proxy {
    open: Arc<Open>,
    /// One for each blob that was asked for; each holds `open`.
    tasks: Mutex<JoinSet<()>>,
    /// Counts the readers that are still in somebody's hands.
    readers: Token,
}

struct Open {
    proxy: ImageProxy,
    image: OpenedImage,
    transport: Transport,
    /// Goes when the program has gone.
    _scratch: Option<Scratch>,
}

impl Proxy {
    /// Resolves `reference`, again where the registry is busy or starts anew.
    pub(super) async fn open(
        reference: &ImageReference,
        options: &SourceOptions,
        architecture: &str,
        progress: &dyn Progress,
    ) -> Result<(Self, Resolved)> {
        patiently(options.retries, progress, proxy_error::is_passing, async || Self::try_open(reference, options, architecture).await).await
    }

    /// Starts skopeo and resolves `reference`.
    async fn try_open(reference: &ImageReference, options: &SourceOptions, architecture: &str) -> Result<(Self, Resolved)> {
        let doing = format!("resolving {reference}");
        let scratch = skopeo::scratch(reference.transport())?;
        let config = skopeo::proxy_config(options, scratch.as_ref().map(Scratch::path))?;
        let proxy =
            ImageProxy::new_with_config(config).await.map_err(|e| proxy_error::explain("starting skopeo", reference.transport(), &e))?;
        let version = proxy.protocol_version();
        if !policy::is_applied_by_skopeo((version.major, version.minor, version.patch)) {
            policy::check(&policy::places(process::home().as_deref()))?;
        }
        let opened = async {
            let image = proxy.open_image(&reference.skopeo()).await?;
            let manifest = proxy.fetch_manifest_raw_oci(&image).await?;
            Ok((image, manifest))
        };
        // Both take a program that starts, and an answer of the registry.
        let (opened, top) = tokio::join!(opened, top(reference, options));
        let (image, (manifest_digest, manifest)) = match opened {
            Ok(opened) => opened,
            Err(e) => return Err(better(reference, options, architecture, proxy_error::explain(&doing, reference.transport(), &e)).await),
        };
        let this = Self {
            open: Arc::new(Open { proxy, image, transport: reference.transport(), _scratch: scratch }),
            tasks: Mutex::default(),
            readers: Token::default(),
        };
        let (index_digest, manifest) = originals(reference, options, top, (&manifest_digest, manifest)).await?;
        let config = this.config(&manifest::config_descriptor(&manifest_digest, &manifest)?).await?;
        let fetched = Fetched { index_digest, manifest_digest, manifest, config };
        Ok((this, manifest::resolve(reference, fetched, architecture)?))
    }

    /// Opens the blob of `layer`. May be called again while other layers are being read.
    pub(super) async fn open_layer(&self, layer: &Layer, progress: Arc<dyn Progress>) -> Result<LayerReader> {
        // This storage keeps layers unpacked and makes the plain tar anew; only the diff_id leads to it, and says what it must be.
        let expected = if self.open.transport == Transport::ContainersStorage {
            Expected { digest: layer.diff_id.clone(), size: None }
        } else {
            Expected::of(layer)
        };
        let (source, sender) = self.blob(&format!("reading layer {}", layer.digest), &expected).await?;
        Ok(LayerReader::new(layer, expected, source, Some(sender), progress)?.holding(Arc::clone(&self.readers)))
    }

    /// Opens the blob of `layer` as it is.
    pub(super) async fn open_blob(&self, layer: &Layer, progress: Arc<dyn Progress>) -> Result<LayerReader> {
        if unpacks(self.open.transport) {
            bail!("reading layer {}: this source has no blobs (expected an image opened to be copied)", layer.digest);
        }
        let (source, sender) = self.blob(&format!("reading layer {}", layer.digest), &Expected::of(layer)).await?;
        Ok(LayerReader::raw(layer, source, Some(sender), progress)?.holding(Arc::clone(&self.readers)))
    }

    /// Ends skopeo and waits for it.
    pub(super) async fn close(self) -> Result<()> {
        if Arc::strong_count(&self.readers) > 1 {
            bail!("closing skopeo: a layer is still being read");
        }
        let mut tasks = self.tasks.into_inner().unwrap_or_else(PoisonError::into_inner);
        while tasks.join_next().await.is_some() {}
        let Some(open) = Arc::into_inner(self.open) else { bail!("closing skopeo: a blob is still being fetched") };
        let transport = open.transport;
        let explain = |e| proxy_error::explain("closing skopeo", transport, &e);
        open.proxy.close_image(&open.image).await.map_err(explain)?;
        open.proxy.finalize().await.map_err(explain)
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let what = format!("configuration {}", descriptor.digest());
        let expected = Expected { digest: descriptor.digest().to_string(), size: Some(descriptor.size()) };
        let (reader, sender) = self.blob(&format!("reading {what}"), &expected).await?;
        let read = move || {
            let mut bytes = Vec::new();
            // The reader is gone before the answer is waited for: skopeo gives none while it has more to write.
            let read = reader.take(MAX_JSON).read_to_end(&mut bytes);
            read.map(|_| (bytes, sender()))
        };
        let read = tokio::task::spawn_blocking(read).await.context("reading in a thread")?;
        let (bytes, answer) = read.with_context(|| format!("reading {what}"))?;
        match (digest::check(&what, &bytes, descriptor.digest()), answer) {
            (Err(_), Some(failure)) if failure.kind != FailureKind::Corrupt => {
                Err(anyhow::Error::new(failure).context(format!("reading {what}")))
            }
            (checked, _) => checked.map(|()| bytes),
        }
    }

    /// Asks for a blob. A task of its own talks to the proxy, so that a caller who loses interest cannot leave it in the middle
    /// of a request.
    async fn blob(&self, doing: &str, expected: &Expected) -> Result<(Reader, Sender)> {
        let (opened, opening) = tokio::sync::oneshot::channel();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (open, doing, expected) = (self.open.clone(), doing.to_owned(), expected.clone());
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            // Nobody listens any more where the reader was dropped.
            let _ = answer.send(open.send(&doing, &expected, opened).await);
        });
        let reader = opening.await.context("asking skopeo for a blob: the task ended early")??;
        Ok((reader, Box::new(move || answered.blocking_recv().ok().flatten())))
    }
}

/// Whether images of this transport have lost the blobs that their manifest lists: layers are kept as plain tar files, or as directories.
pub(super) fn unpacks(transport: Transport) -> bool {
    matches!(transport, Transport::ContainersStorage | Transport::DockerArchive)
}

type Opened = tokio::sync::oneshot::Sender<Result<Reader>>;

impl Open {
    /// Hands a reader of the blob to `opened` and waits until it was read or dropped; why it ended early, where known.
    async fn send(&self, doing: &str, expected: &Expected, opened: Opened) -> Option<Failure> {
        let explain = |e: &containers_image_proxy::Error| proxy_error::failure("fetching the blob", self.transport, e);
        let digest = match expected.digest.parse() {
            Ok(digest) => digest,
            Err(e) => {
                let _ = opened.send(Err(anyhow::Error::new(e).context(doing.to_owned())));
                return None;
            }
        };
        if self.proxy.supports_get_raw_blob() {
            let (file, end) = match self.proxy.get_raw_blob(&self.image, &digest).await {
                Ok((_, file, end)) => (file, end),
                Err(e) => return self.refuse(opened, doing, &e),
            };
            // The pipe ends by itself, and is read where it is needed.
            let _ = opened.send(Ok(Box::new(file.into_std().await)));
            return end.await.err().and_then(|e| explain(&e.into()));
        }
        let (pipe, finish) = match self.proxy.get_blob(&self.image, &digest, expected.size.unwrap_or(0)).await {
            Ok(blob) => blob,
            Err(e) => return self.refuse(opened, doing, &e),
        };
        let (pump, reader) = Pump::new(pipe, expected.size);
        let _ = opened.send(Ok(Box::new(reader)));
        pump.run(finish).await.err().and_then(|e| explain(&e))
    }

    fn refuse(&self, opened: Opened, doing: &str, error: &containers_image_proxy::Error) -> Option<Failure> {
        let _ = opened.send(Err(proxy_error::explain(doing, self.transport, error)));
        None
    }
}

/// The digest of the index that led to the manifest, and the manifest's own bytes; all checked.
async fn originals(
    reference: &ImageReference,
    options: &SourceOptions,
    top: Option<Result<Vec<u8>>>,
    (manifest_digest, manifest): (&str, Vec<u8>),
) -> Result<(Option<String>, Vec<u8>)> {
    let original = digest::matches(&manifest, manifest_digest)?;
    if reference.transport() == Transport::Registry && reference.digest() != Some(manifest_digest) {
        let top = match top {
            Some(top) => top?,
            None => raw(&format!("resolving {reference}"), reference, options).await?,
        };
        if let Some(pinned) = reference.digest() {
            digest::check(&format!("{reference}"), &top, &pinned.parse()?)?;
        }
        if digest::matches(&top, manifest_digest)? {
            return Ok((None, top));
        }
        let index_digest = index_with(reference, &top, manifest_digest)?;
        if original {
            return Ok((Some(index_digest), manifest));
        }
        return Ok((Some(index_digest), raw_manifest(reference, options, manifest_digest).await?));
    }
    if original {
        return Ok((None, manifest));
    }
    Ok((None, raw_manifest(reference, options, manifest_digest).await?))
}

/// What a reference without a digest names: the manifest, or an index that leads to it. With a digest, that may be known without asking.
async fn top(reference: &ImageReference, options: &SourceOptions) -> Option<Result<Vec<u8>>> {
    if reference.transport() != Transport::Registry || reference.digest().is_some() {
        return None;
    }
    Some(raw(&format!("resolving {reference}"), reference, options).await)
}

/// The digest of the index `top`, which has to list the manifest.
fn index_with(reference: &ImageReference, top: &[u8], manifest_digest: &str) -> Result<String> {
    let listed = ImageIndex::from_reader(top).is_ok_and(|i| i.manifests().iter().any(|d| d.digest().as_ref() == manifest_digest));
    if !listed {
        let message = format!("resolving {reference}: it changed while it was being read (expected an index with {manifest_digest})");
        return Err(Failure::new(FailureKind::Unreachable, message).hint(AGAIN).into());
    }
    match reference.digest() {
        Some(pinned) => Ok(pinned.to_owned()),
        None => digest::sha256(top),
    }
}

async fn raw_manifest(reference: &ImageReference, options: &SourceOptions, manifest_digest: &str) -> Result<Vec<u8>> {
    let pinned = reference.pinned(manifest_digest);
    let pinned = pinned.as_ref().unwrap_or(reference);
    let bytes = raw(&format!("resolving {pinned}"), pinned, options).await?;
    digest::check(&format!("manifest {manifest_digest}"), &bytes, &manifest_digest.parse()?)?;
    Ok(bytes)
}

/// The manifest or index that a reference names, as it is, while `doing` something.
pub(super) async fn raw(doing: &str, reference: &ImageReference, options: &SourceOptions) -> Result<Vec<u8>> {
    inspect(reference, options).await?.map_err(|e| proxy_error::explain_command(doing, reference.transport(), e))
}

/// Like [`raw`]; `None` where there is nothing of this name.
pub(super) async fn raw_optional(doing: &str, reference: &ImageReference, options: &SourceOptions) -> Result<Option<Vec<u8>>> {
    match inspect(reference, options).await? {
        Err(error) if proxy_error::is_absent(&error) => Ok(None),
        found => found.map(Some).map_err(|e| proxy_error::explain_command(doing, reference.transport(), e)),
    }
}

async fn inspect(reference: &ImageReference, options: &SourceOptions) -> Result<Result<Vec<u8>>> {
    let scratch = skopeo::scratch(reference.transport())?;
    let argv = skopeo::with_temporary(skopeo::inspect_raw(&reference.skopeo(), options), scratch.as_ref().map(Scratch::path));
    let run = move || {
        let _scratch = scratch;
        process::run(&argv, &[])
    };
    tokio::task::spawn_blocking(run).await.context("running skopeo")
}

/// Skopeo does not say for which architectures an image is; its index does.
async fn better(reference: &ImageReference, options: &SourceOptions, architecture: &str, error: anyhow::Error) -> anyhow::Error {
    if Failure::find(&error).is_none_or(|failure| failure.kind != FailureKind::Unsuitable) {
        return error;
    }
    let Ok(bytes) = raw(&format!("resolving {reference}"), reference, options).await else { return error };
    let Ok(index) = ImageIndex::from_reader(bytes.as_slice()) else { return error };
    let there = platform::shown(index.manifests().iter().filter_map(|d| d.platform().as_ref()));
    platform::none_for(&reference.to_string(), architecture, &there).into()
}
