//! Records: small JSON files that selkie keeps on the machine, each with the version of its format.
//!
//! A record of a newer selkie is told as such before anything else in it is looked at, because its other fields may mean something else by then.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A type that is kept as a versioned JSON file. Its serialised form is an object with the number `version` in it.
pub trait Record: Serialize + DeserializeOwned {
    /// The version that this code writes, and the newest that it reads.
    const VERSION: u32;
}

/// A record that cannot be read, or not be written down.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of the right shape.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer selkie.
    #[error("format version {found} (expected at most {newest}; a newer selkie wrote it)")]
    Newer {
        /// The version that it says.
        found: u32,
        /// The newest that this code reads.
        newest: u32,
    },
}

/// The part of every record that no version changes.
#[derive(Deserialize)]
struct Frame {
    version: u32,
}

/// Reads a record.
///
/// # Errors
///
/// It is of a newer version, or not JSON of the right shape.
pub fn read<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    match serde_json::from_slice(bytes)? {
        Frame { version } if version > R::VERSION => Err(RecordError::Newer { found: version, newest: R::VERSION }),
        Frame { .. } => Ok(serde_json::from_slice(bytes)?),
    }
}

/// The bytes of a record, indented for people.
///
/// # Errors
///
/// The type does not fit into JSON: a map whose keys are no strings.
pub fn write<R: Record>(record: &R) -> Result<Vec<u8>, RecordError> {
    Ok(serde_json::to_vec_pretty(record)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        version: u32,
        text: String,
    }

    impl Record for Note {
        const VERSION: u32 = 2;
    }

    #[test]
    fn round_trips() {
        let note = Note { version: 2, text: "x".into() };
        assert_eq!(read::<Note>(&write(&note).unwrap()).unwrap(), note);
    }

    #[test]
    fn a_newer_format_is_told_whatever_its_fields_are() {
        let error = |text: &str| read::<Note>(text.as_bytes()).unwrap_err().to_string();
        let newer = "format version 3 (expected at most 2; a newer selkie wrote it)";
        assert_eq!(error(r#"{"version": 3, "text": "x"}"#), newer);
        assert_eq!(error(r#"{"version": 3, "text": {"en": "x"}}"#), newer);
        assert_eq!(error(r#"{"version": 2}"#), "missing field `text` at line 1 column 14");
        assert_eq!(error(r#"{"text": "x"}"#), "missing field `version` at line 1 column 13");
    }
}
