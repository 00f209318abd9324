//! `sys::interrupt`: what a signal calls off, and when it comes too late. A program of its own with one test, because a process has one state about signals.

use std::future::Future;

use anyhow::Result;
use selkie::error::{Failure, FailureKind};
use selkie::sys::interrupt::{Signal, ask, asked, called_off, finish, heard, last_call};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn kind(outcome: Result<()>) -> FailureKind {
    Failure::find(&outcome.unwrap_err()).unwrap().kind
}

#[test]
fn a_signal_calls_off_what_waits_and_comes_too_late_after_the_last_call() {
    assert!(!ask(Signal::Interrupt), "nobody is at work");

    let waiting = heard(async {
        assert!(ask(Signal::Interrupt) && ask(Signal::Terminate), "the first one counts");
        assert_eq!((asked(), called_off()), (Some(Signal::Interrupt), Some(Signal::Interrupt)));
        std::future::pending::<Result<()>>().await
    });
    let failure = Failure::find(&block_on(waiting).unwrap_err()).unwrap();
    assert_eq!((failure.kind, failure.kind.exit_code()), (FailureKind::Interrupted, 130));
    assert!(failure.message.starts_with("stopped by SIGINT: "), "{failure}");

    let failing = heard(async {
        ask(Signal::Terminate);
        Err(anyhow::anyhow!("a child process was ended by the same signal"))
    });
    assert_eq!(kind(block_on(failing)), FailureKind::Terminated);

    let before = heard(async {
        ask(Signal::HangUp);
        last_call()
    });
    assert_eq!(kind(block_on(before)), FailureKind::HungUp);

    let after = heard(async {
        last_call()?;
        assert!(ask(Signal::Interrupt), "it ends by itself");
        tokio::task::yield_now().await;
        Ok(5)
    });
    assert_eq!(block_on(after).unwrap(), 5);
    assert!(!ask(Signal::Interrupt), "nobody is at work any more");

    // Nothing undoes this, as the process is about to end: last.
    finish();
    assert!(ask(Signal::Terminate), "it ends by itself");
    assert_eq!((asked(), called_off()), (Some(Signal::Terminate), None));
}
