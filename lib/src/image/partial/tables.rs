//! Tables of contents that are read before it is known whether their layers are fetched: one at a time, and as far as there is room for them each is fetched once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use super::{Contents, position};
use crate::image::Source;
use crate::image::chunked::{File, Position, Ranged, Table, is_skipped};
use crate::image::ranges;
use crate::image::reason::Reason;
use crate::progress::Progress;

/// So many bytes of tables are kept, compressed; those of 150,000 files. Others are fetched again.
const MOST: usize = 16 << 20;

/// Compressed tables of contents, by the digests of their layers, for who reads these layers in parts afterwards.
#[derive(Clone, Default)]
pub(in crate::image) struct Tables(Arc<Mutex<HashMap<String, Vec<u8>>>>);

impl Tables {
    fn keep(&self, layer: &str, packed: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.values().map(Vec::len).sum::<usize>() + packed.len() <= MOST {
            kept.insert(layer.to_owned(), packed);
        }
    }

    /// Reads the table of a layer, which is fetched where it was not before; it, and it as it is in the blob. It is not kept any more.
    pub(super) fn take<B: Ranged>(&self, layer: &str, position: &Position, blob: &mut B) -> Result<(Table, Vec<u8>), Reason> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(layer);
        let packed = kept.map_or_else(|| ranges::packed_table(blob, position), Ok)?;
        let json = ranges::unpack_table(&packed, position)?;
        Ok((Table::parse(&json, position.offset).map_err(|e| e.to_string())?, packed))
    }
}

/// The table of contents of a layer. Nobody has proven it.
pub struct LayerTable(Table);

impl LayerTable {
    /// Bytes that files take in the blob, of which `here` has not the contents. Each content counts once and is added to `counted`, so that it does not count
    /// for the next layer.
    pub fn bytes_new(&self, here: &dyn Contents, counted: &mut HashSet<[u8; 32]>) -> u64 {
        let mut is_new = |file: &&File| file.digest.is_none_or(|digest| !here.has(&digest, file.size) && counted.insert(digest));
        let files = self.0.files().iter().filter(|file| is_new(file));
        // What does not compress is larger in the blob than it is.
        files.map(|file| compressed(file).min(file.size)).sum()
    }
}

fn compressed(file: &File) -> u64 {
    file.chunks.iter().filter(|chunk| !is_skipped(chunk)).map(|chunk| chunk.end - chunk.offset).sum()
}

impl Source {
    /// Reads the table of contents of layer `index`, or why that cannot be had. Whoever reads the layer in parts afterwards does not fetch it once more.
    ///
    /// # Errors
    ///
    /// There is no such layer.
    pub async fn table(&self, index: usize, progress: &Arc<dyn Progress>) -> Result<Result<LayerTable, Reason>> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("looking at layer {index}: no such layer"))?.clone();
        let annotations = ranges::annotations(&self.resolved, index)?;
        let (blob, tables) = (self.ranged(&layer, progress)?, self.tables.clone());
        let read = move || {
            let position = position(&annotations, &layer)?;
            let (table, packed) = tables.take(&layer.digest, &position, &mut blob?)?;
            tables.keep(&layer.digest, packed);
            Ok(LayerTable(table))
        };
        tokio::task::spawn_blocking(read).await.context("reading a table of contents")
    }
}
