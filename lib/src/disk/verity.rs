//! fs-verity in user space: the Merkle tree, the descriptor and the digest of a file, as the kernel would make them.
//!
//! Blocks of 4096 bytes, no salt. Documentation/filesystems/fsverity.rst is the specification. Pure: no I/O here.

use crate::image_id::Algorithm;

/// The block of data, Merkle tree and file system.
pub(super) const BLOCK: usize = 4096;
/// ext4 keeps the tree at the next multiple of this after the end of the file.
const TREE_ALIGNMENT: u64 = 65536;
/// struct fsverity_descriptor.
const DESCRIPTOR: usize = 256;

/// Where the Merkle tree of a file of `size` bytes begins in ext4, in bytes from the beginning of the file.
pub(super) fn tree_offset(size: u64) -> u64 {
    size.next_multiple_of(TREE_ALIGNMENT)
}

/// How many bytes [`Sealed::trailer`] has for a file of `size` bytes.
pub(super) fn trailer_size(size: u64, algorithm: Algorithm) -> u64 {
    let hashes_per_block = (BLOCK * 2 / algorithm.hex_len()) as u64;
    let mut blocks = 1;
    let mut level = size.div_ceil(BLOCK as u64);
    while level > 1 {
        level = level.div_ceil(hashes_per_block);
        blocks += level;
    }
    blocks * BLOCK as u64
}

/// A file's fs-verity metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The fs-verity digest in lowercase hexadecimal: the hash of the descriptor.
    pub digest: String,
    /// The Merkle tree, root level first, each level padded to whole blocks. Empty for a file of one block.
    pub tree: Vec<u8>,
    /// struct fsverity_descriptor.
    pub descriptor: [u8; DESCRIPTOR],
}

impl Sealed {
    /// What ext4 keeps behind the end of the file: tree, descriptor, and in the last four bytes the descriptor's size.
    pub(super) fn trailer(mut self) -> Vec<u8> {
        let end = self.tree.len() + BLOCK;
        self.tree.extend_from_slice(&self.descriptor);
        self.tree.resize(end - 4, 0);
        self.tree.extend_from_slice(&(DESCRIPTOR as u32).to_le_bytes());
        self.tree
    }
}

/// Takes a file's bytes in order and ends as its [`Sealed`]. Memory: one hash for each block.
#[derive(Debug)]
pub struct Sealer {
    algorithm: Algorithm,
    size: u64,
    partial: Vec<u8>,
    leaves: Vec<u8>,
}

impl Sealer {
    /// Nothing read yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, size: 0, partial: Vec::with_capacity(BLOCK), leaves: Vec::new() }
    }

    /// The next bytes of the file. Whole blocks are hashed where they are.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if !self.partial.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - self.partial.len()));
            self.partial.extend_from_slice(head);
            bytes = rest;
            if self.partial.len() < BLOCK {
                return;
            }
            hash_into(self.algorithm, &self.partial, &mut self.leaves);
            self.partial.clear();
        }
        let blocks = bytes.chunks_exact(BLOCK);
        self.partial.extend_from_slice(blocks.remainder());
        for block in blocks {
            hash_into(self.algorithm, block, &mut self.leaves);
        }
    }

    /// The end of the file.
    pub fn finish(mut self) -> Sealed {
        if !self.partial.is_empty() {
            self.partial.resize(BLOCK, 0);
            hash_into(self.algorithm, &self.partial, &mut self.leaves);
        }
        let (tree, root) = tree(self.algorithm, self.leaves);
        let descriptor = descriptor(self.algorithm, self.size, &root);
        let mut digest = Vec::new();
        hash_into(self.algorithm, &descriptor, &mut digest);
        Sealed { digest: hex::encode(digest), tree, descriptor }
    }
}

/// The levels above and including `leaves`, root level first, and the root hash.
fn tree(algorithm: Algorithm, leaves: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut levels = Vec::new();
    let mut level = leaves;
    while level.len() > algorithm.hex_len() / 2 {
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        let mut above = Vec::new();
        for block in level.chunks_exact(BLOCK) {
            hash_into(algorithm, block, &mut above);
        }
        levels.push(level);
        level = above;
    }
    levels.reverse();
    (levels.concat(), level)
}

fn descriptor(algorithm: Algorithm, size: u64, root: &[u8]) -> [u8; DESCRIPTOR] {
    let mut descriptor = [0; DESCRIPTOR];
    descriptor[0] = 1; // version
    descriptor[1] = match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    };
    descriptor[2] = BLOCK.trailing_zeros() as u8;
    descriptor[8..16].copy_from_slice(&size.to_le_bytes());
    descriptor[16..16 + root.len()].copy_from_slice(root);
    descriptor
}

