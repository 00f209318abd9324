//! What refers to a manifest: deltas of an image are found so, and listed so that they are found.

use super::client::Client;
use super::places::Places;
use super::{Repository, SourceOptions, Unusable, conf};
use crate::error::{AGAIN_LATER, Failure, FailureKind};
use crate::image::delta;
use crate::image::reason::Reason;
use crate::reference::{ImageReference, Transport};

/// The places where a repository may be, asked for what refers to a manifest.
pub(in crate::image) struct Referrers {
    /// Best first; once one has a list, it is the only one.
    clients: Vec<Client>,
}

impl Referrers {
    /// Asks nothing yet.
    pub(in crate::image) fn of(repository: &Repository) -> Self {
        let mut clients = repository.clients.clone();
        clients.sort_by_cached_key(Client::is_unreached);
        Self { clients }
    }

    /// The index of the deltas of the manifest `subject`, by the question for it or by the tag that stands in for that; `None` where there is neither.
    ///
    /// # Errors
    ///
    /// Where no place has one, and not all of them said so; a failure where one may say so after a while.
    pub(in crate::image) fn list(&mut self, subject: &str, tag: &str) -> Result<Option<Vec<u8>>, Reason> {
        let mut failed = Vec::new();
        for client in std::mem::take(&mut self.clients) {
            let asked = client.referrers(subject, delta::MEDIA_TYPE);
            match asked.and_then(|list| list.map_or_else(|| client.manifest(tag), |list| Ok(Some(list)))) {
                Ok(Some(list)) => {
                    self.clients = vec![client];
                    return Ok(Some(list));
                }
                Ok(None) => {}
                Err(reason) => failed.push(reason.at(&client)),
            }
        }
        if failed.is_empty() { Ok(None) } else { Err(of_all(&failed)) }
    }

    /// The manifest of this digest, of which nothing is verified, from where the list came.
    ///
    /// # Errors
    ///
    /// Where it is not there; a failure where it may be after a while.
    pub(in crate::image) fn read(&self, digest: &str) -> Result<Vec<u8>, Reason> {
        let client = self.clients.first().ok_or("there is no list")?;
        let read = client.manifest(digest).map_err(|reason| of_all(&[reason.at(client)]))?;
        read.ok_or_else(|| "it is listed and not there".into())
    }
}

/// What went wrong at all places.
fn of_all(failed: &[Unusable]) -> Reason {
    let message = failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if failed.iter().any(Unusable::is_for_now) {
        return Failure::new(FailureKind::Unreachable, message).hint(AGAIN_LATER).into();
    }
    message.into()
}

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
            Ok(Self(Client::new(&places, &endpoint, options)?))
        };
        debug_assert_eq!(reference.transport(), Transport::Registry);
        open().map_err(|e| e.to_string())
    }

    /// Whether the registry itself lists what refers to the manifest `subject`.
    ///
    /// # Errors
    ///
    /// Why that cannot be found out.
    pub(in crate::image) fn lists(&self, subject: &str) -> Result<bool, String> {
        self.0.referrers(subject, delta::MEDIA_TYPE).map(|list| list.is_some()).map_err(|e| e.to_string())
    }

    /// What a tag names, of which nothing is verified; `None` where there is nothing.
    ///
    /// # Errors
    ///
    /// Why that cannot be found out.
    pub(in crate::image) fn read(&self, tag: &str) -> Result<Option<Vec<u8>>, String> {
        self.0.manifest(tag).map_err(|e| e.to_string())
    }

    /// Has a tag name an image index.
    ///
    /// # Errors
    ///
    /// Why it was not taken.
    pub(in crate::image) fn write(&self, tag: &str, index: &[u8]) -> Result<(), String> {
        self.0.put_index(tag, index).map_err(|e| e.to_string())
    }
}
