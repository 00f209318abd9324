//! Scenarios side by side. A guest has one processor and is busy most of the time, so as many run at a time as this machine has processors, and memory for;
//! a guest of two would wait for itself, because its processors wait for each other.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Bench, Scenario};
use crate::{memory, story::Teller, vm::MEMORY};

/// What a guest takes of this machine's memory, in MiB: its own, and QEMU's for devices and translated code.
const GUEST: u64 = MEMORY + 512;

/// How many scenarios may run at a time; at least one.
pub(crate) fn count() -> Result<usize> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(bounded(processors, memory::available()?))
}

/// The same for so many processors and MiB of memory. Kernels without an estimate of what is available set no limit.
fn bounded(processors: usize, available: Option<u64>) -> usize {
    let guests = available.map_or(u64::MAX, |mib| mib / GUEST);
    processors.min(usize::try_from(guests).unwrap_or(usize::MAX)).max(1)
}

/// What ran, how long, and how it ended.
pub(crate) type Ended = (String, Duration, Result<()>);

/// Runs scenarios, in each of `lanes` one after another. The last lane begins when `busy` has returned: until then something else has its processor. With a
/// single lane nothing is waited for.
pub(crate) fn run(lanes: &[Bench<'_>], selected: &[Scenario], keep: bool, busy: &(dyn Fn() + Sync)) -> Vec<Ended> {
    let (queue, ended) = (Mutex::new(VecDeque::from(selected.to_vec())), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for (number, bench) in lanes.iter().enumerate() {
            let (next, ended) = (&next, &ended);
            scope.spawn(move || {
                if number > 0 && number + 1 == lanes.len() {
                    busy();
                }
                while let Some(scenario) = next() {
                    let one = one(bench, scenario, keep);
                    ended.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                }
            });
        }
    });
    ended.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one. What went wrong is told at once, because others may go on for long.
fn one(bench: &Bench<'_>, scenario: Scenario, keep: bool) -> Ended {
    let (tell, title) = (Teller::of(scenario.name), format!("scenario {}", scenario.name));
    tell.say("begins");
    let begin = Instant::now();
    let outcome = (scenario.run)(bench, &tell).with_context(|| title.clone());
    let took = begin.elapsed();
    match &outcome {
        Ok(()) => {
            tell.say(format!("done in {} s", took.as_secs()));
            if !keep {
                let _ = std::fs::remove_dir_all(bench.lab.dir.join("vm").join(scenario.name));
            }
        }
        Err(error) => tell.say(format!("FAILED after {} s: {error:#}", took.as_secs())),
    }
    (title, took, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_needs_a_processor_and_memory() {
        for (processors, available, expected) in
            [(4, Some(9000), 4), (4, Some(5000), 2), (4, Some(2047), 1), (1, Some(9000), 1), (3, None, 3)]
        {
            assert_eq!(bounded(processors, available), expected, "{processors} processors, {available:?}");
        }
    }
}
