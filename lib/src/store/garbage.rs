//! What a garbage collection would remove after some tags are gone, without removing anything.

use std::collections::HashSet;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::oci_image::manifest_identifier;
use composefs_oci::{BOOT_IMAGE_REF_KEY_V1, IMAGE_REF_KEY_V1};

use super::covered::uncovered;
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
    let now: Vec<String> = going.iter().chain(staying).cloned().collect();
    let roots: Vec<&str> = uncovered(repository, &now, keep).into_iter().map(ImageId::hex).collect();
    let already = repository.gc_dry_run(&roots)?;
    let mut stats = GcStats { objects: already.objects_removed, bytes: already.objects_bytes, ..GcStats::default() };
    let mut live = reached(repository, staying)?;
    for image in uncovered(repository, staying, keep).into_iter().filter_map(|id| H::from_hex(id.hex()).ok()) {
        if size(repository, &image)?.is_some() {
            live.extend(repository.objects_for_image(&image.to_hex())?);
            live.insert(image);
        }
    }
    for object in reached(repository, going)?.difference(&live) {
        if let Some(bytes) = size(repository, object)? {
            stats.objects += 1;
            stats.bytes += bytes;
        }
    }
    Ok(stats)
}

/// The objects that manifests keep: their own streams, those of their configurations, the images, and the layers with their files.
fn reached<H: FsVerityHashValue>(repository: &Repository<H>, manifests: &[String]) -> Result<HashSet<H>> {
    let (mut reached, mut read) = (HashSet::new(), HashSet::new());
    let mut open: Vec<H> = Vec::new();
    for manifest in manifests {
        open.extend(repository.has_stream(&manifest_identifier(&parse_digest(manifest)?))?);
    }
    while let Some(stream) = open.pop() {
        reached.insert(stream.clone());
        // Images share layers: each is read once.
        if !read.insert(stream.clone()) || size(repository, &stream)?.is_none() {
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
