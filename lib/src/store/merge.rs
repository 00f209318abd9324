//! From layers in the repository to one tree. Reads tar entries with the library, applies them by our own rules
//! ([`super::changeset`]), because the library's own application differs from the OCI rules: there a whiteout or opaque
//! marker also removes earlier entries of its own layer, and an entry without a parent directory is an error. Where it
//! follows the rules the trees are equal, and so are the ids of the images.

use std::sync::mpsc::{self, SyncSender};
use std::thread;

use anyhow::{Context, Result, anyhow};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs::tree::{FileSystem, Stat};
use composefs_oci::LAYER_CONTENT_TYPE;
use composefs_oci::tar::{TarEntry, TarItem, get_entry};

use super::changeset::{Change, Changeset};
use super::{is_io, unsuitable};

/// So many entries are handed over at a time, with names and attributes of about so many bytes at most, and so many times that wait.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
const WAITING: usize = 2;

/// Permission bits with set-user-ID, set-group-ID and sticky. Some archives repeat the file type in the mode.
const PERMISSIONS: u32 = 0o7777;

/// The tree of all layers, each given by its diff_id and its split stream, lowest first. Untouched by any transformation.
pub(super) fn merge<H: FsVerityHashValue>(repository: &Repository<H>, layers: &[(String, H)]) -> Result<FileSystem<H>> {
    let mut tree = FileSystem::new(Stat::uninitialized());
    for (diff_id, stream) in layers {
        add_layer(repository, &mut tree, stream).with_context(|| format!("applying layer {diff_id}"))?;
    }
    tree.compact();
    Ok(tree)
}

/// Lays a layer, given by its split stream, over a tree. A second thread reads the entries.
pub(super) fn add_layer<H: FsVerityHashValue>(repository: &Repository<H>, tree: &mut FileSystem<H>, stream: &H) -> Result<()> {
    let mut changes = Changeset::default();
    thread::scope(|scope| {
        let (entries, read) = mpsc::sync_channel(WAITING);
        let reader = scope.spawn(move || read_entries(repository, stream, &entries));
        for entry in read.into_iter().flatten() {
            add_entry(tree, &mut changes, entry)?;
        }
        reader.join().map_err(|_| anyhow!("reading entries: the thread panicked"))?
    })?;
    changes.apply(tree);
    Ok(())
}

/// Reads a layer to its end, or until nobody wants its entries any more.
fn read_entries<H: FsVerityHashValue>(repository: &Repository<H>, stream: &H, entries: &SyncSender<Vec<TarEntry<H>>>) -> Result<()> {
    let mut reader = repository.open_stream("", Some(stream), Some(LAYER_CONTENT_TYPE))?;
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), 0);
    while let Some(entry) = get_entry(&mut reader).map_err(explain)? {
        bytes += weight(&entry);
        batch.push(entry);
        if batch.len() == BATCH || bytes >= BATCH_BYTES {
            bytes = 0;
            if entries.send(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).is_err() {
                return Ok(());
            }
        }
    }
    // Whoever does not want them has another error.
    let _ = entries.send(batch);
    Ok(())
}

/// About how many bytes an entry has in memory.
fn weight<H: FsVerityHashValue>(entry: &TarEntry<H>) -> usize {
    let attributes: usize = entry.stat.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    entry.path.as_os_str().len() + attributes
}

fn add_entry<H: FsVerityHashValue>(tree: &mut FileSystem<H>, changes: &mut Changeset, entry: TarEntry<H>) -> Result<()> {
    let TarEntry { path, mut stat, item } = entry;
    stat.st_mode &= PERMISSIONS;
    let change = match item {
        TarItem::Directory => Change::Directory,
        TarItem::Leaf(content) => Change::Leaf(content),
        TarItem::Hardlink(target) => Change::Hardlink(target),
    };
    changes.add(tree, path.as_os_str(), stat, change).map_err(|e| unsuitable(format!("entry {}: {e}", path.display())).into())
}

/// An entry that the library cannot read is a property of the image, unless the operating system was at fault.
fn explain(error: anyhow::Error) -> anyhow::Error {
    if is_io(&error) { error } else { unsuitable(format!("reading its next entry: {error:#}")).into() }
}
