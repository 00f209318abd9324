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

/// A group of blocks of ext4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Its number.
    pub(super) number: u64,
    /// What its descriptor says of its bitmaps: see [`Group::INITIALIZED`].
    pub(super) flags: u16,
    /// Its free blocks, in order.
    pub(super) free: Vec<Range<u64>>,
}

impl Group {
    /// EXT4_BG_INODE_UNINIT: the inode bitmap is not on disk.
    pub(super) const NO_INODES: u16 = 1;
    /// EXT4_BG_BLOCK_UNINIT: the block bitmap is not on disk.
    pub(super) const NO_BLOCKS: u16 = 2;
    /// EXT4_BG_INODE_ZEROED: the kernel need not clear the inode table.
    pub(super) const INITIALIZED: u16 = 4;

    fn free_blocks(&self) -> u64 {
        self.free.iter().map(|range| range.end - range.start).sum()
    }

    /// The group after blocks of it were taken, and how many are free then; `None` when none were.
    fn without(&self, taken: &[Range<u64>]) -> Option<(Self, u64)> {
        let overlap = |one: &Range<u64>, other: &Range<u64>| one.end.min(other.end).saturating_sub(one.start.max(other.start));
        let lost: u64 = self.free.iter().flat_map(|free| taken.iter().map(move |taken| overlap(free, taken))).sum();
        let group = Self { flags: self.flags & !Self::NO_BLOCKS, ..self.clone() };
        (lost > 0).then(|| (group, self.free_blocks() - lost))
    }
}

/// The free ranges of all groups, neighbours joined.
pub(super) fn free(groups: &[Group]) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in groups.iter().flat_map(|group| &group.free) {
        match joined.last_mut() {
            Some(before) if before.end == range.start => before.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    joined
}

/// What the file system has to be told about blocks that were given away before it knew of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reservation {
    /// The blocks.
    pub(super) taken: Vec<Range<u64>>,
    /// The groups in which they are, with the numbers of blocks that are free then.
    pub(super) groups: Vec<(Group, u64)>,
    /// How many are free in all.
    pub(super) free: u64,
}

impl Reservation {
    /// For blocks taken from `groups`.
    pub(super) fn new(groups: &[Group], taken: &[Range<u64>]) -> Self {
        let lost: u64 = taken.iter().map(|range| range.end - range.start).sum();
        let free = groups.iter().map(Group::free_blocks).sum::<u64>() - lost;
        Self { taken: taken.to_vec(), groups: groups.iter().filter_map(|group| group.without(taken)).collect(), free }
    }
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
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
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
    fn what_was_taken_is_missing_in_its_groups() {
        let group = |number, flags, free: &[Range<u64>]| Group { number, flags, free: free.to_vec() };
        let groups = [group(0, 4, &[5..6, 8..10]), group(1, 7, &[10..20]), group(2, 7, &[22..30])];
        assert_eq!(free(&groups), [5..6, 8..20, 22..30]);
        let reservation = Reservation::new(&groups, &[8..15]);
        let expected = [(group(0, 4, &[5..6, 8..10]), 1), (group(1, 5, &[10..20]), 5)];
        assert_eq!(reservation, Reservation { taken: vec![8..15], groups: expected.to_vec(), free: 14 });
    }

    #[test]
    fn an_extent_has_a_longest_length() {
        let mut blocks = Allocator::new(std::slice::from_ref(&(0..100_000)), 0);
        assert_eq!(blocks.take(0, 40_000).unwrap(), [extent(0, 0, LONGEST), extent(LONGEST, LONGEST, 40_000 - LONGEST)]);
    }
}
