//! One small asynchronous runtime per verb; the verbs themselves are ordinary functions.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::error::{Failure, FailureKind};
use crate::sys::{interrupt, process};

/// How long what was called off may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs `future` to its end, or until a signal calls it off ([`interrupt::heard`]). Two workers bring bytes; layers are read in threads of their own, which
/// end when what they read from is gone.
///
/// The threads are started here, after the calling thread has entered its mount namespace, and inherit it.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting worker threads")?;
    let done = runtime.block_on(interrupt::heard(future));
    if done.as_ref().is_err_and(is_called_off) {
        // A thread waits for a child process (skopeo, which waits for a registry): without an end to that one, there would be none to this.
        process::end_children();
        runtime.shutdown_timeout(PATIENCE);
    }
    done
}

/// The same for a verb that keeps what it has fetched, so that it need not be fetched again: the advice after an outage or a signal says so.
pub(super) fn block_on_kept<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    block_on(future).map_err(|error| match Failure::find(&error) {
        Some(failure) if failure.clone().kept() != failure => Failure { message: format!("{error:#}"), ..failure.kept() }.into(),
        _ => error,
    })
}

/// Whether an error is that a signal has called the work off.
pub(super) fn is_called_off(error: &anyhow::Error) -> bool {
    use FailureKind::{HungUp, Interrupted, Terminated};
    Failure::find(error).is_some_and(|failure| matches!(failure.kind, HungUp | Interrupted | Terminated))
}
