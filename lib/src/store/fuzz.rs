//! Targets of this owner: see [`crate::fuzz`].

use anyhow::Result;
use composefs::INLINE_CONTENT_MAX_V0;
use openssl::sha::sha256;

use super::content::table::{Record, Table, record_size, records_of};
use super::split::{Parts, Splitter};
use crate::image_id::Algorithm;

/// Counts what comes out, and hashes it with where files begin and end.
#[derive(Default)]
struct Count {
    bytes: u64,
    file: Option<u64>,
    all: Vec<u8>,
}

impl Parts for Count {
    /// The size of what is here.
    type Object = u64;

    fn inline(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(self.file.is_none(), "inline bytes in a file");
        self.bytes += bytes.len() as u64;
        self.all.extend(bytes);
        Ok(())
    }

    fn small(&mut self, content: &[u8]) -> Result<()> {
        assert!((1..=INLINE_CONTENT_MAX_V0).contains(&content.len()), "a small file of {} bytes", content.len());
        self.inline(content)
    }

    fn begin(&mut self, name: &[u8], size: u64) -> Result<()> {
        assert!(self.file.replace(size).is_none(), "a file in a file");
        self.all.extend(name);
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.file.as_mut().expect("content of no file");
        *left = left.checked_sub(bytes.len() as u64).expect("content beyond the size");
        self.bytes += bytes.len() as u64;
        self.all.extend(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        assert_eq!(self.file.take(), Some(0), "a file that ends early");
        Ok(())
    }

    fn object(&mut self, size: u64) -> Result<()> {
        assert_eq!(self.file.take(), Some(size), "an object for a part of a file");
        self.bytes += size;
        Ok(())
    }
}

fn split(bytes: &[u8], block: usize) -> Option<(u64, [u8; 32])> {
    let (mut splitter, mut count) = (Splitter::new(), Count::default());
    for block in bytes.chunks(block) {
        splitter.push(block, &mut count).ok()?;
    }
    splitter.finish().ok()?;
    Some((count.bytes, sha256(&count.all)))
}

/// The same with objects instead of the contents of files; how many bytes that stands for.
fn split_objects(mut bytes: &[u8]) -> Option<u64> {
    let (mut splitter, mut count, length) = (Splitter::new(), Count::default(), bytes.len());
    while !bytes.is_empty() {
        // Contents begin where a block does.
        let left = 512 - (length - bytes.len()) % 512;
        let (block, rest) = bytes.split_at(bytes.len().min(left));
        splitter.push(block, &mut count).ok()?;
        bytes = rest;
        let Some(size) = count.file else { continue };
        assert!(!splitter.push_object(size ^ 1, size ^ 1, &mut count).ok()?, "another size than the file has");
        if splitter.push_object(size, size, &mut count).ok()? {
            bytes = bytes.get(usize::try_from(size).ok()?..)?;
        }
    }
    splitter.finish().ok()?;
    Some(count.bytes)
}

/// A tar: all of it comes out, however it was cut, and whether or not the contents of files come as bytes.
pub(crate) fn tar(bytes: &[u8]) {
    let whole = split(bytes, bytes.len().max(1));
    assert_eq!(split(bytes, 7), whole, "the way in which it is cut makes a difference");
    if let Some((length, _)) = whole {
        assert_eq!(length, bytes.len() as u64, "bytes are missing");
        assert_eq!(split_objects(bytes), whole.map(|(length, _)| length), "objects make a difference");
    }
}

/// A content index, as it is and with a checksum that is right, and a content journal.
pub(crate) fn content_index(bytes: &[u8]) {
    for (algorithm, object) in [(Algorithm::Sha256, 32), (Algorithm::Sha512, 64)] {
        let journal: Vec<Record> = records_of(bytes, algorithm).collect();
        assert_eq!(journal.len(), bytes.len() / record_size(object), "records of a journal");
        let written = Table::parse(Table::write(journal.clone(), [], algorithm), algorithm).expect("what was written");
        assert!(journal.iter().all(|record| written.find(&record.content).is_some()), "a record is lost");
    }
    let body = &bytes[..bytes.len().saturating_sub(32)];
    for bytes in [bytes.to_vec(), [body, &sha256(body)].concat()] {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let Some(table) = Table::parse(bytes.clone(), algorithm) else { continue };
            let (records, small) = (table.records().collect::<Vec<Record>>(), table.small().map(<[u8]>::to_vec).collect::<Vec<_>>());
            assert!(records.iter().all(|record| table.find(&record.content).as_ref() == Some(record)));
            let written = Table::write(records.clone(), small.clone(), algorithm);
            // Older versions are read, too, and not written.
            assert!(written == bytes || bytes[16] == 1, "what was read is written the same");
            let again = Table::parse(written, algorithm).expect("what was written");
            assert!(again.records().eq(records) && again.small().eq(small));
        }
    }
}

/// Good indexes.
pub(crate) fn content_indexes() -> Vec<Vec<u8>> {
    let records = |count: u64, object: usize| {
        (0..count).map(|n| Record { content: sha256(&n.to_le_bytes()), object: vec![n as u8; object].into(), size: n }).collect()
    };
    let small = || [b"a".to_vec(), vec![7; 64]];
    vec![Table::write(records(3, 32), small(), Algorithm::Sha256), Table::write(records(2, 64), [], Algorithm::Sha512)]
}
