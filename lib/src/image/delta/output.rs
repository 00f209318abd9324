//! Whether a delta can be written somewhere, found out before the work.

use anyhow::Result;

use crate::error::{Failure, FailureKind};
use crate::image::output::{self, OutputKind};
use crate::reference::{ImageReference, Transport};

/// The tag of a reference to a registry that has none.
const IMPLIED: &str = "latest";

/// Whether a delta can be written to `output`: for a caller who wants to know before a long preparation. A registry is not asked, see
/// [`check_named`](crate::image::check_named).
///
/// # Errors
///
/// Those of [`check_output`](crate::image::check_output), except that a delta in a layout needs no tag; and [`FailureKind::Usage`] for
/// `containers-storage:`, which keeps images only, and for the tag `latest` of a registry.
pub fn check_delta_output(output: &ImageReference) -> Result<()> {
    let refused = |why: &str, hint: &str| Err(Failure::new(FailureKind::Usage, format!("writing {output}: {why}")).hint(hint).into());
    match (output.transport(), output.tag()) {
        (Transport::ContainersStorage, _) => {
            refused("this storage keeps images, and a delta is none", "write it to a registry, an oci: layout or an oci-archive:")
        }
        (Transport::Registry, Some(IMPLIED)) => refused(
            "latest, which a reference without a tag means, is the tag of images (expected one of the delta's own)",
            &format!("name a tag for the delta, such as {}:delta-FROM-TO; hosts find it by the image, whatever its tag", output.name()),
        ),
        _ => output::check(output, OutputKind::Delta),
    }
}
