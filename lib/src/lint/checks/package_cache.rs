//! `package-cache`

use std::path::Path;

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::subject::file_size;

pub(super) const CHECK: Check = Check {
    id: "package-cache",
    severity: Severity::Warning,
    about: "package lists, downloaded packages or build caches were left behind: every machine fetches them, and each build has others",
    mend: "remove them in the RUN that fetches them: apt-get clean and rm -rf /var/lib/apt/lists/*, dnf clean all, pip --no-cache-dir",
    look: Look::Tree(look),
};

/// All that is in them can be fetched again.
const CACHES: [&str; 13] = [
    "/root/.cache",
    "/root/.cargo/registry",
    "/root/.npm",
    "/var/cache/apk",
    "/var/cache/apt",
    "/var/cache/dnf",
    "/var/cache/libdnf5",
    "/var/cache/pacman/pkg",
    "/var/cache/yum",
    "/var/cache/zypp",
    "/var/lib/apt/lists",
    "/var/lib/dnf/repos",
    "/var/lib/libdnf5/repos",
];

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for cache in CACHES {
        let (mut files, mut bytes) = (0_u64, 0_u64);
        subject.below(cache, |path: &Path, node| {
            let size = file_size(node).filter(|_| path.file_name().is_none_or(|name| name != "lock")).unwrap_or(0);
            files += u64::from(size > 0);
            bytes += size;
            false
        })?;
        if files > 0 {
            found.push(Found::new(format!("{cache} has {files} files of {bytes} bytes")).at(cache));
        }
    }
    Ok(found)
}
