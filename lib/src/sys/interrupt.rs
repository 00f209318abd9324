//! A signal has asked this process to end. The process has one state about that, as it has one set of signals: whoever catches them (the command,
//! not the library) says so by [`ask`], and a verb that is at work says by [`heard`] and [`last_call`] whether it can still be called off.
//!
//! A verb that does neither is to be ended at once, as if nobody caught the signal: what it leaves then is what a power cut would leave.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Notify;

use crate::error::{AGAIN, Failure, FailureKind};

/// A signal that ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGHUP`: the terminal is gone.
    HangUp,
    /// `SIGINT`: ^C.
    Interrupt,
    /// `SIGTERM`: the service manager, or somebody with `kill`.
    Terminate,
}

impl Signal {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::HangUp => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// What a command says that ends because of it.
    pub fn failure(self) -> Failure {
        let kind = match self {
            Self::HangUp => FailureKind::HungUp,
            Self::Interrupt => FailureKind::Interrupted,
            Self::Terminate => FailureKind::Terminated,
        };
        let message = format!("stopped by {}: what was not finished has no effect", self.name());
        Failure::new(kind, message).hint(AGAIN)
    }
}

/// What a signal does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It ends the process.
    Deaf,
    /// It calls off what is at work, at the next point where that waits for something.
    Hearing,
    /// It comes too late: the work ends by itself, and soon.
    Finishing,
}

struct State {
    mode: Mode,
    asked: Option<Signal>,
}

static STATE: Mutex<State> = Mutex::new(State { mode: Mode::Deaf, asked: None });
static BELL: Notify = Notify::const_new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the verb at work that `signal` has come. Whether it ends by itself now; else the process is to be ended.
pub fn ask(signal: Signal) -> bool {
    let mut state = state();
    if state.mode == Mode::Deaf {
        return false;
    }
    state.asked.get_or_insert(signal);
    drop(state);
    BELL.notify_one();
    true
}

/// Does `work`, unless a signal calls it off: then it is dropped where it waits, and with it what it has made for itself alone.
///
/// # Errors
///
/// Those of `work`; [`FailureKind::Interrupted`] and its like after a signal, also where the signal has ended a child process and `work` failed for that.
pub async fn heard<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let _hearing = Hearing::begin();
    let signal = async {
        loop {
            if let Some(signal) = called_off() {
                return signal;
            }
            BELL.notified().await;
        }
    };
    tokio::select! {
        biased;
        signal = signal => Err(signal.failure().into()),
        done = work => match called_off() {
            Some(signal) if done.is_err() => Err(signal.failure().into()),
            _ => done,
        },
    }
}

/// The last moment to call the work off: from here on it is finished, whatever signal comes.
///
/// # Errors
///
/// [`FailureKind::Interrupted`] and its like when a signal has come already.
pub fn last_call() -> Result<()> {
    if let Some(signal) = called_off() {
        return Err(signal.failure().into());
    }
    let mut state = state();
    if state.mode == Mode::Hearing {
        state.mode = Mode::Finishing;
    }
    Ok(())
}

/// Nothing is left that could be called off, and the process is about to end by itself: a signal changes nothing any more.
pub fn finish() {
    state().mode = Mode::Finishing;
}

/// The signal that has come, whether or not it changed anything.
pub fn asked() -> Option<Signal> {
    state().asked
}

/// The signal that calls off what is at work, for threads that do it.
pub fn called_off() -> Option<Signal> {
    let state = state();
    state.asked.filter(|_| state.mode == Mode::Hearing)
}

/// Sleeps as long as that is `wanted`, in a thread that is no one's but the work's.
///
/// # Errors
///
/// A signal calls off what is at work.
pub fn sleep(duration: Duration, wanted: impl Fn() -> bool) -> Result<(), Signal> {
    /// How long it may take to notice either.
    const SLICE: Duration = Duration::from_millis(100);
    let mut left = duration;
    loop {
        if let Some(signal) = called_off() {
            return Err(signal);
        }
        if left.is_zero() || !wanted() {
            return Ok(());
        }
        let slice = left.min(SLICE);
        std::thread::sleep(slice);
        left -= slice;
    }
}

/// While this lives, signals are heard.
struct Hearing;

impl Hearing {
    fn begin() -> Self {
        state().mode = Mode::Hearing;
        Self
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        let mut state = state();
        (state.mode, state.asked) = (Mode::Deaf, None);
    }
}
