//! `world-writable`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store::NodeKind;

pub(super) const CHECK: Check = Check {
    id: "world-writable",
    severity: Severity::Error,
    about: "every user may change a file in /etc or /var, or remove what others put into a directory there",
    mend: "chmod o-w it in the Containerfile; a directory that is for everyone needs the sticky bit (chmod 1777)",
    look: Look::Tree(look),
};

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o002;

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut paths = Vec::new();
    for top in ["/etc", "/var"] {
        paths.extend(subject.below(top, |_, node| {
            let open = node.mode & OTHERS_WRITE != 0;
            match node.kind {
                NodeKind::File(_) => open,
                NodeKind::Directory => open && node.mode & STICKY == 0,
                _ => false,
            }
        })?);
    }
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new("every user may write here").at_all(paths)] })
}
