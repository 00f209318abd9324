//! A private mount namespace: a verb may write where everyone else sees a read-only mount.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use crate::error::{Failure, FailureKind};

/// Gives the calling thread, and the threads and processes that it starts from now on, a mount namespace of their own. What is mounted there
/// is seen by nobody else and ends with them. Directory handles that were opened before still lead to the old mounts: open them anew.
///
/// # Errors
///
/// [`FailureKind::NotPermitted`] without the privilege to do so.
pub fn enter_private_namespace() -> Result<()> {
    // SAFETY: the one danger of unshare is a file descriptor table of one's own, which NEWNS does not give.
    #[expect(unsafe_code, reason = "rustix marks unshare unsafe for the sake of a flag that is not used here")]
    let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
    match unshared {
        Ok(()) => {}
        Err(Errno::PERM) => {
            return Err(Failure::new(FailureKind::NotPermitted, "entering a mount namespace: operation not permitted (expected root)")
                .hint("run the command as root")
                .into());
        }
        Err(e) => return Err(e).context("entering a mount namespace"),
    }
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("making all mounts private")
}

/// Makes the mount at `path` writable, and free of `nodev`, `nosuid` and `noexec`, in this namespace. Where others share the namespace, they see
/// it so too: call [`enter_private_namespace`] before if they must not.
pub fn make_writable(path: &Path) -> Result<()> {
    rustix::mount::mount_remount(path, MountFlags::BIND, "").with_context(|| format!("making mount {} writable", path.display()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sys::mount::{bind, make_read_only};

    fn write(dir: &Path) -> bool {
        std::fs::write(dir.join("file"), "x").is_ok()
    }

    #[test]
    fn writable_here_and_read_only_for_the_others() {
        assert!(rustix::process::geteuid().is_root(), "this test mounts file systems: run it as root");
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        let outer = || {
            enter_private_namespace().unwrap();
            bind(rustix::fs::CWD, dir).unwrap().attach(rustix::fs::CWD, dir).unwrap();
            make_read_only(dir).unwrap();
            let inner = || {
                enter_private_namespace().unwrap();
                let before = write(dir);
                make_writable(dir).unwrap();
                (before, write(dir))
            };
            let inside = std::thread::scope(|scope| scope.spawn(inner).join()).unwrap();
            (inside, write(dir))
        };
        let seen = std::thread::scope(|scope| scope.spawn(outer).join()).unwrap();
        assert_eq!(seen, ((false, true), false));
        assert!(write(dir), "the read-only mount is seen outside");
    }
}
