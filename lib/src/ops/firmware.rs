//! Whether firmware that enforces Secure Boot will start what is to boot: known before anything depends on it.

use anyhow::Result;

use super::host::Host;
use super::stage::Bootable;
use crate::error::{Failure, FailureKind};
use crate::signing::database::Trust;
use crate::sys::efi::SecureBoot;

/// Refuses what this machine would not boot. It matters where Secure Boot is enforced and what runs was started by a unified kernel image of
/// ours: a plain kernel was let through by another chain of trust, of which nothing is known here.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`] for an image that is not sealed, not signed, or signed by someone whom the firmware does not trust.
pub(super) fn check_starts(host: &Host, bootable: &Bootable) -> Result<()> {
    if !matches!(host.secure_boot(), Ok(SecureBoot::Enforced)) {
        return Ok(());
    }
    if host.system()?.entry(host.booted()).is_none_or(|entry| entry.uki.is_none()) {
        return Ok(());
    }
    let refused = |found: String| {
        let message = format!("preparing the next boot: {found} (expected a sealed image that this machine's firmware starts)");
        Failure::new(FailureKind::Unsuitable, message)
    };
    match objection(&host.trust()?, bootable, &[])? {
        None => Ok(()),
        Some(found) => Err(refused(found).hint(HINT).into()),
    }
}

const HINT: &str = "seal the image with the key that the firmware trusts (selkie seal --key FILE --cert FILE), or enrol the certificate of the \
                    one that signed it; `mokutil --db` lists those that are enrolled";

/// What firmware that goes by `trust` would not start of an image, and why; `None` if it starts everything: the unified kernel image, its
/// addons, and `more` (each with its name).
pub(super) fn objection(trust: &Trust, bootable: &Bootable, more: &[(&str, &[u8])]) -> Result<Option<String>> {
    if bootable.seal().is_none() {
        return Ok(Some("the image is not sealed".to_owned()));
    }
    let files = bootable.checked_files()?;
    let files = more.iter().copied().chain(files.iter().map(|(name, bytes)| (*name, bytes.as_slice())));
    Ok(files.filter_map(|(name, bytes)| Some(format!("{name} is {}", trust.objection(bytes)?))).next())
}
