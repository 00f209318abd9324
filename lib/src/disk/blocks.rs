//! Which blocks of the root file system the contents of files get: one after the other, from the free ranges. Pure.

use std::ops::Range;

/// The longest extent of ext4.
const LONGEST: u64 = 32768;

/// A run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The first block, counted from the beginning of the file.
    pub(super) logical: u64,
    /// The first block, counted from the beginning of the file system.
    pub(super) physical: u64,
    /// How many blocks.
    pub(super) length: u64,
}

/// The free ranges, in order, and how far they are given away.
#[derive(Debug, Clone)]
pub(super) struct Allocator {
    free: Vec<Range<u64>>,
    /// The ranges given away, in order.
    taken: Vec<Range<u64>>,
}

impl Allocator {
    /// Gives away from `free` (in order), and keeps off its first `reserve` blocks: directories and the like go there.
    pub(super) fn new(free: &[Range<u64>], mut reserve: u64) -> Self {
        let mut left = Vec::new();
        for range in free {
            let skip = reserve.min(range.end - range.start);
            reserve -= skip;
            if range.start + skip < range.end {
                left.push(range.start + skip..range.end);
            }
        }
        left.reverse();
        Self { free: left, taken: Vec::new() }
    }

    /// `count` blocks for a file from its block `logical` on; `None` when there are not so many.
    pub(super) fn take(&mut self, mut logical: u64, mut count: u64) -> Option<Vec<Extent>> {
        let mut extents = Vec::new();
        while count > 0 {
            let range = self.free.last_mut()?;
            let length = count.min(LONGEST).min(range.end - range.start);
            extents.push(Extent { logical, physical: range.start, length });
            match self.taken.last_mut() {
                Some(last) if last.end == range.start => last.end += length,
                _ => self.taken.push(range.start..range.start + length),
            }
            range.start += length;
            logical += length;
            count -= length;
            if range.is_empty() {
                self.free.pop();
            }
        }
        Some(extents)
    }

    /// All that was given away.
    pub(super) fn taken(&self) -> &[Range<u64>] {
        &self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, physical: u64, length: u64) -> Extent {
        Extent { logical, physical, length }
    }

    #[test]
    fn blocks_are_given_in_order_beyond_the_reserve() {
        let mut blocks = Allocator::new(&[10..20, 30..40, 50..60], 12);
        assert_eq!(blocks.take(0, 5).unwrap(), [extent(0, 32, 5)]);
        assert_eq!(blocks.take(16, 5).unwrap(), [extent(16, 37, 3), extent(19, 50, 2)]);
        assert_eq!(blocks.take(0, 0).unwrap(), []);
        assert_eq!(blocks.taken(), [32..40, 50..52]);
        assert_eq!(blocks.take(0, 9), None);
    }

    #[test]
    fn an_extent_has_a_longest_length() {
        let mut blocks = Allocator::new(std::slice::from_ref(&(0..100_000)), 0);
        assert_eq!(blocks.take(0, 40_000).unwrap(), [extent(0, 0, LONGEST), extent(LONGEST, LONGEST, 40_000 - LONGEST)]);
    }
}
