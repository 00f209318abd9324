//! Neither making a delta nor pulling by it takes memory for the size of a layer. Alone in its program, so that its memory can be told.

mod delta_common;
mod store_common;

use std::io::{Read, Write};

use delta_common::partial_common::Machine;
use delta_common::partial_common::oci::Compression;
use delta_common::{Desk, base, tar};
use ocidir::oci_spec::image::{Descriptor, Digest, MediaType};
use openssl::sha::{Sha256, sha256};
use selkie::ops::pull::Way;
use store_common::peak_memory;

/// Bytes of each of the large files.
const SIZE: usize = 100 << 20;

/// A layer with these files of [`SIZE`] bytes, none of which is ever in memory: blob and diff_id.
fn large(desk: &Desk, files: &[(&str, u8)]) -> (Descriptor, String) {
    let path = desk.path("blob");
    let mut encoder = zstd::Encoder::new(std::fs::File::create(&path).unwrap(), 1).unwrap();
    let mut hasher = Sha256::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        encoder.write_all(bytes).unwrap();
    };
    for (name, byte) in files {
        let mut header = delta_common::partial_common::oci::header(tar::EntryType::Regular, SIZE);
        header.set_path(name).unwrap();
        header.set_cksum();
        put(header.as_bytes());
        // Something that no compressor makes nothing of, so that the delta is believed to be able to give so much.
        for block in 0..SIZE >> 16 {
            let mut bytes = vec![*byte; 1 << 16];
            (0..64).for_each(|n| bytes[n * 32..][..32].copy_from_slice(&sha256(&[*byte, n as u8, block as u8, (block >> 8) as u8])));
            put(&bytes);
        }
    }
    put(&[0; 1024]);
    encoder.finish().unwrap();
    let (diff_id, digest) = (format!("sha256:{}", hex::encode(hasher.finish())), digest(&path));
    let size = path.metadata().unwrap().len();
    std::fs::rename(path, desk.layout.blob(&digest)).unwrap();
    (Descriptor::new(MediaType::ImageLayerZstd, size, digest.parse::<Digest>().unwrap()), diff_id)
}

fn digest(path: &std::path::Path) -> String {
    let (mut file, mut hasher, mut buffer) = (std::fs::File::open(path).unwrap(), Sha256::new(), vec![0; 1 << 16]);
    while let read @ 1.. = file.read(&mut buffer).unwrap() {
        hasher.update(&buffer[..read]);
    }
    format!("sha256:{}", hex::encode(hasher.finish()))
}

#[test]
fn large_files_take_no_memory() {
    let mut desk = Desk::empty();
    let (bottom, bottom_id) = desk.layout.layer(Compression::Gzip, &tar(&base()));
    // As the command does, so that the number of threads makes no difference.
    selkie::sys::memory::give_back();
    for (tag, files) in [("v1", vec![("usr/old", 1)]), ("v2", vec![("usr/moved", 1), ("usr/old", 2)])] {
        let (top, top_id) = large(&desk, &files);
        let image = desk.layout.image_of("amd64", vec![bottom.clone(), top], vec![bottom_id.clone(), top_id]);
        desk.layout.publish(Some(tag), &image);
    }
    let report = desk.v1_to_v2(&desk.layout.reference(None));
    let origins = report.origins;
    assert!(origins.copied == SIZE as u64 && origins.new >= SIZE as u64 && origins.patched == 0, "{origins:?}");
    let machine = Machine::new();
    machine.pull(&desk.tag("v1"));
    let pulled = machine.pull(&desk.tag("v2"));
    assert_eq!(pulled.fetched[1].way, Way::Delta, "{pulled:?}");
    // The compressor has about half of that.
    assert!(peak_memory() < 144 << 20, "{} bytes of memory", peak_memory());
}
