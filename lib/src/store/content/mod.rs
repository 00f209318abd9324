//! The content index: which object has the content with a given SHA-256, which is how tables of contents of layers name files, while the
//! repository knows them by fs-verity digests. Small files, which are no objects, are in it with their contents.
//!
//! It is an economy, and safe to lose: whoever takes a file by it proves its bytes by a digest that does not come from here. That these are the bytes of the object's name says
//! the kernel, where the repository is sealed, and whoever wrote the object, where it is not: [`rebuild`] looks again. A file
//! that is torn or foreign counts as absent, an object that is gone as unknown. It lies beside the directories of the composefs
//! repository, where `cfsctl` does not look.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};
use composefs::INLINE_CONTENT_MAX_V0;
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;

use super::sha256::sha256;
use super::{Alone, ObjectId, Store, objects, with_repository};
use crate::sys::dir;

mod journal;
mod rebuild;
pub(super) mod table;

pub(super) use journal::Journal;
pub(super) use rebuild::digest;
pub use table::ContentDigest;
pub(super) use table::Record;
use table::{MAX, MOST_SMALL, Table};

/// The name of the index in the repository.
pub const CONTENT_INDEX: &str = "content-index";

/// Files that were taken in, with the digests of their contents as they were read; see [`Store::remember`].
#[derive(Debug, Clone, Default)]
pub struct Taken {
    pub(super) records: Vec<Record>,
    /// Contents of small files, no more of them than an index has.
    small: HashSet<Vec<u8>>,
}

impl Taken {
    /// Adds those of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.records.append(&mut other.records);
        other.small.iter().for_each(|content| self.add_small(content));
    }

    /// Adds a small file.
    pub(super) fn add_small(&mut self, content: &[u8]) {
        if self.small.len() < MOST_SMALL && !self.small.contains(content) {
            self.small.insert(content.to_vec());
        }
    }
}

/// The objects and small files of a repository by the digests of their contents, as its index had them when it was read.
#[derive(Debug, Clone)]
pub struct Contents {
    store: Store,
    table: Table,
    /// Small files.
    small: HashMap<ContentDigest, Box<[u8]>>,
    /// The beginnings of the names of all its objects, once somebody has asked.
    objects: OnceLock<HashSet<u64>>,
    /// The same of those that layers have brought since.
    brought: Arc<Mutex<HashSet<u64>>>,
    /// Whether there are objects and no index of them.
    lost: bool,
}

/// What is known of a repository while a layer comes in.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its contents.
    pub contents: Arc<Contents>,
    /// Whether the digests of contents that are not known yet are wanted: only layers with tables ask for them.
    pub digests: bool,
    /// Whether an object may be damaged that is here: then its bytes are read before the layer takes it, and where they are others, those of the layer take its
    /// place.
    pub doubted: bool,
}

impl Contents {
    fn new(store: &Store, table: Table, lost: bool) -> Self {
        let small = table.small().map(|content| (sha256(content), content.into())).collect();
        Self { store: store.clone(), table, small, objects: OnceLock::new(), brought: Arc::default(), lost }
    }

    /// Whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Whether there is an object or a small file with this content and size.
    pub fn has(&self, content: &ContentDigest, size: u64) -> bool {
        if is_small(size) { self.small(content, size).is_some() } else { self.object(content, size).is_some() }
    }

    /// The bytes of a small file, which is no object.
    pub fn small(&self, content: &ContentDigest, size: u64) -> Option<&[u8]> {
        self.small.get(content).map(AsRef::as_ref).filter(|bytes: &&[u8]| bytes.len() as u64 == size)
    }

    /// The object with this content and size, if it is here.
    pub(in crate::store) fn object(&self, content: &ContentDigest, size: u64) -> Option<ObjectId> {
        let record = self.table.find(content).filter(|record| record.size == size)?;
        is_here(&self.store, &record).then(|| ObjectId::named(hex::encode(&record.object)))
    }

    /// Whether the content of this object is known. Names are told apart by their first bytes: an object that is taken for another costs bytes in a later
    /// pull, and nothing else.
    pub(in crate::store) fn knows<H: FsVerityHashValue>(&self, object: &H) -> bool {
        self.objects.get_or_init(|| self.table.records().map(|record| first(&record.object)).collect()).contains(&first(object.as_bytes()))
    }

