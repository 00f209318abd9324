//! `volatile-content`
//!
//! Only files with something in them count: empty ones are what builders mount on, and base images have directories, devices and links
//! there.

use anyhow::Result;

use super::container_marker::MARKERS;
use super::{Check, Found, Look, Severity, Subject};
use crate::lint::subject::file_size;

pub(super) const CHECK: Check = Check {
    id: "volatile-content",
    severity: Severity::Warning,
    about: "there are files in /run, /tmp, /var/tmp, /proc, /sys or /dev: a machine mounts something over them, or throws them away",
    mend: "remove them in the RUN that makes them (or mount: RUN --mount=type=tmpfs,target=/tmp); what a machine needs in /run, tmpfiles.d makes",
    look: Look::Tree(look),
};

/// What buildah and podman write through the link /etc/resolv.conf while they build. No instruction can remove it, and no boot image has
/// it.
const BUILDER: &str = "/run/systemd/resolve/stub-resolv.conf";

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut paths = Vec::new();
    for top in ["/run", "/tmp", "/var/tmp", "/proc", "/sys", "/dev"] {
        paths.extend(subject.below(top, |path, node| {
            let known = [BUILDER].iter().chain(&MARKERS).any(|known| path.as_os_str() == *known);
            file_size(node).is_some_and(|size| size > 0 && !known)
        })?);
    }
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new("these never show on a machine").at_all(paths)] })
}
