//! The HTTP client: one registry or mirror, one repository. Ranges of blobs, what a tag names, what refers to a manifest, and nothing else.
//!
//! Credentials go to the registry and to the place that it names for tokens, never to where a redirect leads. The body of an answer is
//! read only where it is the range that was asked for, or a small document.

use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::http::StatusCode;
use ureq::{Agent, Body, RequestBuilder, http::Response};

use super::answer::{Answer, bearer, challenge_of, check, failed, follow, has_length, refused, skip, url};
use super::auth::{self, Basic};
use super::challenge::Challenge;
use super::conf::Endpoint;
use super::places::Places;
use super::{Later, SourceOptions, Unusable, certs};

/// How long a registry may take to be reached, and to answer.
const CONNECT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);
/// How long nothing at all may come.
const STALL: Duration = Duration::from_secs(30);

/// Connections that are kept: two layers at a time may have eight requests each.
const CONNECTIONS: usize = 16;

/// More redirects than these are a circle. Real ones are one: to the store of the blobs.
const MAX_REDIRECTS: usize = 5;

/// What a tag may name, as skopeo asks for it.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Largest manifest or index in bytes, as registries have it.
const MAX_DOCUMENT: u64 = 4 << 20;

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
    /// The last first connection failed.
    unreached: Arc<AtomicBool>,
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

impl Client {
    /// Reads credentials and certificates for `endpoint`. What the options say of TLS counts for more than what the endpoint has. Connects to nothing yet.
    pub(super) fn new(places: &Places, endpoint: &Endpoint, options: &SourceOptions) -> Result<Self, Unusable> {
        let insecure = options.tls_verify.map_or(endpoint.insecure, |verify| !verify);
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
            .max_idle_connections(CONNECTIONS)
            .max_idle_connections_per_host(CONNECTIONS)
            .user_agent(concat!("selkie/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.into(),
            host: endpoint.host.clone(),
            repository: endpoint.repository.clone(),
            insecure,
            credentials: auth::find(&places.auth, endpoint)?,
            session: Arc::default(),
            unreached: Arc::default(),
        })
    }

    /// The registry, for people.
    pub(super) fn name(&self) -> &str {
        &self.host
    }

    /// Whether nothing was agreed upon, though that was tried: it may take long to find that out once more.
    pub(super) fn is_unreached(&self) -> bool {
        self.unreached.load(Ordering::Relaxed)
    }

    /// Agrees with the registry on how to speak with it, so that who asks for something finds that done.
    pub(super) fn greet(&self) {
        // Why it cannot be reached is told to whoever wants something of it.
        let _ = self.session();
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
        let mut body = Answer::new(answer);
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
        let answer = self.authorized(|session| {
            let request = self.prepare(session, |agent, url| agent.head(url), &format!("manifests/{tag}"));
            Ok((request.header("accept", MANIFESTS).call().map_err(failed)?, true))
        })?;
        if answer.status() != StatusCode::OK {
            return Err(refused(&answer, "200"));
        }
        let digest = answer.headers().get("docker-content-digest").and_then(|digest| digest.to_str().ok()).unwrap_or_default();
        let hex = digest.strip_prefix("sha256:").filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        hex.map(|_| digest.to_owned()).ok_or_else(|| Unusable::new(format!("the answer has the digest {digest:?} (expected sha256:…)")))
    }

    /// The index of what refers to the manifest `digest`, of this type (OCI distribution specification, "Listing Referrers"); `None` where the registry does not
    /// know such questions.
    ///
    /// # Errors
    ///
    /// Where the registry says neither.
    pub(super) fn referrers(&self, digest: &str, artifact_type: &str) -> Result<Option<Vec<u8>>, Unusable> {
        self.document(&format!("referrers/{digest}?artifactType={artifact_type}"), INDEX, &[400, 404, 405, 406, 501])
    }

    /// The manifest or index that a tag or digest names; `None` where there is none. Nothing is verified.
    ///
    /// # Errors
    ///
    /// Where the registry says neither.
    pub(super) fn manifest(&self, name: &str) -> Result<Option<Vec<u8>>, Unusable> {
        self.document(&format!("manifests/{name}"), MANIFESTS, &[404])
    }

    /// Answers with a status of `none` say that there is no such thing.
    fn document(&self, path: &str, accept: &str, none: &[u16]) -> Result<Option<Vec<u8>>, Unusable> {
        let mut answer = self.authorized(|session| {
            let request = self.prepare(session, |agent, url| agent.get(url), path);
            Ok((request.header("accept", accept).call().map_err(failed)?, true))
        })?;
        match answer.status() {
            StatusCode::OK => answer.body_mut().with_config().limit(MAX_DOCUMENT).read_to_vec().map(Some).map_err(failed),
            status if none.contains(&status.as_u16()) => Ok(None),
            _ => Err(refused(&answer, "200 or 404")),
        }
    }

    /// Has a tag name an image index.
    ///
    /// # Errors
    ///
    /// Where the registry does not take it.
    pub(super) fn put_index(&self, tag: &str, index: &[u8]) -> Result<(), Unusable> {
        let path = format!("manifests/{tag}");
        let answer = self.authorized(|session| {
            let request = self.prepare(session, |agent, url| agent.put(url), &path);
            Ok((request.header("content-type", INDEX).send(index).map_err(failed)?, true))
        })?;
        match answer.status() {
            StatusCode::CREATED => Ok(()),
            _ => Err(refused(&answer, "201")),
        }
    }

    /// A request for something of the repository.
    fn prepare<B>(&self, session: &Session, method: impl FnOnce(&Agent, String) -> RequestBuilder<B>, path: &str) -> RequestBuilder<B> {
        let request = method(&self.agent, format!("{}/v2/{}/{path}", session.base, self.repository));
        match &session.authorization {
            Some(authorization) => request.header("authorization", authorization),
            None => request,
        }
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

    /// What was agreed upon. Where nothing was, that the registry cannot be reached is for good: skopeo knows how to tell it. One that answers that it is busy was reached.
    fn session(&self) -> Result<Session, Unusable> {
        let agreed = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        agreed.map_or_else(
            || {
                let connected = self.connect();
                self.unreached.store(connected.is_err(), Ordering::Relaxed);
                connected.map_err(Unusable::unless_promised)
            },
            Ok,
        )
    }

    fn agree(&self, session: Session) -> Result<Session, Unusable> {
        let session = Session { authorization: self.authorization(&session)?, ..session };
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.clone());
        Ok(session)
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
                Ok(answer) => {
                    let refused = refused(&answer, "200 or 401");
                    failed.push(Unusable { message: format!("{base}/v2/ answers {}", answer.status()), ..refused });
                }
                Err(error) => failed.push(error),
            }
        }
        let message = failed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        // One of them is how it is spoken with, and who answers is right.
        let later = failed.iter().map(|reason| reason.later).find(|later| matches!(later, Later::Promised(_)));
        Err(Unusable { message, later: later.unwrap_or(Later::Never) })
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
        bearer(&body).ok_or_else(|| Unusable::new("asking for a token: there is none in the answer"))
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
