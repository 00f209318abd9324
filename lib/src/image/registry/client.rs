//! The HTTP client: one registry or mirror, one repository. Ranges of blobs, what a tag names, and nothing else.
//!
//! Credentials go to the registry and to the place that it names for tokens, never to where a redirect leads. The body of an answer is
//! read only where it is the range that was asked for.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{StatusCode, Uri};
use ureq::{Agent, Body, BodyReader, http::Response};

use super::auth::{self, Basic};
use super::challenge::{self, Challenge};
use super::conf::Endpoint;
use super::places::Places;
use super::{Unusable, certs};

/// How long a registry may take to be reached, and to answer.
const CONNECT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);
/// How long nothing at all may come.
const STALL: Duration = Duration::from_secs(30);

/// More redirects than these are a circle. Real ones are one: to the store of the blobs.
const MAX_REDIRECTS: usize = 5;

/// What a tag may name, as skopeo asks for it.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Largest answer with a token in it, in bytes.
const MAX_TOKEN: u64 = 1 << 20;

/// A registry and what it takes to ask it. Clones share connections and what was agreed upon.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    host: String,
    repository: String,
    insecure: bool,
    credentials: Option<Basic>,
    session: Arc<Mutex<Option<Session>>>,
}

/// What was agreed upon with the registry.
#[derive(Clone)]
struct Session {
    /// `https://HOST`, or `http://HOST` where that is allowed and all there is.
    base: String,
    challenge: Option<Challenge>,
    /// The Authorization header to send.
    authorization: Option<String>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    /// Reads credentials and certificates for `endpoint`. Connects to nothing yet.
    pub(super) fn new(places: &Places, endpoint: &Endpoint, insecure: bool) -> Result<Self, Unusable> {
        let config = Agent::config_builder()
            .tls_config(certs::tls(&places.certs, &endpoint.host, insecure)?)
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(STALL))
            .timeout_per_write(Some(STALL))
            .user_agent(concat!("selkie/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.into(),
            host: endpoint.host.clone(),
            repository: endpoint.repository.clone(),
            insecure,
            credentials: auth::find(&places.auth, endpoint)?,
            session: Arc::default(),
        })
    }

    /// The registry, for people.
    pub(super) fn name(&self) -> &str {
        &self.host
    }

    /// A reader of bytes `range` of the blob `digest` of `size` bytes. It ends early where the connection does. Of a blob that is read as a whole, an answer with all
    /// of it is good, too.
    ///
    /// # Errors
    ///
    /// Where the registry gives anything but this range.
    pub(super) fn read(&self, digest: &str, size: u64, range: Range<u64>, whole: bool) -> Result<Box<dyn Read + Send>, Unusable> {
        let asked = if whole && range.start == 0 { None } else { Some(&range) };
        let answer = self.authorized(|session| self.ask(session, digest, asked))?;
        let all = whole && answer.status() == StatusCode::OK;
        if all {
            has_length(&answer, size)?
        } else {
            check(&answer, size, &range)?
        }
        let mut body = Answer(answer.into_body().into_reader());
        if all {
            skip(&mut body, range.start)?;
        }
        Ok(Box::new(body))
    }

    /// The digest that the registry gives for a tag, by a HEAD of its manifest (OCI distribution specification, "Checking if content exists in the registry").
    ///
    /// # Errors
    ///
    /// Where the registry says no digest.
    pub(super) fn digest_of(&self, tag: &str) -> Result<String, Unusable> {
        let answer = self.authorized(|session| Ok((self.head(session, tag)?, true)))?;
        if answer.status() != StatusCode::OK {
            return Err(refused(&answer, "200"));
        }
        let digest = answer.headers().get("docker-content-digest").and_then(|digest| digest.to_str().ok()).unwrap_or_default();
        let hex = digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        hex.map(|_| digest.to_owned()).ok_or_else(|| Unusable::new(format!("the answer has the digest {digest:?} (expected sha256:…)")))
    }

    /// The answer to what `ask` asks, which also says whether it was the registry itself that answered. Asks once more with another token where that is wanted.
    fn authorized(&self, ask: impl Fn(&Session) -> Result<(Response<Body>, bool), Unusable>) -> Result<Response<Body>, Unusable> {
        let session = self.session()?;
        let (answer, trusted) = ask(&session)?;
        // Where a redirect led, nobody is told how to ask for a token, or who asks.
        if answer.status() != StatusCode::UNAUTHORIZED || !trusted {
            return Ok(answer);
        }
        // The token was none for this, or is too old.
        let challenge = challenge_of(&answer).or(session.challenge.clone());
        drop(answer);
        let session = self.agree(Session { challenge, ..session })?;
        Ok(ask(&session)?.0)
    }

    /// What was agreed upon. Where nothing was, that the registry cannot be reached is for good: skopeo knows how to tell it.
    fn session(&self) -> Result<Session, Unusable> {
        let agreed = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        agreed.map_or_else(|| self.connect().map_err(Unusable::for_good), Ok)
    }

    fn agree(&self, session: Session) -> Result<Session, Unusable> {
        let session = Session { authorization: self.authorization(&session)?, ..session };
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        Ok(session)
    }

    fn head(&self, session: &Session, tag: &str) -> Result<Response<Body>, Unusable> {
        let mut request = self.agent.head(format!("{}/v2/{}/manifests/{tag}", session.base, self.repository)).header("accept", MANIFESTS);
        if let Some(authorization) = &session.authorization {
            request = request.header("authorization", authorization);
        }
        request.call().map_err(failed)
    }

    /// Finds out how the registry is spoken with, as skopeo does: HTTPS, and plain HTTP only where that is allowed.
    fn connect(&self) -> Result<Session, Unusable> {
        // Docker's images have another name than their registry.
        let host = if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host };
        let schemes = if self.insecure { &["https", "http"][..] } else { &["https"] };
        let mut failed = Vec::new();
        for scheme in schemes {
            let base = format!("{scheme}://{host}");
            match self.get(&format!("{base}/v2/"), None, None) {
                Ok(answer) if matches!(answer.status(), StatusCode::OK | StatusCode::UNAUTHORIZED) => {
                    let session = Session { base, challenge: challenge_of(&answer), authorization: None };
                    drop(answer);
                    return self.agree(session);
                }
                Ok(answer) => failed.push(format!("{base}/v2/ answers {}", answer.status())),
                Err(error) => failed.push(error.to_string()),
            }
        }
        Err(Unusable::new(failed.join(", ")))
    }

    /// The Authorization header that a challenge calls for.
    fn authorization(&self, session: &Session) -> Result<Option<String>, Unusable> {
        match &session.challenge {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.credentials.as_ref().map(Basic::header)),
            Some(Challenge::Bearer { realm, service, scope }) => {
                let own = format!("repository:{}:pull", self.repository);
                let scope = scope.as_ref().filter(|scope| scope.starts_with("repository:")).unwrap_or(&own);
                self.token(session, realm, service.as_deref(), scope).map(Some)
            }
        }
    }

    fn token(&self, session: &Session, realm: &str, service: Option<&str>, scope: &str) -> Result<String, Unusable> {
        let uri = url(realm)?;
        if session.base.starts_with("https:") && uri.scheme_str() != Some("https") {
            return Err(Unusable::new("the place for tokens is not reached by https"));
        }
        let mut request = self.agent.get(uri).query("scope", scope);
        if let Some(service) = service {
            request = request.query("service", service);
        }
        if let Some(credentials) = &self.credentials {
            request = request.header("authorization", credentials.header());
        }
        let asking = |reason: Unusable| Unusable { message: format!("asking for a token: {reason}"), ..reason };
        let mut answer = request.call().map_err(failed).map_err(asking)?;
        if answer.status() != StatusCode::OK {
            return Err(asking(refused(&answer, "200")));
        }
        let body = answer.body_mut().with_config().limit(MAX_TOKEN).read_to_vec();
        let body = body.map_err(|e| Unusable::new(format!("asking for a token: {e}")))?;
        // Not the words of serde, which quote values: those are secret here.
        let token: Option<Token> = serde_json::from_slice(&body).ok();
        let token = token.and_then(|t| t.token.filter(|t| !t.is_empty()).or(t.access_token)).filter(|t| !t.is_empty());
        token.map(|token| format!("Bearer {token}")).ok_or_else(|| Unusable::new("asking for a token: there is none in the answer"))
    }

    /// Asks for a range, or all, and follows redirects. Whether it was the registry itself that answered.
    fn ask(&self, session: &Session, digest: &str, range: Option<&Range<u64>>) -> Result<(Response<Body>, bool), Unusable> {
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let mut at = url(&format!("{}/v2/{}/blobs/{digest}", session.base, self.repository))?;
        let home = at.clone();
        for _ in 0..=MAX_REDIRECTS {
            let trusted = at.scheme() == home.scheme() && at.authority() == home.authority();
            let authorization = session.authorization.as_deref().filter(|_| trusted);
            let answer = self.get(&at.to_string(), authorization, range.as_deref())?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, trusted));
            }
            let location = answer.headers().get("location").and_then(|l| l.to_str().ok());
            let to = location.ok_or_else(|| Unusable::new(format!("the answer is {} without a location", answer.status())))?;
            at = follow(&at, to)?;
            if home.scheme_str() == Some("https") && at.scheme_str() != Some("https") {
                return Err(Unusable::new("a redirect leads away from https"));
            }
        }
        Err(Unusable::new(format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn get(&self, url: &str, authorization: Option<&str>, range: Option<&str>) -> Result<Response<Body>, Unusable> {
        // What is compressed on the way would have other ranges.
        let mut request = self.agent.get(url).header("accept-encoding", "identity");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        if let Some(range) = range {
            request = request.header("range", range);
        }
        request.call().map_err(failed)
    }
}

/// The body of an answer, with errors that say so.
struct Answer(BodyReader<'static>);

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|e| io::Error::new(e.kind(), format!("reading the answer: {e}")))
    }
}

