//! `usr-etc`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "usr-etc",
    severity: Severity::Warning,
    about: "there is /usr/etc, which is how an ostree deployment keeps its /etc: selkie never reads it",
    mend: "put configuration into /etc and remove /usr/etc",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let there = subject.tree.get_link("/usr/etc")?.is_some();
    Ok(there.then(|| Found::new("there is /usr/etc beside /etc").at("/usr/etc")).into_iter().collect())
}
