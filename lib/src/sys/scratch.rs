//! Scratch directories: gone with the verb that made them, and where it was killed, with the next one that makes its own in the same place.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;

use super::dir;
use super::lock::Lock;
use crate::error::{Failure, FailureKind};

/// Their names begin so.
const PREFIX: &str = ".selkie-scratch-";
/// A younger one may belong to a process that has not locked it yet.
const STALE: Duration = Duration::from_secs(60);

/// A directory of this process alone.
#[derive(Debug)]
pub struct Scratch {
    temporary: tempfile::TempDir,
    _lock: Lock,
}

impl Scratch {
    /// Makes one in `within`, and removes those there whose processes have ended without doing so.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where there is no directory `within`, [`FailureKind::Usage`] where it is something else.
    pub fn make(within: &Path) -> Result<Self> {
        sweep(within);
        let temporary = tempfile::Builder::new().prefix(PREFIX).tempdir_in(within).map_err(|e| refused(within, e))?;
        let fd = dir::open_path(temporary.path()).context("opening the scratch directory")?;
        let lock = Lock::on(fd, "another process has the scratch directory")?;
        Ok(Self { temporary, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }
}

fn refused(within: &Path, error: std::io::Error) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        let message = format!("making a scratch directory: there is no directory {}", within.display());
        return Failure::new(FailureKind::NotFound, message).hint("name another with --scratch DIR or TMPDIR").into();
    }
    let doing = format!("making a scratch directory in {}", within.display());
    match error.kind() {
        std::io::ErrorKind::NotADirectory => dir::unusable(doing, Errno::NOTDIR),
        _ => anyhow::Error::new(error).context(doing),
    }
}

/// What cannot be looked at or removed is not ours, or somebody else's turn.
fn sweep(within: &Path) {
    for entry in std::fs::read_dir(within).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let old = entry.metadata().is_ok_and(|m| m.is_dir() && m.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE)));
        let Ok(fd) = dir::open_path(entry.path()) else { continue };
        if old && Lock::on(fd, "in use").is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(path: &Path) {
        let file = std::fs::File::open(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - 2 * STALE).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_goes_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in [".selkie-scratch-left", ".selkie-scratch-young", "mine"] {
            std::fs::create_dir_all(at(name).join("below")).unwrap();
        }
        age(&at(".selkie-scratch-left"));
        age(&at("mine"));
        let held = Scratch::make(temp.path()).unwrap();
        age(held.path());
        let second = Scratch::make(temp.path()).unwrap();
        assert!(held.path().exists() && second.path().exists() && at("mine").exists() && at(".selkie-scratch-young").exists());
        assert!(!at(".selkie-scratch-left").exists());
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }

    #[test]
    fn a_place_that_is_not_there_is_told() {
        for (place, expected) in [("/nowhere/at/all", FailureKind::NotFound), ("/proc/version", FailureKind::Usage)] {
            let error = Scratch::make(Path::new(place)).unwrap_err();
            assert_eq!(Failure::find(&error).map(|failure| failure.kind), Some(expected), "{error:#}");
        }
    }
}
