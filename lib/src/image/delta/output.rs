//! Whether a delta can be written somewhere, found out before the work.

use anyhow::Result;
use serde_json::Value;

use super::MEDIA_TYPE;
use crate::error::{Failure, FailureKind};
use crate::image::output::{self, Kind, OutputOptions};
use crate::image::{SourceOptions, proxy};
use crate::reference::{ImageReference, Transport};

/// Whether a delta can be written to `output`: for a caller who wants to know before a long preparation. A registry is not asked.
///
/// # Errors
///
/// Those of [`check_output`](crate::image::check_output), except that a delta in a layout needs no tag; and [`FailureKind::Usage`] for
/// `containers-storage:`, which keeps images only.
pub fn check_delta_output(output: &ImageReference) -> Result<()> {
    if output.transport() == Transport::ContainersStorage {
        let message = format!("writing {output}: this storage keeps images, and a delta is none");
        return Err(Failure::new(FailureKind::Usage, message).hint("write it to a registry, an oci: layout or an oci-archive:").into());
    }
    output::check(output, Kind::Artifact)
}

/// Asks the registry of `output`, where it is in one, whether its tag is free for a delta: so that credentials that are missing, a name that leads
/// nowhere and a tag that is in use are found before a long preparation.
///
/// # Errors
///
/// Those of asking; [`FailureKind::Usage`] where the tag names something that is no delta.
pub async fn check_delta_tag(output: &ImageReference, options: &OutputOptions) -> Result<()> {
    if output.transport() != Transport::Registry {
        return Ok(());
    }
    let OutputOptions { authfile, tls_verify } = options.clone();
    let manifest = match proxy::raw(output, &SourceOptions { authfile, tls_verify, ..SourceOptions::default() }).await {
        Ok(manifest) => manifest,
        Err(error) if Failure::find(&error).is_some_and(|failure| failure.kind == FailureKind::NotFound) => return Ok(()),
        Err(error) => return Err(error),
    };
    let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
    if manifest["artifactType"] == MEDIA_TYPE {
        return Ok(());
    }
    let message = format!("writing {output}: this tag names something that is no delta (expected a new tag, or one of a delta)");
    Err(Failure::new(FailureKind::Usage, message).hint("name a tag for the delta; hosts find it by the image, whatever its tag").into())
}
