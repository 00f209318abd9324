//! The bytes of the content index: which object has which content, and the contents of small files, which are no objects. Pure; `docs/formats.md` describes them.

use std::collections::BTreeSet;
use std::ops::Range;

use composefs::INLINE_CONTENT_MAX_V0;
use openssl::sha::sha256;

use crate::image_id::Algorithm;

/// SHA-256 of the content of a file, as tables of contents of layers have it.
pub type ContentDigest = [u8; 32];

const MAGIC: &[u8; 16] = b"selkie-contents\n";
const VERSION: u32 = 2;
/// The version before small files were in it.
const WITHOUT_SMALL: u32 = 1;
/// Magic, version, bytes of an object's digest, number of records.
const HEADER: usize = 32;
const CHECKSUM: usize = 32;
const SIZE: usize = 8;

/// Largest index in bytes, which is read as a whole: that of 600,000 files.
pub(super) const MAX: u64 = 64 << 20;

/// How many small files an index has at most: more than ten times what a large image has.
pub(in crate::store) const MOST_SMALL: usize = 1 << 16;

/// How many records an index has at most.
pub(super) fn most(algorithm: Algorithm) -> usize {
    let small = MOST_SMALL * (1 + INLINE_CONTENT_MAX_V0);
    (usize::try_from(MAX).unwrap_or(usize::MAX) - HEADER - small - CHECKSUM) / record_size(digest_size(algorithm))
}

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Record {
    /// The digest of its content.
    pub(in crate::store) content: ContentDigest,
    /// The fs-verity digest of its content, which names the object.
    pub(in crate::store) object: Box<[u8]>,
    /// Its size in bytes.
    pub(in crate::store) size: u64,
}

/// An index that was read and found whole: records of one size, sorted by the digest of the content, and small files.
#[derive(Debug, Clone, Default)]
pub(in crate::store) struct Table {
    bytes: Vec<u8>,
    object: usize,
    records: Range<usize>,
    small: Range<usize>,
    version: u32,
}

impl Table {
    /// Reads an index; `None` for what is none, is torn, or is that of a repository of another algorithm.
    pub(in crate::store) fn parse(bytes: Vec<u8>, algorithm: Algorithm) -> Option<Self> {
        let object = digest_size(algorithm);
        let end = bytes.len().checked_sub(CHECKSUM).filter(|end| *end >= HEADER)?;
        let number = |at: Range<usize>| number(&bytes[at]);
        let header = bytes[..16] == MAGIC[..] && number(20..24) == object as u64 && sha256(&bytes[..end]) == bytes[end..];
        let length = number(24..32).checked_mul(record_size(object) as u64).and_then(|length| usize::try_from(length).ok());
        let records_end = length.and_then(|length| length.checked_add(HEADER)).filter(|records| header && *records <= end)?;
        let version = u32::try_from(number(16..20)).ok()?;
        let known = version == VERSION || (version == WITHOUT_SMALL && records_end == end);
        let table = Self { records: HEADER..records_end, small: records_end..end, version, object, bytes };
        (known && table.is_sorted() && table.small_is_whole()).then_some(table)
    }

    /// The bytes of an index of these records and small files. There are no more of those than an index has.
    pub(in crate::store) fn write(mut records: Vec<Record>, small: impl IntoIterator<Item = Vec<u8>>, algorithm: Algorithm) -> Vec<u8> {
        let object = digest_size(algorithm);
        let small: BTreeSet<Vec<u8>> = small.into_iter().filter(|content| (1..=INLINE_CONTENT_MAX_V0).contains(&content.len())).collect();
        records.retain(|record| record.object.len() == object);
        records.sort_unstable();
        records.dedup_by(|a, b| a.content == b.content);
        records.truncate(most(algorithm));
        let mut bytes = Vec::with_capacity(HEADER + records.len() * record_size(object) + CHECKSUM);
        bytes.extend_from_slice(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((object as u32).to_le_bytes());
        bytes.extend((records.len() as u64).to_le_bytes());
        records.iter().for_each(|record| record.append_to(&mut bytes));
        for content in small.iter().take(MOST_SMALL) {
            bytes.push(content.len() as u8);
            bytes.extend_from_slice(content);
        }
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    pub(super) fn len(&self) -> usize {
        self.records.len() / record_size(self.object)
    }

    pub(in crate::store) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        (0..self.len()).map(|index| self.record(index))
    }

    pub(in crate::store) fn find(&self, content: &ContentDigest) -> Option<Record> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.content(middle).cmp(content) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(self.record(middle)),
            }
        }
        None
    }

    /// The contents of small files.
    pub(in crate::store) fn small(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[self.small.clone()];
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first()?;
            let (content, behind) = behind.split_at_checked(usize::from(*length))?;
            rest = behind;
            Some(content)
        })
    }

    /// Whether the small files are whole, in order, and no more than may be.
    fn small_is_whole(&self) -> bool {
        let length = |content: &[u8]| (1..=INLINE_CONTENT_MAX_V0).contains(&content.len()).then_some(1 + content.len());
        let whole = self.small().map(length).sum::<Option<usize>>() == Some(self.small.len());
        whole && self.small().count() <= MOST_SMALL && self.small().is_sorted_by(|a, b| a < b)
    }

    /// Whether it is of a version that has small files.
    pub(super) fn has_small(&self) -> bool {
        self.version == VERSION
    }

    fn is_sorted(&self) -> bool {
        (1..self.len()).all(|index| self.content(index - 1) < self.content(index))
    }

    fn content(&self, index: usize) -> &[u8] {
        &self.bytes[self.records.start + index * record_size(self.object)..][..32]
    }

    fn record(&self, index: usize) -> Record {
        Record::of(&self.bytes[self.records.start + index * record_size(self.object)..][..record_size(self.object)], self.object)
    }
}

