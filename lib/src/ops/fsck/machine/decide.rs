//! What is wrong with the machine, and what would mend it. Pure.

use super::facts::Facts;
use super::{deployments, entries, kernels};
use crate::boot::Tries;
use crate::finding::{Damage, Finding, Kind, Remedy};
use crate::image_id::ImageId;

/// A finding, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) finding: Finding,
    /// `None` where nothing that is allowed here does.
    pub(super) action: Option<Action>,
}

/// Something that mends one finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Make a deployment whose first boot carries /etc from another one, where there is one.
    MakeDeployment { id: ImageId, etc_from: Option<ImageId> },
    /// Write the origin of a deployment that is there.
    WriteOrigin { id: ImageId },
    /// Make an empty directory of local changes.
    MakeUpper { id: ImageId },
    /// Ask the first boot to carry /etc.
    RequestEtc { id: ImageId, from: ImageId },
    /// Remove temporaries of the state directory.
    SweepState,
    /// Write a kernel, an initramfs or a unified kernel image again, as the image of a root has it.
    RestoreFile { path: String, root: ImageId },
    /// Make an entry, in place of what has its name.
    RestoreEntry(Standing),
    /// Give an entry another counter.
    SetCounter { file: String, id: String, tries: Option<Tries> },
    /// Remove an entry that is of no use.
    RemoveEntry { file: String },
    /// Remove something that no entry needs.
    RemoveFile { path: String },
    /// Take the choice of one boot out of the firmware.
    ForgetOnce,
}

/// An entry's place among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// The root.
    pub(super) root: ImageId,
    /// Order of activation.
    pub(super) serial: u64,
    /// Boot counting.
    pub(super) tries: Option<Tries>,
    /// The entry file that is no more once this one is there. Mostly they have the same name.
    pub(super) instead_of: Option<String>,
}

/// Everything that is wrong, what others need first.
pub(super) fn decide(facts: &Facts) -> Vec<Decided> {
    let mut decided = deployments::decide(facts);
    let entries = entries::decide(facts);
    decided.extend(kernels::decide(facts, &entries));
    decided.extend(entries);
    decided
}

/// A finding that `action` mends.
pub(super) fn mended(kind: Kind, name: impl Into<String>, damage: Damage, message: String, action: Action) -> Decided {
    let remedy = match action {
        Action::SweepState | Action::RemoveEntry { .. } | Action::RemoveFile { .. } | Action::ForgetOnce => Remedy::Remove,
        _ => Remedy::Rebuild,
    };
    Decided { finding: Finding::new(kind, name, damage, message, remedy), action: Some(action) }
}

/// A finding whose message says what to do.
pub(super) fn told(kind: Kind, name: impl Into<String>, damage: Damage, message: String) -> Decided {
    Decided { finding: Finding::new(kind, name, damage, message, Remedy::None), action: None }
}
