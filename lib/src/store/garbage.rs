//! What a garbage collection would remove after some tags are gone, without removing anything.

use std::collections::HashSet;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::oci_image::manifest_identifier;
use composefs_oci::{BOOT_IMAGE_REF_KEY_V1, IMAGE_REF_KEY_V1};

use super::layers::parse_digest;
use super::objects::size;
use super::{GcStats, Store, with_repository};
use crate::image_id::ImageId;

impl Store {
    /// What [`Self::gc`] with `keep` would remove if the tags `going` were not there: objects and their bytes.
    pub fn garbage(&self, going: &[String], keep: &[&ImageId]) -> Result<GcStats> {
        let (go, stay): (Vec<_>, Vec<_>) = self.tags()?.into_iter().partition(|(tag, _)| going.contains(tag));
        let manifests = |tags: Vec<(String, String)>| tags.into_iter().map(|(_, manifest)| manifest).collect::<Vec<_>>();
        with_repository!(self, repository => garbage(repository, &manifests(go), &manifests(stay), keep))
            .context("planning garbage collection")
    }
}

fn garbage<H: FsVerityHashValue>(repository: &Repository<H>, going: &[String], staying: &[String], keep: &[&ImageId]) -> Result<GcStats> {
    let roots: Vec<&str> = keep.iter().map(|id| id.hex()).collect();
    let already = repository.gc_dry_run(&roots)?;
    let mut stats = GcStats { objects: already.objects_removed, bytes: already.objects_bytes, ..GcStats::default() };
    let mut live = HashSet::new();
    for manifest in staying {
        live.extend(reached(repository, manifest)?);
    }
    for image in keep.iter().filter_map(|id| H::from_hex(id.hex()).ok()) {
        if size(repository, &image)?.is_some() {
            live.extend(repository.objects_for_image(&image.to_hex())?);
            live.insert(image);
        }
    }
    let mut freed = HashSet::new();
    for manifest in going {
        freed.extend(reached(repository, manifest)?);
    }
    for object in freed.difference(&live) {
        if let Some(bytes) = size(repository, object)? {
            stats.objects += 1;
            stats.bytes += bytes;
        }
    }
    Ok(stats)
}

/// The objects that a manifest keeps: its own stream, that of its configuration, the images, and the layers with their files.
fn reached<H: FsVerityHashValue>(repository: &Repository<H>, manifest: &str) -> Result<HashSet<H>> {
    let name = manifest_identifier(&parse_digest(manifest)?);
    let mut reached = HashSet::new();
    let mut open: Vec<H> = repository.has_stream(&name)?.into_iter().collect();
    while let Some(stream) = open.pop() {
        if !reached.insert(stream.clone()) || size(repository, &stream)?.is_none() {
            continue;
        }
        let mut reader = repository.open_stream("", Some(&stream), None)?;
        reader.get_object_refs(|object| {
            reached.insert(object.clone());
        })?;
        for (name, id) in reader.iter_named_refs() {
            if [IMAGE_REF_KEY_V1, BOOT_IMAGE_REF_KEY_V1].contains(&name) {
                reached.insert(id.clone());
            } else {
                open.push(id.clone());
            }
        }
    }
    Ok(reached)
}
