//! Where files are cut into pieces: by what is in them, so that a change moves only the pieces around it.
//!
//! A gear hash (as in FastCDC) of the last 64 bytes decides. Nobody but the writer has to know how: the table of contents says where the
//! pieces are.

use std::io::{self, Read};

/// No piece but the last is smaller: each costs an entry in the table of contents, and compresses by itself.
const SMALLEST: usize = 128 << 10;
/// No piece is larger: this is what a writer holds in memory.
const LARGEST: usize = 2 << 20;
/// The bits of the hash that are zero where a piece ends: once in 512 KiB.
const MASK: u64 = !0 << (64 - 19);

/// A number for each byte that looks random (SplitMix64).
const GEAR: [u64; 256] = {
    let mut gear = [0; 256];
    let mut state: u64 = 0;
    let mut index = 0;
    while index < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        gear[index] = z ^ (z >> 31);
        index += 1;
    }
    gear
};

/// Calls `take` with the pieces of what `reader` has, in order. None is empty.
///
/// # Errors
///
/// Those of reader and `take`.
pub(super) fn pieces(mut reader: impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let room = LARGEST - buffer.len();
        reader.by_ref().take(room as u64).read_to_end(&mut buffer)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = end(&buffer);
        take(&buffer[..end])?;
        buffer.drain(..end);
    }
}

/// Where the first piece ends.
fn end(bytes: &[u8]) -> usize {
    let mut hash: u64 = 0;
    // The hash knows 64 bytes, so that it need not begin before those.
    let from = SMALLEST.saturating_sub(64).min(bytes.len());
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
        if at + 1 >= SMALLEST && hash & MASK == 0 {
            return at + 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::super::super::random;
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7;
        (0..length).map(|_| random(&mut state) as u8).collect()
    }

    fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        pieces(bytes, |piece| {
            all.push(piece.to_vec());
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn the_pieces_are_the_whole_and_within_bounds() {
        assert!(cut(b"").is_empty());
        for length in [1, SMALLEST - 1, SMALLEST, SMALLEST + 1, 9_000_000] {
            for bytes in [noise(length), vec![0; length]] {
                let all = cut(&bytes);
                assert!(all.concat() == bytes);
                assert!(all.iter().all(|piece| !piece.is_empty() && piece.len() <= LARGEST));
                assert!(all[..all.len() - 1].iter().all(|piece| piece.len() >= SMALLEST));
            }
        }
    }

    #[test]
    fn a_change_at_the_front_leaves_the_pieces_behind_it() {
        let before = noise(20_000_000);
        let after = [b"something new".to_vec(), before.clone()].concat();
        let (before, after) = (cut(&before), cut(&after));
        let same = after.iter().filter(|piece| before.contains(piece)).count();
        assert!(before.len() > 15 && same + 2 >= after.len(), "{same} of {} are the same", after.len());
    }
}