fn challenge_of(answer: &Response<Body>) -> Option<Challenge> {
    let headers = answer.headers().get_all("www-authenticate").iter();
    let all: Vec<Challenge> = headers.filter_map(|header| challenge::parse(header.to_str().ok()?)).collect();
    all.iter().find(|c| **c != Challenge::Basic).or(all.first()).cloned()
}

/// What went wrong with a request. Most of it may go well after a while.
fn failed(error: ureq::Error) -> Unusable {
    match error {
        ureq::Error::Io(_)
        | ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Protocol(_) => Unusable::for_now(error.to_string()),
        _ => Unusable::new(error.to_string()),
    }
}

/// What an answer means that is not the one that was expected: a registry that is busy, or starts anew, says so.
fn refused(answer: &Response<Body>, expected: &str) -> Unusable {
    let status = answer.status();
    let message = format!("the answer is {status} (expected {expected})");
    if !matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) {
        return Unusable::new(message);
    }
    // The other form, a date, depends on two clocks.
    let seconds = answer.headers().get("retry-after").and_then(|after| after.to_str().ok()?.trim().parse().ok());
    Unusable { message, later: Some(seconds.map(Duration::from_secs)) }
}

/// Reads what is there already.
fn skip(body: &mut impl Read, bytes: u64) -> Result<(), Unusable> {
    let skipped = io::copy(&mut body.take(bytes), &mut io::sink()).map_err(|e| Unusable::for_now(e.to_string()))?;
    if skipped < bytes { Err(Unusable::for_now("the connection ended too early")) } else { Ok(()) }
}

