//! Ranges of blobs from registries, and what a tag names now, over HTTP and with the containers configuration as skopeo reads it.
//!
//! The manifest comes through skopeo, so the signature policy was applied and the digests are known before a blob is asked for; meanwhile, it is found out how the registry is
//! spoken with. What is here only has to find the same bytes once more, and wherever it does not understand the configuration it says so, and skopeo does the work. A registry that is busy is asked again
//! after a while, and what breaks off goes on from there.

mod answer;
mod auth;
mod certs;
mod challenge;
mod client;
mod conf;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod places;
mod referrers;
mod retry;
mod steady;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{AGAIN_LATER, Failure, FailureKind};
use crate::progress::Progress;
use crate::reference::{ImageReference, Transport};
use crate::sys::interrupt;

use super::together::Together;
use super::{Retries, SourceOptions};
use client::Client;
use places::Places;
pub(super) use referrers::{Home, Referrers};
pub(super) use retry::Retry;
use steady::Steady;

/// Why something cannot be had from a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
struct Unusable {
    message: String,
    later: Later,
}

/// Whether something may be had after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Later {
    Never,
    /// The line broke.
    Perhaps,
    /// The registry answers that it is busy or starts anew, and perhaps it has said for how long.
    Promised(Option<Duration>),
}

impl Unusable {
    /// For good.
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), later: Later::Never }
    }

    /// For a while.
    fn for_now(message: impl Into<String>) -> Self {
        Self { message: message.into(), later: Later::Perhaps }
    }

    /// For good, as nothing has come from there yet, unless it says otherwise.
    fn unless_promised(self) -> Self {
        match self.later {
            Later::Promised(_) => self,
            Later::Perhaps | Later::Never => Self { later: Later::Never, ..self },
        }
    }

    fn is_for_now(&self) -> bool {
        self.later != Later::Never
    }

    /// The same, with the place where that was found.
    fn at(self, place: &Client) -> Self {
        Self { message: format!("{}: {self}", place.name()), ..self }
    }
}

/// A repository, in the registry itself and in its mirrors.
#[derive(Clone)]
pub(super) struct Repository {
    /// The places where it may be, best first. Clones share what was agreed upon with them.
    clients: Vec<Client>,
    retries: Retries,
}

impl Repository {
    /// The repository that `reference` names. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// Why it is left to skopeo.
    pub(super) fn open(reference: &ImageReference, options: &SourceOptions) -> Result<Self, String> {
        let places = Places::of_this_process(options).map_err(|e| e.to_string())?;
        Self::open_with(&places, reference, options).map_err(|e| e.to_string())
    }

    /// The same, opened in a thread that also agrees with the first place on how to speak with it, of which it keeps the answer. Where that fails, it is tried again when
    /// something is wanted.
    pub(super) fn greet(reference: &ImageReference, options: &SourceOptions) -> oneshot::Receiver<Result<Self, String>> {
        let (opened, opening) = oneshot::channel();
        let (reference, options) = (reference.clone(), options.clone());
        // A thread of its own, for which nobody waits where skopeo fails. Without one, there is no greeting.
        let _ = thread::Builder::new().name("greet-registry".to_owned()).spawn(move || {
            let repository = Self::open(&reference, &options);
            if let Some(first) = repository.as_ref().ok().and_then(|repository| repository.clients.first()) {
                first.greet();
            }
            // Nobody waits where skopeo has failed.
            let _ = opened.send(repository);
        });
        opening
    }

    fn open_with(places: &Places, reference: &ImageReference, options: &SourceOptions) -> Result<Self, Unusable> {
        if reference.transport() != Transport::Registry {
            return Err(Unusable::new(format!("{} gives no ranges", reference.transport().prefix())));
        }
        let config = conf::Config::read(&places.registries, &places.drop_ins)?;
        let clients =
            config.endpoints(reference)?.iter().map(|endpoint| Client::new(places, endpoint, options)).collect::<Result<_, _>>()?;
        Ok(Self { clients, retries: options.retries })
    }

    /// The blob `digest` of `size` bytes. What is waited for is told to `progress`.
    pub(super) fn blob(&self, digest: &str, size: u64, progress: Arc<dyn Progress>) -> Blob {
        let place = |(number, client): (usize, &Client)| Place { client: client.clone(), number, broke: Arc::default() };
        Blob {
            digest: digest.to_owned(),
            size,
            places: self.clients.iter().enumerate().map(place).collect(),
            retries: self.retries,
            given_up: false,
            together: Together::default(),
            failed: Vec::new(),
            progress,
        }
    }

    /// The digest of the manifest or index that the registry has for a tag now, in its own words: nothing was fetched that could be compared with it.
    ///
    /// # Errors
    ///
    /// Why skopeo has to find that out.
    pub(super) fn digest_of(&self, reference: &ImageReference) -> Result<String, String> {
        self.digest_of_tag(reference).map_err(|e| e.to_string())
    }

