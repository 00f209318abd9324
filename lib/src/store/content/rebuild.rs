//! The content index made again from the objects themselves and from the streams of layers, for one that was lost or lacks small files.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, ensure};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs::tree::{LeafContent, RegularFile};
use composefs_oci::LAYER_CONTENT_TYPE;
use composefs_oci::tar::{TarItem, get_entry};
use oci_spec::image::ImageManifest;
use openssl::sha::Sha256;

use super::{CONTENT_INDEX, ContentDigest, Record, Taken, read};
use crate::store::commit::{MANIFEST_CONTENT_TYPE, read_json};
use crate::store::fsck::pool;
use crate::store::merkle::{PIECE, measure};
use crate::store::{Store, with_repository};
use crate::sys::dir;

/// How the names of manifests and of layers begin in `streams/`.
const MANIFESTS: &str = "oci-manifest-";
const LAYERS: &str = "oci-layer-";
/// How the annotation ends that leads to a table of contents.
const TABLE: &str = "zstd-chunked.manifest-position";

impl Store {
    /// Whether the content index is lost: it is torn, of a version that lacks small files, or there is none although there are images whose layers have tables of
    /// contents. Manifests that cannot be read say nothing about that.
    ///
    /// # Errors
    ///
    /// The index or the names of the repository cannot be read.
    pub fn lacks_content_index(&self) -> Result<bool> {
        if let Some(table) = read(self)? {
            return Ok(!table.has_small());
        }
        let torn = dir::open_file_optional(self.dir(), CONTENT_INDEX).context("opening the content index")?.is_some();
        Ok(torn || with_repository!(self, repository => has_tables(repository))?)
    }

    /// Reads the files of all layers that the content index does not know, and adds them to it. Whether it was written. What cannot be read is left
    /// out: an index that lacks a file costs a pull that file.
    ///
    /// # Errors
    ///
    /// The names of the repository cannot be listed, or the index cannot be written.
    pub fn rebuild_content_index(&self) -> Result<bool> {
        let known: HashSet<Box<[u8]>> = read(self)?.iter().flat_map(super::Table::records).map(|record| record.object).collect();
        let taken = with_repository!(self, repository => hash_all(repository, &known)).context("rebuilding the content index")?;
        self.remember(taken)
    }
}

/// Whether the layers of any image have tables of contents.
fn has_tables<H: FsVerityHashValue>(repository: &Repository<H>) -> Result<bool> {
    for name in streams(repository, MANIFESTS)? {
        let Ok(Some(id)) = repository.has_stream(&name) else { continue };
        let Ok(Some((manifest, _))) = read_json(repository, &id, MANIFEST_CONTENT_TYPE) else { continue };
        let Ok(manifest) = ImageManifest::from_reader(&manifest[..]) else { continue };
        let annotations = manifest.layers().iter().filter_map(|layer| layer.annotations().as_ref());
        if annotations.flat_map(|all| all.keys()).any(|name| name.ends_with(TABLE)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names in `streams/` that begin so.
fn streams<H: FsVerityHashValue>(repository: &Repository<H>, prefix: &str) -> Result<Vec<String>> {
    let directory = dir::open_optional(repository.repo_fd(), "streams").context("opening streams")?;
    let names = directory.map_or_else(|| Ok(Vec::new()), dir::names).context("listing streams")?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(prefix)).collect())
}

fn hash_all<H: FsVerityHashValue>(repository: &Repository<H>, known: &HashSet<Box<[u8]>>) -> Result<Taken> {
    let (mut taken, mut wanted) = (Taken::default(), HashSet::new());
    for name in streams(repository, LAYERS)? {
        let Ok(Some(id)) = repository.has_stream(&name) else { continue };
        let Ok(mut stream) = repository.open_stream(&name, Some(&id), Some(LAYER_CONTENT_TYPE)) else { continue };
        stream.get_object_refs(|object| {
            wanted.insert(object.clone());
        })?;
        while let Ok(Some(entry)) = get_entry(&mut stream) {
            if let TarItem::Leaf(LeafContent::Regular(RegularFile::Inline(content))) = entry.item
                && !content.is_empty()
            {
                taken.add_small(&content);
            }
        }
    }
    let wanted: Vec<H> = wanted.into_iter().filter(|object| !known.contains(object.as_bytes())).collect();
    let records = pool::each(&wanted, || vec![0; PIECE], |piece, object| Ok(record(repository, object, piece).ok()))?;
    taken.records = records.into_iter().flatten().collect();
    Ok(taken)
}

fn record<H: FsVerityHashValue>(repository: &Repository<H>, object: &H, piece: &mut [u8]) -> Result<Record> {
    let mut file = Hashed { inner: File::from(repository.open_object(object)?), hasher: Sha256::new() };
    let (found, size) = measure::<H>(&mut file, piece)?;
    ensure!(found == *object, "object {} has the digest {}", object.to_hex(), found.to_hex());
    Ok(Record { content: file.hasher.finish(), object: object.as_bytes().into(), size })
}

/// A reader that hashes what comes through.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// The digest of the content of a file, and its size, read piece by piece.
pub(in crate::store) fn digest(mut file: impl Read, piece: &mut [u8]) -> std::io::Result<(ContentDigest, u64)> {
    let (mut hasher, mut size) = (Sha256::new(), 0);
    loop {
        match file.read(piece)? {
            0 => return Ok((hasher.finish(), size)),
            read => {
                hasher.update(&piece[..read]);
                size += read as u64;
            }
        }
    }
}
