//! `uki-verity`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "uki-verity",
    severity: Severity::Error,
    about: "a unified kernel image names its root with `?`, which lets it boot where nothing checks the files: who can write to the disk can change them",
    mend: "seal the image again without the question mark: composefs.digest=v1-sha256-12:…",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for binary in subject.ukis()? {
        // A root that cannot be read is for the check `uki-digest` to tell.
        if binary.roots().is_ok_and(|roots| roots.iter().any(|root| !root.verity_required)) {
            found.push(Found::new("it does not insist on fs-verity").at(&*binary.path));
        }
    }
    Ok(found)
}
