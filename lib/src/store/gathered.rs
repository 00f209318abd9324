//! Files that wait in one buffer, each as a whole, until they are hashed side by side.

use std::ops::Range;

use anyhow::Result;
use composefs::fsverity::FsVerityHashValue;

use super::content::ContentDigest;
use super::merkle;
use super::sha256::sha256_each;

/// A file whose place in the stream is known.
pub(super) struct Gathered<H> {
    /// How much of what is between files comes before it.
    pub(super) before: usize,
    pub(super) size: u64,
    pub(super) content: Gathering<H>,
}

/// Where its content is.
pub(super) enum Gathering<H> {
    /// In the buffer as a whole, from here on; and whether it is to become an object.
    Buffer(usize, bool),
    /// It is this object, which is here.
    Object(H),
}

/// A file of the buffer that was hashed.
pub(super) struct Hashed<H> {
    pub(super) id: H,
    /// Where in the buffer it is.
    pub(super) place: Range<usize>,
    /// The digest of its content, where somebody wants to know.
    pub(super) content: Option<ContentDigest>,
}

/// Hashes those files that are in the buffer, where each is filled up with zeros to whole blocks; of the contents those of objects that are `wanted`.
pub(super) fn hash<H: FsVerityHashValue>(buffer: &[u8], files: &[Gathered<H>], wanted: impl Fn(&H) -> bool) -> Result<Vec<Hashed<H>>> {
    let (mut sizes, mut places, mut end) = (Vec::new(), Vec::new(), 0);
    for file in files {
        if let Gathering::Buffer(start, _) = file.content {
            let length = file.size as usize;
            sizes.push(file.size);
            places.push(start..start + length);
            end = start + merkle::padded(length);
        }
    }
    let ids = merkle::digests::<H>(&buffer[..end], &sizes)?;
    let wanted: Vec<bool> = ids.iter().map(wanted).collect();
    let contents: Vec<&[u8]> = places.iter().zip(&wanted).filter(|(_, wanted)| **wanted).map(|(place, _)| &buffer[place.clone()]).collect();
    let mut digests = sha256_each(&contents).into_iter();
    let hashed = ids.into_iter().zip(places).zip(wanted);
    Ok(hashed.map(|((id, place), wanted)| Hashed { id, place, content: if wanted { digests.next() } else { None } }).collect())
}
