//! Taking in layers: a tar stream becomes objects and a split stream, registered under its diff_id only when proven.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::{LAYER_CONTENT_TYPE, OciDigest, layer_content_id};
use serde::Serialize;

use super::bounds::READ_ON;
use super::content::{ContentDigest, Known, Taken};
use super::objects::ObjectId;
use super::{Store, hash, incoming, is_io, objects, unsuitable, with_repository};
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

/// A layer that has come in.
#[derive(Debug)]
pub struct Arrival {
    /// What that did to the repository.
    pub stats: ImportStats,
    /// Its files with the digests of their contents, where these were wanted.
    pub taken: Taken,
    /// The layer, which has no name yet; none where it was here already.
    pub layer: Option<Unnamed>,
}

/// A layer that is in the repository and proven, and not registered: until [`Store::name_layers`] has named it, it counts as absent, and a garbage collection may
/// remove it.
#[derive(Debug, Clone)]
pub struct Unnamed {
    diff_id: OciDigest,
    stream: ObjectId,
}

/// The tar stream of a layer, in which the content of a file that is here need not come.
pub trait LayerTar: BufRead {
    /// Passes the file whose content stands next, where its bytes do not come: the digest of its content, and its size. Whoever hands it out has read all of its
    /// bytes where [`Contents::open`] says that they are, and counts them in what he proves. `fill_buf` fails where such a file stands next.
    ///
    /// # Errors
    ///
    /// Those of reading.
    fn file_here(&mut self) -> io::Result<Option<(ContentDigest, u64)>>;
}

/// A tar stream of which every byte comes.
#[derive(Debug)]
pub struct AllBytes<R>(pub R);

impl Store {
    /// Whether the layer is here with all its objects. A garbage collection that was cut short can leave a layer without
    /// some of them; such a layer counts as absent and is taken in again.
    pub fn has_layer(&self, diff_id: &str) -> Result<bool> {
        let diff_id = parse_digest(diff_id)?;
        with_repository!(self, repository => Ok(complete_layer(repository, &diff_id)?.is_some()))
    }

    /// Takes in a layer: an uncompressed tar stream that proves `diff_id` itself, by failing its last read when the bytes
    /// were others. What was stored is registered as this layer only after that last read, and after all of it is durable, so that a
    /// half-written or wrong stream never has the name; its objects are left to the next garbage collection. Memory use is bounded by the
    /// layer's headers and small files. A layer that is here already is not read. Several may be taken in at a time.
    ///
    /// # Errors
    ///
    /// The reader's own error where it failed ([`Failure`]s come through); [`FailureKind::Unsuitable`] where the bytes are
    /// proven and are not a tar archive that this store understands, as with GNU sparse files and with more than a mebibyte of content
    /// in an entry that is no file, or where they are more than a layer may have; [`FailureKind::NoSpace`] where a file is larger than what is free, with [`NoRoom`](super::NoRoom) in its chain. With [`Unproven`]
    /// in its chain, an error says nothing of the bytes.
    pub fn import_layer(&self, diff_id: &str, tar: impl BufRead) -> Result<ImportStats> {
        let arrival = self.take_in(diff_id, AllBytes(tar), None)?;
        self.name_layers(arrival.layer.as_slice())?;
        Ok(arrival.stats)
    }

    /// Like [`import_layer`](Self::import_layer), and leaves the name to [`name_layers`](Self::name_layers); looks only for objects that `known` may have; computes the digests of the contents of those of its files that it does not have, where they are
    /// wanted, for [`remember`](Self::remember). Files of which `tar` says that they are here become references to the objects that `known` has. Objects that are here are believed, which holds
    /// after [`begin_unsynced`](Self::begin_unsynced).
    ///
    /// # Errors
    ///
    /// As there; [`NotOneFile`] where what is here is something else than the content of one file.
    pub fn take_layer(&self, diff_id: &str, tar: impl LayerTar, known: &Known) -> Result<Arrival> {
        self.take_in(diff_id, tar, Some(known))
    }

    /// Registers layers that came in, once all of them is durable: that takes as long for many as for one.
    pub fn name_layers(&self, layers: &[Unnamed]) -> Result<()> {
        if layers.is_empty() {
            return Ok(());
        }
        with_repository!(self, repository => {
            repository.sync().context("syncing layers before they get their names")?;
            layers.iter().try_for_each(|layer| {
                name(repository, &layer.diff_id, &hash(layer.stream.hex())?).with_context(|| format!("naming layer {}", layer.diff_id))
            })
        })
    }

    fn take_in(&self, diff_id: &str, tar: impl LayerTar, known: Option<&Known>) -> Result<Arrival> {
        let digest = parse_digest(diff_id)?;
        with_repository!(self, repository => take_in(repository, digest, tar, known))
    }
}

