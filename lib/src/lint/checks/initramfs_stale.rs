//! `initramfs-stale`

use anyhow::{Context, Result};
use openssl::sha::Sha256;
use std::io::Read;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::initramfs::PROGRAM;

pub(super) const CHECK: Check = Check {
    id: "initramfs-stale",
    severity: Severity::Warning,
    about: "the selkie-initramfs in the initramfs is another one than the image's: dracut was run before selkie was replaced",
    mend: "run dracut after the last change of what goes into the initramfs",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let Some(Ok(contents)) = subject.initramfs()? else { return Ok(Vec::new()) };
    let path = format!("/{PROGRAM}");
    let (Some(inside), Some(file)) = (contents.program(), subject.tree.file(&path)?) else { return Ok(Vec::new()) };
    let mut hash = Sha256::new();
    let mut bytes = subject.tree.open(&file)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match bytes.read(&mut buffer).with_context(|| format!("reading {path}"))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let what = format!("{path} is another program than the one in the initramfs");
    Ok((hash.finish() != inside).then(|| Found::new(what).at(path)).into_iter().collect())
}
