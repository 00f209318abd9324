//! Finding out that there is no news, as most upgrades do, by one request: skopeo is not started, and no manifest is fetched.

use super::{Options, Outcome, Report, followed};
use crate::image;
use crate::origin::Origin;
use crate::reference::ImageReference;
use crate::system::System;

/// The report where the reference names what boots next already. `None` where it does not, or where that cannot be found out in this way: then the image is
/// resolved, and whatever is wrong is told. The signature policy is not asked; nothing is taken that it has not let pass before.
pub(super) async fn none(system: &System, reference: &ImageReference, options: &Options) -> Option<Report> {
    let origin = current(system, reference).filter(|_| options.source.architecture.is_none())?;
    let digest = image::digest_of_tag(reference, &options.source).await.ok()?;
    (digest == *named(origin)).then(|| Report {
        outcome: Outcome::UpToDate,
        image: origin.image.clone(),
        from_manifest: Some(origin.manifest_digest.clone()),
        to_manifest: origin.manifest_digest.clone(),
        version: origin.os_version.clone(),
        reboot_needed: system.staged().is_some(),
        staged: None,
        failed: None,
        pulled: None,
    })
}

/// Where what boots next came from, if it can boot and follows this reference.
fn current<'a>(system: &'a System, reference: &ImageReference) -> Option<&'a Origin> {
    system.default_entry().filter(|entry| system.can_boot(entry))?;
    system.origin(followed(system)).ok().filter(|origin| origin.image == reference.to_string())
}

/// What a tag names: an index, where one led to the manifest.
fn named(origin: &Origin) -> &String {
    origin.index_digest.as_ref().unwrap_or(&origin.manifest_digest)
}
