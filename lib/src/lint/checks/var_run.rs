//! `var-run`

use std::ffi::OsStr;

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store::NodeKind;

pub(super) const CHECK: Check = Check {
    id: "var-run",
    severity: Severity::Warning,
    about: "/var/run is not a link to /run: what programs write there survives boots, and others do not find it",
    mend: "rm -rf /var/run and ln -s /run /var/run in the Containerfile",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let found = match subject.tree.get_link("/var/run")?.map(|node| node.kind) {
        // systemd makes the link where there is nothing.
        None => return Ok(Vec::new()),
        Some(NodeKind::Symlink(target)) if [OsStr::new("/run"), OsStr::new("../run")].contains(&target.as_os_str()) => {
            return Ok(Vec::new());
        }
        Some(NodeKind::Symlink(target)) => format!("/var/run is a link to {}", target.to_string_lossy()),
        Some(_) => "/var/run is not a link".to_owned(),
    };
    Ok(vec![Found::new(format!("{found} (expected a link to /run)")).at("/var/run")])
}
