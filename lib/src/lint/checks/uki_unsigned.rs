//! `uki-unsigned`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "uki-unsigned",
    severity: Severity::Warning,
    about: "a unified kernel image or an addon is not signed: with Secure Boot it does not start, and without nothing protects it",
    mend: "seal the image with --key and --cert, or --sign-command",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let unsigned = subject.ukis()?.iter().filter(|binary| binary.read.as_ref().is_ok_and(|uki| !uki.signed));
    let paths: Vec<String> = unsigned.map(|binary| binary.path.clone()).collect();
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new("not signed").at_all(paths)] })
}
