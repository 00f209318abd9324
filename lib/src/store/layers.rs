//! Taking in layers: a tar stream becomes objects and a split stream, registered under its diff_id only when proven.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::{LAYER_CONTENT_TYPE, OciDigest, layer_content_id};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::tar_guard::Guarded;
use super::{Store, is_io, objects, unsuitable, with_repository};
use crate::error::{Failure, FailureKind};

/// What taking in layers did to the repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImportStats {
    /// Files that were stored.
    pub objects_new: u64,
    /// Files that were there already.
    pub objects_reused: u64,
    /// Bytes of the files that were stored.
    pub bytes_new: u64,
    /// Layers that were read.
    pub layers_new: u64,
    /// Layers that were there already.
    pub layers_reused: u64,
}

impl ImportStats {
    /// A layer that was there already.
    pub const REUSED: Self = Self { objects_new: 0, objects_reused: 0, bytes_new: 0, layers_new: 0, layers_reused: 1 };

    /// Adds the numbers of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.objects_new += other.objects_new;
        self.objects_reused += other.objects_reused;
        self.bytes_new += other.bytes_new;
        self.layers_new += other.layers_new;
        self.layers_reused += other.layers_reused;
    }
}

impl Store {
    /// Whether the layer is here with all its objects. A garbage collection that was cut short can leave a layer without
    /// some of them; such a layer counts as absent and is taken in again.
    pub fn has_layer(&self, diff_id: &str) -> Result<bool> {
        let diff_id = parse_digest(diff_id)?;
        with_repository!(self, repository => Ok(complete_layer(repository, &diff_id)?.is_some()))
    }

    /// Takes in a layer: an uncompressed tar stream that proves `diff_id` itself, by failing its last read when the bytes
    /// were others. What was stored is registered as this layer only after that last read, so that a half-written or
    /// wrong stream never has the name; its objects are left to the next garbage collection. Memory use is bounded by the
    /// layer's headers and small files. A layer that is here already is not read. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// The reader's own error where it failed ([`Failure`]s come through); [`FailureKind::Unsuitable`] where the bytes are
    /// proven and are not a tar archive that this store understands, as with GNU sparse files.
    pub async fn import_layer(&self, diff_id: &str, tar: impl AsyncRead + Unpin + Send) -> Result<ImportStats> {
        let digest = parse_digest(diff_id)?;
        let imported = with_repository!(self, repository => import(repository, &digest, tar).await);
        imported.with_context(|| format!("importing layer {digest}"))
    }
}

async fn import<H: FsVerityHashValue>(
    repository: &Arc<Repository<H>>,
    diff_id: &OciDigest,
    tar: impl AsyncRead + Unpin + Send,
) -> Result<ImportStats> {
    if complete_layer(repository, diff_id)?.is_some() {
        return Ok(ImportStats::REUSED);
    }
    let mut watched = Watched::new(Guarded::new(tar));
    let split = composefs_oci::tar::split_async(&mut watched, repository.clone(), LAYER_CONTENT_TYPE).await;
    let (stream, stats) = match split {
        Ok(done) => done,
        Err(error) => return Err(explain(error, watched).await),
    };
    repository.register_stream(&stream, &layer_content_id(diff_id), None).await?;
    Ok(ImportStats {
        objects_new: stats.new_objects(),
        objects_reused: stats.objects_already_present,
        bytes_new: stats.new_bytes(),
        layers_new: 1,
        layers_reused: 0,
    })
}

/// Finds what really went wrong. A damaged layer often shows as bad tar long before its digest can be known to be wrong,
/// so the rest is read: when the reader then fails, that is the answer.
pub(super) async fn explain<R: AsyncRead + Unpin>(error: anyhow::Error, mut watched: Watched<R>) -> anyhow::Error {
    if watched.failed.is_none() && !is_io(&error) {
        let mut rest = vec![0; 1 << 16];
        while matches!(watched.read(&mut rest).await, Ok(1..)) {}
    }
    if let Some(failed) = watched.failed.take() {
        return from_reader(failed);
    }
    if is_io(&error) {
        return error;
    }
    let failure = unsuitable(format!("reading its tar stream: {error:#}"));
    if error.root_cause().to_string().contains("sparse tar entries") {
        let failure = failure.hint("it has GNU sparse files: build the image with buildah or podman, which never write them");
        return anyhow::Error::new(failure).context(SparseEntries);
    }
    failure.into()
}

/// The mark in the chain of an error of [`Store::import_layer`] that GNU sparse files caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has GNU sparse files")]
pub struct SparseEntries;

/// The error that a reader meant: readers can only say `io::Error`, and a [`Failure`] inside one is not in its chain.
fn from_reader(error: io::Error) -> anyhow::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(current) = cause {
        if let Some(failure) = current.downcast_ref::<Failure>() {
            return failure.clone().into();
        }
        cause = current.source();
    }
    anyhow::Error::new(error).context("reading its bytes")
}

/// A reader that remembers its own failure.
pub(super) struct Watched<R> {
    inner: R,
    failed: Option<io::Error>,
}

impl<R> Watched<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, failed: None }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = polled {
            let kind = error.kind();
            self.failed = Some(error);
            return Poll::Ready(Err(kind.into()));
        }
        polled
    }
}

/// The split stream of a layer, if it and everything that it refers to is here.
pub(super) fn complete_layer<H: FsVerityHashValue>(repository: &Repository<H>, diff_id: &OciDigest) -> Result<Option<H>> {
    let name = layer_content_id(diff_id);
    let Some(id) = repository.has_stream(&name)? else { return Ok(None) };
    if !objects::exists(repository, &id)? {
        return Ok(None);
    }
    let mut stream = repository.open_stream(&name, Some(&id), Some(LAYER_CONTENT_TYPE))?;
    let mut wanted = Vec::new();
    stream.get_object_refs(|object| wanted.push(object.clone()))?;
    for object in wanted {
        if !objects::exists(repository, &object)? {
            return Ok(None);
        }
    }
    Ok(Some(id))
}

pub(super) fn parse_digest(digest: &str) -> Result<OciDigest> {
    digest.parse().map_err(|e| Failure::new(FailureKind::Usage, format!("reading digest {digest:?}: {e}")).into())
}
