//! Ranges of blobs from registries, and what a tag names now, over HTTP and with the containers configuration as skopeo reads it.
//!
//! The manifest came through skopeo, so the signature policy was applied and the digests are known. What is here only has to find the
//! same bytes once more, and wherever it does not understand the configuration it says so, and skopeo does the work.

mod auth;
mod certs;
mod challenge;
mod client;
mod conf;
mod places;
mod referrers;
mod tag;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

use crate::reference::{ImageReference, Transport};

use super::SourceOptions;
use client::Client;
use places::Places;
pub(super) use referrers::{Home, Referrers};
pub(super) use tag::digest as digest_of_tag;

/// Why ranges cannot be had from a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Unusable(String);

impl From<ureq::Error> for Unusable {
    fn from(error: ureq::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl Unusable {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// A blob of a repository, in the registry itself or in a mirror.
#[derive(Clone)]
pub(super) struct Blob {
    digest: String,
    size: u64,
    /// The places where it may be, best first; those that failed are taken out.
    clients: Vec<Client>,
    failed: Vec<String>,
}

impl Blob {
    /// The blob `digest` of `size` bytes of the repository that `reference` names. Nothing is fetched yet.
    ///
    /// # Errors
    ///
    /// Why it can only be had whole.
    pub(super) fn open(reference: &ImageReference, options: &SourceOptions, digest: &str, size: u64) -> Result<Self, String> {
        let places = Places::of_this_process(options).map_err(|e| e.to_string())?;
        Self::open_with(&places, reference, options, digest, size).map_err(|e| e.to_string())
    }

    fn open_with(places: &Places, reference: &ImageReference, options: &SourceOptions, digest: &str, size: u64) -> Result<Self, Unusable> {
        if reference.transport() != Transport::Registry {
            return Err(Unusable::new(format!("{} gives no ranges", reference.transport().prefix())));
        }
        let config = conf::Config::read(&places.registries, &places.drop_ins)?;
        let endpoints = config.endpoints(reference)?;
        let insecure = options.tls_verify.map(|verify| !verify);
        let clients = endpoints.into_iter().map(|endpoint| Client::new(places, &endpoint, insecure.unwrap_or(endpoint.insecure)));
        Ok(Self { digest: digest.to_owned(), size, clients: clients.collect::<Result<_, _>>()?, failed: Vec::new() })
    }

    /// Its size in bytes, as the manifest has it.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// A reader of bytes `offset..offset + length`, which may end early.
    ///
    /// # Errors
    ///
    /// Where no place gives them.
    pub(super) fn range(&mut self, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send>> {
        while let Some(client) = self.clients.first_mut() {
            match client.range(&self.digest, self.size, offset, length) {
                Ok(body) => return Ok(body),
                Err(reason) => {
                    self.failed.push(format!("{}: {reason}", client.name()));
                    self.clients.remove(0);
                }
            }
        }
        Err(io::Error::other(self.failed.join("; ")))
    }
}
