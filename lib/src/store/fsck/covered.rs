//! Images that need not be read for their files: a configuration leads to them and to their layers, and those were found well to the last byte.
//!
//! What an image has files in is in its layers, which images share; in the image itself it is listed once more, for every image. [`super::super::covered`]
//! is the same thought for garbage collection.

use std::collections::{HashMap, HashSet};

use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::{BOOT_IMAGE_REF_KEY_V1, IMAGE_REF_KEY_V1};
use oci_spec::image::ImageConfiguration;

use super::contents::{CONFIG, Facts, LAYER, document};
use super::links::Links;

/// The images of all configurations whose layers are whole. Whatever cannot be read makes an image one that is not. That these images were made of these layers is
/// what their writer says, as for all others.
pub(super) fn covered<H: FsVerityHashValue>(
    repository: &Repository<H>,
    streams: &Links<H>,
    facts: &HashMap<String, Facts<H>>,
) -> HashSet<H> {
    let is_whole = |name: &str| facts.get(name).is_some_and(|facts| facts.hashed && facts.fault.is_none());
    let leads_to = |name: &str, id: &H| matches!(streams.get(name), Some(Ok(found)) if found == id);
    let mut images = HashSet::new();
    for (name, facts) in facts.iter().filter(|(name, _)| name.starts_with(CONFIG) && is_whole(name)) {
        let Some(Ok(id)) = streams.get(name) else { continue };
        let Ok(config) = document(repository, id) else { continue };
        let Ok(config) = ImageConfiguration::from_reader(&config[..]) else { continue };
        let named: HashMap<&str, &H> = facts.named.iter().map(|(key, id)| (key.as_str(), id)).collect();
        let diff_ids = config.rootfs().diff_ids();
        let whole = diff_ids.iter().all(|diff_id| {
            let layer = format!("{LAYER}{diff_id}");
            is_whole(&layer) && named.get(diff_id.as_str()).is_some_and(|id| leads_to(&layer, id))
        });
        if whole && !diff_ids.is_empty() {
            images.extend([IMAGE_REF_KEY_V1, BOOT_IMAGE_REF_KEY_V1].iter().filter_map(|key| named.get(key)).map(|id| (*id).clone()));
        }
    }
    images
}
