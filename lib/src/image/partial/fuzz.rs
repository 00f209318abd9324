//! Targets of layers that are read in parts: see [`crate::fuzz`].

use std::io::{self, BufRead, Cursor, Read};
use std::sync::Arc;

use anyhow::Result;
use oci_spec::image::MediaType;

use super::plan::{HOLES, Plan};
use super::split;
use super::{Contents, Here, Prepared, State, choose};
use crate::image::chunked::{Position, Ranged, Table, TarSplit, Trouble, copy, exactly, list};
use crate::image::fuzz::parts_of_chunked;
use crate::image::layer::LayerReader;
use crate::image::manifest::Layer;
use crate::progress::Silent;

/// So much of what comes out is read.
const ENOUGH: u64 = 4 << 20;

/// A blob in memory.
#[derive(Clone)]
struct Memory(Arc<[u8]>);

impl Ranged for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send>> {
        assert!(offset.checked_add(length).is_some(), "a range that no blob has");
        let there = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        Ok(Box::new(exactly(Cursor::new(there.to_vec()), length)))
    }
}

/// Knows every second file, and reads some of them short, and those that are too large.
struct EverySecond;

impl Contents for EverySecond {
    fn is_empty(&self) -> bool {
        false
    }

    fn has(&self, sha256: &[u8; 32], _: u64) -> bool {
        sha256[0] & 1 == 1
    }

    fn open(&self, sha256: &[u8; 32], size: u64) -> Result<Here> {
        if size <= 64 && sha256[1] & 1 == 1 {
            return Ok(Here::Small(vec![7; size as usize]));
        }
        Ok(Here::File(Box::new(io::repeat(7).take(if sha256[1] & 3 == 0 { size / 2 } else { size.min(ENOUGH) }))))
    }
}

/// A table of contents, uncompressed.
pub(crate) fn table(bytes: &[u8]) {
    const LIMIT: u64 = 1 << 20;
    let _ = list(bytes);
    let Ok(table) = Table::parse(bytes, LIMIT) else { return };
    for (number, between) in [None, Some(LIMIT), Some(0)].into_iter().enumerate() {
        let here = (0..table.files().len()).map(|file| file % 3 == number).collect();
        let plan = Plan::new(&table, here, between, HOLES[number % 2]);
        assert!(plan.runs.iter().all(|run| run.start < run.end && run.end <= LIMIT), "{:?}", plan.runs);
        assert!(plan.runs.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", plan.runs);
        assert!(plan.bytes() <= LIMIT && plan.cost() >= plan.bytes());
    }
    let _ = table.find(b"usr/a");
}

/// Good tables.
pub(crate) fn tables() -> Vec<Vec<u8>> {
    vec![parts_of_chunked().0]
}

/// A list of tar headers, as it is and uncompressed.
pub(crate) fn tar_split(bytes: &[u8]) {
    let packed = zstd::encode_all(bytes, 1).expect("packing");
    for compressed in [bytes, &packed] {
        let _ = split::read(compressed, ENOUGH, &mut |_| Ok(()));
    }
}

/// Good lists.
pub(crate) fn tar_splits() -> Vec<Vec<u8>> {
    let list = parts_of_chunked().1;
    vec![zstd::encode_all(list.as_slice(), 1).expect("packing"), list]
}

/// A table of contents, a list of tar headers, and the blob that they are about: file by file, and rebuilt with and without the list.
pub(crate) fn partial(bytes: &[u8]) {
    let [json, list, body] = crate::fuzz::split(bytes);
    let packed = zstd::encode_all(list, 1).expect("packing");
    let limit = body.len() as u64;
    let Ok(table) = Table::parse(json, limit) else { return };
    let mut blob = Memory([body, &packed].concat().into());
    for file in table.files().iter().take(20) {
        let (mut fetched, mut done) = (0, 0);
        let copied = copy(&mut blob, file, &mut fetched, &mut |bytes| {
            done += bytes.len() as u64;
            anyhow::ensure!(done < ENOUGH, "that is enough");
            Ok(())
        });
        assert!(fetched <= limit && done <= file.size, "more than the table says");
        assert!(copied.is_err() || done == file.size, "less than the table says");
        if let Err(Trouble::Receiver(error)) = copied {
            assert_eq!(error.to_string(), "that is enough");
        }
    }
    let annotation = [("io.github.containers.zstd-chunked.manifest-position".to_owned(), format!("{limit}:1:1:1"))].into();
    let Ok(Some(position)) = Position::of_annotations(&annotation, u64::MAX) else { return };
    let headers = TarSplit { offset: limit, size: packed.len() as u64, uncompressed: list.len() as u64 };
    for headers in [None, Some(headers)] {
        let Ok(table) = Table::parse(json, limit) else { return };
        // It pays, whatever is here.
        let layer = Layer { digest: "sha256:00".into(), diff_id: DIFF_ID.into(), size: 1 << 40, media_type: MediaType::ImageLayerZstd };
        let state = Arc::<State>::default();
        let contents = Arc::new(EverySecond);
        let Ok(choice) = choose(&layer, &table, (&position, headers), &*contents) else { continue };
        let prepared = Prepared { layer, blob: blob.clone(), table, choice, contents };
        let Ok(reader) = prepared.start(&state, Arc::new(Silent)) else { continue };
        let read = read_some(reader);
        assert!(!matches!(read, Ok(read) if read < ENOUGH), "a layer with another diff_id came to its end");
    }
}

/// Reads so much of a layer as is enough; how much that was.
fn read_some(mut reader: LayerReader) -> io::Result<u64> {
    let mut read = 0;
    while read < ENOUGH {
        if let Some(file) = reader.file_here()? {
            read += file.size;
            continue;
        }
        let length = reader.fill_buf()?.len();
        if length == 0 {
            break;
        }
        reader.consume(length);
        read += length as u64;
    }
    Ok(read)
}

/// That of no tar.
const DIFF_ID: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// Good layers.
pub(crate) fn partials() -> Vec<Vec<u8>> {
    let (json, list, body) = parts_of_chunked();
    vec![crate::fuzz::join(&[&json, &list, &body])]
}