fn take_in<H: FsVerityHashValue>(
    repository: &Arc<Repository<H>>,
    diff_id: OciDigest,
    tar: impl LayerTar,
    known: Option<&Known>,
) -> Result<Arrival> {
    if complete_layer(repository, &diff_id)?.is_some() {
        return Ok(Arrival { stats: ImportStats::REUSED, taken: Taken::default(), layer: None });
    }
    let (stream, stats, taken) = take(repository, tar, |_, _| true, known)?;
    Ok(Arrival { stats, taken, layer: Some(Unnamed { diff_id, stream: ObjectId::of(&stream) }) })
}

/// [`incoming::take`], with errors that say whose they are.
pub(super) fn take<H: FsVerityHashValue>(
    repository: &Arc<Repository<H>>,
    tar: impl LayerTar,
    keep: impl Fn(&[u8], u64) -> bool,
    known: Option<&Known>,
) -> Result<(H, ImportStats, Taken)> {
    let mut watched = Watched { inner: tar, failed: None };
    incoming::take(repository, &mut watched, keep, known).map_err(|error| explain(error, watched))
}

/// Registers a split stream as this layer.
pub(super) fn name<H: FsVerityHashValue>(repository: &Repository<H>, diff_id: &OciDigest, stream: &H) -> Result<()> {
    repository.symlink(format!("streams/{}", layer_content_id(diff_id)), format!("objects/{}", stream.to_object_pathname()))
}

/// Finds what really went wrong. A damaged layer often shows as bad tar long before its digest can be known to be wrong,
/// so the rest is read, as far as it is bounded: when the reader then fails, that is the answer. Where there is no room, nothing more is read.
fn explain(error: anyhow::Error, mut watched: Watched<impl LayerTar>) -> anyhow::Error {
    let no_room = error.downcast_ref::<Failure>().is_some_and(|failure| failure.kind == FailureKind::NoSpace);
    let proven = watched.failed.is_none() && !is_io(&error) && !no_room && watched.read_on();
    if let Some(failed) = watched.failed.take() {
        return from_reader(failed);
    }
    if is_io(&error) || error.is::<NotOneFile>() {
        return error;
    }
    let error = if no_room { error } else { refused(&error) };
    if proven { error } else { error.context(Unproven) }
}

/// What is said of a tar that this store does not take.
fn refused(error: &anyhow::Error) -> anyhow::Error {
    let failure = unsuitable(format!("reading its tar stream: {error:#}"));
    if error.root_cause().to_string().contains("sparse tar entries") {
        let failure = failure.hint("it has GNU sparse files: build the image with buildah or podman, which never write them");
        return anyhow::Error::new(failure).context(SparseEntries);
    }
    failure.into()
}

/// The mark in the chain of an error of [`Store::import_layer`] after which the tar was not read to its end: nobody knows whether its bytes are those of the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not all of it was read")]
pub struct Unproven;

/// The mark in the chain of an error of [`Store::import_layer`] that GNU sparse files caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it has GNU sparse files")]
pub struct SparseEntries;

/// Why [`Store::take_layer`] cannot take what [`LayerTar::file_here`] says. With all of its bytes, the layer may be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what its table of contents calls a file is not one in its tar")]
pub struct NotOneFile;

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
struct Watched<R> {
    inner: R,
    failed: Option<io::Error>,
}

impl<R> Watched<R> {
    fn watch<T>(failed: &mut Option<io::Error>, read: io::Result<T>) -> io::Result<T> {
        read.map_err(|error| {
            let kind = error.kind();
            *failed = Some(error);
            kind.into()
        })
    }
}

impl<R: LayerTar> Watched<R> {
    /// Reads on, and at most [`READ_ON`] bytes; whether its end was reached.
    fn read_on(&mut self) -> bool {
        let mut left = READ_ON;
        while let Ok(passed) = self.skip() {
            match passed.map(|length| left.checked_sub(length)) {
                None => return true,
                Some(None) => return false,
                Some(Some(less)) => left = less,
            }
        }
        false
    }

    /// Passes what stands next; how many bytes, where there was something.
    fn skip(&mut self) -> io::Result<Option<u64>> {
        if let Some((_, size)) = self.file_here()? {
            return Ok(Some(size));
        }
        let length = self.fill_buf()?.len();
        self.consume(length);
        Ok((length > 0).then_some(length as u64))
    }
}

impl<R: BufRead> Read for Watched<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buf)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Watched<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Self::watch(&mut self.failed, self.inner.fill_buf())
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

impl<R: LayerTar> LayerTar for Watched<R> {
    fn file_here(&mut self) -> io::Result<Option<(ContentDigest, u64)>> {
        Self::watch(&mut self.failed, self.inner.file_here())
    }
}

impl<R: BufRead> Read for AllBytes<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: BufRead> BufRead for AllBytes<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl<R: BufRead> LayerTar for AllBytes<R> {
    fn file_here(&mut self) -> io::Result<Option<(ContentDigest, u64)>> {
        Ok(None)
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
