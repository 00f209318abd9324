//! What a running verb tells its caller. The library is mute: a terminal bar and JSON lines are renderers of these events.

use std::sync::Mutex;

use serde::Serialize;

/// Something that happened. The serde form is the line format of `--progress json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A new part of the work begins, named by a gerund: `pulling quay.io/acme/os:stable`.
    Phase {
        /// The part of the work.
        name: String,
    },
    /// `done` of `total` units of `item` are done; the last one has `done == total`. Totals that are not known yet are 0.
    Advance {
        /// What is being worked on: a layer's digest, `objects`, `root file system`…
        item: String,
        /// Units done so far.
        done: u64,
        /// Units in all, or 0.
        total: u64,
        /// `bytes` or `items`.
        unit: Unit,
    },
    /// A step whose effect is durable was done: what a power cut after it would leave is on disk.
    Step {
        /// The step, e.g. `publish entry`.
        name: String,
    },
    /// Something that the user should know, and that did not stop the work.
    Note {
        /// The fact.
        message: String,
    },
}

/// The unit of [`Event::Advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Items,
}

/// The receiver of events. Implementations own the rate limit; `event` may be called often and from several threads.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);

    /// A new part of the work begins.
    fn phase(&self, name: String) {
        self.event(Event::Phase { name });
    }

    /// Something the user should know.
    fn note(&self, message: String) {
        self.event(Event::Note { message });
    }

    /// A durable step was done. Crash tests stop the process here.
    fn step(&self, name: &str) {
        self.event(Event::Step { name: name.to_owned() });
    }
}

/// Drops every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event) {}
}

/// Keeps every event, for tests.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    /// All events so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().map(|events| events.clone()).unwrap_or_default()
    }

    /// The names of the durable steps so far.
    pub fn steps(&self) -> Vec<String> {
        let step = |event| if let Event::Step { name } = event { Some(name) } else { None };
        self.events().into_iter().filter_map(step).collect()
    }
}

impl Progress for Recorder {
    fn event(&self, event: Event) {
        if let Ok(mut events) = self.0.lock() {
            events.push(event);
        }
    }
}
