//! Layers in the format zstd:chunked, which podman, buildah and skopeo write: a table of contents says where in the blob each file is, so
//! that one file can be read without the rest. Words, a reader and a writer; where the bytes come from is `ranges.rs`.
//!
//! A table is believed about nothing: it comes from whoever published the image, its checksum stands beside it, and what it leads
//! to is compared with digests that do not come from it. So all that it can do is to waste time, within the bounds below.

mod content;
mod entries;
mod listing;
mod position;
#[cfg(test)]
mod random;
mod table;
mod write;

pub(super) use content::{Ranged, Trouble, Unpacker, copy, decoder, exactly, is_skipped, zeros};
pub(super) use listing::list;
pub(super) use position::{FOOTER, Position, TarSplit};
#[cfg(test)]
pub(super) use random::random;
pub(super) use table::{File, Table};
pub(super) use write::Writer;

/// Why a table of contents cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct TableError(String);

impl TableError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
