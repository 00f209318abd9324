//! Names in a repository: links from `streams/` and `images/` to objects, and from the `refs/` of both to those.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::leftovers::is_temporary;
use crate::sys::dir;

/// Where both kinds of names have the names that people give.
pub(super) const REFS: &str = "refs";
/// Directories of references below each other; `cfsctl` makes a few at most.
const MAX_DEPTH: usize = 32;

/// Names that lead to objects. What cannot be followed is there with the reason.
pub(in crate::store) type Links<H> = BTreeMap<String, Result<H, String>>;

/// The names in `streams` or `images`, except for `refs`.
pub(in crate::store) fn links<H: FsVerityHashValue>(repository: &Repository<H>, category: &str) -> Result<Links<H>> {
    let mut links = Links::new();
    let Some(directory) = dir::open_optional(repository.repo_fd(), category).with_context(|| format!("opening {category}"))? else {
        return Ok(links);
    };
    for name in dir::names(&directory).with_context(|| format!("listing {category}"))? {
        if name == REFS || is_temporary(&name) {
            continue;
        }
        let target = rustix::fs::readlinkat(&directory, &name, Vec::new());
        let target = match target {
            Ok(target) => {
                let read = target.to_bytes().starts_with(b"../objects/").then(|| H::from_object_pathname(target.to_bytes()));
                read.and_then(Result::ok).ok_or_else(|| format!("it leads to {} (expected an object)", target.to_string_lossy()))
            }
            Err(Errno::INVAL) => Err("it is no symbolic link".to_owned()),
            Err(errno) => return Err(errno).with_context(|| format!("reading {category}/{}", name.display())),
        };
        // By a name that is made up, nobody finds it again.
        let target = if name.to_str().is_some() { target } else { Err("its name is not UTF-8".to_owned()) };
        links.insert(name.to_string_lossy().into_owned(), target);
    }
    Ok(links)
}

/// A name that a person or a machine gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// Its path in the repository.
    pub(super) path: String,
    /// The stream or image that it leads to, by the last part of its target; `None` where it is no link.
    pub(super) target: Option<String>,
    /// Whether it leads to something.
    pub(super) resolves: bool,
}

/// The names in the `refs` of a category.
pub(super) fn references<H: FsVerityHashValue>(repository: &Repository<H>, category: &str) -> Result<Vec<Reference>> {
    let mut found = Vec::new();
    let mut open = vec![(PathBuf::from(category).join(REFS), 0)];
    while let Some((path, depth)) = open.pop() {
        let shown = path.display().to_string();
        let Some(directory) = dir::open_optional(repository.repo_fd(), &path).with_context(|| format!("opening {shown}"))? else {
            continue;
        };
        for name in dir::names(&directory).with_context(|| format!("listing {shown}"))? {
            if is_temporary(&name) {
                continue;
            }
            let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).with_context(|| format!("looking at {shown}"))?;
            let below = path.join(&name);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth < MAX_DEPTH => open.push((below, depth + 1)),
                FileType::Symlink => {
                    let target =
                        rustix::fs::readlinkat(&directory, &name, Vec::new()).with_context(|| format!("reading {}", below.display()))?;
                    let target = target.to_string_lossy().rsplit('/').next().map(str::to_owned);
                    let resolves = follow(&directory, &name).with_context(|| format!("following {}", below.display()))?;
                    found.push(Reference { path: below.to_string_lossy().into_owned(), target, resolves });
                }
                _ => found.push(Reference { path: below.to_string_lossy().into_owned(), target: None, resolves: false }),
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn follow(directory: impl std::os::fd::AsFd, name: &OsStr) -> rustix::io::Result<bool> {
    match rustix::fs::statat(directory, name, AtFlags::empty()) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(errno) => Err(errno),
    }
}
