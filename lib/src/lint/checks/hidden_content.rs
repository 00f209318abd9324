//! `hidden-content`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store::NodeKind;

pub(super) const CHECK: Check = Check {
    id: "hidden-content",
    severity: Severity::Warning,
    about: "there are files in /boot (other than /boot/EFI, where sealed images have theirs) or in /sysroot: no machine sees them, and all fetch them",
    mend: "move kernels from /boot to /usr/lib/modules/VERSION/vmlinuz, remove the rest, both in the RUN that installs them",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut paths = Vec::new();
    for top in ["/boot", "/sysroot"] {
        paths.extend(subject.below(top, |path, node| {
            !matches!(node.kind, NodeKind::Directory) && !path.starts_with("/boot/EFI") && !path.starts_with("/boot/loader")
        })?);
    }
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new("these never show on a machine").at_all(paths)] })
}
