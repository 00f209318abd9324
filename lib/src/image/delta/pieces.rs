//! A file in pieces of another one: what of it is there, and where. For files that are too large to be in a host's memory: whoever puts them together copies.

use std::collections::HashMap;
use std::ops::Range;

/// The bytes of a block of the old file. Where one of these is found, what is the same around it belongs to the piece.
const BLOCK: usize = 64;

/// The multiplier of the rolling hash, an odd number.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes of the other file.
    Copy(Range<usize>),
    /// These bytes of the file itself.
    Data(Range<usize>),
}

/// The pieces that `new` consists of, in order, as many of them from `old` as are found. The same input gives the same pieces.
pub fn pieces(old: &[u8], new: &[u8]) -> Vec<Piece> {
    let blocks = index(old);
    // Where the last piece ended in the old file: after a few bytes that changed, it often goes on there.
    let (mut pieces, mut done, mut at, mut last) = (Vec::new(), 0, 0, 0);
    let mut rolling = None;
    while at + BLOCK <= new.len() {
        let hash = *rolling.get_or_insert_with(|| hash(&new[at..at + BLOCK]));
        let places = blocks.get(&hash).map(|start| [*start as usize, last + (at - done)]);
        let found = places.into_iter().flatten().filter_map(|start| same(old, start, new, at, done));
        let Some((from, to)) = found.max_by_key(|(from, _)| from.len()) else {
            rolling = new.get(at + BLOCK).map(|next| roll(hash, new[at], *next));
            at += 1;
            continue;
        };
        if done < to.start {
            pieces.push(Piece::Data(done..to.start));
        }
        last = from.end;
        pieces.push(Piece::Copy(from));
        (done, at, rolling) = (to.end, to.end, None);
    }
    if done < new.len() {
        pieces.push(Piece::Data(done..new.len()));
    }
    pieces
}

/// Where the blocks of a file begin, by their hashes; of those that are the same, the first. Blocks of one byte only are not among them: any compressor has those for
/// nothing, and there are many.
fn index(old: &[u8]) -> HashMap<u64, u32> {
    let mut blocks = HashMap::with_capacity(old.len() / BLOCK);
    for (number, block) in old.chunks_exact(BLOCK).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != block[0])) {
        // Files that are larger than that are not in anybody's memory.
        let Ok(start) = u32::try_from(number * BLOCK) else { break };
        blocks.entry(hash(block)).or_insert(start);
    }
    blocks
}

/// The longest piece that is the same in both around `old[start..]` and `new[at..]`, where the blocks there are the same: where it is in either. Before `done`, everything is
/// spoken for.
fn same(old: &[u8], start: usize, new: &[u8], at: usize, done: usize) -> Option<(Range<usize>, Range<usize>)> {
    let ahead = old.get(start..)?.iter().zip(&new[at..]).take_while(|(a, b)| a == b).count();
    if ahead < BLOCK {
        return None;
    }
    let behind = old[..start].iter().rev().zip(new[done..at].iter().rev()).take_while(|(a, b)| a == b).count();
    Some((start - behind..start + ahead, at - behind..at + ahead))
}

fn hash(block: &[u8]) -> u64 {
    block.iter().fold(0, |hash, byte| push(hash, *byte))
}

fn push(hash: u64, byte: u8) -> u64 {
    hash.wrapping_mul(FACTOR).wrapping_add(u64::from(byte) + 1)
}

/// The hash of a block that begins one byte later: without `first`, and with `next`.
fn roll(hash: u64, first: u8, next: u8) -> u64 {
    const OF_FIRST: u64 = FACTOR.wrapping_pow(BLOCK as u32 - 1);
    push(hash.wrapping_sub((u64::from(first) + 1).wrapping_mul(OF_FIRST)), next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::chunked::random;

    fn put_together(old: &[u8], new: &[u8], pieces: &[Piece]) -> Vec<u8> {
        let bytes = pieces.iter().map(|piece| match piece {
            Piece::Copy(range) => &old[range.clone()],
            Piece::Data(range) => &new[range.clone()],
        });
        bytes.collect::<Vec<_>>().concat()
    }

    fn noise(length: usize, mut seed: u64) -> Vec<u8> {
        (0..length).map(|_| random(&mut seed) as u8).collect()
    }

    #[test]
    fn what_is_the_same_is_found_wherever_it_is() {
        let (a, b, c) = (noise(10_000, 1), noise(3000, 2), noise(5000, 3));
        let old = [&a[..], &c].concat();
        // Moved by a byte, with something in between, cut off, the other way round, nothing in common, too short, empty.
        let table = [
            (old.clone(), vec![Piece::Copy(0..15_000)]),
            ([&b"x"[..], &old].concat(), vec![Piece::Data(0..1), Piece::Copy(0..15_000)]),
            ([&a[..], &b, &c].concat(), vec![Piece::Copy(0..10_000), Piece::Data(10_000..13_000), Piece::Copy(10_000..15_000)]),
            (a[77..9000].to_vec(), vec![Piece::Copy(77..9000)]),
            ([&c[..], &a].concat(), vec![Piece::Copy(10_000..15_000), Piece::Copy(0..10_000)]),
            (b.clone(), vec![Piece::Data(0..3000)]),
            (a[..BLOCK - 1].to_vec(), vec![Piece::Data(0..BLOCK - 1)]),
            (Vec::new(), vec![]),
        ];
        for (new, expected) in table {
            let found = pieces(&old, &new);
            assert_eq!(found, expected);
            assert_eq!(put_together(&old, &new, &found), new);
        }
        assert_eq!(pieces(&[], &a), [Piece::Data(0..10_000)]);
    }

    #[test]
    fn what_repeats_itself_is_no_heap_of_pieces() {
        let (a, b) = (noise(1000, 1), noise(1000, 2));
        // Zeros, of which the old file has few first and many later.
        let old = [&a[..], &[0; 130], &b, &[0; 1 << 20]].concat();
        let new = [&b[..], &[0; 2 << 20], &a].concat();
        let found = pieces(&old, &new);
        assert!(found.len() <= 4, "{found:?}");
        assert_eq!(put_together(&old, &new, &found), new);
        // The same section many times, with a byte that changed in one of them.
        let old = a.repeat(1000);
        let mut new = old.clone();
        new[500_500] ^= 1;
        let found = pieces(&old, &new);
        assert!(found.len() <= 3, "{} pieces", found.len());
        assert_eq!(put_together(&old, &new, &found), new);
    }

    #[test]
    fn whatever_was_changed_it_is_put_together_again() {
        for seed in 0..50 {
            let (old, dice) = (noise(4000, seed), noise(64, seed + 1000));
            let mut new = old.clone();
            for change in dice.chunks_exact(4) {
                let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % new.len();
                let length = usize::from(change[2]).min(new.len() - at);
                match change[3] % 3 {
                    0 => drop(new.drain(at..at + length)),
                    1 => new[at] ^= 1,
                    _ => drop(new.splice(at..at, vec![0; length])),
                }
            }
            let found = pieces(&old, &new);
            assert_eq!(put_together(&old, &new, &found), new, "seed {seed}");
            assert!(found.iter().any(|piece| matches!(piece, Piece::Copy(_))), "seed {seed}");
        }
    }
}
