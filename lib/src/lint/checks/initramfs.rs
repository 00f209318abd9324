//! `initramfs`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::initramfs::{Contents, PROGRAM};

pub(super) const CHECK: Check = Check {
    id: "initramfs",
    severity: Severity::Error,
    about: "the initramfs cannot be read, or lacks what puts the root together: selkie-initramfs and the unit that starts it",
    mend: "copy selkie's dracut module into the image (COPY --from=selkie-dist / /), then run dracut again as the last step",
    look: Look::Tree(look),
};

const UNIT: &str = "usr/lib/systemd/system/selkie-setup-root.service";
/// The links that make the unit a part of the boot.
const WANTED: [&str; 2] = [
    "etc/systemd/system/initrd-root-fs.target.requires/selkie-setup-root.service",
    "usr/lib/systemd/system/initrd-root-fs.target.requires/selkie-setup-root.service",
];

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let Some(kernel) = subject.kernel()? else { return Ok(Vec::new()) };
    let Some(initramfs) = subject.initramfs()? else { return Ok(Vec::new()) };
    let found = match initramfs {
        Err(unreadable) => vec![Found::new(format!("it cannot be read: {unreadable}"))],
        Ok(contents) => missing(contents).into_iter().map(|what| Found::new(format!("it lacks {what}"))).collect(),
    };
    let path = format!("/usr/lib/modules/{}/initramfs.img", kernel.version);
    Ok(found.into_iter().map(|found| found.at(path.clone())).collect())
}

fn missing(contents: &Contents) -> Vec<String> {
    let mut missing: Vec<String> = [PROGRAM, UNIT].into_iter().filter(|path| !contents.has(path)).map(|path| format!("/{path}")).collect();
    if missing.is_empty() && !WANTED.iter().any(|path| contents.has(path)) {
        missing.push(format!("the link /{} that starts the unit", WANTED[0]));
    }
    missing
}
