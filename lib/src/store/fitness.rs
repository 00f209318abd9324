//! What an image needs besides a kernel to boot: the directories that are mounted on, and an init program.

use anyhow::Result;

use super::tree::{NodeKind, Tree};
use super::unsuitable;

/// Mounted on by the initramfs or by systemd before it does anything else. A link would lead these mounts elsewhere.
const DIRECTORIES: [&str; 10] = ["/etc", "/var", "/usr", "/run", "/proc", "/sys", "/dev", "/tmp", "/sysroot", "/boot"];
/// systemd follows a link here.
const MAY_BE_LINK: &str = "/tmp";
/// Where the initramfs looks for what it hands over to.
const INITS: [&str; 2] = ["/sbin/init", "/usr/lib/systemd/systemd"];

/// Looks for the directories and the init program that every boot needs.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable), naming all that is not as it must be.
pub fn require_bootable_layout(tree: &Tree) -> Result<()> {
    let (mut wrong, mut advice, mut directories) = (Vec::new(), Vec::new(), Vec::new());
    for problem in layout_problems(tree)? {
        wrong.push(format!("{} {}", problem.path, problem.found));
        directories.push(problem.path);
    }
    if !directories.is_empty() {
        advice.push(format!("make {} plain directories", directories.join(", ")));
    }
    if !has_init(tree)? {
        wrong.push(format!("there is neither {} nor {}", INITS[0], INITS[1]));
        advice.push("install systemd (Debian: systemd-sysv)".to_owned());
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message = format!("looking for what booting needs: {} (expected directories and an init program)", wrong.join(", "));
    Err(unsuitable(message).hint(format!("in the Containerfile, {}", advice.join(" and "))).into())
}

/// A directory that is not what booting needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutProblem {
    /// The directory.
    pub path: &'static str,
    /// What is wrong: `is missing`, `is a symbolic link`…
    pub found: &'static str,
}

impl LayoutProblem {
    /// What [`LayoutProblem::found`] says where there is nothing.
    pub const MISSING: &'static str = "is missing";
}

/// The directories that every boot needs and that are not there, or are something else.
pub fn layout_problems(tree: &Tree) -> Result<Vec<LayoutProblem>> {
    let mut problems = Vec::new();
    for path in DIRECTORIES {
        problems.extend(directory_problem(tree, path)?.map(|found| LayoutProblem { path, found }));
    }
    Ok(problems)
}

/// What is wrong with a directory; `None` where nothing is.
fn directory_problem(tree: &Tree, path: &str) -> Result<Option<&'static str>> {
    Ok(match tree.get_link(path)?.map(|node| node.kind) {
        Some(NodeKind::Directory) => None,
        Some(NodeKind::Symlink(_)) if path == MAY_BE_LINK => None,
        Some(NodeKind::Symlink(_)) => Some("is a symbolic link"),
        Some(_) => Some("is not a directory"),
        None => Some(LayoutProblem::MISSING),
    })
}

/// Whether there is something that the initramfs can hand over to.
pub fn has_init(tree: &Tree) -> Result<bool> {
    for path in INITS {
        if tree.file(path)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
