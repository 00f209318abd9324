//! Spans of time as people write them: `30s`, `15m`, `6h`, `1d`, `1h30m`.

use std::time::Duration;

/// Units, the longest first, in seconds.
const UNITS: [(char, u64); 4] = [('d', 86400), ('h', 3600), ('m', 60), ('s', 1)];
/// A hundred years: more is a mistake, and sums with a clock must not overflow.
const LONGEST: u64 = 100 * 366 * 86400;

/// Words that are no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no span of time (expected one such as 30s, 15m, 6h, 1d or 1h30m)")]
pub struct DurationError(pub String);

/// Reads a span of time. Each number has a unit.
///
/// # Errors
///
/// No number, a number without a unit, another unit than `s`, `m`, `h` and `d`, or more than a hundred years.
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError(text.to_owned());
    let mut seconds: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| error())?;
        let unit = rest[digits..].chars().next().and_then(|unit| UNITS.iter().find(|(name, _)| *name == unit)).ok_or_else(error)?;
        seconds = number.checked_mul(unit.1).and_then(|more| seconds.checked_add(more)).ok_or_else(error)?;
        rest = rest[digits + 1..].trim_start();
    }
    if seconds <= LONGEST { Ok(Duration::from_secs(seconds)) } else { Err(error()) }
}

/// A span of time in these words; parts of a second are left out.
pub fn in_words(duration: Duration) -> String {
    let mut left = duration.as_secs();
    let mut words = String::new();
    for (name, seconds) in UNITS {
        if left >= seconds {
            words += &format!("{}{name}", left / seconds);
            left %= seconds;
        }
    }
    if words.is_empty() { "0s".to_owned() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds, words) in [
            ("30s", 30, "30s"),
            ("1m", 60, "1m"),
            ("90s", 90, "1m30s"),
            ("6h", 21600, "6h"),
            ("1d", 86400, "1d"),
            ("1h30m", 5400, "1h30m"),
            (" 1h 30m ", 5400, "1h30m"),
            ("0s", 0, "0s"),
            ("36600d", 36600 * 86400, "36600d"),
        ] {
            let read = duration(text).unwrap();
            assert_eq!((read, in_words(read).as_str()), (Duration::from_secs(seconds), words), "{text}");
            assert_eq!(duration(words), Ok(read));
        }
    }

    #[test]
    fn other_words_are_refused() {
        for text in ["", " ", "s", "1", "1x", "1 h", "-1s", "1.5h", "1h30", "1é", "36601d", "99999999999999999999s", "9999999999999999d"] {
            assert_eq!(duration(text), Err(DurationError(text.to_owned())), "{text}");
        }
    }
}
