//! fs-verity digests as the kernel computes them (Linux, Documentation/filesystems/fsverity.rst), in blocks of 4096 bytes and without a salt.
//!
//! The blocks of a Merkle tree do not depend on each other, those of different files even less, so they are hashed side by side. composefs' own hasher takes one block at a time; the
//! tests compare with it.

use std::borrow::Cow;
use std::io::{self, Read};
use std::marker::PhantomData;

use anyhow::Result;
use composefs::fsverity::{Algorithm, FsVerityHashValue};
use openssl::sha::sha512;

use super::digest;
use super::sha256::sha256_each;

/// The bytes of a block.
pub(super) const BLOCK: usize = 4096;
/// What is read of a file at a time; whole blocks.
pub(super) const PIECE: usize = 64 * BLOCK;
/// The bytes of a descriptor, whose digest is that of the file.
const DESCRIPTOR: usize = 256;
/// Bytes of a root in it; that of SHA-256 is shorter, and followed by zeros.
const ROOT: usize = 64;

/// The bytes that `size` bytes take with the zeros that fill their last block.
pub(super) fn padded(size: usize) -> usize {
    size.next_multiple_of(BLOCK)
}

/// The digests of files of these sizes, which `blocks` has one behind the other, each filled up with zeros to whole blocks.
pub(super) fn digests<H: FsVerityHashValue>(blocks: &[u8], sizes: &[u64]) -> Result<Vec<H>> {
    let length = size_of::<H>();
    let mut roots = vec![[0; ROOT]; sizes.len()];
    // Files whose root is not known yet, with the bytes that they have of this level.
    let mut open: Vec<(usize, usize)> = sizes.iter().map(|size| padded(*size as usize)).enumerate().collect();
    let mut level = Cow::Borrowed(blocks);
    while !open.is_empty() {
        let hashed = each::<H>(&level, BLOCK);
        let (mut rest, mut next, mut still) = (&hashed[..], Vec::new(), Vec::new());
        for (file, bytes) in open {
            let (own, later) = rest.split_at(bytes / BLOCK * length);
            rest = later;
            if own.len() <= length {
                roots[file][..own.len()].copy_from_slice(own);
            } else {
                next.extend_from_slice(own);
                next.resize(padded(next.len()), 0);
                still.push((file, padded(own.len())));
            }
        }
        (level, open) = (next.into(), still);
    }
    let descriptors: Vec<u8> = sizes.iter().zip(&roots).flat_map(|(size, root)| descriptor::<H>(*size, root)).collect();
    each::<H>(&descriptors, DESCRIPTOR).chunks(length).map(digest).collect()
}

/// The digest of a file that comes piece by piece. Its memory does not depend on the size of the file.
#[derive(Debug)]
pub(super) struct Growing<H> {
    size: u64,
    /// Of each level, the digests that do not fill a block yet; the lowest first.
    levels: Vec<Vec<u8>>,
    algorithm: PhantomData<H>,
}

impl<H: FsVerityHashValue> Growing<H> {
    pub(super) fn new() -> Self {
        Self { size: 0, levels: Vec::new(), algorithm: PhantomData }
    }

    /// Takes the next bytes: whole blocks, except at the end.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        let (whole, rest) = bytes.split_at(bytes.len() / BLOCK * BLOCK);
        self.push(0, &each::<H>(whole, BLOCK));
        if !rest.is_empty() {
            self.push(0, &each::<H>(&filled(rest), BLOCK));
        }
    }

    /// Adds digests to a level, and what blocks they fill to the one above.
    fn push(&mut self, number: usize, digests: &[u8]) {
        if digests.is_empty() {
            return;
        }
        if self.levels.len() == number {
            self.levels.push(Vec::new());
        }
        let level = &mut self.levels[number];
        level.extend_from_slice(digests);
        let whole: Vec<u8> = level.drain(..level.len() / BLOCK * BLOCK).collect();
        self.push(number + 1, &each::<H>(&whole, BLOCK));
    }

    /// The digest of all that came.
    pub(super) fn digest(mut self) -> Result<H> {
        let mut number = 0;
        let mut root = [0; ROOT];
        while number < self.levels.len() {
            let level = std::mem::take(&mut self.levels[number]);
            number += 1;
            if number == self.levels.len() && level.len() == size_of::<H>() {
                root[..level.len()].copy_from_slice(&level);
            } else if !level.is_empty() {
                self.push(number, &each::<H>(&filled(&level), BLOCK));
            }
        }
        digest(&each::<H>(&descriptor::<H>(self.size, &root), DESCRIPTOR))
    }
}

