//! Locks: files and directories that one process has to itself. They die with the process.
//!
//! A machine has one, taken by a verb, never by a helper; what is written elsewhere is locked by who writes it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

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
    /// [`FailureKind::Busy`] when another process holds it; its command line and number are in the message, where it still runs.
    pub fn take(dir: impl AsFd, name: &str) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).with_context(|| format!("opening lock {name}"))?;
        let file = File::from(fd.try_clone().context("duplicating the handle of a lock")?);
        let holder = holder(&file).map(|holder| format!(": {holder}")).unwrap_or_default();
        let lock = Self::on(fd, &format!("another selkie process is changing this machine{holder}"));
        let lock = lock.with_context(|| format!("taking lock {name}"))?;
        sign(&file).with_context(|| format!("signing lock {name}"))?;
        Ok(lock)
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

/// The longest command line that a message shows, in characters.
const SHOWN: usize = 120;

/// Writes down who holds a lock: the number of the process. It stays when the process ends, so it only counts while the lock is held.
fn sign(file: &File) -> Result<()> {
    file.set_len(0)?;
    Ok(file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)?)
}

/// Who has signed a lock: `selkie upgrade --apply (process 123)`. Nobody, where it is not signed, or by a process that has ended.
fn holder(file: &File) -> Option<String> {
    let mut signature = [0; 16];
    let length = file.read_at(&mut signature, 0).ok()?;
    let pid: u32 = std::str::from_utf8(&signature[..length]).ok()?.trim_end().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(format!("{} (process {pid})", shown(&command)?))
}

/// A command line of `/proc`, where each word ends in a null: the program without its directory.
fn shown(command: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(command);
    let mut words = text.split_terminator('\0');
    let program = words.next()?.rsplit('/').next()?;
    let line = std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(SHOWN).collect();
    Some(if cut.len() < line.len() { format!("{cut}…") } else { cut })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_who_holds_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = crate::sys::dir::open_path(temp.path()).unwrap();
        let held = Lock::take(&dir, "lock").unwrap();
        let refused = format!("{:#}", Lock::take(&dir, "lock").unwrap_err());
        let program = std::env::current_exe().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        assert!(refused.starts_with(&format!("taking lock lock: another selkie process is changing this machine: {program}")), "{refused}");
        assert!(refused.ends_with(&format!("(process {})", std::process::id())), "{refused}");
        // One that somebody has signed who is gone, or not at all.
        for signature in ["4194305\n", "", "x"] {
            std::fs::write(temp.path().join("lock"), signature).unwrap();
            let refused = format!("{:#}", Lock::take(&dir, "lock").unwrap_err());
            assert_eq!(refused, "taking lock lock: another selkie process is changing this machine");
        }
        drop(held);
        Lock::take(&dir, "lock").unwrap();
    }

    #[test]
    fn command_lines_are_short_and_readable() {
        assert_eq!(shown(b"/usr/bin/selkie\0upgrade\0--apply\0").as_deref(), Some("selkie upgrade --apply"));
        assert_eq!(shown(b""), None);
        assert_eq!(shown(&[b'x'; 500]).map(|shown| shown.chars().count()), Some(SHOWN + 1));
    }

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
