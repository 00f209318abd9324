//! The content index: which object has the content with a given SHA-256, which is how tables of contents of layers name files, while the
//! repository knows them by fs-verity digests.
//!
//! It is an economy, and safe to lose: whoever takes a file by it proves its bytes by a digest that does not come from here. That these are the bytes of the object's name says
//! the kernel, where the repository is sealed, and whoever wrote the object, where it is not: [`rebuild`] looks again. A file
//! that is torn or foreign counts as absent, an object that is gone as unknown. It lies beside the directories of the composefs
//! repository, where `cfsctl` does not look.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use rustix::fs::FlockOperation;

use super::{ObjectId, Store, objects, with_repository};
use crate::sys::dir;

mod journal;
mod rebuild;
pub(super) mod table;

pub(super) use journal::Journal;
pub(super) use rebuild::{PIECE, digest};
pub use table::ContentDigest;
pub(super) use table::Record;
use table::{MAX, Table};

/// The name of the index in the repository.
pub const CONTENT_INDEX: &str = "content-index";

/// Files that were taken in, with the digests of their contents as they were read; see [`Store::remember`].
#[derive(Debug, Clone, Default)]
pub struct Taken(pub(super) Vec<Record>);

impl Taken {
    /// Adds those of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

/// The objects of a repository by the digests of their contents, as its index had them when it was read.
#[derive(Debug, Clone)]
pub struct Contents {
    store: Store,
    table: Table,
    /// The beginnings of the names of all its objects, once somebody has asked.
    objects: OnceLock<HashSet<u64>>,
}

impl Contents {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Whether there is an object with this content and size.
    pub fn has(&self, content: &ContentDigest, size: u64) -> bool {
        self.object(content, size).is_some()
    }

    /// The object with this content and size, if it is here.
    pub(in crate::store) fn object(&self, content: &ContentDigest, size: u64) -> Option<ObjectId> {
        let record = self.table.find(content).filter(|record| record.size == size)?;
        is_here(&self.store, &record).then(|| ObjectId::named(hex::encode(&record.object)))
    }

    /// Whether the content of this object is known. Names are told apart by their first bytes: an object that is taken for another costs bytes in a later
    /// pull, and nothing else.
    pub(in crate::store) fn knows<H: FsVerityHashValue>(&self, object: &H) -> bool {
        let first = |name: &[u8]| name.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
        self.objects.get_or_init(|| self.table.records().map(|record| first(&record.object)).collect()).contains(&first(&raw(object)))
    }

    /// All objects that the index knows.
    pub(in crate::store) fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.table.records().map(|record| ObjectId::named(hex::encode(&record.object)))
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// Where there is none, where it has another size, or where it is damaged and the kernel says so.
    pub fn open(&self, content: &ContentDigest, size: u64) -> Result<File> {
        let record = self.record(content, size)?;
        let opening = || format!("opening object {}", hex::encode(&record.object));
        let opened = with_repository!(self.store, repository => repository.open_object(&object(&record)?));
        let file = File::from(opened.with_context(opening)?);
        let found = file.metadata().with_context(opening)?.len();
        ensure!(found == size, "object {} has {found} bytes (expected {size})", hex::encode(&record.object));
        Ok(file)
    }

    /// The name of the object, whether it is here or not.
    pub(in crate::store) fn name<H: FsVerityHashValue>(&self, content: &ContentDigest, size: u64) -> Result<H> {
        object(&self.record(content, size)?)
    }

    fn record(&self, content: &ContentDigest, size: u64) -> Result<Record> {
        let unknown = || format!("no object with the content sha256:{}", hex::encode(content));
        self.table.find(content).filter(|record| record.size == size).with_context(unknown)
    }
}

impl Store {
    /// The content index. Where it is lost, nothing is known.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn contents(&self) -> Result<Contents> {
        let mut table = read(self)?.unwrap_or_default();
        let journal = journal::read(self.dir(), self.algorithm())?;
        if !journal.is_empty() {
            let all = Table::write(journal.into_iter().chain(table.records()).collect(), self.algorithm());
            table = Table::parse(all, self.algorithm()).unwrap_or_default();
        }
        Ok(Contents { store: self.clone(), table, objects: OnceLock::new() })
    }

