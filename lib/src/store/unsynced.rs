//! The mark that a repository has while there may be objects whose bytes are not on its disk.
//!
//! Where nothing checks what is read, an object is believed by its name and its size. Between its link and the next sync that may be wrong: a power cut can leave the size
//! without the bytes, and of what a disk could not write, memory still has the bytes, until they are read from the disk; the kernel tells of that once. So the mark
//! is on the disk before a pull links its first object, and goes after a sync that knows of no error since. A mark that nobody holds is of a pull that did not come so
//! far. Before it does anything else, the next one looks at what that has left and removes what is lost; then all can be believed that is here, and the mark begins anew.
//!
//! Only what no name leads to can be lost so, because names are given after a sync. It is read, from the disk and not from memory; a pull that was cut is no reason to read
//! more. Whether what has a name still is what it was is a question for [`fsck`](super::fsck).
//!
//! Several pulls may be at it. Each holds a shared lock on the mark, and the last one takes it away, after a sync of its own: another may have been killed. Who finds that the
//! disk has lost something makes the mark one byte long, which takes no block of that disk: whoever comes then waits until the others are done, because he who looks has to be
//! alone. Two would take away what one of them has just fetched.
//!
//! A sealed repository has no mark: its files are on the disk before they get fs-verity and a name, and the kernel checks what it reads. What other tools write is not
//! marked either.

use std::fs::File;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FlockOperation};
use rustix::io::{Errno, retry_on_intr};

use super::alone::Wait;
use super::{Store, fsck, with_repository};
use crate::progress::{Event, Progress, Unit};
use crate::sys::dir;

/// The name of the mark in the repository.
pub const UNSYNCED: &str = "unsynced";

/// Objects are being written that may not be on the disk. Where it is dropped without its [`end`](Self::end), they stay in doubt.
#[derive(Debug)]
pub struct Unsynced {
    store: Store,
    /// None where the repository is sealed.
    mark: Option<Mark>,
}

impl Store {
    /// Has all objects that are written from here on count as lost until [`Unsynced::end`]. Where a pull did not come to its end, what it has left is read first, and
    /// what is lost is removed. Waits for another process that does so, and after a loss for all that are at it.
    ///
    /// # Errors
    ///
    /// The repository cannot be written; an object that was left cannot be looked at; a signal calls off what is at work.
    pub fn begin_unsynced(&self, progress: &dyn Progress) -> Result<Unsynced> {
        let mark = if self.is_sealed() { None } else { Some(begin(self, progress).context("marking what is not synced")?) };
        Ok(Unsynced { store: self.clone(), mark })
    }
}

impl Unsynced {
    /// Something is not durable that should be: whoever begins next waits until nobody else is at it, and looks at all that no name leads to. Those who are learn it by their own
    /// syncs, also where the mark cannot be changed.
    pub fn doubt(&self) {
        self.mark.iter().for_each(Mark::tell_of_loss);
    }

    /// All that was to be written is: makes it durable. The mark goes where nobody else is at it.
    ///
    /// # Errors
    ///
    /// Not all of what was written since the beginning is on the disk, also where others have been told before: it stays in doubt.
    pub fn end(mut self) -> Result<()> {
        let Some(mark) = self.mark.take() else { return Ok(()) };
        let alone = mark.try_alone()?;
        if let Err(error) = mark.sync() {
            mark.tell_of_loss();
            return Err(error);
        }
        if alone && !mark.tells_of_loss()? {
            mark.remove(self.store.dir())?;
        }
        Ok(())
    }
}

fn begin(store: &Store, progress: &dyn Progress) -> Result<Mark> {
    store.require_writable()?;
    let mut wait = Wait::new("waiting for a pull into this repository to end", progress);
    loop {
        let (mark, made) = Mark::open(store.dir())?;
        if !made && mark.try_alone()? {
            if mark.is_gone()? {
                continue;
            }
            remove_lost(store, &mark, progress)?;
            // Not the same one once more: it may be one of those files that could not be written.
            mark.remove(store.dir())?;
            continue;
        }
        // Asked once more with the lock: he who tells of a loss has one until he has told.
        if !mark.tells_of_loss()? && mark.try_share()? && !mark.is_gone()? && !mark.tells_of_loss()? {
            mark.make_durable(store.dir())?;
            progress.step("mark unsynced");
            return Ok(mark);
        }
        wait.again()?;
    }
}

