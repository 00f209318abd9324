//! Measuring takes neither memory nor disk for the size of a file. Alone in its program, so that its memory can be told.

mod store_common;

use std::path::Path;

use selkie::image_id::Algorithm;
use selkie::store::{Commit, Content, Keep, NodeKind, Scratch};
use sha2::{Digest, Sha256};
use store_common::*;

#[test]
fn a_file_of_more_than_four_gib() {
    let within = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(within.path(), Algorithm::Sha256).unwrap();
    let size = (1 << 32) + 4097;
    // A scratch does not hash the stream: any name does.
    let (first, big) = (tar(&base()), sha256(b"big"));
    scratch.measure_layer(&sha256(&first), &first[..], Keep::Names(|_| false)).unwrap();
    scratch.measure_layer(&big, zeros(size), Keep::Names(|_| false)).unwrap();
    let (_, config) = documents_of(&[(sha256(&first), first.len()), (big, 1)]);
    let Commit::Done(measured) = scratch.commit(&config).unwrap() else { panic!("nothing is unread") };
    let NodeKind::File(file) = scratch.tree(&measured.image).unwrap().get("/usr/big").unwrap().unwrap().kind else { panic!("not a file") };
    assert_eq!(file.size, size);
    let Content::Object(object) = file.content else { panic!("not an object") };
    assert_eq!(object.hex(), verity_of_zeros(size), "computed by hand");
    assert!(peak_memory() < 64 << 20, "{} bytes of memory", peak_memory());
    let stored = size_of(within.path());
    assert!(stored < 1 << 20, "{stored} bytes on disk");
}

/// fs-verity as the kernel's documentation has it: a tree of blocks, and the digest of a descriptor.
fn verity_of_zeros(size: u64) -> String {
    let block = |bytes: &[u8]| <[u8; 32]>::from(Sha256::new().chain_update(bytes).chain_update(vec![0; 4096 - bytes.len()]).finalize());
    let mut level = vec![block(&[]); size.div_ceil(4096) as usize];
    while level.len() > 1 {
        level = level.chunks(128).map(|hashes| block(hashes.as_flattened())).collect();
    }
    // Version, algorithm, logarithm of the block size, size of the salt; the salt and what is reserved are zero.
    let descriptor = [&[1, 1, 12, 0, 0, 0, 0, 0][..], &size.to_le_bytes(), &level[0], &[0; 32 + 32 + 144]].concat();
    hex::encode(Sha256::digest(descriptor))
}

fn size_of(directory: &Path) -> u64 {
    let size = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() { size_of(&entry.path()) } else { entry.path().symlink_metadata().unwrap().len() }
    };
    std::fs::read_dir(directory).unwrap().map(size).sum()
}
