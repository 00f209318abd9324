//! `mount-points`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

/// Directories that the store makes where an image has none.
pub(super) const MADE: [&str; 2] = ["/boot", "/sysroot"];

pub(super) const CHECK: Check = Check {
    id: "mount-points",
    severity: Severity::Warning,
    about: "/boot or /sysroot is missing: selkie makes it, other tools (cfsctl, bootc) do not, and compute another boot image",
    mend: "make it an empty directory in the Containerfile",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in MADE {
        if subject.tree.get_link(path)?.is_none() {
            found.push(Found::new(format!("{path} is missing")).at(path));
        }
    }
    Ok(found)
}
