//! Weekly windows: `Mon..Fri 02:00-04:00 Europe/Berlin`.
//!
//! What counts is what a clock on the wall there shows. So a window that lies in the hour that the change to summer time leaves out is not there on that day, and one in
//! the hour that comes twice in autumn is there twice.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{DateTime, Weekday};
use jiff::tz::TimeZone;

use super::Zones;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// How many days are looked ahead: a weekly window may fall into the missing hour once, and not twice within three weeks.
const AHEAD: usize = 22;
const NAMES: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// A span of time that comes again on some days of each week.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// Days on which it begins, from Monday on.
    days: [bool; 7],
    /// Minute of the day on which it begins.
    start: u16,
    /// The minute after its last, counted from the same midnight: more than a day's where it goes over midnight.
    end: u16,
    zone: TimeZone,
    /// As it was written.
    text: String,
}

/// Words that are no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// There is no `HH:MM-HH:MM`.
    #[error("it has no times such as 02:00-04:00")]
    NoTimes,
    /// The times are none of a day.
    #[error("{0:?} are no times of a day")]
    Times(String),
    /// The days are not known.
    #[error("{0:?} are no days such as Mon, Mon..Fri or Sat,Sun")]
    Days(String),
    /// The time zone is not known.
    #[error("there is no time zone {0:?}")]
    Zone(String),
    /// There is more than days, times and a zone.
    #[error("{0:?} is too much")]
    More(String),
}

impl Window {
    /// Reads a window: days (every day without them), times, a time zone (the machine's own without one).
    ///
    /// # Errors
    ///
    /// What is not understood.
    pub fn parse(text: &str, zones: &Zones<'_>) -> Result<Self, WindowError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_time = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
        let (days, times, rest) = match words.as_slice() {
            [times, rest @ ..] if is_time(times) => (None, times, rest),
            [days, times, rest @ ..] if is_time(times) => (Some(*days), times, rest),
            _ => return Err(WindowError::NoTimes),
        };
        let (start, end) = times_of(times).ok_or_else(|| WindowError::Times((*times).to_owned()))?;
        let days = days.map_or(Ok([true; 7]), |days| days_of(days).ok_or_else(|| WindowError::Days(days.to_owned())))?;
        let name = match rest {
            [] => None,
            [zone] => Some(*zone),
            [_, more @ ..] => return Err(WindowError::More(more.join(" "))),
        };
        let zone = zones(name).ok_or_else(|| WindowError::Zone(name.unwrap_or("of this machine").to_owned()))?;
        Ok(Self { days, start, end, zone, text: words.join(" ") })
    }

    /// Whether it is open at this second since 1970.
    pub fn is_open(&self, at: u64) -> bool {
        timestamp(at).is_some_and(|at| self.shows(at.to_zoned(self.zone.clone()).datetime()))
    }

    /// The next second since 1970 at which it is open: `at` itself where it is open then. `None` where there is none within three weeks.
    pub fn next(&self, at: u64) -> Option<u64> {
        if self.is_open(at) {
            return Some(at);
        }
        let today = timestamp(at)?.to_zoned(self.zone.clone()).date();
        // A time that comes twice is two moments; one that is left out is none, and what follows the gap may be inside.
        let moments = today.series(jiff::Span::new().days(1)).take(AHEAD).flat_map(|date| {
            let begin = date.at((self.start / 60) as i8, (self.start % 60) as i8, 0, 0);
            let here = self.zone.to_ambiguous_timestamp(begin);
            [here.earlier(), here.later()].into_iter().flatten().filter_map(|moment| u64::try_from(moment.as_second()).ok())
        });
        moments.filter(|moment| *moment >= at && self.is_open(*moment)).min()
    }

    /// Whether it is open when a clock shows this.
    fn shows(&self, clock: DateTime) -> bool {
        let minute = clock.hour() as u16 * 60 + clock.minute() as u16;
        let begins = |day: Weekday| self.days[day.to_monday_zero_offset() as usize];
        let within = |minute: u16| (self.start..self.end).contains(&minute);
        let today = clock.date().weekday();
        begins(today) && within(minute) || begins(today.previous()) && within(minute + DAY)
    }
}

/// As it was written, with single spaces.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether one of the windows is open; where there are none, always.
pub fn opening(windows: &[Window], at: u64) -> bool {
    windows.is_empty() || windows.iter().any(|window| window.is_open(at))
}

