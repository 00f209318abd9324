//! zstd frames: a file by itself, and a file in terms of another one.

use std::io::{Read, Write};

use anyhow::{Context, Result};

/// How hard is tried: a delta is made once and fetched often.
pub(super) const LEVEL: i32 = 15;

/// Largest window, as the power of two, of a frame that refers to another file: twice [`compress_against`]'s largest file.
const MAX_WINDOW_LOG: u32 = 27;

/// Compresses `new`, which may refer to all of `old`: what `zstd --patch-from` does. Whoever undoes it needs `old` and as much memory as
/// `new` has bytes. The same input gives the same bytes.
///
/// # Errors
///
/// Where there is not enough memory.
pub fn compress_against(old: &[u8], new: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), LEVEL, old).context("starting zstd")?;
    let reach = (old.len() + new.len()).max(1024).next_power_of_two().ilog2();
    encoder.window_log(reach.min(MAX_WINDOW_LOG)).context("setting the window of zstd")?;
    encoder.long_distance_matching(true).context("setting up zstd")?;
    encoder.set_pledged_src_size(Some(new.len() as u64)).context("setting up zstd")?;
    encoder.write_all(new).context("compressing a file against another")?;
    encoder.finish().context("compressing a file against another")
}

/// How many bytes a file has when it is compressed by itself, as far as that is less than `limit`.
///
/// # Errors
///
/// Where there is not enough memory.
pub fn compress(content: &[u8], limit: u64) -> Result<u64> {
    let mut encoder = zstd::stream::read::Encoder::with_buffer(content, LEVEL).context("starting zstd")?;
    encoder.set_pledged_src_size(Some(content.len() as u64)).context("setting up zstd")?;
    std::io::copy(&mut Read::by_ref(&mut encoder).take(limit), &mut std::io::sink()).context("compressing a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo(old: &[u8], frame: &[u8]) -> Vec<u8> {
        let mut new = Vec::new();
        let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(frame, old).unwrap();
        decoder.window_log_max(29).unwrap();
        decoder.read_to_end(&mut new).unwrap();
        new
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn a_frame_has_what_is_new_only() {
        let old = noise(3 << 20);
        let new = [&b"new"[..], &old[1 << 20..], &[7; 5000], &old[..1 << 20]].concat();
        let frame = compress_against(&old, &new).unwrap();
        assert!(frame.len() < 2000, "{}", frame.len());
        assert!(undo(&old, &frame) == new);
        assert_eq!(frame, compress_against(&old, &new).unwrap());
        for (old, new) in [(&b""[..], &b"x"[..]), (b"x", b""), (b"", b"")] {
            assert_eq!(undo(old, &compress_against(old, new).unwrap()), new);
        }
    }

    #[test]
    fn the_size_alone_is_found_up_to_a_limit() {
        assert!(compress(&[7_u8; 100_000], 1000).unwrap() < 100);
        assert_eq!(compress(&noise(100_000), 1000).unwrap(), 1000);
    }
}
