//! Removing whole directories below a handle, without ever following a link out of them.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::dir;

/// Removes `name` in `parent`, with all that is below it if it is a directory; whether there was one. Not durable by itself.
pub fn remove(parent: impl AsFd, name: impl AsRef<OsStr>) -> Result<bool> {
    let (parent, name) = (parent.as_fd(), name.as_ref());
    let removing = || format!("removing {}", name.display());
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e).with_context(removing),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty()).with_context(removing)?;
    for child in dir::names(&directory).with_context(removing)? {
        remove(&directory, child).with_context(removing)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).with_context(removing)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_goes_and_what_its_links_name_stays() {
        let temp = tempfile::tempdir().unwrap();
        let at = temp.path();
        std::fs::create_dir_all(at.join("tree/a/b")).unwrap();
        std::fs::write(at.join("tree/a/file"), "x").unwrap();
        std::fs::create_dir(at.join("kept")).unwrap();
        std::fs::write(at.join("kept/file"), "x").unwrap();
        std::os::unix::fs::symlink("../kept", at.join("tree/link")).unwrap();
        let dir = dir::open_path(at).unwrap();
        assert!(remove(&dir, "tree").unwrap());
        assert!(!remove(&dir, "tree").unwrap());
        assert!(at.join("kept/file").exists() && !at.join("tree").exists());
    }
}
