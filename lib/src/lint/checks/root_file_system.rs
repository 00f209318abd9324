//! `root-file-system`

use super::{Check, Found, Look, Severity};
use crate::error::{Failure, FailureKind};

pub(super) const CHECK: Check = Check {
    id: "root-file-system",
    severity: Severity::Error,
    about: "the layers make no root file system that could be booted",
    mend: "build the image from a base image of an operating system, with an ordinary builder",
    look: Look::Import(look),
};

fn look(error: &anyhow::Error) -> Option<Found> {
    let failure = Failure::find(error).filter(|failure| failure.kind == FailureKind::Unsuitable)?;
    Some(Found { what: format!("{error:#}"), mend: failure.hint, ..Found::default() })
}
