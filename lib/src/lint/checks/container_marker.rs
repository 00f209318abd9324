//! `container-marker`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "container-marker",
    severity: Severity::Warning,
    about: "a file that marks containers was left behind: programs, systemd among them, take a machine with /.dockerenv for a container and leave things out",
    mend: "remove it in the last RUN; /run/.containerenv goes away with a builder that mounts /run (buildah)",
    look: Look::Tree(look),
};

pub(super) const MARKERS: [&str; 3] = ["/.dockerenv", "/.dockerinit", "/run/.containerenv"];

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in MARKERS {
        if subject.tree.get_link(path)?.is_some() {
            found.push(Found::new(format!("there is {path}")).at(path));
        }
    }
    Ok(found)
}
