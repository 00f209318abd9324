//! Finding out that there is no news, as most upgrades do, by one request: skopeo is not started, and no manifest is fetched.

use super::{Options, Plan, Report, followed, wanted};
use crate::image;
use crate::origin::Origin;
use crate::reference::ImageReference;
use crate::system::System;

/// The report where the reference names what boots next already. `None` where it does not, or where that cannot be found out in this way: then the image is
/// resolved, and whatever is wrong is told. The signature policy is not asked; nothing is taken that it has not let pass before.
pub(super) async fn none(system: &System, reference: &ImageReference, options: &Options) -> Option<Report> {
    let origin = system.origin(followed(system)).ok()?;
    let stays = wanted(system, &reference.to_string(), &origin.manifest_digest) == Plan::Nothing;
    if !stays || options.source.architecture.is_some() {
        return None;
    }
    let digest = image::digest_of_tag(reference, &options.source).await.ok()?;
    (digest == *named(origin)).then(|| Report {
        reboot_needed: system.staged().is_some(),
        ..Report::up_to_date(system, origin.image.clone(), origin.manifest_digest.clone(), origin.os_version.clone())
    })
}

/// What a tag names: an index, where one led to the manifest.
fn named(origin: &Origin) -> &String {
    origin.index_digest.as_ref().unwrap_or(&origin.manifest_digest)
}
