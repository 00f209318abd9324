//! `uki-recipe`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store::RECIPE;

pub(super) const CHECK: Check = Check {
    id: "uki-recipe",
    severity: Severity::Warning,
    about: "a sealed image does not say by which recipe its digest was computed, or names one that this selkie does not know: machines may compute another",
    mend: "seal the image with `selkie seal`, which writes the annotation dev.selkie.recipe, of a version that its machines know",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let Some(image) = subject.image else { return Ok(Vec::new()) };
    let mut seals = subject.ukis()?.iter().filter(|binary| binary.roots().is_ok_and(|roots| !roots.is_empty()));
    let Some(seal) = seals.next() else { return Ok(Vec::new()) };
    let found = match image.recipe.as_deref() {
        Some(RECIPE) => return Ok(Vec::new()),
        Some(other) => format!("the image was sealed by recipe {other:?} (expected {RECIPE:?})"),
        None => "the image does not say by which recipe it was sealed".to_owned(),
    };
    Ok(vec![Found::new(found).at(&*seal.path)])
}
