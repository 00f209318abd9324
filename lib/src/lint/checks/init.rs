//! `init`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store;

pub(super) const CHECK: Check = Check {
    id: "init",
    severity: Severity::Error,
    about: "there is no init program for the initramfs to hand over to",
    mend: "install systemd (Debian: systemd-sysv)",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let has = store::has_init(subject.tree)?;
    Ok((!has).then(|| Found::new("there is neither /sbin/init nor /usr/lib/systemd/systemd")).into_iter().collect())
}
