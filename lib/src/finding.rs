//! What a check says of one damaged thing, in typed words that the store, the boot side and the verb share.

use serde::Serialize;

/// What kind of thing is damaged; what others need comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The repository itself: `meta.json`, its directories.
    Repository,
    /// A content object, by its fs-verity digest.
    Object,
    /// An EROFS image, by its fs-verity digest.
    Image,
    /// The stream of a layer, a configuration or a manifest, by its name below `streams/`.
    Stream,
    /// A name of an image, below `streams/refs/oci/`.
    Tag,
    /// The state of a root, below `state/deploy`.
    Deployment,
    /// A kernel, an initramfs or a unified kernel image on the ESP.
    Kernel,
    /// A boot entry on the ESP.
    Entry,
    /// The boot counter in the name of an entry.
    Counter,
    /// What a call that was stopped has left.
    Leftover,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// It is needed and not there.
    Missing,
    /// Its bytes are others than its name promises.
    Changed,
    /// It ends early.
    Truncated,
    /// It is there and cannot be read, or is not of its format.
    Unreadable,
    /// It lacks the fs-verity that the repository requires.
    Unsealed,
    /// It leads to something that is not there.
    Dangling,
    /// It needs something that is damaged.
    Incomplete,
    /// Nothing needs it, and it is half of something.
    Leftover,
}

/// How a finding can be repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// Made again from what the repository has.
    Rebuild,
    /// Fetched from where the image came from, verified, and put in its place.
    Fetch,
    /// Removed: nothing needs it.
    Remove,
    /// Well again when those are repaired that it needs.
    Follows,
    /// Not by this command; the message says what to do.
    None,
}

/// What became of a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// It was found, and no repair was asked for.
    Found,
    /// It was repaired, and a second look found it well.
    Repaired,
    /// It is as it was.
    Left {
        /// Why, and what to do.
        reason: String,
    },
}

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// Its name: unique among its kind.
    pub name: String,
    /// What is wrong.
    pub damage: Damage,
    /// The same in a sentence: what was found (expected what).
    pub message: String,
    /// How it can be repaired.
    pub remedy: Remedy,
    /// What became of it.
    pub outcome: Outcome,
}

impl Finding {
    /// A finding that nothing was done about yet.
    pub fn new(kind: Kind, name: impl Into<String>, damage: Damage, message: impl Into<String>, remedy: Remedy) -> Self {
        Self { kind, name: name.into(), damage, message: message.into(), remedy, outcome: Outcome::Found }
    }

    /// What it is about: the same thing in a first and a second look.
    pub fn subject(&self) -> (Kind, &str) {
        (self.kind, &self.name)
    }
}
