//! Credentials as containers-auth.json(5) has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use openssl::base64;
use serde::Deserialize;

use super::Unusable;
use super::conf::Endpoint;

/// What the Authorization header of HTTP Basic authentication says. Not for display.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Basic(String);

impl Basic {
    /// `Basic …`
    pub(super) fn header(&self) -> String {
        format!("Basic {}", self.0)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct File {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// The credentials for a repository from the first of `files` that has some; `None` where none has.
///
/// # Errors
///
/// Where a file cannot be read, or has credentials that only skopeo understands.
pub(super) fn find(files: &[PathBuf], endpoint: &Endpoint) -> Result<Option<Basic>, Unusable> {
    for path in files {
        let wrong = |found: String| Unusable::new(format!("reading {}: {found}", path.display()));
        let Some(file) = read(path).map_err(wrong)? else { continue };
        if let Some(basic) = file.basic(endpoint).map_err(wrong)? {
            return Ok(Some(basic));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<Option<File>, String> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|e| e.to_string())?,
    };
    parse(&bytes)
}

/// Reads a file of credentials; `None` where nothing is in it.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<File>, String> {
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    // Not the words of serde, which quote values: those are secret here.
    serde_json::from_slice(bytes).map(Some).map_err(|e| format!("line {} is not as containers-auth.json has it", e.line()))
}

impl File {
    pub(super) fn basic(&self, endpoint: &Endpoint) -> Result<Option<Basic>, String> {
        if self.cred_helpers.keys().any(|key| registry(key) == registry(&endpoint.host)) {
            return Err(format!("{} has a credential helper, which only skopeo calls", endpoint.host));
        }
        let Some(auth) = self.auth(endpoint) else { return Ok(None) };
        if !auth.identitytoken.is_empty() {
            return Err(format!("{} has an identitytoken, which only skopeo understands", endpoint.host));
        }
        if auth.auth.is_empty() {
            return Ok(None);
        }
        let decoded = base64::decode_block(auth.auth.trim()).ok().filter(|bytes| bytes.contains(&b':'));
        let Some(decoded) = decoded else { return Err(format!("the credentials for {} are malformed", endpoint.host)) };
        let end = decoded.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        Ok(Some(Basic(base64::encode_block(&decoded[..end]))))
    }

    /// The most specific key: the repository, what it is in, the registry; then what older programs wrote.
    fn auth(&self, endpoint: &Endpoint) -> Option<&Auth> {
        let whole = format!("{}/{}", endpoint.host, endpoint.repository);
        let keys = std::iter::successors(Some(whole.as_str()), |key| key.rsplit_once('/').map(|(before, _)| before));
        let exact = keys.filter_map(|key| self.auths.get(key)).next();
        exact.or_else(|| self.auths.iter().find(|(key, _)| is_old(key, &endpoint.host)).map(|(_, auth)| auth))
    }
}

/// Whether a key names the registry in another way: as a URL, or by another of Docker's names.
fn is_old(key: &str, host: &str) -> bool {
    let url = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let name = url.map_or(key, |url| url.split('/').next().unwrap_or_default());
    registry(name) == registry(host)
}

fn registry(name: &str) -> &str {
    match name {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, repository: &str) -> Endpoint {
        Endpoint { host: host.into(), repository: repository.into(), insecure: false }
    }

    /// The file says `NAME:x` for each key that shall be found as NAME.
    fn found(json: &str, host: &str, repository: &str) -> Result<Option<String>, String> {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("auth.json");
        std::fs::write(&path, json).unwrap();
        let basic = find(&[temp.path().join("none.json"), path], &endpoint(host, repository)).map_err(|e| e.to_string())?;
        Ok(basic.map(|basic| String::from_utf8(base64::decode_block(&basic.0).unwrap()).unwrap()))
    }

    fn auths(entries: &[(&str, &str)]) -> String {
        let entries: Vec<String> =
            entries.iter().map(|(key, said)| format!("\"{key}\":{{\"auth\":\"{}\"}}", base64::encode_block(said.as_bytes()))).collect();
        format!("{{\"auths\":{{{}}}}}", entries.join(","))
    }

    #[test]
    fn the_most_specific_key_counts() {
        let json = auths(&[("r.io", "all:x"), ("r.io/acme", "acme:x"), ("r.io/acme/os", "os:x"), ("r.io:5000", "port:x")]);
        let table = [
            ("r.io", "acme/os", Some("os:x")),
            ("r.io", "acme/other", Some("acme:x")),
            ("r.io", "acmeos", Some("all:x")),
            ("r.io:5000", "acme/os", Some("port:x")),
            ("s.io", "acme/os", None),
        ];
        for (host, repository, expected) in table {
            assert_eq!(found(&json, host, repository), Ok(expected.map(str::to_owned)), "{host}/{repository}");
        }
    }

    #[test]
    fn old_keys_are_read() {
        let json = auths(&[("https://index.docker.io/v1/", "docker:x"), ("https://r.io/v2/", "url:x")]);
        assert_eq!(found(&json, "docker.io", "library/debian"), Ok(Some("docker:x".into())));
        assert_eq!(found(&json, "r.io", "os"), Ok(Some("url:x".into())));
        assert_eq!(found(&auths(&[("r.io", "me:secret\0\0")]), "r.io", "os"), Ok(Some("me:secret".into())));
    }

    #[test]
    fn nothing_is_an_answer_and_the_unknown_is_an_error_without_secrets() {
        for json in ["", "{}", r#"{"auths":{}}"#, r#"{"auths":{"r.io":{}}}"#, r#"{"credsStore":"x"}"#, r#"{"credHelpers":{"s.io":"x"}}"#] {
            assert_eq!(found(json, "r.io", "os"), Ok(None), "{json}");
        }
        let table = [
            (r#"{"credHelpers":{"r.io":"ecr-login"}}"#, "credential helper"),
            (r#"{"auths":{"r.io":{"identitytoken":"hidden","auth":"aGlkZGVuOg=="}}}"#, "identitytoken"),
            (r#"{"auths":{"r.io":{"auth":"hidden"}}}"#, "malformed"),
            (r#"{"auths":{"r.io":{"auth":["hidden"]}}}"#, "line 1"),
            (r#"{"auths":{"r.io":"hidden"}}"#, "line 1"),
        ];
        for (json, expected) in table {
            let error = found(json, "r.io", "os").unwrap_err();
            assert!(error.contains(expected) && !error.contains("hidden"), "{json}: {error}");
        }
    }
}
