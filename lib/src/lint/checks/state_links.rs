//! `state-links`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store::NodeKind;

pub(super) const CHECK: Check = Check {
    id: "state-links",
    severity: Severity::Warning,
    about: "/home or /root is a directory of the read-only root, in which nothing can be written",
    mend: "make it a link into /var, and what it leads to by tmpfiles.d: ln -s var/home /home; echo 'd /var/home 0755 - - -' > /usr/lib/tmpfiles.d/home.conf (of /root: var/roothome, 0700)",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in ["/home", "/root"] {
        let is_directory = matches!(subject.tree.get_link(path)?.map(|node| node.kind), Some(NodeKind::Directory));
        if is_directory && !is_mounted_on(subject, path)? {
            found.push(Found::new(format!("{path} is a directory on the read-only root")).at(path));
        }
    }
    Ok(found)
}

/// Whether the image says that another file system is mounted there.
fn is_mounted_on(subject: &Subject<'_>, path: &str) -> Result<bool> {
    let unit = format!("{}.mount", path.trim_start_matches('/'));
    for directory in ["/etc/systemd/system", "/usr/lib/systemd/system"] {
        if subject.tree.file(format!("{directory}/{unit}"))?.is_some() {
            return Ok(true);
        }
    }
    let fstab = subject.text("/etc/fstab")?.unwrap_or_default();
    Ok(fstab.lines().filter(|line| !line.trim_start().starts_with('#')).any(|line| line.split_whitespace().nth(1) == Some(path)))
}
