//! A target of the check: see [`crate::fuzz`].

use std::io::{Seek, Write};

use anyhow::Result;
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};

use super::stream::Stream;
use crate::fuzz::Enough;
use crate::image_id::Algorithm;
use crate::store::{Store, Verity};
use crate::sys::dir;

/// What every object has in it.
const CONTENT: [u8; 300] = [7; 300];
/// So much of what a stream has is taken.
const ENOUGH: u64 = 4 << 20;

/// A split stream of either algorithm.
pub(crate) fn split_stream(bytes: &[u8]) {
    for read in [read::<Sha256HashValue>, read::<Sha512HashValue>] {
        // What is wrong with it is told.
        let _ = read(bytes);
    }
}

fn read<H: FsVerityHashValue>(bytes: &[u8]) -> Result<()> {
    let mut file = tempfile::tempfile()?;
    file.write_all(bytes)?;
    let stream = Stream::<H>::read(file)?;
    assert!(stream.objects.len() * size_of::<H>() <= bytes.len(), "more objects than it has bytes for");
    stream.write(Enough(ENOUGH), |_| {
        let mut object = tempfile::tempfile()?;
        object.write_all(&CONTENT)?;
        object.rewind()?;
        Ok(object)
    })
}

/// The stream of a layer, in both algorithms.
pub(crate) fn split_streams() -> Vec<Vec<u8>> {
    [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| stream(algorithm).expect("making a stream")).into()
}

fn stream(algorithm: Algorithm) -> Result<Vec<u8>> {
    let temp = tempfile::tempdir()?;
    let store = Store::open_or_init(dir::open_path(temp.path())?, "r", Some(algorithm), Verity::Never)?;
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [("a", &CONTENT[..]), ("b", b"small"), ("c", &CONTENT)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content)?;
    }
    let tar = tar.into_inner()?;
    let diff_id = format!("sha256:{}", hex::encode(openssl::sha::sha256(&tar)));
    store.import_layer(&diff_id, &tar[..])?;
    Ok(std::fs::read(temp.path().join("r/streams").join(format!("oci-layer-{diff_id}")))?)
}
