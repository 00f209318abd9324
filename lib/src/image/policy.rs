//! Signature policy where skopeo does not apply it.
//!
//! The image proxy of skopeo before 1.11 (protocol before 0.2.6) reads images without looking at containers-policy.json(5). With
//! such a skopeo an image is only read when the policy accepts every image anyway; this module decides that, and nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::error::{Failure, FailureKind};

/// The first protocol version of the proxy that applies the policy.
const APPLIED_SINCE: (u64, u64, u64) = (0, 2, 6);

/// Whether the proxy of this protocol version applies the policy itself.
pub(super) fn is_applied_by_skopeo(version: (u64, u64, u64)) -> bool {
    version >= APPLIED_SINCE
}

/// Where skopeo looks for the policy, first match first.
pub(super) fn places(home: Option<&Path>) -> Vec<PathBuf> {
    let user = home.map(|home| home.join(".config/containers/policy.json"));
    user.into_iter().chain([PathBuf::from("/etc/containers/policy.json")]).collect()
}

/// Whether the first policy that is in one of `places` accepts every image.
///
/// # Errors
///
/// [`FailureKind::Denied`] where it does not, or where there is none.
pub(super) fn check(places: &[PathBuf]) -> Result<()> {
    for place in places {
        match std::fs::read(place) {
            Ok(bytes) => return judge(place, &bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("reading {}", place.display())),
        }
    }
    let missing = Failure::new(FailureKind::Denied, "reading policy.json: there is none (expected /etc/containers/policy.json)");
    Err(missing.hint("install the package containers-common, or write a policy; see containers-policy.json(5)").into())
}

fn judge(place: &Path, bytes: &[u8]) -> Result<()> {
    let policy: Policy = serde_json::from_slice(bytes).with_context(|| format!("reading {}", place.display()))?;
    if policy.accepts_everything() {
        return Ok(());
    }
    let message =
        format!("applying {}: this skopeo reads images without checking signatures (expected skopeo 1.11 or newer)", place.display());
    Err(Failure::new(FailureKind::Denied, message).hint("install a newer skopeo").into())
}

#[derive(Deserialize)]
struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: std::collections::BTreeMap<String, std::collections::BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Deserialize)]
struct Requirement {
    r#type: String,
}

impl Policy {
    fn accepts_everything(&self) -> bool {
        let scopes = self.transports.values().flat_map(|scopes| scopes.values());
        let accepts = |all: &Vec<Requirement>| !all.is_empty() && all.iter().all(|r| r.r#type == "insecureAcceptAnything");
        std::iter::once(&self.default).chain(scopes).all(accepts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_policy_that_accepts_everything_needs_no_check() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("policy.json");
        let anything =
            r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker-daemon":{"":[{"type":"insecureAcceptAnything"}]}}}"#;
        let table = [
            (anything, true),
            (r#"{"default":[{"type":"reject"}]}"#, false),
            (r#"{"default":[]}"#, false),
            (
                r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"quay.io/acme":[{"type":"sigstoreSigned","keyPath":"/k"}]}}}"#,
                false,
            ),
        ];
        for (policy, accepted) in table {
            std::fs::write(&path, policy).unwrap();
            let kind = check(&[temp.path().join("none"), path.clone()]).map_err(|e| Failure::find(&e).unwrap().kind);
            assert_eq!(kind, if accepted { Ok(()) } else { Err(FailureKind::Denied) }, "{policy}");
        }
        assert_eq!(Failure::find(&check(&[temp.path().join("none")]).unwrap_err()).unwrap().kind, FailureKind::Denied);
    }

    #[test]
    fn skopeo_applies_it_from_a_version_on() {
        let table = [((0, 2, 3), false), ((0, 2, 5), false), ((0, 2, 6), true), ((0, 2, 8), true), ((0, 3, 0), true), ((1, 0, 0), true)];
        assert_eq!(table.map(|(version, _)| is_applied_by_skopeo(version)), table.map(|(_, applied)| applied));
    }

    #[test]
    fn the_policy_of_the_user_comes_first() {
        let expected = ["/home/a/.config/containers/policy.json", "/etc/containers/policy.json"].map(PathBuf::from);
        assert_eq!(places(Some(Path::new("/home/a"))), expected);
        assert_eq!(places(None), expected[1..]);
    }
}