/// The digest and the size of what a file has. `piece` is whole blocks of fs-verity.
pub(super) fn measure<H: FsVerityHashValue>(mut file: impl Read, piece: &mut [u8]) -> io::Result<(H, u64)> {
    let (mut growing, mut size) = (Growing::<H>::new(), 0);
    loop {
        let mut filled = 0;
        while filled < piece.len() {
            match file.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        growing.add(&piece[..filled]);
        size += filled as u64;
        if filled < piece.len() {
            return Ok((growing.digest().map_err(io::Error::other)?, size));
        }
    }
}

/// The digests of all messages of `length` bytes that `messages` consists of, one behind the other.
fn each<H: FsVerityHashValue>(messages: &[u8], length: usize) -> Vec<u8> {
    let messages = messages.chunks(length);
    if let Algorithm::Sha512 { .. } = Algorithm::for_hash::<H>() {
        return messages.flat_map(sha512).collect();
    }
    sha256_each(&messages.collect::<Vec<_>>()).into_flattened()
}

fn filled(rest: &[u8]) -> Vec<u8> {
    let mut block = rest.to_vec();
    block.resize(padded(rest.len()), 0);
    block
}

/// `struct fsverity_descriptor`: version, algorithm, block size, no salt, and size and root of the file.
fn descriptor<H: FsVerityHashValue>(size: u64, root: &[u8; ROOT]) -> [u8; DESCRIPTOR] {
    let mut descriptor = [0; DESCRIPTOR];
    descriptor[0] = 1;
    descriptor[1] = Algorithm::for_hash::<H>().kernel_id();
    descriptor[2] = BLOCK.trailing_zeros() as u8;
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    descriptor[16..16 + ROOT].copy_from_slice(root);
    descriptor
}

#[cfg(test)]
mod tests {
    use composefs::fsverity::{Sha256HashValue, Sha512HashValue, compute_verity};

    use super::*;

    /// Sizes around every edge: no byte, a block, a block of digests, and two levels of those for SHA-512.
    const SIZES: [usize; 16] = [
        0,
        1,
        4095,
        4096,
        4097,
        8192,
        63 * 4096 + 1,
        64 * 4096,
        64 * 4096 + 1,
        127 * 4096,
        128 * 4096,
        128 * 4096 + 1,
        256 * 4096 + 5,
        64 * 64 * 4096,
        64 * 64 * 4096 + 1,
        128 * 128 * 4096 + 1,
    ];

    /// Bytes of which no two blocks are equal.
    fn bytes(size: usize) -> Vec<u8> {
        let mut bytes = vec![7; size];
        bytes.chunks_exact_mut(BLOCK).enumerate().for_each(|(number, block)| block[..8].copy_from_slice(&number.to_le_bytes()));
        bytes
    }

    fn growing<H: FsVerityHashValue>(bytes: &[u8], piece: usize) -> H {
        let mut growing = Growing::new();
        bytes.chunks(piece).for_each(|piece| growing.add(piece));
        growing.digest().unwrap()
    }

    fn compare<H: FsVerityHashValue>() {
        let files = SIZES.map(bytes);
        let expected: Vec<H> = files.iter().map(|file| compute_verity(file)).collect();
        for (file, expected) in files.iter().zip(&expected) {
            for piece in [BLOCK, 3 * BLOCK, 256 * BLOCK] {
                assert_eq!(growing::<H>(file, piece), *expected, "{} bytes in pieces of {piece}", file.len());
            }
        }
        for count in [0, 1, 2, 5, 12, 13] {
            let (mut blocks, mut sizes) = (Vec::new(), Vec::new());
            for file in &files[..count] {
                blocks.extend_from_slice(file);
                blocks.resize(padded(blocks.len()), 0);
                sizes.push(file.len() as u64);
            }
            assert_eq!(digests::<H>(&blocks, &sizes).unwrap(), expected[..count], "{count} files");
        }
    }

    #[test]
    fn digests_are_those_of_the_library() {
        compare::<Sha256HashValue>();
        compare::<Sha512HashValue>();
    }
}
