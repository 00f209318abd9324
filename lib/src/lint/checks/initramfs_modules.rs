//! `initramfs-modules`

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::initramfs::Contents;

pub(super) const CHECK: Check = Check {
    id: "initramfs-modules",
    severity: Severity::Error,
    about: "the initramfs lacks a kernel module that the root is made of (erofs, overlay, ext4), or what such a module depends on, and the kernel \
            has it not built in",
    mend: "let dracut put it in: add_drivers+=\" erofs overlay ext4 \" in /usr/lib/dracut/dracut.conf.d, then run dracut again",
    look: Look::Tree(look),
};

/// The image is an erofs, `/etc` an overlay; `selkie disk` makes the partition that they are on an ext4.
const NEEDED: [&str; 3] = ["erofs", "overlay", "ext4"];

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let Some(kernel) = subject.kernel()? else { return Ok(Vec::new()) };
    // What cannot be read is for the check `initramfs` to tell.
    let Some(Ok(contents)) = subject.initramfs()? else { return Ok(Vec::new()) };
    let directory = format!("usr/lib/modules/{}/", kernel.version);
    let builtin = subject.text(format!("/{directory}modules.builtin"))?.unwrap_or_default();
    let builtin: BTreeSet<String> = builtin.lines().map(module).collect();
    let needed: Vec<&str> = NEEDED.into_iter().filter(|name| !builtin.contains(*name)).collect();
    let path = format!("/{directory}initramfs.img");
    Ok(problems(contents, &directory, &needed).into_iter().map(|what| Found::new(what).at(path.clone())).collect())
}

fn problems(contents: &Contents, directory: &str, needed: &[&str]) -> Vec<String> {
    if needed.is_empty() {
        return Vec::new();
    }
    let there: BTreeSet<String> = contents.below(directory).filter(|name| is_module(name)).map(module).collect();
    let missing: Vec<&str> = needed.iter().copied().filter(|name| !there.contains(*name)).collect();
    if !missing.is_empty() {
        return vec![format!("it has no module {} for this kernel in /{directory}", missing.join(", "))];
    }
    let Some(dependencies) = contents.text(&format!("{directory}modules.dep")) else {
        return vec![format!("it has no /{directory}modules.dep, without which no module can be loaded")];
    };
    dependencies.lines().filter_map(|line| broken_line(line, contents, directory, needed)).collect()
}

/// What is missing of what a line of modules.dep names: `kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko …`.
fn broken_line(line: &str, contents: &Contents, directory: &str, needed: &[&str]) -> Option<String> {
    let (path, dependencies) = line.split_once(':')?;
    let name = module(path);
    if !needed.contains(&name.as_str()) {
        return None;
    }
    let missing: Vec<&str> = dependencies.split_whitespace().filter(|path| !contents.has(&format!("{directory}{path}"))).collect();
    (!missing.is_empty()).then(|| format!("module {name} depends on {}, which it has not", missing.join(", ")))
}

fn is_module(path: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"].iter().any(|suffix| path.ends_with(suffix))
}

/// The name of the module in a file, as the kernel has it.
fn module(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}