/// The next second at which one is open. `None` where there are no windows.
pub fn next_opening(windows: &[Window], at: u64) -> Option<u64> {
    windows.iter().filter_map(|window| window.next(at)).min()
}

fn timestamp(at: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(at).ok()?).ok()
}

/// `02:00-04:00`; an end that is not after its start is on the next day.
fn times_of(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (minute(start)?, minute(end)?);
    let end = if end <= start { end + DAY } else { end };
    (start < DAY).then_some((start, end))
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |text: &str, most: u16| {
        let plain = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u16>().ok())?.filter(|number| *number <= most)
    };
    let (hour, minute) = (digits(hour, 24)?, digits(minute, 59).filter(|_| minute.len() == 2)?);
    Some(hour * 60 + minute).filter(|all| *all <= DAY)
}

/// `Mon`, `Mon..Fri`, `Sat,Sun`, and any of these with commas.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once("..").unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let count = (last + 7 - first) % 7;
        (0..=count).for_each(|more| days[(first + more) % 7] = true);
    }
    Some(days)
}

fn day(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    NAMES.iter().position(|name| lower == **name || lower == name[..3])
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZoneDatabase;

    use super::*;

    /// The machine is in UTC.
    fn zones(name: Option<&str>) -> Option<TimeZone> {
        name.map_or(Some(TimeZone::UTC), |name| TimeZoneDatabase::bundled().get(name).ok())
    }

    fn window(text: &str) -> Window {
        Window::parse(text, &zones).unwrap()
    }

    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().unwrap().as_second().try_into().unwrap()
    }

    #[test]
    fn a_window_is_open_as_the_clock_on_the_wall_says() {
        for (text, moment, open) in [
            // 2026-11-25 is a Wednesday.
            ("02:00-04:00", "2026-11-25T01:59:59Z", false),
            ("02:00-04:00", "2026-11-25T02:00:00Z", true),
            ("02:00-04:00", "2026-11-25T03:59:59Z", true),
            ("02:00-04:00", "2026-11-25T04:00:00Z", false),
            ("Mon..Fri 02:00-04:00", "2026-11-28T03:00:00Z", false),
            ("Sat..Mon 02:00-04:00", "2026-11-30T03:00:00Z", true),
            ("Sat..Mon 02:00-04:00", "2026-12-01T03:00:00Z", false),
            ("Sat,Wed 2:00-04:00", "2026-11-25T03:00:00Z", true),
            ("wednesday 02:00-04:00", "2026-11-25T03:00:00Z", true),
            // Over midnight it belongs to the day on which it began.
            ("Wed 23:00-01:00", "2026-11-25T23:30:00Z", true),
            ("Wed 23:00-01:00", "2026-11-26T00:59:59Z", true),
            ("Wed 23:00-01:00", "2026-11-26T01:00:00Z", false),
            ("Wed 23:00-01:00", "2026-11-25T00:30:00Z", false),
            ("Sun 23:00-01:00", "2026-11-30T00:30:00Z", true),
            ("Wed 00:00-24:00", "2026-11-25T23:59:59Z", true),
            ("Wed 00:00-24:00", "2026-11-26T00:00:00Z", false),
            ("Wed 12:00-12:00", "2026-11-26T11:59:59Z", true),
            ("Wed 12:00-12:00", "2026-11-26T12:00:00Z", false),
            // Zones: one hour ahead in winter, two in summer; half an hour; the other side of the date line.
            ("Wed 02:00-04:00 Europe/Berlin", "2026-11-25T01:00:00Z", true),
            ("Wed 02:00-04:00 Europe/Berlin", "2026-11-25T03:00:00Z", false),
            ("Wed 02:00-04:00 Europe/Berlin", "2026-07-01T00:00:00Z", true),
            ("Wed 02:00-04:00 Asia/Kolkata", "2026-11-24T20:30:00Z", true),
            ("Wed 02:00-04:00 Asia/Kolkata", "2026-11-24T20:29:59Z", false),
            ("Wed 02:00-04:00 Pacific/Kiritimati", "2026-11-24T12:00:00Z", true),
            ("Tue 20:00-22:00 America/New_York", "2026-11-25T01:30:00Z", true),
            // 2026-03-29, Berlin: 02:00 to 03:00 is not there. 2026-10-25: it is there twice.
            ("Sun 02:00-04:00 Europe/Berlin", "2026-03-29T00:59:59Z", false),
            ("Sun 02:00-04:00 Europe/Berlin", "2026-03-29T01:00:00Z", true),
            ("Sun 02:00-04:00 Europe/Berlin", "2026-03-29T02:00:00Z", false),
            ("Sun 02:00-03:00 Europe/Berlin", "2026-03-29T01:00:00Z", false),
            ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T00:30:00Z", true),
            ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T01:30:00Z", true),
            ("Sun 02:00-03:00 Europe/Berlin", "2026-10-25T02:00:00Z", false),
        ] {
            assert_eq!(window(text).is_open(at(moment)), open, "{text} at {moment}");
        }
        assert!(!window("00:00-24:00").is_open(u64::MAX));
    }

    #[test]
    fn the_next_opening_is_found() {
        for (text, moment, next) in [
            ("02:00-04:00", "2026-11-25T03:00:00Z", "2026-11-25T03:00:00Z"),
            ("02:00-04:00", "2026-11-25T04:00:00Z", "2026-11-26T02:00:00Z"),
            ("Wed 02:00-04:00", "2026-11-25T04:00:00Z", "2026-12-02T02:00:00Z"),
            ("Mon..Fri 02:00-04:00 Europe/Berlin", "2026-11-27T12:00:00Z", "2026-11-30T01:00:00Z"),
            ("Wed 23:00-01:00", "2026-11-26T00:30:00Z", "2026-11-26T00:30:00Z"),
            // After the gap only the rest of it, or none until the week after.
            ("Sun 02:00-04:00 Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
            ("Sun 02:00-03:00 Europe/Berlin", "2026-03-28T12:00:00Z", "2026-04-05T00:00:00Z"),
            // Twice, with a pause.
            ("Sun 02:00-02:30 Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T00:00:00Z"),
            ("Sun 02:00-02:30 Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z"),
            ("Sun 02:00-02:30 Europe/Berlin", "2026-10-25T01:30:00Z", "2026-11-01T01:00:00Z"),
            // A whole day that Samoa left out: Friday, 2011-12-30.
            ("Fri 00:00-24:00 Pacific/Apia", "2011-12-29T12:00:00Z", "2012-01-05T10:00:00Z"),
        ] {
            assert_eq!(window(text).next(at(moment)), Some(at(next)), "{text} after {moment}");
        }
        assert_eq!(window("02:00-04:00").next(u64::MAX), None);
    }

    #[test]
    fn of_several_windows_one_is_enough() {
        let windows = [window("Mon 02:00-04:00"), window("Wed 02:00-04:00")];
        let tuesday = at("2026-11-24T03:00:00Z");
        assert!(!opening(&windows, tuesday) && opening(&windows, at("2026-11-25T03:00:00Z")) && opening(&[], tuesday));
        assert_eq!((next_opening(&windows, tuesday), next_opening(&[], tuesday)), (Some(at("2026-11-25T02:00:00Z")), None));
    }

    #[test]
    fn what_is_no_window_is_said() {
        for (text, error) in [
            ("", WindowError::NoTimes),
            ("Mon", WindowError::NoTimes),
            ("Mon Tue 02:00-04:00", WindowError::NoTimes),
            ("25:00-26:00", WindowError::Times("25:00-26:00".into())),
            ("24:00-01:00", WindowError::Times("24:00-01:00".into())),
            ("02:00-24:01", WindowError::Times("02:00-24:01".into())),
            ("02:60-04:00", WindowError::Times("02:60-04:00".into())),
            ("02:00", WindowError::Times("02:00".into())),
            ("2-4", WindowError::Times("2-4".into())),
            ("02:0-04:00", WindowError::Times("02:0-04:00".into())),
            ("Mo 02:00-04:00", WindowError::Days("Mo".into())),
            ("Mon.Fri 02:00-04:00", WindowError::Days("Mon.Fri".into())),
            ("Mon, 02:00-04:00", WindowError::Days("Mon,".into())),
            ("02:00-04:00 Europe/Berlim", WindowError::Zone("Europe/Berlim".into())),
            ("02:00-04:00 Europe/Berlin please now", WindowError::More("please now".into())),
        ] {
            assert_eq!(Window::parse(text, &zones), Err(error), "{text}");
        }
        assert_eq!(window(" Mon..Fri   02:00-04:00 ").to_string(), "Mon..Fri 02:00-04:00");
    }
}
