//! Signals that end a process: the first calls off what is at work, with a message and an exit code like every other error; the second ends it at once.

use std::thread;

use anyhow::{Context, Result};
use selkie::sys::interrupt::{self, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use crate::output::Output;

/// Catches them from now on, on a thread of its own, but for those that whoever started this process wants ignored (`nohup`).
pub fn catch(output: &Output) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("finding out which signals are ignored")?;
    let ignored = ignored(&status);
    let caught = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(caught).context("catching signals")?;
    let output = output.clone();
    let listen = move || {
        let mut heard = false;
        for raw in signals.forever() {
            let signal = match raw {
                SIGHUP => Signal::HangUp,
                SIGINT => Signal::Interrupt,
                _ => Signal::Terminate,
            };
            if !heard && interrupt::ask(signal) {
                heard = true;
                output.note(&format!("{}: stopping; once more stops at once", signal_name(raw).unwrap_or("a signal")));
                continue;
            }
            // Nothing waits for anything that it could be called off from, or it takes too long: what a power cut would leave is good enough.
            let _ = output.fail(&signal.failure().into());
            let _ = emulate_default_handler(raw);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listen).context("starting the thread that waits for signals")?;
    Ok(())
}

/// The signals that a process ignores, as `/proc/PID/status` has them: bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_of_a_process() {
        let status = "SigBlk:\t0000000000000002\nSigIgn:\t0000000000000003\nSigCgt:\t0000000000000000\n";
        assert_eq!((ignored(status), ignored("")), (1 << (SIGHUP - 1) | 1 << (SIGINT - 1), 0));
    }
}
