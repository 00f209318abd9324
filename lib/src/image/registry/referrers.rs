//! What refers to a manifest: deltas of an image are found so.

use super::client::Client;
use super::places::Places;
use super::{SourceOptions, Unusable, conf};
use crate::image::delta;
use crate::reference::{ImageReference, Transport};

/// The index of the deltas that the registry lists for the manifest `subject` in the repository of `reference`; `None` where it keeps no such lists.
///
/// # Errors
///
/// Why that cannot be found out here.
pub(in crate::image) fn list(reference: &ImageReference, options: &SourceOptions, subject: &str) -> Result<Option<Vec<u8>>, String> {
    Places::of_this_process(options).and_then(|places| list_with(&places, reference, options, subject)).map_err(|e| e.to_string())
}

fn list_with(places: &Places, reference: &ImageReference, options: &SourceOptions, subject: &str) -> Result<Option<Vec<u8>>, Unusable> {
    if reference.transport() != Transport::Registry {
        return Err(Unusable::new(format!("{reference} is in no registry")));
    }
    let endpoints = conf::Config::read(&places.registries, &places.drop_ins)?.endpoints(reference)?;
    let mut failed = Vec::new();
    for endpoint in endpoints {
        let insecure = options.tls_verify.map_or(endpoint.insecure, |verify| !verify);
        let mut client = Client::new(places, &endpoint, insecure)?;
        match client.referrers(subject, delta::MEDIA_TYPE) {
            Ok(list) => return Ok(list),
            Err(reason) => failed.push(format!("{}: {reason}", client.name())),
        }
    }
    Err(Unusable::new(failed.join("; ")))
}
