//! `upgrade-programs`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "upgrade-programs",
    severity: Severity::Warning,
    about: "selkie or skopeo is missing: a machine that runs this image cannot upgrade from a registry, nor go back by itself",
    mend: "copy selkie into the image (COPY --from=selkie-dist / /) and install skopeo",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in ["/usr/bin/selkie", "/usr/bin/skopeo"] {
        if subject.tree.file(path)?.is_none() {
            found.push(Found::new(format!("{path} is missing")).at(path));
        }
    }
    Ok(found)
}