fn remove_lost(store: &Store, mark: &Mark, progress: &dyn Progress) -> Result<()> {
    let seen = |done, total| {
        progress.event(Event::Advance { item: "objects in doubt".to_owned(), done, total, unit: Unit::Items });
    };
    // What is still to be written is either on the disk afterwards or lost, whatever this says.
    let _ = mark.sync();
    let lost = with_repository!(store, repository => fsck::remove_lost(repository, &seen)).context("looking at what a pull has left")?;
    if lost > 0 {
        progress.step("remove lost objects");
        let (objects, were) = if lost == 1 { ("object", "is") } else { ("objects", "are") };
        progress.note(format!(
            "{lost} {objects} that a pull has left {were} not on the disk as written, and will be fetched again; where the machine has not lost its power, look at its disk"
        ));
    }
    Ok(())
}

/// The file, open. The handle is older than what is written under it: a sync by it tells of every error since.
#[derive(Debug)]
struct Mark(File);

impl Mark {
    /// Opens it; whether it was made.
    fn open(repository: BorrowedFd<'_>) -> Result<(Self, bool)> {
        let (file, made) = dir::open_or_make(repository, UNSYNCED, 0o600).with_context(|| format!("opening {UNSYNCED}"))?;
        Ok((Self(file), made))
    }

