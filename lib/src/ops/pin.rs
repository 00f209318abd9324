//! `selkie pin` and `selkie unpin`: a root that stays, however many come after it.

use anyhow::Result;
use serde::Serialize;

use super::host::Host;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The root.
    pub id: ImageId,
    /// Its number.
    pub number: Option<u64>,
    /// Whether it is pinned now.
    pub pinned: bool,
    /// Whether it was not before, or the other way round.
    pub changed: bool,
}

/// Pins the generation that `asked` names, or takes its pin away; the booted one by default.
///
/// # Errors
///
/// [`FailureKind::NotFound`] where there is none of that name, or only a boot entry without a deployment.
pub fn run(host: &Host, asked: Option<&str>, pinned: bool, progress: &dyn Progress) -> Result<Report> {
    let _lock = host.lock()?;
    let system = host.system()?;
    let id = asked.map_or(Ok(&system.booted), |asked| system.find(asked))?;
    let deployment = host.deployments()?.get(id)?.ok_or_else(|| {
        let message = format!("pinning {}: there is no deployment of it (expected one in state/deploy)", id.short());
        Failure::new(FailureKind::NotFound, message).hint("`selkie switch IMAGE` makes it anew")
    })?;
    let changed = deployment.is_pinned()? != pinned;
    if changed {
        if pinned {
            deployment.pin()?;
        } else {
            deployment.unpin()?;
        }
        progress.step(if pinned { "pin" } else { "unpin" });
    }
    Ok(Report { id: id.clone(), number: system.number(id), pinned, changed })
}
