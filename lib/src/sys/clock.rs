//! What time it is, as far as the machine knows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970; `None` from a clock that nobody has set: such clocks begin in 1970 and do not get far.
pub fn seconds() -> Option<u64> {
    since_1970(SystemTime::now())
}

fn since_1970(now: SystemTime) -> Option<u64> {
    const YEAR: Duration = Duration::from_secs(365 * 86400);
    now.duration_since(UNIX_EPOCH).ok().filter(|since| *since >= YEAR).map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_1970_does_not_know() {
        let at = |seconds| since_1970(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!((at(0), at(86400), at(1_700_000_000)), (None, None, Some(1_700_000_000)));
        assert_eq!(since_1970(UNIX_EPOCH - Duration::from_secs(1)), None);
    }
}
