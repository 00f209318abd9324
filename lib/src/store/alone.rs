//! Having a repository to oneself, and waiting for others.
//!
//! Whoever has a repository open has a shared lock on its directory, by the library's handle: selkie, `cfsctl`, and all that a pull does. Who removes from it, or repairs it, has to be
//! alone, and has an exclusive lock by the same handle: what he decides on stays as it is until he has done it.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use rustix::io::{Errno, retry_on_intr};

use super::Store;
use crate::progress::Progress;
use crate::sys::{dir, interrupt};

/// How often who waits for others looks again, and after so many times he says that he waits.
pub(super) const LOOK: Duration = Duration::from_millis(100);
const TOLD: u32 = 10;

/// Waiting for others, who may take long.
pub(super) struct Wait<'w> {
    /// What is told after a while.
    message: &'w str,
    progress: &'w dyn Progress,
    looked: u32,
}

impl<'w> Wait<'w> {
    pub(super) fn new(message: &'w str, progress: &'w dyn Progress) -> Self {
        Self { message, progress, looked: 0 }
    }

    /// Others are still at it: a pause.
    ///
    /// # Errors
    ///
    /// A signal calls off what is at work.
    pub(super) fn again(&mut self) -> Result<()> {
        self.looked += 1;
        if self.looked == TOLD {
            self.progress.note(self.message.to_owned());
        }
        interrupt::sleep(LOOK, || true).map_err(|signal| signal.failure().into())
    }
}

/// As long as this lives, nobody else has the repository open.
#[derive(Debug)]
pub struct Alone(Store);

impl Store {
    /// Waits until no other process has the repository open, and keeps them out. Whoever opens it meanwhile waits. While it waits, this handle has no lock: the kernel takes that
    /// away before it gives another. So what was seen before may be otherwise afterwards.
    ///
    /// # Errors
    ///
    /// A signal calls off what is at work; the file system has no locks.
    pub fn alone(&self, progress: &dyn Progress) -> Result<Alone> {
        let mut wait = Wait::new("waiting until nobody else has the repository open, such as a pull", progress);
        let mut locked = || loop {
            if try_lock(self.dir(), FlockOperation::NonBlockingLockExclusive)? {
                return Ok(());
            }
            wait.again()?;
        };
        // Called off, it is one of many again, where nobody keeps it out.
        locked().inspect_err(|_: &anyhow::Error| _ = try_lock(self.dir(), FlockOperation::NonBlockingLockShared))?;
        Ok(Alone(self.clone()))
    }
}

impl Alone {
    /// The repository.
    pub fn store(&self) -> &Store {
        &self.0
    }

    /// Whether it is so still, without waiting for anybody: the library gives the lock up when it has collected.
    pub(super) fn is_still(&self) -> Result<bool> {
        try_lock(self.0.dir(), FlockOperation::NonBlockingLockExclusive)
    }
}

impl Drop for Alone {
    /// The handle goes on as one of many.
    fn drop(&mut self) {
        let _ = retry_on_intr(|| rustix::fs::flock(self.0.dir(), FlockOperation::LockShared));
    }
}

/// Waits as long as somebody has the repository at `path` to himself, and says so: opening it would wait without a word. Where there is no such directory, nobody has.
///
/// # Errors
///
/// A signal calls off what is at work.
pub fn wait_for_others(parent: impl AsFd, path: impl AsRef<Path>, progress: &dyn Progress) -> Result<()> {
    // What cannot be opened is for him to tell who opens it.
    let Ok(directory) = dir::open(parent, path) else { return Ok(()) };
    let mut wait = Wait::new("waiting until the repository is collected or repaired, which somebody is at", progress);
    while !try_lock(&directory, FlockOperation::NonBlockingLockShared)? {
        wait.again()?;
    }
    // Closing it is not enough: a child process that another thread is just starting has a copy of the handle until it runs its program.
    retry_on_intr(|| rustix::fs::flock(&directory, FlockOperation::Unlock)).context("giving up the lock of the repository")
}

fn try_lock(directory: impl AsFd, operation: FlockOperation) -> Result<bool> {
    match retry_on_intr(|| rustix::fs::flock(&directory, operation)) {
        Err(Errno::WOULDBLOCK) => Ok(false),
        locked => locked.map(|()| true).context("locking the repository"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::progress::{Event, Recorder, Silent};
    use crate::store::Verity;

    fn open(temp: &tempfile::TempDir) -> Store {
        Store::open_or_init(dir::open_path(temp.path()).unwrap(), "r", None, Verity::Never).unwrap()
    }

    fn told(recorder: &Recorder) -> Option<String> {
        let begun = Instant::now();
        while recorder.events().is_empty() && begun.elapsed() < Duration::from_secs(300) {
            thread::sleep(LOOK);
        }
        recorder.events().into_iter().find_map(|event| if let Event::Note { message } = event { Some(message) } else { None })
    }

    #[test]
    fn he_waits_for_who_has_it_open_and_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let (store, other) = (open(&temp), open(&temp));
        let (recorder, alone) = (Recorder::default(), AtomicBool::new(false));
        thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let _alone = store.alone(&recorder).unwrap();
                alone.store(true, Ordering::SeqCst);
            });
            assert!(told(&recorder).unwrap().contains("such as a pull"));
            assert!(!alone.load(Ordering::SeqCst));
            drop(other);
            waits.join().unwrap();
        });
        assert!(alone.load(Ordering::SeqCst));
        // He is one of many again.
        let _other = open(&temp);
    }

    #[test]
    fn who_opens_it_waits_for_him_and_says_so() {
        let temp = tempfile::tempdir().unwrap();
        let store = open(&temp);
        let alone = store.alone(&Silent).unwrap();
        let recorder = Recorder::default();
        thread::scope(|scope| {
            let waits = scope.spawn(|| {
                wait_for_others(dir::open_path(temp.path()).unwrap(), "r", &recorder).unwrap();
                drop(open(&temp));
            });
            assert!(told(&recorder).unwrap().contains("somebody is at"));
            assert!(!waits.is_finished());
            drop(alone);
            waits.join().unwrap();
        });
    }

    #[test]
    fn where_nothing_is_nobody_waits() {
        let temp = tempfile::tempdir().unwrap();
        wait_for_others(dir::open_path(temp.path()).unwrap(), "r", &Silent).unwrap();
    }
}
