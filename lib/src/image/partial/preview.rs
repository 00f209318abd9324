//! What fetching a layer would take and bring, found out from its table of contents alone.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use openssl::sha::sha256;

use super::{Choice, Contents, choose, position, worth_a_look};
use crate::image::Source;
use crate::image::chunked::{Position, Table, TarSplit, Trouble, copy, list};
use crate::image::manifest::Layer;
use crate::image::ranges::{self, RangedBlob};
use crate::listing::{Listed, ListedKind};
use crate::progress::Progress;

/// What is known of a layer before it is fetched.
pub struct LayerPreview {
    /// Bytes of the blob that a pull fetches now, with tables of contents.
    pub bytes: u64,
    /// Bytes of the table of contents, where a pull reads it to find that out.
    pub table: u64,
    /// What reading it in parts costs after that, requests included, or why the layer is fetched as a whole.
    pub parts: Result<u64, String>,
    /// Bytes that were fetched to find that out.
    pub looked_at: u64,
    /// The table of contents, or why it is not known.
    known: Result<Known, String>,
}

struct Known {
    blob: RangedBlob,
    table: Table,
    entries: Vec<Listed>,
}

impl Known {
    fn find(&self, content: &[u8; 32]) -> Option<&Listed> {
        let wanted = |entry: &&Listed| matches!(&entry.kind, ListedKind::File { sha256: Some(found), .. } if found == content);
        self.entries.iter().find(wanted)
    }
}

impl LayerPreview {
    fn whole(layer: &Layer, reason: String) -> Self {
        Self { bytes: layer.size, table: 0, parts: Err(reason.clone()), looked_at: 0, known: Err(reason) }
    }

    /// What is in the layer, or why that is not known. Nobody has proven it.
    ///
    /// # Errors
    ///
    /// Where there is no table of contents, or none that can be used.
    pub fn entries(&self) -> Result<&[Listed], &str> {
        self.known.as_ref().map(|known| known.entries.as_slice()).map_err(String::as_str)
    }

    /// Whether a file with this content is in the layer.
    pub fn has(&self, content: &[u8; 32]) -> bool {
        self.known.as_ref().is_ok_and(|known| known.find(content).is_some())
    }

    /// Reads the file with this content, which has to be in the layer and to have at most `most` bytes, by ranges. Waits, so call it in a thread that may.
    ///
    /// # Errors
    ///
    /// It is not there, or larger, or cannot be had by ranges, or has another digest.
    pub fn read(&mut self, content: &[u8; 32], most: u64) -> Result<Vec<u8>> {
        let known = self.known.as_mut().map_err(|reason| anyhow::anyhow!("{reason}"))?;
        let entry = known.find(content).context("the layer has no such file")?;
        let file = known.table.find(entry.path.as_bytes())?;
        ensure!(file.size <= most, "it has {} bytes (expected at most {most})", file.size);
        let (mut bytes, mut fetched) = (Vec::new(), 0);
        let copied = copy(&mut known.blob, file, &mut fetched, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        self.looked_at += fetched;
        match copied {
            Ok(()) => {}
            Err(Trouble::Blob(reason)) => anyhow::bail!("{reason}"),
            Err(Trouble::Line(failure)) => return Err(failure.into()),
            Err(Trouble::Receiver(error)) => return Err(error),
        }
        ensure!(sha256(&bytes) == *content, "its content has another digest than the table of contents says");
        Ok(bytes)
    }
}

impl Source {
    /// What finds out, in a thread that may wait, what fetching layer `index` would take, given that `contents` are here, and what is in it.
    ///
    /// # Errors
    ///
    /// There is no such layer. Never that its table of contents cannot be had.
    pub fn preview_layer(
        &self,
        index: usize,
        contents: Arc<dyn Contents>,
        progress: &Arc<dyn Progress>,
    ) -> Result<impl FnOnce() -> LayerPreview + Send + use<>> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("looking at layer {index}: no such layer"))?.clone();
        let annotations = ranges::annotations(&self.resolved, index)?;
        let blob = self.ranged(&layer, progress)?;
        Ok(move || {
            let position = match position(&annotations, &layer) {
                Ok(position) => position,
                Err(reason) => return LayerPreview::whole(&layer, reason),
            };
            let headers = TarSplit::of_annotations(&annotations, layer.size);
            let mut looked_at = 0;
            let table = blob.and_then(|mut blob| {
                let (json, limit) = ranges::table_json(&mut blob, &annotations, &mut looked_at).map_err(|reason| reason.to_string())?;
                Ok((Table::parse(&json, limit).map_err(|e| e.to_string())?, list(&json).map_err(|e| e.to_string())?, blob))
            });
            let preview = match table {
                Ok((table, entries, blob)) => look(&layer, (&position, headers), Known { blob, table, entries }, &*contents),
                Err(reason) => LayerPreview::whole(&layer, reason),
            };
            LayerPreview { looked_at, ..preview }
        })
    }
}

/// Decides as a pull does.
fn look(layer: &Layer, tables: (&Position, Option<TarSplit>), known: Known, contents: &dyn Contents) -> LayerPreview {
    let table = tables.0.size;
    let (table, choice) = match worth_a_look(layer, contents) {
        Ok(()) => (table, choose(layer, &known.table, tables, contents)),
        Err(reason) => (0, Err(reason)),
    };
    let bytes = table + choice.as_ref().map_or(layer.size, Choice::bytes);
    LayerPreview { bytes, table, parts: choice.map(|choice| choice.cost), looked_at: 0, known: Ok(known) }
}
