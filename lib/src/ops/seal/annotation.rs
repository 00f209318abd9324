//! What a sealed image says of itself in the annotations of its manifest, so that it is known before a layer is fetched.

use anyhow::Result;

use crate::cmdline::{Cmdline, RootImage};
use crate::error::{Failure, FailureKind};
use crate::image::Resolved;
use crate::image_id::Algorithm;
use crate::store;

/// Annotation of a sealed image: its boot image, as the kernel argument has it (`v1-sha256-12:<hex>`).
pub const BOOT_IMAGE: &str = "dev.selkie.boot-image";
/// Annotation of a sealed image: the recipe by which the boot image is made of the layers.
pub const RECIPE: &str = "dev.selkie.recipe";

/// The annotations of an image that is sealed for `root`.
pub(super) fn annotations(root: &RootImage) -> Vec<(String, String)> {
    let description = format!("v1-{}-12:{}", root.id.algorithm(), root.id);
    vec![(BOOT_IMAGE.to_owned(), description), (RECIPE.to_owned(), store::RECIPE.to_string())]
}

/// Refuses an image whose recipe this version does not know: its boot image would come out otherwise.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`].
pub fn check_recipe(resolved: &Resolved) -> Result<()> {
    match resolved.annotation(RECIPE) {
        Some(recipe) if recipe != store::RECIPE.to_string() => {
            let message = format!("reading annotation {RECIPE}: {recipe:?} (expected {})", store::RECIPE);
            Err(Failure::new(FailureKind::Unsuitable, message)
                .hint("a newer selkie has sealed it: bring selkie on this machine up to date")
                .into())
        }
        _ => Ok(()),
    }
}

/// The algorithm that an image was sealed with; `None` for one that is not sealed.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`] for annotations that cannot be read, or of a recipe that is not known.
pub fn sealed_with(resolved: &Resolved) -> Result<Option<Algorithm>> {
    Ok(sealed_root(resolved)?.map(|root| root.id.algorithm()))
}

/// The root that a sealed image boots, as its manifest says; the layers are not looked at.
///
/// # Errors
///
/// Those of [`sealed_with`].
pub fn sealed_root(resolved: &Resolved) -> Result<Option<RootImage>> {
    check_recipe(resolved)?;
    let Some(annotation) = resolved.annotation(BOOT_IMAGE) else { return Ok(None) };
    let roots = Cmdline::parse(&format!("composefs.digest={annotation}")).root_images().ok();
    let Some([root]) = roots.as_deref() else {
        let message = format!("reading annotation {BOOT_IMAGE}: {annotation:?} (expected v1-<algorithm>-12:<digest>)");
        return Err(Failure::new(FailureKind::Unsuitable, message).hint("seal the image again").into());
    };
    Ok(Some(root.clone()))
}

/// The algorithm for a repository of `resolved`: `wanted`, else what the image was sealed with.
///
/// # Errors
///
/// [`FailureKind::StoreMismatch`] where `wanted` is another than the image was sealed with; those of [`sealed_with`].
pub fn algorithm(resolved: &Resolved, wanted: Option<Algorithm>) -> Result<Option<Algorithm>> {
    let sealed = sealed_with(resolved)?;
    match (wanted, sealed) {
        (Some(wanted), Some(sealed)) if wanted != sealed => {
            let message =
                format!("looking at the seal of {}: it is of {sealed} (expected {wanted}, as the repository)", resolved.reference);
            let hint = format!("seal the image with --algorithm {wanted}; a new machine or repository can have {sealed}");
            Err(Failure::new(FailureKind::StoreMismatch, message).hint(hint).into())
        }
        _ => Ok(wanted.or(sealed)),
    }
}
