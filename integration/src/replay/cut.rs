//! Where the power is cut, and what is on the disk then.
//!
//! Of a disk with a write cache is known: whatever was written before a flush is on the medium when the flush has ended. Of the rest any part may be
//! there, in any order; only a block of 4 KiB is written whole or not at all.

use std::ops::Range;

use super::log::Record;
use super::random::Random;

/// What a disk writes whole.
const BLOCK: u64 = 4096;

/// A power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// How many requests had ended.
    pub(crate) at: usize,
    /// Which blocks were lost that no flush had made durable; none, or a part that follows from this seed.
    pub(crate) lost: Option<u64>,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.lost {
            None => write!(f, "after request {}, nothing lost", self.at),
            Some(seed) => write!(f, "after request {}, unflushed blocks lost by seed {seed}", self.at),
        }
    }
}

/// Bytes of the log that are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where they are in the log.
    pub(crate) at: u64,
    /// Where to on the disk.
    pub(crate) to: u64,
    /// How many.
    pub(crate) length: u64,
}

/// Chooses `count` cuts within `range`, in order. A third is spread over all requests, a third over the times between two flushes, however short, and a
/// third over the requests that change bytes of `sensitive`. With every other one, blocks are lost.
pub(crate) fn choose(records: &[Record], range: Range<usize>, sensitive: &Range<u64>, count: usize, random: &mut Random) -> Vec<Cut> {
    let flushes: Vec<usize> = range.clone().filter(|at| records[*at] == Record::Flush).collect();
    let touches = |at: &usize| records[*at].range().start < sensitive.end && sensitive.start < records[*at].range().end;
    let delicate: Vec<usize> = range.clone().filter(touches).collect();
    let mut cuts: Vec<Cut> = (0..count)
        .map(|number| {
            let at = match number % 3 {
                0 if !flushes.is_empty() => {
                    let flush = random.below(flushes.len());
                    let begin = flush.checked_sub(1).map_or(range.start, |before| flushes[before] + 1);
                    begin + random.below(flushes[flush] + 1 - begin)
                }
                1 if !delicate.is_empty() => delicate[random.below(delicate.len())] + random.below(2),
                _ => range.start + random.below(range.len().max(1)),
            };
            Cut { at: at.min(range.end), lost: (number / 3 % 2 == 1).then(|| random.next()) }
        })
        .collect();
    cuts.sort_by_key(|cut| cut.at);
    cuts
}

/// The request after the last flush that had ended at `at`: all before it is on the medium.
pub(crate) fn durable(records: &[Record], at: usize) -> usize {
    records[..at].iter().rposition(|record| *record == Record::Flush).map_or(0, |flush| flush + 1)
}

/// What else is on the disk after `cut`, in the order in which it was written.
pub(crate) fn survivors(records: &[Record], cut: &Cut) -> Vec<Piece> {
    let unflushed = &records[durable(records, cut.at)..cut.at];
    let mut random = cut.lost.map(Random::new);
    // Nearly all, half, or nearly nothing.
    let share = random.as_mut().map_or(10, |random| [1, 5, 9][random.below(3)]);
    let mut pieces = Vec::new();
    for record in unflushed {
        let Record::Write { to, length, at, durable } = *record else { continue };
        for block in blocks(to, length) {
            let survives = durable || random.as_mut().is_none_or(|random| random.below(10) < share);
            if survives {
                pieces.push(Piece { at: at + (block.start - to), to: block.start, length: block.end - block.start });
            }
        }
    }
    pieces
}

/// The parts of a write that are whole or not there.
fn blocks(to: u64, length: u64) -> impl Iterator<Item = Range<u64>> {
    let end = to + length;
    (to / BLOCK..end.div_ceil(BLOCK)).map(move |block| to.max(block * BLOCK)..end.min((block + 1) * BLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(to: u64, length: u64, at: u64) -> Record {
        Record::Write { to, length, at, durable: false }
    }

    #[test]
    fn what_was_flushed_is_there_and_the_rest_as_it_was_written() {
        let records = [write(0, 512, 10), Record::Flush, write(4096, 4096, 20), write(512, 8192, 30), Record::Flush];
        assert_eq!([0, 1, 2, 3, 4, 5].map(|at| durable(&records, at)), [0, 0, 2, 2, 2, 5]);
        let pieces = survivors(&records, &Cut { at: 4, lost: None });
        let expected = [(20, 4096, 4096), (30, 512, 3584), (3614, 4096, 4096), (7710, 8192, 512)];
        assert_eq!(pieces, expected.map(|(at, to, length)| Piece { at, to, length }));
        assert_eq!(survivors(&records, &Cut { at: 5, lost: None }), []);
    }

    #[test]
    fn of_what_no_flush_made_durable_any_part_is_lost_by_whole_blocks() {
        let forced = Record::Write { to: 1 << 20, length: 4096, at: 7, durable: true };
        let records = [write(0, 4096 * 100, 0), forced];
        let all = survivors(&records, &Cut { at: 2, lost: None });
        let kept = |seed| survivors(&records, &Cut { at: 2, lost: Some(seed) });
        for seed in 0..20 {
            let pieces = kept(seed);
            assert_eq!(pieces, kept(seed));
            assert!(pieces.iter().all(|piece| all.contains(piece) && piece.length == 4096) && pieces.len() < all.len());
            assert_eq!(pieces.last(), Some(&Piece { at: 7, to: 1 << 20, length: 4096 }), "forced to the medium");
        }
        assert!((0..20).any(|seed| kept(seed).len() > 70) && (0..20).any(|seed| kept(seed).len() < 30));
    }

    #[test]
    fn cuts_are_spread_over_requests_and_flushes_and_what_is_delicate() {
        // A long stretch of data, then a few small requests in a place of their own.
        let mut records = vec![write(1 << 30, 512, 0); 1000];
        records.extend([Record::Flush, write(0, 512, 0), Record::Flush, write(512, 512, 0), Record::Flush]);
        let cuts = choose(&records, 100..1005, &(0..4096), 60, &mut Random::new(7));
        assert_eq!(cuts, choose(&records, 100..1005, &(0..4096), 60, &mut Random::new(7)));
        assert!(cuts.len() == 60 && cuts.iter().all(|cut| (100..=1005).contains(&cut.at)) && cuts.is_sorted_by_key(|cut| cut.at));
        let late = cuts.iter().filter(|cut| cut.at > 1000).count();
        assert!((25..45).contains(&late), "{late} of 60 after the long stretch");
        assert_eq!(cuts.iter().filter(|cut| cut.lost.is_some()).count(), 30);
    }

    #[test]
    fn a_stretch_without_a_flush_or_anything_is_cut_too() {
        let records = [write(0, 512, 0), write(512, 512, 0)];
        assert_eq!(choose(&records, 1..1, &(0..1), 3, &mut Random::new(1)).iter().map(|cut| cut.at).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(choose(&records, 0..2, &(0..1), 6, &mut Random::new(1)).len(), 6);
    }
}