fn hash_into(algorithm: Algorithm, bytes: &[u8], to: &mut Vec<u8>) {
    match algorithm {
        Algorithm::Sha256 => to.extend_from_slice(&openssl::sha::sha256(bytes)),
        Algorithm::Sha512 => to.extend_from_slice(&openssl::sha::sha512(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use fs_verity::FsVerityDigest;

    use super::*;

    const SIZES: [usize; 10] = [1, 4095, 4096, 4097, 8192, 64 * 4096, 64 * 4096 + 1, 128 * 4096, 128 * 4096 + 1, 200_000];

    fn bytes(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
    }

    fn seal(algorithm: Algorithm, bytes: &[u8], chunk: usize) -> Sealed {
        let mut sealer = Sealer::new(algorithm);
        bytes.chunks(chunk).for_each(|chunk| sealer.update(chunk));
        sealer.finish()
    }

    fn peer<D: fs_verity::InnerHash>(bytes: &[u8]) -> String {
        let mut peer = FsVerityDigest::<D>::new();
        sha2::Digest::update(&mut peer, bytes);
        hex::encode(sha2::Digest::finalize(peer))
    }

    #[test]
    fn digests_are_those_of_another_implementation() {
        for size in SIZES {
            let bytes = bytes(size);
            assert_eq!(seal(Algorithm::Sha256, &bytes, 1 << 20).digest, peer::<sha2::Sha256>(&bytes), "sha256 of {size}");
            assert_eq!(seal(Algorithm::Sha512, &bytes, 1 << 20).digest, peer::<sha2::Sha512>(&bytes), "sha512 of {size}");
        }
    }

    #[test]
    fn chunks_do_not_matter() {
        let bytes = bytes(100_001);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let whole = seal(algorithm, &bytes, bytes.len());
            for chunk in [1, 7, 4095, 4096, 5000] {
                assert_eq!(seal(algorithm, &bytes, chunk), whole, "{algorithm} in chunks of {chunk}");
            }
        }
    }

    /// From `fsverity digest` of fsverity-utils 1.5.
    #[test]
    fn known_digests() {
        let zeros = vec![0; 600_000];
        let table = [
            (Algorithm::Sha256, b"hello".as_slice(), "555b589c26ee43b7a2510e6c67ced9fb3190b6da6e9e683984551f5d77a763de"),
            (Algorithm::Sha256, &zeros[..4097], "093756e4ea9683329106d4a16982682ed182c14bf076463a9e7f97305cbac743"),
            (Algorithm::Sha256, &zeros, "a30d0b5c509da40c16ccc4ca0d71eea08da6a82e8fac6219b483579e3418d245"),
            (
                Algorithm::Sha512,
                b"hello",
                "f40c9f595539791d80fdff8f46b9fd3f61d9b5aa12c4c366c296c455f342b7ba\
                 5d1f03ffa8290b2f159f44a97e182ddaf305d97ce86e3713cdf5508da1cef244",
            ),
            (
                Algorithm::Sha512,
                &zeros[..4097],
                "4339f5da3788e60fa6857bd7040fadccd6f125b2c2334777eb14ed55179ad887\
                 d9131e9ce78485afc23051392b71e015528abbb7be07ed7073c56480b15cedf1",
            ),
            (
                Algorithm::Sha512,
                &zeros,
                "1eaa45431cd5d4402d1fb763295cf0fd2eee5aa3cc5ecc9532566daf10353296\
                 324692a6605db5f464c8c1df0c262114cc542144b698a34e0a74b8f676791226",
            ),
        ];
        for (algorithm, content, digest) in table {
            assert_eq!(seal(algorithm, content, 4096).digest, digest, "{algorithm} of {} bytes", content.len());
        }
    }

    #[test]
    fn the_trailer_has_the_planned_size_and_ends_with_the_descriptor() {
        for size in SIZES {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let sealed = seal(algorithm, &bytes(size), 1 << 20);
                let descriptor = sealed.descriptor;
                let trailer = sealed.trailer();
                assert_eq!(trailer.len() as u64, trailer_size(size as u64, algorithm), "{algorithm} of {size}");
                assert_eq!(&trailer[trailer.len() - BLOCK..][..DESCRIPTOR], descriptor);
                assert_eq!(&trailer[trailer.len() - 4..], [0, 1, 0, 0]);
            }
        }
    }

    #[test]
    fn the_tree_begins_at_the_next_64_kibibytes() {
        for (size, offset) in [(1, 65536), (65536, 65536), (65537, 131_072)] {
            assert_eq!(tree_offset(size), offset, "{size}");
        }
    }
}
