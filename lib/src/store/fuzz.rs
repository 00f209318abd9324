//! Targets of this owner: see [`crate::fuzz`].

use anyhow::Result;
use openssl::sha::sha256;

use super::content::table::{Record, Table};
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
    type Object = ();

    fn inline(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(self.file.is_none(), "inline bytes in a file");
        self.bytes += bytes.len() as u64;
        self.all.extend(bytes);
        Ok(())
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

    fn object(&mut self, (): ()) -> Result<()> {
        unreachable!("there is none")
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

/// A tar: all of it comes out, however it was cut.
pub(crate) fn tar(bytes: &[u8]) {
    let whole = split(bytes, bytes.len().max(1));
    assert_eq!(split(bytes, 7), whole, "the way in which it is cut makes a difference");
    if let Some((length, _)) = whole {
        assert_eq!(length, bytes.len() as u64, "bytes are missing");
    }
}

/// A content index, as it is and with a checksum that is right.
pub(crate) fn content_index(bytes: &[u8]) {
    let body = &bytes[..bytes.len().saturating_sub(32)];
    for bytes in [bytes.to_vec(), [body, &sha256(body)].concat()] {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let Some(table) = Table::parse(bytes.clone(), algorithm) else { continue };
            let records: Vec<Record> = table.records().collect();
            assert!(records.iter().all(|record| table.find(&record.content).as_ref() == Some(record)));
            assert_eq!(Table::write(records, algorithm), bytes, "what was read is written the same");
        }
    }
}

/// Good indexes.
pub(crate) fn content_indexes() -> Vec<Vec<u8>> {
    let records = |count: u64, object: usize| {
        (0..count).map(|n| Record { content: sha256(&n.to_le_bytes()), object: vec![n as u8; object].into(), size: n }).collect()
    };
    vec![Table::write(records(3, 32), Algorithm::Sha256), Table::write(records(2, 64), Algorithm::Sha512)]
}
