//! When what failed is asked for again, and when that is given up. Pure.

use std::time::Duration;

use crate::image::Retries;

/// No pause is longer than this, however often it failed.
const LONGEST: Duration = Duration::from_secs(30);
/// A registry that asks for a longer pause (`Retry-After`) is asked after this one.
const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// So many bytes show that it works again.
const ENOUGH: u64 = 1 << 20;

/// The failures of one transfer.
#[derive(Debug, Clone)]
pub(in crate::image) struct Retry {
    retries: Retries,
    failures: u32,
    /// Bytes that came since the last one.
    came: u64,
    /// Bytes that came in all, and that are to come.
    done: u64,
    expected: u64,
}

impl Retry {
    /// Of `expected` bytes.
    pub(in crate::image) fn new(retries: Retries, expected: u64) -> Self {
        Self { retries, failures: 0, came: 0, done: 0, expected }
    }

    /// As if it had failed as often as it may.
    pub(super) fn spent(self) -> Self {
        Self { failures: self.retries.most, ..self }
    }

    /// How far it came, as the end of a sentence; nothing where nothing came.
    pub(super) fn how_far(&self) -> String {
        if self.done == 0 { String::new() } else { format!(", after {} bytes (expected {})", self.done, self.expected) }
    }

    /// Bytes have come. A connection that breaks after each few of them is not taken for one that works.
    pub(super) fn came(&mut self, bytes: usize) {
        self.came += bytes as u64;
        self.done += bytes as u64;
        if self.came >= ENOUGH {
            self.failures = 0;
        }
    }

    /// It failed, and the other side may have said after which pause to ask again. The pause to make; `None` where it failed often enough.
    pub(in crate::image) fn failed(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.came = 0;
        if self.failures >= self.retries.most {
            return None;
        }
        let pause = self.retries.first.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures += 1;
        Some(pause.max(asked.unwrap_or_default().min(LONGEST_ASKED)))
    }

    /// How often it failed in a row.
    pub(in crate::image) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(most: u32) -> Retry {
        Retry::new(Retries { most, first: Duration::from_millis(500) }, 1 << 30)
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        let mut retry = retry(9);
        let pauses: Vec<u128> = std::iter::from_fn(|| retry.failed(None)).map(|pause| pause.as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(retry.failures(), 9);
        assert_eq!(self::retry(0).failed(None), None);
        let mut spent = self::retry(9).spent();
        assert_eq!(spent.failed(None), None);
        spent.came(1 << 20);
        assert_eq!(spent.failed(None), Some(Duration::from_millis(500)));
    }

    #[test]
    fn what_the_registry_asks_for_is_heeded_within_a_bound() {
        let mut retry = retry(3);
        let seconds = Duration::from_secs;
        assert_eq!(retry.failed(Some(seconds(7))), Some(seconds(7)));
        assert_eq!(retry.failed(Some(seconds(0))), Some(seconds(1)));
        assert_eq!(retry.failed(Some(seconds(86_400))), Some(seconds(60)));
    }

    #[test]
    fn only_what_comes_in_earnest_makes_failures_forgotten() {
        let mut retry = retry(2);
        for _ in 0..2 {
            assert!(retry.failed(None).is_some());
            retry.came(1000);
        }
        assert_eq!(retry.failed(None), None);
        for _ in 0..1100 {
            retry.came(1000);
        }
        assert_eq!(retry.failed(None), Some(Duration::from_millis(500)));
    }
}
