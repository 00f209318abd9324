//! The patch of one layer: each file of it copied from the image to start from, made of one that is like it, or brought along.

use std::io::Read;
use std::path::Path;
use std::sync::Weak;

use anyhow::{Result, bail};
use serde::Serialize;

use super::known::Known;
use crate::image::{DeltaBlob, PatchWriter, compress, compress_against, operations, pieces};
use crate::store::{File, LayerPart, Store};

/// The largest file that is made of another one. Both are in memory here.
const MAX_PATCHED: u64 = 64 << 20;
/// The largest one that is a frame in terms of the other: both are in the memory of each host then. A larger one is put together of pieces, which finds less of what they
/// have in common, and takes no memory there.
const MAX_FRAMED: u64 = 8 << 20;

/// Bytes of a layer's tar, by where they come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origins {
    /// Of files that the image to start from has.
    pub copied: u64,
    /// Of files that are made of others there.
    pub patched: u64,
    /// Of everything else: new files, small files, headers.
    pub new: u64,
}

impl Origins {
    /// The sums of both.
    pub(super) fn with(self, other: &Self) -> Self {
        Self { copied: self.copied + other.copied, patched: self.patched + other.patched, new: self.new + other.new }
    }
}

/// Writes the patch that makes the layer `diff_id`, which is in `store`, into `directory`, as long as it is `wanted`.
pub(super) fn write(store: &Store, known: &Known, diff_id: &str, directory: &Path, wanted: &Weak<()>) -> Result<(DeltaBlob, Origins)> {
    let (mut patch, mut origins) = (PatchWriter::create(directory)?, Origins::default());
    store.layer_parts(diff_id, |part| {
        if wanted.strong_count() == 0 {
            bail!("nobody waits for it any more");
        }
        match part {
            LayerPart::Bytes(bytes) => {
                origins.new += bytes.len() as u64;
                patch.data(bytes.len() as u64, bytes)
            }
            LayerPart::File(path, file) => add(known, &mut patch, &mut origins, &path, &file),
        }
    })?;
    Ok((patch.finish()?, origins))
}

fn add(known: &Known, patch: &mut PatchWriter, origins: &mut Origins, path: &Path, file: &File) -> Result<()> {
    if let Some(same) = known.same(file) {
        origins.copied += file.size;
        return patch.copy(same, file.size);
    }
    let like = path.to_str().and_then(|path| known.like(path.trim_start_matches('/')));
    let patched = match like.map(|(path, old)| (path, old, old.size.max(file.size))) {
        Some((path, old, size)) if size <= MAX_FRAMED => add_frame(known, patch, (path, old), file)?,
        Some((path, old, size)) if size <= MAX_PATCHED => add_pieces(known, patch, (path, old), file)?,
        _ => false,
    };
    if patched {
        origins.patched += file.size;
        return Ok(());
    }
    origins.new += file.size;
    patch.data(file.size, known.files.0.open(file)?)
}

/// Adds `new` in terms of `old`, where that is smaller than `new` by itself; whether it was.
fn add_frame(known: &Known, patch: &mut PatchWriter, (path, old): (&str, &File), new: &File) -> Result<bool> {
    let new = read(known, new)?;
    let frame = compress_against(&read(known, old)?, &new)?;
    let length = frame.len() as u64;
    if compress(&new, length)? < length {
        return Ok(false);
    }
    patch.frame(path, &frame)?;
    Ok(true)
}

/// Adds `new` in pieces of `old`, where that is smaller than `new` by itself; whether it was.
fn add_pieces(known: &Known, patch: &mut PatchWriter, (path, old): (&str, &File), new: &File) -> Result<bool> {
    let new = read(known, new)?;
    let operations = operations(&new, &pieces(&read(known, old)?, &new));
    let length = compress(&operations, u64::MAX)?;
    if compress(&new, length)? < length {
        return Ok(false);
    }
    patch.pieces(path, &operations)?;
    Ok(true)
}

fn read(known: &Known, file: &File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    known.files.0.open(file)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
