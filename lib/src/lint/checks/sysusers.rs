//! `sysusers`
//!
//! Ids below 100 are a distribution's own, the same in each of its images (Debian Policy 9.2.2, Fedora's uidgid), and the machine had them
//! before it could change a file; so they are not asked for, nor are those for nobody.

use std::collections::BTreeSet;

use anyhow::Result;

use super::accounts::{GROUP, PASSWD, lines};
use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "sysusers",
    severity: Severity::Warning,
    about: "a user or group of /etc/passwd or /etc/group is in no sysusers.d file: a machine whose administrator has changed that file keeps its own copy, \
            and never gets what later images add to it",
    mend: "declare it in /usr/lib/sysusers.d/NAME.conf (u NAME - \"what for\") and run systemd-sysusers in the Containerfile instead of useradd",
    look: Look::Tree(look),
};

/// Ids from here on are given out one by one.
const FIRST: u32 = 100;
/// nobody and nogroup, in 16 and in 32 bits.
const NOBODY: [u32; 3] = [65534, 65535, u32::MAX];

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let declared = subject.sysusers()?;
    let mut found = Vec::new();
    for (path, kind, declared) in [(PASSWD, "users", &declared.users), (GROUP, "groups", &declared.groups)] {
        let text = subject.text(path)?.unwrap_or_default();
        let missing = undeclared(&text, declared);
        if !missing.is_empty() {
            found.push(Found::new(format!("{kind} of {path} without a line in sysusers.d: {}", missing.join(", "))).at(path));
        }
    }
    Ok(found)
}

/// Both files have the id in their third field.
fn undeclared<'t>(text: &'t str, declared: &BTreeSet<String>) -> Vec<&'t str> {
    let given_out = |id: u32| id >= FIRST && !NOBODY.contains(&id);
    let names = lines(text).filter(|fields| fields.get(2).and_then(|id| id.parse().ok()).is_some_and(given_out)).map(|fields| fields[0]);
    names.filter(|name| !declared.contains(*name)).collect()
}
