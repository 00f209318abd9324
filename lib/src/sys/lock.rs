//! The one lock of a machine: taken by a verb, never by a helper, and it dies with the process.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Failure, FailureKind};

/// Held until dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the open file description is the lock")] OwnedFd);

impl Lock {
    /// Takes the lock file `name` in `dir`, making it if need be. Does not wait.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Busy`] when another process holds it.
    pub fn take(dir: impl AsFd, name: &str) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).with_context(|| format!("opening lock {name}"))?;
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(fd)),
            Err(Errno::WOULDBLOCK) => Err(Failure::new(FailureKind::Busy, "another selkie process is changing this machine")
                .hint("wait until it has ended, then run the same command again")
                .into()),
            Err(e) => Err(e).with_context(|| format!("taking lock {name}")),
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
    }
}
