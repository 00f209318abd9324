//! What refers to a manifest: deltas of an image are found so, and listed so that they are found.

use super::client::Client;
use super::places::Places;
use super::{SourceOptions, Unusable, conf};
use crate::image::delta;
use crate::reference::{ImageReference, Transport};

/// The registry of a repository that is written to; mirrors have no part in it.
pub(in crate::image) struct Home(Client);

impl Home {
    /// Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// Why it cannot be asked from here.
    pub(in crate::image) fn open(reference: &ImageReference, options: &SourceOptions) -> Result<Self, String> {
        let open = || -> Result<Self, Unusable> {
            let places = Places::of_this_process(options)?;
            let endpoint = conf::Config::read(&places.registries, &places.drop_ins)?.destination(reference)?;
            let insecure = options.tls_verify.map_or(endpoint.insecure, |verify| !verify);
            Ok(Self(Client::new(&places, &endpoint, insecure)?))
        };
        debug_assert_eq!(reference.transport(), Transport::Registry);
        open().map_err(|e| e.to_string())
    }

    /// Whether the registry itself lists what refers to the manifest `subject`.
    ///
    /// # Errors
    ///
    /// Why that cannot be found out.
    pub(in crate::image) fn lists(&mut self, subject: &str) -> Result<bool, String> {
        self.0.referrers(subject, delta::MEDIA_TYPE).map(|list| list.is_some()).map_err(|e| e.to_string())
    }

    /// What a tag names, of which nothing is verified; `None` where there is nothing.
    ///
    /// # Errors
    ///
    /// Why that cannot be found out.
    pub(in crate::image) fn read(&mut self, tag: &str) -> Result<Option<Vec<u8>>, String> {
        self.0.manifest(tag).map_err(|e| e.to_string())
    }

    /// Has a tag name an image index.
    ///
    /// # Errors
    ///
    /// Why it was not taken.
    pub(in crate::image) fn write(&mut self, tag: &str, index: &[u8]) -> Result<(), String> {
        self.0.put_index(tag, index).map_err(|e| e.to_string())
    }
}