    /// Locks it where nobody else has. Else it is not locked at all afterwards.
    fn try_alone(&self) -> Result<bool> {
        self.try_lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Locks it together with others, unless somebody has it alone.
    fn try_share(&self) -> Result<bool> {
        self.try_lock(FlockOperation::NonBlockingLockShared)
    }

    fn try_lock(&self, operation: FlockOperation) -> Result<bool> {
        match self.lock(operation) {
            Err(Errno::WOULDBLOCK) => Ok(false),
            locked => locked.map(|()| true).with_context(|| format!("locking {UNSYNCED}")),
        }
    }

    fn lock(&self, operation: FlockOperation) -> rustix::io::Result<()> {
        retry_on_intr(|| rustix::fs::flock(&self.0, operation))
    }

    /// Whether somebody has removed it since it was opened.
    fn is_gone(&self) -> Result<bool> {
        Ok(rustix::fs::fstat(&self.0).with_context(|| format!("looking at {UNSYNCED}"))?.st_nlink == 0)
    }

    fn tells_of_loss(&self) -> Result<bool> {
        Ok(self.0.metadata().with_context(|| format!("looking at {UNSYNCED}"))?.len() > 0)
    }

    fn tell_of_loss(&self) {
        let _ = self.0.set_len(1);
    }

    fn make_durable(&self, repository: BorrowedFd<'_>) -> Result<()> {
        self.0.sync_all().and_then(|()| Ok(dir::sync(repository)?)).with_context(|| format!("syncing {UNSYNCED}"))
    }

    fn sync(&self) -> Result<()> {
        dir::sync_filesystem(&self.0).context("syncing the repository")
    }

    /// Removes it, unless somebody has. One that a power cut brings back costs a look.
    fn remove(&self, repository: BorrowedFd<'_>) -> Result<()> {
        if self.is_gone()? {
            return Ok(());
        }
        rustix::fs::unlinkat(repository, UNSYNCED, AtFlags::empty()).with_context(|| format!("removing {UNSYNCED}"))
    }
}

impl Drop for Mark {
    /// Closing it is not enough: a child process that another thread is just starting has a copy of the handle until it runs its program.
    fn drop(&mut self) {
        let _ = self.lock(FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::progress::{Recorder, Silent};
    use crate::store::Verity;
    use crate::store::alone::LOOK;

    struct Repository {
        temp: tempfile::TempDir,
    }

    impl Repository {
        fn new() -> Self {
            let repository = Self { temp: tempfile::tempdir().unwrap() };
            drop(repository.open());
            repository
        }

        /// Opens it as another process does.
        fn open(&self) -> Store {
            Store::open_or_init(dir::open_path(self.temp.path()).unwrap(), "r", None, Verity::Never).unwrap()
        }

        fn begin(&self) -> Unsynced {
            self.open().begin_unsynced(&Silent).unwrap()
        }

        fn path(&self, name: impl AsRef<Path>) -> PathBuf {
            self.temp.path().join("r").join(name)
        }

        fn mark(&self) -> PathBuf {
            self.path(UNSYNCED)
        }

        /// An object that is none.
        fn damaged(&self) -> PathBuf {
            let object = self.path("objects/ab").join("c".repeat(62));
            std::fs::create_dir_all(object.parent().unwrap()).unwrap();
            std::fs::write(&object, "other bytes").unwrap();
            object
        }
    }

    #[test]
    fn the_last_one_takes_the_mark_away() {
        let repository = Repository::new();
        let (first, second, killed) = (repository.begin(), repository.begin(), repository.begin());
        first.end().unwrap();
        assert!(repository.mark().exists());
        drop(killed);
        second.end().unwrap();
        assert!(!repository.mark().exists());
    }

    #[test]
    fn what_was_left_is_looked_at_once_and_not_while_others_are_at_it() {
        let repository = Repository::new();
        let object = repository.damaged();
        repository.begin().end().unwrap();
        assert!(object.exists(), "nobody has left it");
        drop(repository.begin());
        assert!(repository.mark().exists());
        let recorder = Recorder::default();
        let begun = repository.open().begin_unsynced(&recorder).unwrap();
        assert!(!object.exists() && repository.mark().exists());
        assert_eq!(recorder.steps(), ["remove lost objects", "mark unsynced"]);
        let object = repository.damaged();
        repository.begin().end().unwrap();
        assert!(object.exists() && repository.mark().exists(), "somebody is at it");
        begun.end().unwrap();
        assert!(!repository.mark().exists());
    }

    #[test]
    fn after_a_loss_those_who_come_wait_for_the_others_and_one_of_them_looks() {
        let repository = Repository::new();
        let (fails, works) = (repository.begin(), repository.begin());
        fails.doubt();
        drop(fails);
        let object = repository.damaged();
        let begun = AtomicUsize::new(0);
        let comes = || {
            let unsynced = repository.begin();
            assert!(!object.exists());
            begun.fetch_add(1, Ordering::Relaxed);
            unsynced.end().unwrap();
        };
        thread::scope(|scope| {
            let coming: Vec<_> = (0..3).map(|_| scope.spawn(comes)).collect();
            thread::sleep(3 * LOOK);
            assert_eq!((begun.load(Ordering::Relaxed), object.exists()), (0, true));
            works.end().unwrap();
            coming.into_iter().for_each(|coming| coming.join().unwrap());
        });
        assert!(!repository.mark().exists());
    }

    #[test]
    fn who_waits_says_so() {
        let repository = Repository::new();
        let works = repository.begin();
        works.doubt();
        let recorder = Recorder::default();
        thread::scope(|scope| {
            let coming = scope.spawn(|| repository.open().begin_unsynced(&recorder).unwrap().end().unwrap());
            let (begun, patience) = (Instant::now(), Duration::from_secs(300));
            while recorder.events().is_empty() && begun.elapsed() < patience {
                thread::sleep(LOOK);
            }
            works.end().unwrap();
            coming.join().unwrap();
        });
        let first = recorder.events().into_iter().next();
        assert!(matches!(&first, Some(Event::Note { message }) if message.contains("waiting for a pull")), "{first:?}");
    }

    #[test]
    fn the_mark_is_there_as_long_as_anybody_is_at_it() {
        let repository = Repository::new();
        thread::scope(|scope| {
            for number in 0..4 {
                let repository = &repository;
                scope.spawn(move || {
                    for round in 0..20 {
                        let unsynced = repository.begin();
                        thread::yield_now();
                        assert!(!unsynced.mark.as_ref().unwrap().is_gone().unwrap());
                        assert!(repository.mark().exists());
                        if (round + number) % 5 > 0 {
                            unsynced.end().unwrap();
                        }
                    }
                });
            }
        });
        repository.begin().end().unwrap();
        assert!(!repository.mark().exists());
    }
}
