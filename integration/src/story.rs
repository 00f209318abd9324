//! Telling what happens, step by step, with times: the only place of this crate that prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this module is the terminal")]

use std::{
    io::Write,
    sync::{
        Mutex, PoisonError,
        mpsc::{RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

use anyhow::Result;

/// After so long a silence it is told what takes its time.
const QUIET: Duration = Duration::from_secs(30);

/// What was told last, and when.
static LAST: Mutex<Option<(String, Instant)>> = Mutex::new(None);

fn remember(text: &str) {
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((text.to_owned(), Instant::now()));
}

/// What was told last, where it was so long ago that it is to be told again.
fn quiet() -> Option<String> {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.as_ref().filter(|(_, at)| at.elapsed() >= QUIET).map(|(text, at)| format!("… {text}: {} s so far", at.elapsed().as_secs()))
}

/// Does something that may be silent for minutes, and tells meanwhile that it goes on.
fn telling_on<T>(act: impl FnOnce() -> T) -> T {
    let (done, wait) = channel::<()>();
    let watch = move || {
        while wait.recv_timeout(QUIET) == Err(RecvTimeoutError::Timeout) {
            if let Some(text) = quiet() {
                println!("           {text}");
            }
        }
    };
    std::thread::scope(move |scope| {
        scope.spawn(watch);
        // Its end, also by a panic, ends the thread.
        let _done = done;
        act()
    })
}

/// A story being told.
#[derive(Debug)]
pub(crate) struct Story {
    begin: Instant,
    steps: Vec<(String, Duration)>,
}

impl Story {
    /// Begins a story with its title.
    pub(crate) fn new(title: &str) -> Self {
        println!("\n{title}\n");
        Self { begin: Instant::now(), steps: Vec::new() }
    }

    /// Tells and does one step.
    pub(crate) fn step<T>(&mut self, title: &str, act: impl FnOnce(&Teller) -> Result<T>) -> Result<T> {
        let number = self.steps.len() + 1;
        println!("{} [{number:2}] {title}", clock(self.begin.elapsed()));
        remember(title);
        let begin = Instant::now();
        let outcome = telling_on(|| act(&Teller::default()));
        let took = begin.elapsed();
        let word = if outcome.is_ok() { "done" } else { "FAILED" };
        println!("           {word} in {}", seconds(took));
        self.steps.push((title.to_owned(), took));
        outcome
    }

    /// Notes a step that was told by whoever did it, beside others.
    pub(crate) fn add(&mut self, title: &str, took: Duration) {
        self.steps.push((title.to_owned(), took));
    }

    /// Prints the table of steps and times.
    pub(crate) fn table(&self) {
        println!("\n{}", render(&self.steps, self.begin.elapsed()));
    }
}

/// Says things below the title of a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Teller {
    /// Who says them, where several do at the same time.
    who: String,
}

impl Teller {
    /// One of several.
    pub(crate) fn of(who: &str) -> Self {
        Self { who: format!("{who}: ") }
    }

    /// One fact.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        for line in text.as_ref().lines() {
            let line = format!("{}{line}", self.who);
            println!("           {line}");
            remember(&line);
        }
        let _ = std::io::stdout().flush();
    }

    /// What is typed, and what came back.
    pub(crate) fn quote(&self, command: &str, answer: &str) {
        self.say(format!("$ {command}"));
        for line in answer.trim_end().lines() {
            self.say(format!("  {line}"));
        }
    }
}

/// Prints a line of its own.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints an error with its causes.
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

fn render(steps: &[(String, Duration)], total: Duration) -> String {
    let width = steps.iter().map(|(title, _)| title.chars().count()).max().unwrap_or(0).max(5);
    let row = |title: &str, took: Duration| format!("{title:width$}  {:>8}", seconds(took));
    let mut lines: Vec<_> = steps.iter().map(|(title, took)| row(title, *took)).collect();
    lines.push("-".repeat(width + 10));
    lines.push(row("total", total));
    lines.join("\n")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_silence_is_none_and_an_end_is_seen_at_once() {
        let begin = Instant::now();
        remember("building");
        assert_eq!((telling_on(|| 5), quiet()), (5, None));
        assert!(begin.elapsed() < QUIET);
    }

    #[test]
    fn the_table_lines_up() {
        let steps = [("a step".to_owned(), Duration::from_millis(1500)), ("x".to_owned(), Duration::from_secs(100))];
        let expected = "a step     1.5 s\nx        100.0 s\n----------------\ntotal    101.5 s";
        assert_eq!(render(&steps, Duration::from_millis(101_500)), expected);
    }

    #[test]
    fn the_clock_counts_minutes_beyond_the_hour() {
        assert_eq!((clock(Duration::from_secs(61)), clock(Duration::from_secs(6000))), ("01:01".to_owned(), "100:00".to_owned()));
    }
}