    fn digest_of_tag(&self, reference: &ImageReference) -> Result<String, Unusable> {
        let tag = tag(reference).ok_or_else(|| Unusable::new(format!("{reference} is no tag in a registry")))?;
        // Which of several skopeo would believe depends on which of them answer.
        let [client] = self.clients.as_slice() else { return Err(Unusable::new("there are mirrors to choose from")) };
        client.digest_of(tag)
    }

    /// The repository at the first place alone where the tag of `reference` names `digest`: skopeo takes the first that has the tag. `None` where no place says that it does. A
    /// single place is not asked.
    pub(super) fn where_tag_names(&self, reference: &ImageReference, digest: &str) -> Option<Self> {
        let tag = tag(reference)?;
        let mut clients = self.clients.clone();
        if clients.len() > 1 {
            clients.sort_by_cached_key(Client::is_unreached);
            let first = clients.into_iter().find(|client| client.digest_of(tag).is_ok_and(|found| found == digest))?;
            clients = vec![first];
        }
        Some(Self { clients, retries: self.retries })
    }
}

/// The tag that decides what a reference names.
fn tag(reference: &ImageReference) -> Option<&str> {
    reference.tag().filter(|_| reference.digest().is_none())
}

/// A place where a blob may be.
#[derive(Clone)]
struct Place {
    client: Client,
    /// Its number in the configuration, best first.
    number: usize,
    /// How often it broke in the middle of this blob.
    broke: Arc<AtomicU32>,
}

/// A blob of a repository. Clones share what is known of its places.
#[derive(Clone)]
pub(super) struct Blob {
    digest: String,
    size: u64,
    /// Without those that do not have it.
    places: Vec<Place>,
    retries: Retries,
    /// Whether it was given up just now, when it was asked for otherwise.
    given_up: bool,
    together: Together,
    failed: Vec<String>,
    progress: Arc<dyn Progress>,
}

impl Blob {
    /// Its size in bytes, as the manifest has it.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// A reader of bytes `offset..offset + length`.
    ///
    /// # Errors
    ///
    /// Where no place gives them.
    pub(super) fn range(&mut self, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Steady::open(self.clone(), offset..offset + length)?))
    }

    /// A reader of all of it.
    ///
    /// # Errors
    ///
    /// As above.
    pub(super) fn whole(&mut self) -> io::Result<Box<dyn Read + Send>> {
        self.range(0, self.size)
    }

    /// The same blob, which was given up just now in another way: the first failure is the last one, unless it is shown before that it comes.
    pub(super) fn given_up_before(self) -> Self {
        Self { given_up: true, ..self }
    }

    /// From now on nothing is tried again once `together` has failed.
    pub(super) fn bind(&mut self, together: &Together) {
        self.together = together.clone();
    }

    fn retry(&self, length: u64) -> Retry {
        let retry = Retry::new(self.retries, length);
        if self.given_up { retry.spent() } else { retry }
    }

    /// The bytes from the first place that gives them, and that place. They may end early.
    fn ask(&mut self, range: Range<u64>, whole: bool, retry: &mut Retry) -> io::Result<(Place, Box<dyn Read + Send>)> {
        loop {
            self.sort();
            let (mut number, mut later) = (0, None);
            while let Some(place) = self.places.get(number) {
                match place.client.read(&self.digest, self.size, range.clone(), whole) {
                    Ok(body) => return Ok((place.clone(), body)),
                    Err(reason) => {
                        let named = reason.at(&place.client);
                        if named.is_for_now() {
                            number += 1;
                            later = Some(named);
                        } else {
                            self.failed.push(named.message);
                            self.places.remove(number);
                        }
                    }
                }
            }
            let Some(reason) = later else { return Err(io::Error::other(self.failed.join("; "))) };
            self.pause(retry, &reason)?;
        }
    }

    /// First those that were reached or not tried yet, and that broke least.
    fn sort(&mut self) {
        self.places.sort_by_cached_key(|place| (place.client.is_unreached(), place.broke.load(Ordering::Relaxed), place.number));
    }

    /// Waits, if it is to be asked again.
    fn pause(&self, retry: &mut Retry, reason: &Unusable) -> io::Result<()> {
        let wanted = || self.together.failed().map_or(Ok(()), Err);
        wanted()?;
        let how_far = retry.how_far();
        let asked = if let Later::Promised(after) = reason.later { after } else { None };
        let Some(pause) = retry.failed(asked) else {
            let message = format!("{reason}{how_far}, {} times in a row", retry.failures() + 1);
            return Err(io::Error::other(Failure::new(FailureKind::Unreachable, message).hint(AGAIN_LATER)));
        };
        self.progress.note(format!("{reason}{how_far}; asking again in {:.1} s", pause.as_secs_f32()));
        interrupt::sleep(pause, || wanted().is_ok()).map_err(|signal| io::Error::other(signal.failure()))?;
        wanted()
    }
}
