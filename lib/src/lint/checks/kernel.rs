//! `kernel`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::error::{Failure, FailureKind};
use crate::store;

pub(super) const CHECK: Check = Check {
    id: "kernel",
    severity: Severity::Error,
    about: "there is not exactly one kernel /usr/lib/modules/VERSION/vmlinuz with initramfs.img beside it",
    mend: "keep one kernel, at /usr/lib/modules/VERSION/vmlinuz, and make its initramfs with dracut",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let Err(error) = store::kernel(subject.tree) else { return Ok(Vec::new()) };
    match Failure::find(&error) {
        Some(failure) if failure.kind == FailureKind::Unsuitable => Ok(vec![Found::of(failure).at("/usr/lib/modules")]),
        _ => Err(error),
    }
}
