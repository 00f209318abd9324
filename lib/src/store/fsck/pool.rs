//! The same work on many things, on all processors.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};

/// More threads than this wait for the disk and for nothing else.
const MAX_THREADS: usize = 8;

/// Works on each item; the results are in the order of the items. The first error ends it. Each thread has a state of its own.
pub(crate) fn each<T: Sync, R: Send, S>(
    items: &[T],
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let (next, done, failed) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(items.len())), Mutex::new(None));
    let run = || {
        let mut state = state();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            match work(&mut state, item) {
                Ok(result) => done.lock().map(|mut done| done.push((index, result))).unwrap_or_default(),
                Err(error) => {
                    next.store(items.len(), Ordering::Relaxed);
                    failed.lock().map(|mut failed| *failed = Some(error)).unwrap_or_default();
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(items.len());
        (0..threads).for_each(|_| drop(scope.spawn(run)));
    });
    let ended_early = "a thread of the check ended early";
    if let Some(error) = failed.into_inner().map_err(|_| anyhow!(ended_early))? {
        return Err(error);
    }
    let mut done: Vec<(usize, R)> = done.into_inner().map_err(|_| anyhow!(ended_early))?;
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
