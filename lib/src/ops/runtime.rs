//! One small asynchronous runtime per verb; the verbs themselves are ordinary functions.

use std::future::Future;

use anyhow::{Context, Result};

use crate::sys::interrupt;

/// Runs `future` to its end, or until a signal calls it off ([`interrupt::heard`]). Two workers bring bytes; layers are read in threads of their own, which
/// end when what they read from is gone.
///
/// The threads are started here, after the calling thread has entered its mount namespace, and inherit it.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting worker threads")?;
    runtime.block_on(interrupt::heard(future))
}
