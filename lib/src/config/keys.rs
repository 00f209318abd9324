//! The table of keys: what each is called, takes, sets and shows.

use std::time::Duration;

use serde_json::{Value, json};
use toml::de::DeValue;

use super::duration::{duration, in_words};
use super::window::Window;
use super::{Config, Policy, Reboot, Zones};

/// A key.
pub(super) struct Key {
    /// Full name.
    pub(super) name: &'static str,
    /// What it takes, for people.
    pub(super) expected: &'static str,
    /// Takes a value.
    pub(super) set: fn(&mut Config, &DeValue<'_>, &Zones<'_>) -> Result<(), Wrong>,
    /// The value, as a file would say it.
    pub(super) show: fn(&Config) -> Value,
}

/// A value that a key does not take.
pub(super) struct Wrong {
    /// Where it begins, where that is not where the key is.
    pub(super) element: Option<usize>,
    /// What was found: `is the number 3`.
    pub(super) found: String,
}

const SPAN: &str = r#"a span of time such as "30s", "15m", "6h" or "1d""#;
const SPAN_NOT_0: &str = r#"a span of time such as "30s", "15m", "6h" or "1d", and not "0s""#;
const BOOL: &str = "true or false";

/// Every key, by name.
pub(super) const ALL: &[Key] = &[
    Key {
        name: "health.failed-units",
        expected: BOOL,
        set: |config, value, _| flag(value).map(|set| config.health.failed_units = set),
        show: |config| config.health.failed_units.into(),
    },
    Key {
        name: "health.timeout",
        expected: SPAN_NOT_0,
        set: |config, value, _| positive(value).map(|set| config.health.timeout = set),
        show: |config| in_words(config.health.timeout).into(),
    },
    Key {
        name: "keep",
        expected: "a whole number from 0 on",
        set: |config, value, _| number(value, 0..=u32::MAX).map(|set| config.keep = set as usize),
        show: |config| config.keep.into(),
    },
    Key {
        name: "tries",
        expected: "a whole number from 1 to 99",
        set: |config, value, _| number(value, 1..=99).map(|set| config.tries = set),
        show: |config| config.tries.into(),
    },
    Key {
        name: "update.back-off.first",
        expected: SPAN_NOT_0,
        set: |config, value, _| positive(value).map(|set| config.update.back_off.first = set),
        show: |config| in_words(config.update.back_off.first).into(),
    },
    Key {
        name: "update.back-off.limit",
        expected: SPAN_NOT_0,
        set: |config, value, _| positive(value).map(|set| config.update.back_off.limit = set),
        show: |config| in_words(config.update.back_off.limit).into(),
    },
    Key {
        name: "update.interval",
        expected: SPAN_NOT_0,
        set: |config, value, _| positive(value).map(|set| config.update.interval = set),
        show: |config| in_words(config.update.interval).into(),
    },
    Key {
        name: "update.policy",
        expected: r#""none", "check", "fetch", "stage" or "apply""#,
        set: |config, value, _| one_of(value, &POLICIES).map(|set| config.update.policy = set),
        show: |config| json!(config.update.policy),
    },
    Key {
        name: "update.randomized-delay",
        expected: SPAN,
        set: |config, value, _| span(value).map(|set| config.update.randomized_delay = set),
        show: |config| in_words(config.update.randomized_delay).into(),
    },
    Key {
        name: "update.reboot",
        expected: r#""now", "in-window" or "never""#,
        set: |config, value, _| one_of(value, &REBOOTS).map(|set| config.update.reboot = set),
        show: |config| json!(config.update.reboot),
    },
    Key {
        name: "update.wait-for-inhibitors",
        expected: BOOL,
        set: |config, value, _| flag(value).map(|set| config.update.wait_for_inhibitors = set),
        show: |config| config.update.wait_for_inhibitors.into(),
    },
    Key {
        name: "update.wait-for-users",
        expected: BOOL,
        set: |config, value, _| flag(value).map(|set| config.update.wait_for_users = set),
        show: |config| config.update.wait_for_users.into(),
    },
    Key {
        name: "update.wait-limit",
        expected: SPAN,
        set: |config, value, _| span(value).map(|set| config.update.wait_limit = set),
        show: |config| in_words(config.update.wait_limit).into(),
    },
    Key {
        name: "update.window",
        expected: r#"a list of windows such as "Mon..Fri 02:00-04:00 Europe/Berlin""#,
        set: |config, value, zones| windows(value, zones).map(|set| config.update.windows = set),
        show: |config| config.update.windows.iter().map(|window| Value::from(window.to_string())).collect(),
    },
];

const POLICIES: [(&str, Policy); 5] =
    [("none", Policy::None), ("check", Policy::Check), ("fetch", Policy::Fetch), ("stage", Policy::Stage), ("apply", Policy::Apply)];
const REBOOTS: [(&str, Reboot); 3] = [("now", Reboot::Now), ("in-window", Reboot::InWindow), ("never", Reboot::Never)];

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    ALL.iter().find(|key| key.name == name)
}

/// Whether keys begin so.
pub(super) fn is_table(name: &str) -> bool {
    ALL.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// The names of the keys in a table, of all where it has no name.
pub(super) fn names(table: &str) -> String {
    let inside = |key: &&Key| table.is_empty() || key.name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'));
    let names: Vec<&str> = ALL.iter().filter(inside).map(|key| key.name).collect();
    names.join(", ")
}

/// A value for people.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn wrong(value: &DeValue<'_>) -> Wrong {
    Wrong { element: None, found: format!("is {}", describe(value)) }
}

fn flag(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| wrong(value))
}

fn number(value: &DeValue<'_>, range: std::ops::RangeInclusive<u32>) -> Result<u32, Wrong> {
    let read = value.as_integer().and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
    read.filter(|number| range.contains(number)).ok_or_else(|| wrong(value))
}

fn span(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    value.as_str().and_then(|text| duration(text).ok()).ok_or_else(|| wrong(value))
}

fn positive(value: &DeValue<'_>) -> Result<Duration, Wrong> {
    span(value).and_then(|span| if span.is_zero() { Err(wrong(value)) } else { Ok(span) })
}

fn one_of<T: Copy>(value: &DeValue<'_>, known: &[(&str, T)]) -> Result<T, Wrong> {
    let found = value.as_str().and_then(|text| known.iter().find(|(name, _)| *name == text));
    found.map(|(_, meaning)| *meaning).ok_or_else(|| wrong(value))
}

/// A list, or one by itself.
fn windows(value: &DeValue<'_>, zones: &Zones<'_>) -> Result<Vec<Window>, Wrong> {
    let read = |value: &DeValue<'_>, element| {
        let text = value.as_str().ok_or_else(|| Wrong { element, ..wrong(value) })?;
        Window::parse(text, zones).map_err(|error| Wrong { element, found: format!("is {text:?}: {error}") })
    };
    match value.as_array() {
        Some(list) => list.iter().map(|one| read(one.get_ref(), Some(one.span().start))).collect(),
        None => Ok(vec![read(value, None)?]),
    }
}
