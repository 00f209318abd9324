//! `var-content`
//!
//! `/var` of a new disk begins as a copy of the image's; after that no upgrade touches it. So a machine that was installed from an older
//! image never sees what a later one has there, unless something makes it at boot. What belongs to package managers is not asked for,
//! because nobody runs them on the machine, nor are the directories that every distribution has; other checks tell of logs, caches and
//! leftovers.

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store::NodeKind;

pub(super) const CHECK: Check = Check {
    id: "var-content",
    severity: Severity::Warning,
    about: "something in /var is made by nothing at boot: machines that were installed from an older image do not get it, and no upgrade changes it",
    mend: "declare directories and links in /usr/lib/tmpfiles.d (d /var/lib/x 0755 root root -) or by StateDirectory= of the unit; ship files in \
           /usr and copy them by a C line",
    look: Look::Tree(look),
};

/// Directories of the Filesystem Hierarchy Standard and of distributions' base packages: they may be there or not.
const COMMON: [&str; 19] = [
    "/var/adm",
    "/var/backups",
    "/var/cache",
    "/var/db",
    "/var/empty",
    "/var/games",
    "/var/lib",
    "/var/lib/misc",
    "/var/lib/private",
    "/var/lib/systemd",
    "/var/local",
    "/var/lock",
    "/var/log",
    "/var/mail",
    "/var/opt",
    "/var/run",
    "/var/spool",
    "/var/spool/mail",
    "/var/tmp",
];

/// State of package managers and of the tools that packages call while they are installed, and what other checks look at.
const PASSED_OVER: [&str; 29] = [
    "/var/.updated",
    "/var/cache/adduser",
    "/var/cache/apt",
    "/var/cache/debconf",
    "/var/cache/dnf",
    "/var/cache/ldconfig",
    "/var/cache/libdnf5",
    "/var/cache/man",
    "/var/cache/yum",
    "/var/lib/alternatives",
    "/var/lib/apt",
    "/var/lib/dbus",
    "/var/lib/dnf",
    "/var/lib/dpkg",
    "/var/lib/dracut",
    "/var/lib/pacman",
    "/var/lib/pam",
    "/var/lib/rpm",
    "/var/lib/rpm-state",
    "/var/lib/selinux",
    "/var/lib/shells.state",
    "/var/lib/systemd/catalog",
    "/var/lib/systemd/deb-systemd-helper-enabled",
    "/var/lib/systemd/deb-systemd-helper-masked",
    "/var/lib/systemd/deb-systemd-user-helper-enabled",
    "/var/lib/systemd/random-seed",
    "/var/lib/ucf",
    "/var/lib/urandom",
    "/var/log/apt",
];

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut paths = Vec::new();
    list(subject, "/var", &mut paths)?;
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new("nothing makes this at boot").at_all(paths)] })
}

/// Collects the topmost paths that nothing makes.
fn list(subject: &Subject<'_>, directory: &str, paths: &mut Vec<String>) -> Result<()> {
    for (name, node) in subject.tree.children(directory)? {
        let path = format!("{directory}/{}", name.to_string_lossy());
        let is_directory = matches!(node.kind, NodeKind::Directory);
        if PASSED_OVER.contains(&path.as_str()) || belongs_to_another_check(&path, is_directory) {
            continue;
        }
        if !COMMON.contains(&path.as_str()) && !subject.tmpfiles()?.makes(&path) {
            paths.push(path);
        } else if is_directory {
            list(subject, &path, paths)?;
        }
    }
    Ok(())
}

/// Logs, temporary files, and secrets of one machine.
fn belongs_to_another_check(path: &str, is_directory: bool) -> bool {
    path.starts_with("/var/tmp/")
        || path.starts_with("/var/run/")
        || (path.starts_with("/var/log/") && !is_directory)
        || path == "/var/lib/systemd/credential.secret"
}
