//! `seal-annotations`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "seal-annotations",
    severity: Severity::Error,
    about: "what the image's annotations say of its seal cannot be read, or names a recipe of the digest that this selkie does not know: machines refuse \
            the image",
    mend: "seal the image with `selkie seal`, of a version that its machines know",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let refused = subject.image.and_then(|image| image.refused.clone());
    Ok(refused.map(Found::of).into_iter().collect())
}
