//! `machine-id`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "machine-id",
    severity: Severity::Error,
    about: "the image has a machine id: all its machines would be one to DHCP servers, logs and whatever derives keys from it",
    mend: "echo uninitialized > /etc/machine-id as the last step, and remove /var/lib/dbus/machine-id",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
        // A link from one to the other is followed: what it says is said once.
        let is_link = matches!(subject.tree.get_link(path)?.map(|node| node.kind), Some(crate::store::NodeKind::Symlink(_)));
        let text = if is_link { None } else { subject.text(path)? };
        if text.is_some_and(|text| !matches!(text.trim(), "" | "uninitialized")) {
            found.push(Found::new(format!("{path} has a machine id (expected an empty file, or the word uninitialized)")).at(path));
        }
    }
    Ok(found)
}
