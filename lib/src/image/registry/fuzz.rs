//! Targets of what registries and their configuration say: see [`crate::fuzz`].

use ureq::Body;
use ureq::http::{Response, Uri};

use super::challenge as challenges;
use super::conf::{Config, Endpoint};
use super::{answer, auth};

/// A registries.conf and a reference.
pub(crate) fn registries_conf(bytes: &[u8]) {
    let [text, reference] = crate::fuzz::split(bytes);
    let mut config = Config::default();
    let text = String::from_utf8_lossy(text).into_owned();
    // Twice, as with drop-in files.
    if config.add(&text).and_then(|()| config.add(&text)).is_err() {
        return;
    }
    let reference = String::from_utf8_lossy(reference).into_owned();
    for reference in [reference.as_str(), "registry.test/a/os:stable"].into_iter().filter_map(|text| text.parse().ok()) {
        let _ = config.endpoints(&reference);
    }
}

/// A file of credentials.
pub(crate) fn credentials(bytes: &[u8]) {
    let endpoint = Endpoint { host: "registry.test".into(), repository: "a/os".into(), insecure: false };
    let Ok(Some(file)) = auth::parse(bytes) else { return };
    if let Ok(Some(basic)) = file.basic(&endpoint) {
        assert!(basic.header().chars().all(|c| !c.is_control()), "a header of several lines");
    }
}

/// The answer of a place for tokens; where a redirect leads; the headers of an answer with a range.
pub(crate) fn registry_answer(bytes: &[u8]) {
    let [token, location, range, length] = crate::fuzz::split(bytes);
    if let Some(header) = answer::bearer(token) {
        assert!(header.len() > "Bearer ".len(), "an empty token");
    }
    let from = Uri::from_static("https://registry.test/v2/os/blobs/sha256:00?a=b");
    if let Ok(to) = answer::follow(&from, &String::from_utf8_lossy(location)) {
        assert!(to.authority().is_some() && matches!(to.scheme_str(), Some("http" | "https")), "{to} is no place");
    }
    let headers = Response::builder().status(206).header("content-range", range).header("content-length", length);
    let Ok(response) = headers.body(Body::builder().data("")) else { return };
    if answer::check(&response, 1000, &(10..20)).is_ok() {
        let said = |name: &str| response.headers()[name].to_str().unwrap_or_default().trim().to_owned();
        let ranges = ["bytes 10-19/1000", "bytes 10-19/*"];
        assert!(ranges.contains(&said("content-range").as_str()) && said("content-length").parse() == Ok(10), "another range");
    }
}

/// Good answers.
pub(crate) fn registry_answers() -> Vec<Vec<u8>> {
    let answer = |parts: [&str; 4]| crate::fuzz::join(&parts.map(str::as_bytes));
    vec![
        answer([r#"{"token":"a","expires_in":300}"#, "https://store.test/blob?signature=c", "bytes 10-19/1000", "10"]),
        answer([r#"{"token":"","access_token":"b"}"#, "/v2/os/blobs/sha256:01", "bytes 10-19/*", "10"]),
        answer(["{}", "//store.test/blob", "bytes 10-19/*", "11"]),
    ]
}

/// A header `WWW-Authenticate`.
pub(crate) fn challenge(bytes: &[u8]) {
    let _ = challenges::parse(&String::from_utf8_lossy(bytes));
}
