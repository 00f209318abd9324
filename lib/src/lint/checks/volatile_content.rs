//! `volatile-content`

use anyhow::Result;

use super::container_marker::MARKERS;
use super::{Check, Found, Look, Severity, Subject};
use crate::store::NodeKind;

pub(super) const CHECK: Check = Check {
    id: "volatile-content",
    severity: Severity::Warning,
    about: "there are files in /run, /tmp, /var/tmp, /proc, /sys or /dev: a machine mounts something over them, or throws them away",
    mend: "remove them in the RUN that makes them (or mount: RUN --mount=type=tmpfs,target=/tmp); what a machine needs in /run, tmpfiles.d makes",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut paths = Vec::new();
    for top in ["/run", "/tmp", "/var/tmp", "/proc", "/sys", "/dev"] {
        paths.extend(subject.below(top, |path, node| {
            let marker = MARKERS.iter().any(|marker| path.as_os_str() == *marker);
            match &node.kind {
                NodeKind::Directory => false,
                // Base images have the usual devices and links in /dev. Empty files are what builders mount on.
                NodeKind::File(file) => file.size > 0 && !marker,
                _ => top != "/dev",
            }
        })?);
    }
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new("these never show on a machine").at_all(paths)] })
}