    /// Notes that a layer brings this object.
    pub(in crate::store) fn bring<H: FsVerityHashValue>(&self, object: &H) {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner).insert(first(object.as_bytes()));
    }

    /// Whether it is worth a look if this object is here. Where there is none although it is, the object is written once more, and that is noticed when it
    /// is to get its name.
    pub(in crate::store) fn may_have<H: FsVerityHashValue>(&self, object: &H) -> bool {
        self.lost || self.knows(object) || self.brought.lock().unwrap_or_else(PoisonError::into_inner).contains(&first(object.as_bytes()))
    }

    /// All objects that the index knows.
    pub(in crate::store) fn objects(&self) -> impl Iterator<Item = ObjectId> {
        self.table.records().map(|record| ObjectId::named(hex::encode(&record.object)))
    }

    /// Opens the object.
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
        let index = read(self)?;
        let lost = index.is_none() && self.has_objects()?;
        let mut table = index.unwrap_or_default();
        let journal = journal::read(self.dir(), self.algorithm())?;
        if !journal.is_empty() {
            let records = journal.into_iter().chain(table.records()).collect();
            let all = Table::write(records, table.small().map(<[u8]>::to_vec), self.algorithm());
            table = Table::parse(all, self.algorithm()).unwrap_or_default();
        }
        Ok(Contents::new(self, table, lost))
    }

    /// Adds files to the content index. Durable when it returns, and whole or not there at any time.
    /// Whether it was written: it is not where it knows all of them.
    ///
    /// # Errors
    ///
    /// It cannot be written; the old one stays.
    pub fn remember(&self, taken: Taken) -> Result<bool> {
        let old = read(self)?.unwrap_or_default();
        let Taken { mut records, mut small } = taken;
        let known = |record: &Record| old.find(&record.content).as_ref() == Some(record);
        let journal = journal::read(self.dir(), self.algorithm())?;
        let known_small: HashSet<&[u8]> = old.small().collect();
        if records.iter().chain(&journal).all(known) && small.iter().all(|content| known_small.contains(&content[..])) {
            journal::remove(self.dir())?;
            return Ok(false);
        }
        // What was just taken in comes first, so that it wins; what a pull that was cut has noted may never have been written.
        let mut seen = HashSet::new();
        records.retain(|record| seen.insert(record.content));
        records.extend(journal.into_iter().filter(|record| seen.insert(record.content) && is_here(self, record)));
        records.extend(old.records().filter(|record| seen.insert(record.content)));
        if records.len() > table::most(self.algorithm()) {
            records.retain(|record| is_here(self, record));
        }
        for content in old.small() {
            if small.len() == MOST_SMALL {
                break;
            }
            small.insert(content.to_vec());
        }
        write(self, records, small)?;
        journal::remove(self.dir())?;
        Ok(true)
    }
}

impl Alone {
    /// Takes those files out of the content index whose objects are gone. Small files stay, which take little room, until newer ones need it. Durable when it returns. Whether it was written: not where
    /// somebody else has opened the repository since, who may add to it. What it still has then counts as absent.
    ///
    /// # Errors
    ///
    /// It cannot be read or written; the old one stays.
    pub fn forget_what_is_gone(&self) -> Result<bool> {
        Ok(self.is_still()? && forget(self.store())?)
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
    write(store, records, old.small().map(<[u8]>::to_vec))?;
    Ok(true)
}

fn write(store: &Store, records: Vec<Record>, small: impl IntoIterator<Item = Vec<u8>>) -> Result<()> {
    let bytes = Table::write(records, small, store.algorithm());
    dir::write_durably(store.dir(), CONTENT_INDEX, 0o644, &bytes).context("writing the content index")
}

/// Whether a file of this size is no object, but in the split stream of its layer.
fn is_small(size: u64) -> bool {
    size <= INLINE_CONTENT_MAX_V0 as u64
}

/// Whether the object is here. One that cannot be looked at is of no use to anybody.
fn is_here(store: &Store, record: &Record) -> bool {
    with_repository!(store, repository => has(repository, record)).unwrap_or(false)
}

fn has<H: FsVerityHashValue>(repository: &Repository<H>, record: &Record) -> Result<bool> {
    Ok(objects::size(repository, &object::<H>(record)?)? == Some(record.size))
}

/// The beginning of an object's name.
fn first(name: &[u8]) -> u64 {
    name.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

fn object<H: FsVerityHashValue>(record: &Record) -> Result<H> {
    super::digest(&record.object)
}
