//! Targets of what registries and their configuration say: see [`crate::fuzz`].

use super::auth;
use super::challenge as challenges;
use super::conf::{Config, Endpoint};

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

/// A header `WWW-Authenticate`.
pub(crate) fn challenge(bytes: &[u8]) {
    let _ = challenges::parse(&String::from_utf8_lossy(bytes));
}