impl Record {
    /// A record by its bytes, which are as many as it has.
    fn of(bytes: &[u8], object: usize) -> Self {
        let (content, rest) = bytes.split_at(32);
        let (object, size) = rest.split_at(object);
        let mut digest = [0; 32];
        digest.copy_from_slice(content);
        Self { content: digest, object: object.into(), size: number(size) }
    }

    /// Appends its bytes.
    pub(super) fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.content);
        bytes.extend_from_slice(&self.object);
        bytes.extend(self.size.to_le_bytes());
    }
}

/// The records that lie one behind the other in `bytes`. One that is cut at the end is none.
pub(in crate::store) fn records_of(bytes: &[u8], algorithm: Algorithm) -> impl Iterator<Item = Record> + '_ {
    let object = digest_size(algorithm);
    bytes.chunks_exact(record_size(object)).map(move |bytes| Record::of(bytes, object))
}

/// Bytes of a digest.
fn digest_size(algorithm: Algorithm) -> usize {
    algorithm.hex_len() / 2
}

/// A number, its lowest byte first.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Bytes of a record with an object's digest of so many bytes.
pub(super) fn record_size(object: usize) -> usize {
    32 + object + SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(count: u64, object: usize) -> Vec<Record> {
        (0..count).map(|n| Record { content: sha256(&n.to_le_bytes()), object: vec![n as u8; object].into(), size: n << 33 | 7 }).collect()
    }

    #[test]
    fn what_was_written_is_found_again_whatever_its_order() {
        for (algorithm, object) in [(Algorithm::Sha256, 32), (Algorithm::Sha512, 64)] {
            for count in [0, 1, 2, 3, 100] {
                let all = records(count, object);
                let reversed: Vec<Record> = all.iter().rev().chain(&all).cloned().collect();
                let bytes = Table::write(reversed, [], algorithm);
                assert_eq!(bytes, Table::write(all.clone(), [], algorithm));
                let table = Table::parse(bytes, algorithm).unwrap();
                assert_eq!(table.len() as u64, count);
                for record in &all {
                    assert_eq!(table.find(&record.content).as_ref(), Some(record));
                }
                assert_eq!(table.find(&[7; 32]), None);
                let mut sorted = all;
                sorted.sort();
                assert_eq!(table.records().collect::<Vec<_>>(), sorted);
            }
        }
    }

    #[test]
    fn small_files_are_in_it_and_older_indexes_have_none() {
        let small = [b"b".to_vec(), vec![7; INLINE_CONTENT_MAX_V0], b"a".to_vec(), b"b".to_vec()];
        // Those that are no small files are left out.
        let odd = [Vec::new(), vec![7; INLINE_CONTENT_MAX_V0 + 1]];
        let bytes = Table::write(records(3, 32), small.into_iter().chain(odd), Algorithm::Sha256);
        let table = Table::parse(bytes, Algorithm::Sha256).unwrap();
        assert_eq!(table.small().collect::<Vec<_>>(), [&[7; INLINE_CONTENT_MAX_V0][..], b"a", b"b"]);
        assert_eq!(table.len(), 3);

        let mut older = Table::write(records(3, 32), [], Algorithm::Sha256);
        older[16] = WITHOUT_SMALL as u8;
        let end = older.len() - CHECKSUM;
        let checksum = sha256(&older[..end]);
        older[end..].copy_from_slice(&checksum);
        let table = Table::parse(older, Algorithm::Sha256).unwrap();
        assert_eq!((table.len(), table.small().count(), table.has_small()), (3, 0, false));
    }

    #[test]
    fn what_is_torn_or_foreign_is_no_index() {
        let bytes = Table::write(records(5, 32), [b"small".to_vec()], Algorithm::Sha256);
        assert!(Table::parse(bytes.clone(), Algorithm::Sha512).is_none());
        for length in 0..bytes.len() {
            assert!(Table::parse(bytes[..length].to_vec(), Algorithm::Sha256).is_none(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Table::parse(damaged, Algorithm::Sha256).is_none(), "byte {at}");
        }
        let longer = [bytes.clone(), vec![0; 72]].concat();
        assert!(Table::parse(longer, Algorithm::Sha256).is_none());
        // With a checksum that is right: another version, a number that overflows, records in no order.
        let spoiled = |spoil: &dyn Fn(&mut Vec<u8>)| {
            let mut body = bytes[..bytes.len() - CHECKSUM].to_vec();
            spoil(&mut body);
            let checksum = sha256(&body);
            Table::parse([&body[..], &checksum].concat(), Algorithm::Sha256)
        };
        assert!(spoiled(&|_| {}).is_some());
        assert!(spoiled(&|body| body[16] = 3).is_none());
        assert!(spoiled(&|body| body[16] = WITHOUT_SMALL as u8).is_none());
        assert!(spoiled(&|body| body.push(2)).is_none());
        assert!(spoiled(&|body| body.push(0)).is_none());
        // One more is good where it is in order.
        assert!(spoiled(&|body| body.extend(b"\x01t")).is_some());
        assert!(spoiled(&|body| body.extend(b"\x01a")).is_none());
        assert!(spoiled(&|body| body.extend(b"\x05small")).is_none());
        assert!(spoiled(&|body| body.extend([[65; 66]].concat())).is_none());
        assert!(spoiled(&|body| body[24..32].fill(0xff)).is_none());
        assert!(spoiled(&|body| body.truncate(HEADER)).is_none());
        assert!(spoiled(&|body| body[HEADER..HEADER + 32].fill(0xff)).is_none());
    }
}
