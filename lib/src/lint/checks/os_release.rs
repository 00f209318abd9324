//! `os-release`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store;

pub(super) const CHECK: Check = Check {
    id: "os-release",
    severity: Severity::Warning,
    about: "os-release is missing, or does not say what system (ID) and which version (VERSION_ID or IMAGE_VERSION) this is: the boot menu cannot tell \
            two images apart",
    mend: "write /usr/lib/os-release, with IMAGE_VERSION where VERSION_ID does not change from build to build: os-release(5)",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    const PATH: &str = "/usr/lib/os-release";
    if subject.tree.file("/etc/os-release")?.is_none() && subject.tree.file(PATH)?.is_none() {
        return Ok(vec![Found::new("there is neither /etc/os-release nor /usr/lib/os-release")]);
    }
    let release = store::os_release(subject.tree)?;
    let mut missing = Vec::new();
    if release.id.is_none() {
        missing.push("ID");
    }
    if release.version_id.is_none() && release.image_version.is_none() {
        missing.push("VERSION_ID or IMAGE_VERSION");
    }
    Ok(if missing.is_empty() { Vec::new() } else { vec![Found::new(format!("it has no {}", missing.join(" and no "))).at(PATH)] })
}
