//! Two renderers of the library's events: bars or plain lines for people, JSON lines for programs. They own the rate limit.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle as BarStyle};
use selkie::progress::{Event, Progress, Silent, Unit};

use crate::output::{Output, ProgressStyle, bytes, tell};

/// The renderer that the options ask for.
pub fn renderer(output: &Output) -> Arc<dyn Progress> {
    match output.progress {
        ProgressStyle::None => Arc::new(Silent),
        ProgressStyle::Json => Arc::new(JsonLines::default()),
        ProgressStyle::Auto if std::io::stderr().is_terminal() => Arc::new(Bars::default()),
        ProgressStyle::Auto | ProgressStyle::Plain => Arc::new(Plain::new()),
    }
}

/// Phases and notes, and now and then how far it is: whoever reads a log wants to know that it goes on.
struct Plain(Mutex<Far>);

/// How long nothing is told of what goes on as it should.
const SILENCE: Duration = Duration::from_secs(10);

impl Plain {
    fn new() -> Self {
        Self(Mutex::new(Far::begun()))
    }
}

impl Progress for Plain {
    fn event(&self, event: Event) {
        let Ok(mut far) = self.0.lock() else { return };
        match event {
            Event::Phase { name } => {
                *far = Far::begun();
                tell(&name);
            }
            Event::Note { message } => tell(&format!("note: {message}")),
            Event::Step { .. } => {}
            Event::Advance { item, done, total, unit } => {
                far.items.insert(item, (done, total, unit));
                if far.told.elapsed() >= SILENCE {
                    far.told = Instant::now();
                    tell(&format!("  {}", far.line()));
                }
            }
        }
    }
}

/// What is done of what is known so far of a phase.
struct Far {
    items: HashMap<String, (u64, u64, Unit)>,
    told: Instant,
}

impl Far {
    fn begun() -> Self {
        Self { items: HashMap::new(), told: Instant::now() }
    }

    fn line(&self) -> String {
        let sum = |wanted: Unit| {
            let items = self.items.values().filter(|(_, _, unit)| *unit == wanted);
            items.fold((0, 0), |(all_done, all), (done, total, _)| (all_done + done, all + total.max(done)))
        };
        match (sum(Unit::Bytes), sum(Unit::Items)) {
            ((done, total), _) if total > 0 => format!("{} of {} so far", bytes(done), bytes(total)),
            (_, (done, total)) => format!("{done} of {total} so far"),
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
            tell(&line);
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
                tell(&name);
            }
            Event::Note { message } => {
                // Above the bars, which go on.
                self.1.suspend(|| tell(&format!("note: {message}")));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_adds_up_what_is_known() {
        let mut far = Far::begun();
        let mut add = |item: &str, done, total, unit| {
            far.items.insert(item.to_owned(), (done, total, unit));
            far.line()
        };
        assert_eq!(add("files", 3, 9, Unit::Items), "3 of 9 so far");
        assert_eq!(add("a", 1 << 20, 3 << 20, Unit::Bytes), "1.00 MiB of 3.00 MiB so far");
        // Nobody has said how large it is.
        assert_eq!(add("b", 1 << 20, 0, Unit::Bytes), "2.00 MiB of 4.00 MiB so far");
        assert_eq!(add("a", 3 << 20, 3 << 20, Unit::Bytes), "4.00 MiB of 4.00 MiB so far");
    }
}