/// Whether an answer is the range that was asked for.
fn check(answer: &Response<Body>, size: u64, range: &Range<u64>) -> Result<(), Unusable> {
    match answer.status() {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::OK => return Err(Unusable::new("the registry allows no ranges: it answers with the whole blob")),
        _ => return Err(refused(answer, "206")),
    }
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    let (found, length) = (header("content-range").unwrap_or_default(), range.end - range.start);
    let expected = [size.to_string(), "*".to_owned()].map(|total| format!("bytes {}-{}/{total}", range.start, range.end - 1));
    if !expected.contains(&found.trim().to_owned()) {
        return Err(Unusable::new(format!("the answer has the range {found:?} (expected {:?})", expected[0])));
    }
    if header("content-encoding").is_some_and(|encoding| encoding != "identity") {
        return Err(Unusable::new("the answer is compressed once more"));
    }
    has_length(answer, length)
}

/// Whether an answer has so many bytes, as far as it says how many it has.
fn has_length(answer: &Response<Body>, length: u64) -> Result<(), Unusable> {
    match answer.headers().get("content-length").and_then(|said| said.to_str().ok()) {
        Some(said) if said.parse() != Ok(length) => Err(Unusable::new(format!("the answer has {said} bytes (expected {length})"))),
        _ => Ok(()),
    }
}

fn url(text: &str) -> Result<Uri, Unusable> {
    let uri: Option<Uri> = text.parse().ok();
    let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some());
    // What follows a question mark may be a secret: stores of blobs are asked with signatures in it.
    let shown = text.split('?').next().unwrap_or_default();
    uri.ok_or_else(|| Unusable::new(format!("{shown:?} is not a URL that is understood")))
}

/// Where a redirect from `from` leads.
fn follow(from: &Uri, to: &str) -> Result<Uri, Unusable> {
    let (scheme, authority) = (from.scheme_str().unwrap_or_default(), from.authority().map_or("", |a| a.as_str()));
    if to.starts_with("//") {
        return url(&format!("{scheme}:{to}"));
    }
    if to.starts_with('/') {
        return url(&format!("{scheme}://{authority}{to}"));
    }
    url(to)
}
