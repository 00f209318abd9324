//! `logs`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::subject::file_size;

pub(super) const CHECK: Check = Check {
    id: "logs",
    severity: Severity::Warning,
    about: "there are logs of the build in /var/log: they get into the logs of new machines, and each build has others",
    mend: "find /var/log -type f -delete in the RUN that writes them",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let paths = subject.below("/var/log", |_, node| file_size(node).is_some_and(|size| size > 0))?;
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new("logs of the build").at_all(paths)] })
}
