//! Targets of this owner: see [`crate::fuzz`].

use std::ops::Range;
use std::path::Path;

use anyhow::Result;
use composefs::INLINE_CONTENT_MAX_V0;
use openssl::sha::sha256;
use serde_json::json;

pub(crate) use super::policy::fuzz::patterns;

use super::content::table::{Record, Table, records_of};
use super::split::{Parts, Splitter};
use super::{Commit, Keep, Measured, Scratch, Unread, is_io};
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
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let journal: Vec<Record> = records_of(bytes, algorithm).collect();
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

/// A layer, or two: as they are, and mended. Their images are the same each time, whatever of their contents was kept, and can be read.
pub(crate) fn tree(bytes: &[u8]) {
    let scratch = repository();
    let plain = crate::fuzz::split::<2>(bytes).map(<[u8]>::to_vec);
    let mended = plain.clone().map(mend);
    for layers in [&plain, &mended] {
        let [lean, full] = [|_: &Path| false, |_: &Path| true].map(|keep| images(&scratch, layers, keep));
        if let Err(error) = &lean {
            let text = format!("{error:#}");
            let ours = ["panicked", "defect of selkie"].iter().any(|words| text.contains(words)) || is_io(error);
            assert!(!ours, "it is not the layers' fault: {text}");
        }
        assert_eq!(lean.ok(), full.ok(), "the same layers make another image");
    }
}

/// Whether such bytes make images as they are, and why not.
#[cfg(test)]
pub(crate) fn makes_images(bytes: &[u8]) -> Result<()> {
    images(&repository(), &crate::fuzz::split::<2>(bytes).map(<[u8]>::to_vec), |_| false).map(drop)
}

/// In memory, where there is such a place: each input makes one.
fn repository() -> Scratch {
    let within = |place: &Path| Scratch::new(place, Algorithm::Sha256);
    within(Path::new("/dev/shm")).or_else(|_| within(&std::env::temp_dir())).expect("making a repository")
}

/// The images of these layers, made as for a digest. A layer of no bytes is none.
fn images(scratch: &Scratch, layers: &[Vec<u8>; 2], keep: fn(&Path) -> bool) -> Result<Measured> {
    let layers = layers.iter().filter(|layer| !layer.is_empty());
    let layers: Vec<(String, &[u8])> = layers.map(|layer| (format!("sha256:{}", hex::encode(sha256(layer))), layer.as_slice())).collect();
    let diff_ids: Vec<&str> = layers.iter().map(|(diff_id, _)| diff_id.as_str()).collect();
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
    for (diff_id, layer) in &layers {
        scratch.measure_layer(diff_id, *layer, Keep::Names(keep))?;
    }
    let mut committed = scratch.commit(config.as_bytes())?;
    if let Commit::Unread(unread) = &committed {
        for Unread { diff_id, sizes } in unread {
            let (_, layer) = layers.iter().find(|(found, _)| found == diff_id).expect("a layer of the image");
            scratch.measure_layer(diff_id, *layer, Keep::Sizes(sizes.clone()))?;
        }
        committed = scratch.commit(config.as_bytes())?;
    }
    let Commit::Done(measured) = committed else { panic!("what was kept is not there: {committed:?}") };
    for image in [&measured.image, &measured.boot_image] {
        scratch.tree(image).expect("reading what was written");
    }
    Ok(measured)
}

/// Where the numbers of a header are, without its checksum.
const NUMBERS: [Range<usize>; 7] = [100..108, 108..116, 116..124, SIZE, 136..148, 329..337, 337..345];
const SIZE: Range<usize> = 124..136;
const CHECKSUM: Range<usize> = 148..156;

/// The same archive with headers over which nobody stumbles: their numbers are some, no content is longer than what is left, checksums are right, and
/// what has no name is the end. Without that, hardly any input is more than a header.
fn mend(mut tar: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some((header, rest)) = tar.get_mut(at..).and_then(|rest| rest.split_at_mut_checked(512)) {
        if header[0] == 0 {
            break;
        }
        for range in NUMBERS {
            header[range.clone()].iter_mut().filter(|byte| !matches!(byte, b'0'..=b'7')).for_each(|byte| *byte = b'0');
            header[range.end - 1] = 0;
        }
        let size = header[SIZE].iter().take(11).fold(0_usize, |size, digit| (size << 3) | usize::from(digit - b'0'));
        let size = size.min(rest.len() / 512 * 512);
        header[SIZE].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[CHECKSUM].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        at += 512 + size.next_multiple_of(512);
    }
    tar.truncate(at);
    tar.resize(at + 1024, 0);
    tar
}
