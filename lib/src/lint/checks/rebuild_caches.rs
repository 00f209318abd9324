//! `rebuild-caches`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::subject::text_of;
use crate::store::{File, NodeKind};

pub(super) const CHECK: Check = Check {
    id: "rebuild-caches",
    severity: Severity::Info,
    about: "generated files differ from build to build, whatever the times are: caches, databases with times in them, compiled Python that names the \
            time of its source",
    mend: "remove what is made again when it is missing; compile Python with --invalidation-mode unchecked-hash",
    look: Look::Tree(look),
};

/// Files that have times, inode numbers or an order of their own in them.
const FILES: [&str; 12] = [
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/usr/lib/sysimage/rpm/rpmdb.sqlite-shm",
    "/usr/share/applications/mimeinfo.cache",
    "/var/cache/ldconfig/aux-cache",
    "/var/cache/man/index.db",
    "/var/lib/dnf/history.sqlite",
    "/var/lib/dpkg/status-old",
    "/var/lib/dpkg/available-old",
];
const DAY: i64 = 86400;
/// Paths that are named.
const NAMED: usize = 20;

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut caches = Vec::new();
    for path in FILES {
        if subject.tree.file(path)?.is_some_and(|file| file.size > 0) {
            caches.push(path.to_owned());
        }
    }
    if !caches.is_empty() {
        found.push(Found::new("caches and backups of the build").at_all(caches));
    }
    let compiled = compiled_python(subject)?;
    if !compiled.is_empty() {
        let what = format!("{} files of compiled Python name a source of the day of the build", compiled.len());
        found.push(Found::new(what).at_all(compiled.into_iter().take(NAMED)));
    }
    Ok(found)
}

/// Compiled files that are checked by the time of their source, where that time is one of the build.
fn compiled_python(subject: &Subject<'_>) -> Result<Vec<String>> {
    let Some(created) = subject.image.and_then(|image| image.created) else { return Ok(Vec::new()) };
    let mut paths = Vec::new();
    subject.tree.walk("/usr", |path, node| {
        if let NodeKind::File(file) = &node.kind
            && path.extension().is_some_and(|extension| extension == "pyc")
            && source_time(subject, file)?.is_some_and(|time| time > created - DAY)
        {
            paths.push(text_of(path));
        }
        Ok(())
    })?;
    Ok(paths)
}

/// The time of the source in the header of a compiled file (PEP 552): magic, flags, then time and size where the flags are 0.
fn source_time(subject: &Subject<'_>, file: &File) -> Result<Option<i64>> {
    let header = subject.start(file, 12)?;
    let Ok(header) = <[u8; 12]>::try_from(header) else { return Ok(None) };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Ok((word(4) == 0).then(|| word(8).into()))
}
