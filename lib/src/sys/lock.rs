//! Locks: files and directories that one process has to itself. They die with the process.
//!
//! A machine has one, taken by a verb, never by a helper; what is written elsewhere is locked by who writes it.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Failure, FailureKind};

/// Held until dropped.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Drop for Lock {
    /// Closing it is not enough: a child process that another thread is just starting has a copy of the handle until it runs its program.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Takes the lock file `name` in `dir`, making it if need be. Does not wait.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Busy`] when another process holds it.
    pub fn take(dir: impl AsFd, name: &str) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).with_context(|| format!("opening lock {name}"))?;
        Self::on(fd, "another selkie process is changing this machine").with_context(|| format!("taking lock {name}"))
    }

    /// Locks an open file or directory. Does not wait. `busy` says what another process that holds it is doing. Errors are those of
    /// [`take`](Self::take).
    pub fn on(fd: OwnedFd, busy: &str) -> Result<Self> {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(fd)),
            Err(Errno::WOULDBLOCK) => {
                Err(Failure::new(FailureKind::Busy, busy).hint("wait until it has ended, then run the same command again").into())
            }
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_to_wait() {
        let temp = tempfile::tempdir().unwrap();
        let dir = crate::sys::dir::open_path(temp.path()).unwrap();
        let held = Lock::take(&dir, "lock").unwrap();
        let refused = Lock::take(&dir, "lock").unwrap_err();
        assert_eq!(Failure::find(&refused).unwrap().kind, FailureKind::Busy);
        drop(held);
        Lock::take(&dir, "lock").unwrap();
        let _held = Lock::on(dir.try_clone().unwrap(), "it is here").unwrap();
        let refused = Lock::on(crate::sys::dir::open_path(temp.path()).unwrap(), "it is here").unwrap_err();
        assert_eq!(Failure::find(&refused).unwrap().message, "it is here");
    }
}