    /// Adds files to the content index. Durable when it returns, and whole or not there at any time.
    /// Whether it was written: it is not where it knows all of them.
    ///
    /// # Errors
    ///
    /// It cannot be written; the old one stays.
    pub fn remember(&self, taken: Taken) -> Result<bool> {
        let old = read(self)?;
        let known = |record: &Record| old.as_ref().and_then(|old| old.find(&record.content)).as_ref() == Some(record);
        let journal = journal::read(self.dir(), self.algorithm())?;
        if taken.0.iter().chain(&journal).all(known) {
            journal::remove(self.dir())?;
            return Ok(false);
        }
        // What was just taken in comes first, so that it wins; what a pull that was cut has noted may never have been written.
        let (mut seen, mut records) = (HashSet::new(), taken.0);
        records.retain(|record| seen.insert(record.content));
        records.extend(journal.into_iter().filter(|record| seen.insert(record.content) && is_here(self, record)));
        records.extend(old.iter().flat_map(Table::records).filter(|record| seen.insert(record.content)));
        if records.len() > table::most(self.algorithm()) {
            records.retain(|record| is_here(self, record));
        }
        write(self, records)?;
        journal::remove(self.dir())?;
        Ok(true)
    }

    /// Takes those files out of the content index whose objects are gone. Durable when it returns. Whether it was written. Waits until no other process has the
    /// repository open.
    ///
    /// # Errors
    ///
    /// It cannot be read or written; the old one stays.
    pub fn forget_what_is_gone(&self) -> Result<bool> {
        // What a pull adds meanwhile would be lost.
        rustix::fs::flock(self.dir(), FlockOperation::LockExclusive).context("waiting until nobody else has the repository open")?;
        let forgotten = forget(self);
        rustix::fs::flock(self.dir(), FlockOperation::LockShared).context("giving up the exclusive lock")?;
        forgotten
    }
}

fn read(store: &Store) -> Result<Option<Table>> {
    let Some(file) = dir::open_file_optional(store.dir(), CONTENT_INDEX).context("opening the content index")? else { return Ok(None) };
    let mut bytes = Vec::new();
    File::from(file).take(MAX + 1).read_to_end(&mut bytes).context("reading the content index")?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= MAX).and_then(|bytes| Table::parse(bytes, store.algorithm())))
}

fn forget(store: &Store) -> Result<bool> {
    let Some(old) = read(store)? else { return Ok(false) };
    let records: Vec<Record> = old.records().filter(|record| is_here(store, record)).collect();
    if records.len() == old.len() {
        return Ok(false);
    }
    write(store, records)?;
    Ok(true)
}

fn write(store: &Store, records: Vec<Record>) -> Result<()> {
    let bytes = Table::write(records, store.algorithm());
    dir::write_durably(store.dir(), CONTENT_INDEX, 0o644, &bytes).context("writing the content index")
}

/// Whether the object is here. One that cannot be looked at is of no use to anybody.
fn is_here(store: &Store, record: &Record) -> bool {
    with_repository!(store, repository => has(repository, record)).unwrap_or(false)
}

fn has<H: FsVerityHashValue>(repository: &Repository<H>, record: &Record) -> Result<bool> {
    Ok(objects::size(repository, &object::<H>(record)?)? == Some(record.size))
}

/// The digest that names an object.
pub(super) fn raw<H: FsVerityHashValue>(id: &H) -> Box<[u8]> {
    hex::decode(id.to_hex()).unwrap_or_default().into()
}

fn object<H: FsVerityHashValue>(record: &Record) -> Result<H> {
    super::hash(&hex::encode(&record.object))
}
