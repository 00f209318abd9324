//! Scenarios side by side. A guest has one processor and is busy most of the time, so as many run at a time as this machine has processors; a guest of two
//! would wait for itself, because its processors wait for each other.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Bench, Scenario};
use crate::story::Teller;

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
