//! `boot-loader`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::error::{Failure, FailureKind};
use crate::store;

pub(super) const CHECK: Check = Check {
    id: "boot-loader",
    severity: Severity::Error,
    about: "systemd-boot is missing, which `selkie disk` puts on the ESP",
    mend: "install systemd-boot-efi (Debian) or systemd-boot-unsigned (Fedora) in the image",
    look: Look::Tree(look),
};

/// Where it is, for any architecture.
const DIRECTORY: &str = "/usr/lib/systemd/boot/efi";

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let Some(architecture) = subject.architecture() else { return any(subject) };
    let Err(error) = store::systemd_boot(subject.tree, architecture) else { return Ok(Vec::new()) };
    match Failure::find(&error) {
        Some(failure) if failure.kind == FailureKind::Unsuitable => Ok(vec![Found::of(failure)]),
        _ => Err(error),
    }
}

/// Nobody said for which architecture.
fn any(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let names = subject.tree.children(DIRECTORY)?;
    let found = names.iter().filter_map(|(name, _)| name.to_str()).any(|name| name.starts_with("systemd-boot"));
    Ok((!found).then(|| Found::new(format!("the image has no {DIRECTORY}/systemd-boot*.efi"))).into_iter().collect())
}
