//! `selkie seal`

use anyhow::Result;

use crate::cmdline::Cmdline;
use crate::error::{Failure, FailureKind};
use crate::image::Resolved;
use crate::image_id::Algorithm;

/// Annotation of a sealed image: its boot image, as the kernel argument has it (`v1-sha256-12:<hex>`).
pub const BOOT_IMAGE: &str = "dev.selkie.boot-image";
/// Annotation of a sealed image: the recipe by which the boot image is made of the layers.
pub const RECIPE: &str = "dev.selkie.recipe";

/// The algorithm for a repository of `resolved`: what was asked for, else what a sealed image was sealed with.
///
/// # Errors
///
/// [`FailureKind::StoreMismatch`] where another algorithm is asked for than the image was sealed with, [`FailureKind::Unsuitable`] for an
/// annotation that cannot be read.
pub fn algorithm(resolved: &Resolved, asked: Option<Algorithm>) -> Result<Option<Algorithm>> {
    let Some(annotation) = resolved.label(BOOT_IMAGE) else { return Ok(asked) };
    let roots = Cmdline::parse(&format!("composefs.digest={annotation}")).root_images().ok();
    let Some([root]) = roots.as_deref() else {
        let message = format!("reading annotation {BOOT_IMAGE}: {annotation:?} (expected v1-<algorithm>-12:<digest>)");
        return Err(Failure::new(FailureKind::Unsuitable, message).hint("seal the image again").into());
    };
    let sealed = root.id.algorithm();
    match asked.filter(|asked| *asked != sealed) {
        None => Ok(Some(sealed)),
        Some(asked) => {
            let message =
                format!("choosing the fs-verity algorithm: {asked} was asked for (expected {sealed}, which the image was sealed with)");
            Err(Failure::new(FailureKind::StoreMismatch, message).hint("leave --algorithm out").into())
        }
    }
}
