//! The answer of a check.

use serde::Serialize;

use crate::finding::Finding;

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Checked {
    /// Objects that were read and hashed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// EROFS images.
    pub images: u64,
    /// Streams of layers, configurations and manifests.
    pub streams: u64,
    /// Tags.
    pub tags: u64,
    /// Deployments.
    pub deployments: u64,
    /// Boot entries of ours.
    pub entries: u64,
}

impl Checked {
    /// The larger of each number: a later look reads less, and sees more of what an earlier one could not reach.
    pub(super) fn or_more(&self, other: &Self) -> Self {
        Self {
            objects: self.objects.max(other.objects),
            bytes: self.bytes.max(other.bytes),
            images: self.images.max(other.images),
            streams: self.streams.max(other.streams),
            tags: self.tags.max(other.tags),
            deployments: self.deployments.max(other.deployments),
            entries: self.entries.max(other.entries),
        }
    }
}

/// How the bytes of a layer were fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// Only the parts of the layer that hold the damaged objects.
    Ranges,
    /// The whole layer: where it comes from, or its format, allows nothing less.
    WholeLayer,
}

/// What a repair fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fetched {
    /// The image.
    pub image: String,
    /// Digest of the layer's blob.
    pub layer: String,
    /// How much of it.
    pub means: Means,
    /// Bytes that were fetched.
    pub bytes: u64,
    /// Why it was the whole layer.
    pub reason: Option<String>,
}

/// The answer in a word. Decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing was found.
    Clean,
    /// Damage was found, and all of it repaired.
    Repaired,
    /// Damage was found and is still there.
    Damaged,
    /// No damage is left in what was looked at, and a part could not be looked at.
    Unchecked,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// In a word.
    pub verdict: Verdict,
    /// What is damaged, or was: the repository first, then the machine.
    pub findings: Vec<Finding>,
    /// What was looked at.
    pub checked: Checked,
    /// What could not be looked at, and why.
    pub unchecked: Vec<String>,
    /// What was fetched to repair it.
    pub fetched: Vec<Fetched>,
}
