//! Which images garbage collection keeps anyway, because tags lead to them and to all that their files are in.
//!
//! The library reads an image that is handed to it as a root from the first to the last inode, and so once for every image; the layers that tags
//! lead to it reads once for all. An image that is found here need not be handed on. Whatever cannot be read makes an image one that is not.

use std::collections::{HashMap, HashSet};
use std::fs::File;

use anyhow::{Context, Result, ensure};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::oci_image::manifest_identifier;
use composefs_oci::{BOOT_IMAGE_REF_KEY_V1, IMAGE_REF_KEY_V1, LAYER_CONTENT_TYPE};
use oci_spec::image::ImageConfiguration;

use super::commit::{CONFIG_CONTENT_TYPE, MANIFEST_CONTENT_TYPE, read_json};
use super::fsck::links;
use super::layers::parse_digest;
use super::merkle::{PIECE, measure};
use super::objects;
use crate::image_id::ImageId;

/// Keys of images in the tables of configurations begin so.
const IMAGE: &str = "composefs.image";

/// Those of `keep` that garbage collection has to be told of: the tags of `manifests` do not keep all that is in them.
pub(super) fn uncovered<'k, H: FsVerityHashValue>(
    repository: &Repository<H>,
    manifests: &[String],
    keep: &[&'k ImageId],
) -> Vec<&'k ImageId> {
    // Where the names cannot be listed, nothing is covered.
    let Ok(mut walk) = Walk::new(repository) else { return keep.to_vec() };
    let covered: HashSet<String> = manifests.iter().flat_map(|manifest| walk.images(manifest).unwrap_or_default()).collect();
    keep.iter().filter(|id| !covered.contains(id.hex())).copied().collect()
}

/// What is known on the way from manifests to images.
struct Walk<'r, H: FsVerityHashValue> {
    repository: &'r Repository<H>,
    /// The objects that names of streams lead to: only these does the library follow.
    named: HashSet<H>,
    /// Layers that were looked at, and whether they are whole: images share them.
    layers: HashMap<H, bool>,
    piece: Vec<u8>,
}

impl<'r, H: FsVerityHashValue> Walk<'r, H> {
    fn new(repository: &'r Repository<H>) -> Result<Self> {
        let named = links(repository, "streams")?.into_values().flatten().collect();
        Ok(Self { repository, named, layers: HashMap::new(), piece: vec![0; PIECE] })
    }

    /// The images of a manifest, in hexadecimal digits, if all their layers are whole.
    fn images(&mut self, manifest: &str) -> Result<Vec<String>> {
        let name = manifest_identifier(&parse_digest(manifest)?);
        let stream = self.repository.has_stream(&name)?.with_context(|| format!("{name} is not there"))?;
        self.require_whole(&stream)?;
        let (_, named) = read_json(self.repository, &stream, MANIFEST_CONTENT_TYPE)?.context("the manifest is not there")?;
        let mut images = Vec::new();
        for config in named.iter().filter(|(key, _)| key.starts_with("config:")).map(|(_, id)| id) {
            images.extend(self.images_of_config(config)?);
        }
        Ok(images)
    }

    fn images_of_config(&mut self, stream: &H) -> Result<Vec<String>> {
        self.require_whole(stream)?;
        let (config, mut named) = read_json(self.repository, stream, CONFIG_CONTENT_TYPE)?.context("the configuration is not there")?;
        let images: Vec<H> = [IMAGE_REF_KEY_V1, BOOT_IMAGE_REF_KEY_V1].iter().filter_map(|key| named.remove(*key)).collect();
        // The files of the images are in the layers, and each of these has to be reached.
        for diff_id in ImageConfiguration::from_reader(&config[..])?.rootfs().diff_ids() {
            ensure!(named.contains_key(diff_id.as_str()), "the configuration does not lead to layer {diff_id}");
        }
        for (key, layer) in named.iter().filter(|(key, _)| !key.starts_with(IMAGE)) {
            ensure!(self.is_whole_layer(layer), "layer {key} is not whole");
        }
        let mut there = Vec::new();
        for image in images {
            if objects::exists(self.repository, &image)? {
                there.push(image.to_hex());
            }
        }
        Ok(there)
    }

    fn is_whole_layer(&mut self, stream: &H) -> bool {
        if let Some(whole) = self.layers.get(stream) {
            return *whole;
        }
        let whole = self.require_whole(stream).is_ok()
            && self
                .repository
                .open_stream("", Some(stream), Some(LAYER_CONTENT_TYPE))
                .is_ok_and(|mut layer| layer.get_object_refs(|_| {}).is_ok());
        self.layers.insert(stream.clone(), whole);
        whole
    }

    /// Refuses a stream that the library will not follow, or whose bytes are not those of its name: its table of objects would be another one.
    fn require_whole(&mut self, stream: &H) -> Result<()> {
        ensure!(self.named.contains(stream), "no name leads to stream {}", stream.to_hex());
        let (found, _): (H, _) = measure(File::from(self.repository.open_object(stream)?), &mut self.piece)?;
        ensure!(found == *stream, "stream {} is damaged", stream.to_hex());
        Ok(())
    }
}
