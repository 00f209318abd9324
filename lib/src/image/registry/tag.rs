//! What a tag names now, by one request: enough to find out that there is no news.

use crate::reference::{ImageReference, Transport};

use super::client::Client;
use super::places::Places;
use super::{SourceOptions, Unusable, conf};

/// The digest of the manifest or index that the registry has for a tag now, in its own words: nothing was fetched that could be compared with it.
///
/// # Errors
///
/// Why skopeo has to find that out.
pub(in crate::image) fn digest(reference: &ImageReference, options: &SourceOptions) -> Result<String, String> {
    Places::of_this_process(options).and_then(|places| digest_with(&places, reference, options)).map_err(|e| e.to_string())
}

pub(super) fn digest_with(places: &Places, reference: &ImageReference, options: &SourceOptions) -> Result<String, Unusable> {
    if reference.transport() != Transport::Registry || reference.digest().is_some() {
        return Err(Unusable::new(format!("{reference} is no tag in a registry")));
    }
    let endpoints = conf::Config::read(&places.registries, &places.drop_ins)?.endpoints(reference)?;
    // Which of several skopeo would believe depends on which of them answer.
    let [endpoint] = endpoints.as_slice() else { return Err(Unusable::new("there are mirrors to choose from")) };
    let insecure = options.tls_verify.map_or(endpoint.insecure, |verify| !verify);
    Client::new(places, endpoint, insecure)?.digest_of(reference.tag().unwrap_or("latest"))
}
