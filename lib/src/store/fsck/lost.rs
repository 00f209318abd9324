//! Objects that never came to the disk, or not as they were written, among those that no name leads to.

use std::collections::HashSet;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::links::links;
use super::objects::scan;
use super::{contents, stream::Stream};

/// Reads all objects that no name leads to, and removes those that are damaged; how many. `seen` is told how many are read, of how many. What a name leads to is neither
/// read nor removed, but for EROFS images, whose names come before a sync: these count where a configuration leads to them, or once they are read.
pub(in crate::store) fn remove_lost<H: FsVerityHashValue>(repository: &Repository<H>, seen: &(dyn Fn(u64, u64) + Sync)) -> Result<u64> {
    let mut needed = behind_streams(repository)?;
    let scan = scan(repository, &|id| needed.contains(id), seen)?;
    let images = links::<H>(repository, "images")?.into_values().flatten();
    let images: Vec<H> = images.filter(|image| scan.is_good(image) && !needed.contains(image)).collect();
    for image in images {
        needed.extend(repository.objects_for_image(&image.to_hex()).unwrap_or_default());
    }
    let objects = repository.objects_dir().context("opening objects")?;
    let mut lost = 0;
    for id in scan.health.keys().filter(|id| !scan.is_good(id) && !needed.contains(id)) {
        match rustix::fs::unlinkat(objects, id.to_object_pathname(), AtFlags::empty()) {
            Ok(()) => lost += 1,
            // No pull has made that, so none has left it.
            Err(Errno::ISDIR) => {}
            Err(other) => return Err(other).with_context(|| format!("removing object {}, which is damaged", id.to_hex())),
        }
    }
    Ok(lost)
}

/// The streams that have names, what they name, and all of their objects. A stream that cannot be read leads to nothing.
fn behind_streams<H: FsVerityHashValue>(repository: &Repository<H>) -> Result<HashSet<H>> {
    let mut found = HashSet::new();
    let mut open: Vec<H> = links(repository, "streams")?.into_values().flatten().collect();
    while let Some(id) = open.pop() {
        if !found.insert(id.clone()) {
            continue;
        }
        let Ok(read) = contents::open(repository, &id).and_then(Stream::<H>::read) else { continue };
        found.extend(read.objects);
        open.extend(read.named.into_iter().map(|(_, id)| id));
    }
    Ok(found)
}
