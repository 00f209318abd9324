//! What an answer of a registry means.

use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{StatusCode, Uri};
use ureq::{Body, BodyReader, http::Response};

use super::challenge::{self, Challenge};
use super::{Later, Unusable};

/// The body of an answer, with errors that say so.
pub(super) struct Answer {
    body: BodyReader<'static>,
    /// How much is to come, where the answer says so.
    left: Option<u64>,
}

impl Answer {
    pub(super) fn new(answer: Response<Body>) -> Self {
        let body = answer.into_body();
        Self { left: body.content_length(), body: body.into_reader() }
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer).map_err(|e| io::Error::new(e.kind(), format!("reading the answer: {e}")))?;
        self.left = self.left.map(|left| left.saturating_sub(read as u64));
        if read > 0 && self.left == Some(0) {
            // A body that was read to its end gives its connection back, and whoever has all the bytes reads no further. That it has ended is known already.
            let _ = self.body.read(&mut [0]);
        }
        Ok(read)
    }
}

pub(super) fn challenge_of(answer: &Response<Body>) -> Option<Challenge> {
    let headers = answer.headers().get_all("www-authenticate").iter();
    let all: Vec<Challenge> = headers.filter_map(|header| challenge::parse(header.to_str().ok()?)).collect();
    all.iter().find(|c| **c != Challenge::Basic).or(all.first()).cloned()
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The Authorization header that the answer of a place for tokens is worth; `None` where there is no token in it. Not in the words of serde, which quote values: those
/// are secret here.
pub(super) fn bearer(body: &[u8]) -> Option<String> {
    let token: Token = serde_json::from_slice(body).ok()?;
    let token = token.token.filter(|token| !token.is_empty()).or(token.access_token).filter(|token| !token.is_empty())?;
    Some(format!("Bearer {token}"))
}

/// What went wrong with a request. Most of it may go well after a while.
pub(super) fn failed(error: ureq::Error) -> Unusable {
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
pub(super) fn refused(answer: &Response<Body>, expected: &str) -> Unusable {
    let status = answer.status();
    let message = format!("the answer is {status} (expected {expected})");
    if !matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) {
        return Unusable::new(message);
    }
    // The other form, a date, depends on two clocks.
    let seconds = answer.headers().get("retry-after").and_then(|after| after.to_str().ok()?.trim().parse().ok());
    Unusable { message, later: Later::Promised(seconds.map(Duration::from_secs)) }
}

/// Reads what is there already.
pub(super) fn skip(body: &mut impl Read, bytes: u64) -> Result<(), Unusable> {
    let skipped = io::copy(&mut body.take(bytes), &mut io::sink()).map_err(|e| Unusable::for_now(e.to_string()))?;
    if skipped < bytes { Err(Unusable::for_now("the connection ended too early")) } else { Ok(()) }
}

/// Whether an answer is the range that was asked for.
pub(super) fn check(answer: &Response<Body>, size: u64, range: &Range<u64>) -> Result<(), Unusable> {
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
    has_length(answer, length)
}

/// Whether an answer has so many bytes, as far as it says how many it has, and they are those of the blob.
pub(super) fn has_length(answer: &Response<Body>, length: u64) -> Result<(), Unusable> {
    if answer.headers().get("content-encoding").is_some_and(|encoding| encoding != "identity") {
        return Err(Unusable::new("the answer is compressed once more"));
    }
    let Some(said) = answer.headers().get("content-length") else { return Ok(()) };
    let said = String::from_utf8_lossy(said.as_bytes());
    if said.parse() == Ok(length) { Ok(()) } else { Err(Unusable::new(format!("the answer has {said} bytes (expected {length})"))) }
}

pub(super) fn url(text: &str) -> Result<Uri, Unusable> {
    let uri: Option<Uri> = text.parse().ok();
    let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some());
    // What follows a question mark may be a secret: stores of blobs are asked with signatures in it.
    let shown = text.split('?').next().unwrap_or_default();
    uri.ok_or_else(|| Unusable::new(format!("{shown:?} is not a URL that is understood")))
}

/// Where a redirect from `from` leads.
pub(super) fn follow(from: &Uri, to: &str) -> Result<Uri, Unusable> {
    let (scheme, authority) = (from.scheme_str().unwrap_or_default(), from.authority().map_or("", |a| a.as_str()));
    if to.starts_with("//") {
        return url(&format!("{scheme}:{to}"));
    }
    if to.starts_with('/') {
        return url(&format!("{scheme}://{authority}{to}"));
    }
    url(to)
}
