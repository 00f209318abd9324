//! Seconds since 1970 as a date and a time of day, in UTC. Pure.

/// The first second of the year 10000, which RFC 3339 cannot write.
const YEAR_10000: u64 = 253_402_300_800;

/// A second in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// 1970 and later.
    pub year: u64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

impl Moment {
    /// The moment so many seconds after 1970 began.
    pub fn at(seconds: u64) -> Self {
        let (year, month, day) = civil(seconds / 86400);
        let (hour, minute, second) = ((seconds / 3600 % 24) as u8, (seconds / 60 % 60) as u8, (seconds % 60) as u8);
        Self { year, month, day, hour, minute, second }
    }
}

/// A moment as RFC 3339 writes it, `2023-11-14T22:13:20Z`; `None` after the year 9999.
pub fn rfc3339(seconds: u64) -> Option<String> {
    let Moment { year, month, day, hour, minute, second } = Moment::at(seconds);
    (seconds < YEAR_10000).then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// Days since 1970 as year, month, day. Counts in eras of 400 years from March on, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u8, u8) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        let table = [
            (0, Some("1970-01-01T00:00:00Z")),
            (951_782_399, Some("2000-02-28T23:59:59Z")),
            (951_868_799, Some("2000-02-29T23:59:59Z")),
            (1_700_000_000, Some("2023-11-14T22:13:20Z")),
            (4_107_542_400, Some("2100-03-01T00:00:00Z")),
            (YEAR_10000 - 1, Some("9999-12-31T23:59:59Z")),
            (YEAR_10000, None),
            (u64::MAX, None),
        ];
        for (seconds, expected) in table {
            assert_eq!(rfc3339(seconds).as_deref(), expected);
        }
    }
}
