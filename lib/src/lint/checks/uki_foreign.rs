//! `uki-foreign`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::uki::Kind;

pub(super) const CHECK: Check = Check {
    id: "uki-foreign",
    severity: Severity::Warning,
    about: "there is a unified kernel image that names no composefs root: it is no seal, and no machine starts it",
    mend: "keep the distribution from making one (kernel-install: layout=other), remove it in the RUN that makes it, and seal with `selkie seal`",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let foreign = subject.ukis()?.iter().filter(|binary| {
        let is_image = binary.read.as_ref().is_ok_and(|uki| uki.kind == Kind::Image);
        is_image && binary.roots().is_ok_and(|roots| roots.is_empty())
    });
    let paths: Vec<String> = foreign.map(|binary| binary.path.clone()).collect();
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new("its command line names no root").at_all(paths)] })
}
