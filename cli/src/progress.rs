//! Two renderers of the library's events: bars or plain lines for people, JSON lines for programs. They own the rate limit.
#![expect(clippy::print_stderr, reason = "this module is the terminal")]

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle as BarStyle};
use selkie::progress::{Event, Progress, Silent, Unit};

use crate::output::{Output, ProgressStyle};

/// The renderer that the options ask for.
pub fn renderer(output: &Output) -> Arc<dyn Progress> {
    match output.progress {
        ProgressStyle::None => Arc::new(Silent),
        ProgressStyle::Json => Arc::new(JsonLines::default()),
        ProgressStyle::Auto if std::io::stderr().is_terminal() => Arc::new(Bars::default()),
        ProgressStyle::Auto | ProgressStyle::Plain => Arc::new(Plain),
    }
}

/// Phases and notes only.
struct Plain;

impl Progress for Plain {
    fn event(&self, event: Event) {
        match event {
            Event::Phase { name } => eprintln!("{name}"),
            Event::Note { message } => eprintln!("note: {message}"),
            Event::Advance { .. } | Event::Step { .. } => {}
        }
    }
}

/// One JSON object a line; `advance` at most ten times a second, and always the last of an item.
#[derive(Default)]
struct JsonLines(Mutex<Option<Instant>>);

const RATE: Duration = Duration::from_millis(100);

impl Progress for JsonLines {
    fn event(&self, event: Event) {
        let Ok(mut last) = self.0.lock() else { return };
        if let Event::Advance { done, total, .. } = &event
            && done != total
        {
            if last.is_some_and(|at| at.elapsed() < RATE) {
                return;
            }
            *last = Some(Instant::now());
        }
        if let Ok(line) = serde_json::to_string(&event) {
            eprintln!("{line}");
        }
    }
}

/// One bar for each item that is on its way, below the lines of finished phases.
#[derive(Default)]
struct Bars(Mutex<HashMap<String, ProgressBar>>, MultiProgress);

impl Progress for Bars {
    fn event(&self, event: Event) {
        let Ok(mut bars) = self.0.lock() else { return };
        match event {
            Event::Phase { name } => {
                clear(&mut bars);
                eprintln!("{name}");
            }
            Event::Note { message } => {
                // Above the bars, which go on.
                self.1.suspend(|| eprintln!("note: {message}"));
            }
            Event::Step { .. } => {}
            Event::Advance { item, done, total, unit } => {
                let bar = bars.entry(item).or_insert_with_key(|item| self.1.add(new_bar(item, total, unit)));
                bar.set_position(done);
                if done == total {
                    bar.finish_and_clear();
                }
            }
        }
    }
}

fn clear(bars: &mut HashMap<String, ProgressBar>) {
    bars.drain().for_each(|(_, bar)| bar.finish_and_clear());
}

fn new_bar(item: &str, total: u64, unit: Unit) -> ProgressBar {
    let template = match unit {
        Unit::Bytes => "  {msg:20} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
        Unit::Items => "  {msg:20} [{bar:30}] {pos}/{len}",
    };
    let bar = ProgressBar::new(total);
    if let Ok(style) = BarStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(item.chars().take(20).collect::<String>());
    bar
}
