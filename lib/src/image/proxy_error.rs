//! What skopeo says when it cannot, and what that means for the caller. Skopeo reports text only, so this is the one place that
//! reads it; the fixtures below are what skopeo 1.9 and later really say. The same words mean an outage of a registry, and damage of a file.

use containers_image_proxy::{Error, GetBlobError};

use crate::error::{AGAIN_LATER, DAMAGED, FREE_SPACE, Failure, FailureKind};
use crate::reference::Transport;

const SIGNATURES: &str =
    "policy.json, in /etc/containers or ~/.config/containers, does not accept this image; see containers-policy.json(5)";
const CREDENTIALS: &str = "log in with `skopeo login`, or name a file of credentials with --authfile";
const PLAIN_HTTP: &str = "the registry speaks plain HTTP: allow it with --tls-verify=false, or as insecure in registries.conf";
const CERTIFICATE: &str = "install the registry's certificate authority, see containers-certs.d(5)";
const STORAGE: &str = "use the storage of podman as root, or inside `podman unshare`";
const AGAIN: &str = "check the registry's name, the network and the mirrors, then run the same command again";
const BLOCKED: &str = "registries.conf, in /etc/containers or ~/.config/containers, blocks this registry";
const CONFIGURATION: &str = "mend registries.conf, in /etc/containers or ~/.config/containers; see containers-registries.conf(5)";

const ARCHIVE: &str = "fetch the file again, or write it again from the image that it was made of";
const LAYOUT: &str = "write the image into this directory again";
const STORED: &str = "pull the image into the storage of podman again";

/// Texts, in lowercase, about files on this machine that ended early, or are nothing that an image is kept in. Where an archive begins well and has no list of
/// what is in it, it was cut, too, or is another kind of file.
const SPOILED: &[&str] = &[
    "unexpected eof",
    ": eof",
    "archive/tar:",
    "gzip: ",
    "zlib: ",
    "flate: ",
    "magic number mismatch",
    "invalid character ",
    "unexpected end of json input",
    "/index.json: no such file or directory",
    "loading tar component manifest.json: file does not exist",
];

/// Texts of registries and storages that have nothing of the name that they were asked for.
const ABSENT: &[&str] = &[
    "manifest unknown",
    "name unknown",
    "repository name not known",
    "statuscode: 404",
    "no descriptor found for reference",
    "does not resolve to an image",
    "not found",
];

/// Texts, in lowercase, with what they mean. The first row that has a text in the message decides.
const MEANINGS: &[Meaning] = &[
    (
        FailureKind::Denied,
        Some(SIGNATURES),
        &[
            "rejected by policy",
            "source image rejected",
            "a signature was required",
            "none of the signatures were accepted",
            "signature verification failed",
            "invalid gpg signature",
            "signature for identity",
            "policy.json",
            "loading trust policy",
        ],
    ),
    (FailureKind::Denied, Some(BLOCKED), &[" is blocked in /etc/containers/", "registries.conf or "]),
    (FailureKind::Usage, Some(CONFIGURATION), &["loading registries configuration", "registries.conf\": toml"]),
    (
        FailureKind::Unsuitable,
        Some("build the image for this architecture, or name another"),
        &["no image found in manifest list for architecture", "no image found in image index for architecture"],
    ),
    (FailureKind::NoSpace, Some(FREE_SPACE), &["no space left on device", "disk quota exceeded"]),
    (FailureKind::NotPermitted, None, &["permission denied", "read-only file system"]),
    (FailureKind::NotPermitted, Some(STORAGE), &["operation not permitted"]),
    (
        FailureKind::Corrupt,
        Some(DAMAGED),
        &["corrupted blob", "bytes in blob, got", "does not match provided manifest digest", "blob unknown", "locating item named"],
    ),
    (FailureKind::Corrupt, Some(DAMAGED), &["fetching blob: invalid status code from registry 404", "fetching blob: statuscode: 404"]),
    (
        FailureKind::Denied,
        Some(CREDENTIALS),
        &[
            "unauthorized",
            "authentication required",
            "invalid username/password",
            "getting username and password",
            "access to the resource is denied",
            "denied:",
            "insufficient_scope",
            "statuscode: 401",
            "statuscode: 403",
            "403 (forbidden)",
            "403 forbidden",
        ],
    ),
    (FailureKind::Unreachable, Some(PLAIN_HTTP), &["server gave http response to https client"]),
    (FailureKind::Unreachable, Some(CERTIFICATE), &["x509:", "tls: "]),
    (
        FailureKind::Unreachable,
        Some(AGAIN_LATER),
        &["http status: 5", "from registry 5", "statuscode: 5", "toomanyrequests", "too many requests"],
    ),
    (
        FailureKind::Unreachable,
        Some(AGAIN),
        &[
            "connection refused",
            "connection reset",
            "no such host",
            "name resolution",
            "server misbehaving",
            "timeout",
            "deadline exceeded",
            "network is unreachable",
            "no route to host",
            "unexpected eof",
            ": eof",
            "dial tcp",
        ],
    ),
    (FailureKind::NotFound, None, ABSENT),
    (FailureKind::NotFound, None, &["no such file or directory", "file does not exist"]),
];

/// An error of the proxy while `doing` something with an image of this transport.
pub(super) fn explain(doing: &str, transport: Transport, error: &Error) -> anyhow::Error {
    match failure(doing, transport, error) {
        Some(failure) => failure.into(),
        None => anyhow::anyhow!("{doing}: skopeo says: {}", said(error)),
    }
}

/// The failure that an error of the proxy means, where it means one.
pub(super) fn failure(doing: &str, transport: Transport, error: &Error) -> Option<Failure> {
    if let Error::SkopeoSpawnError(e) = error {
        return (e.kind() == std::io::ErrorKind::NotFound).then(not_installed);
    }
    let may_pass = transport == Transport::Registry && error.is_retryable();
    let by_words = of_words(doing, transport, &said(error));
    by_words.or_else(|| may_pass.then(|| Failure::new(FailureKind::Unreachable, format!("{doing}: {}", said(error))).hint(AGAIN)))
}

/// What the text of a failed `skopeo` command means, for an error that has that text.
pub(super) fn explain_command(doing: &str, transport: Transport, error: anyhow::Error) -> anyhow::Error {
    if let Some(found) = Failure::find(&error) {
        return if found.kind == FailureKind::NotFound { not_installed().into() } else { error };
    }
    let said = logged(&error.to_string());
    of_words(doing, transport, &said).map_or_else(|| error.context(doing.to_owned()), anyhow::Error::from)
}

/// Statuses of a registry that starts anew. One that is busy (429) was asked several times by skopeo itself.
const STARTING: [u16; 4] = [500, 502, 503, 504];
/// What stands before a status.
const STATUS: [&str; 3] = ["http status: ", "from registry ", "statuscode: "];
/// Texts of connections that broke.
const BROKE: [&str; 3] = ["connection reset", "unexpected eof", ": eof"];
/// Before it has answered once, a registry that breaks connections is more often a name or a port that is wrong.
const FIRST: &str = "pinging container registry";

/// Whether it makes sense to ask again. A registry that is not there is more often a name that is wrong.
pub(super) fn is_passing(error: &anyhow::Error) -> bool {
    let unreachable = Failure::find(error).filter(|failure| failure.kind == FailureKind::Unreachable);
    unreachable.is_some_and(|failure| {
        let said = failure.message.to_lowercase();
        let starting = STARTING.iter().any(|status| STATUS.iter().any(|before| said.contains(&format!("{before}{status}"))));
        starting || !said.contains(FIRST) && BROKE.iter().any(|text| said.contains(text))
    })
}

/// The same error, with how often it came.
pub(super) fn in_a_row(error: anyhow::Error, times: u32) -> anyhow::Error {
    match Failure::find(&error) {
        // It is there, and not well.
        Some(failure) => Failure::new(failure.kind, format!("{}, {times} times in a row", failure.message)).hint(AGAIN_LATER).into(),
        None => error,
    }
}

/// Whether the text of a failed `skopeo` command says that there is nothing of the name, and not that something is missing which it takes to find out.
pub(super) fn is_absent(error: &anyhow::Error) -> bool {
    let row = row(&logged(&error.to_string()));
    Failure::find(error).is_none() && row.is_some_and(|(_, _, texts)| *texts == ABSENT)
}

fn not_installed() -> Failure {
    Failure::new(FailureKind::NotFound, "running skopeo: no such program")
        .hint("install skopeo; only oci: directories can be read without it")
}

fn with_hint(failure: Failure, hint: Option<&str>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The failure that skopeo's words mean, where they mean one. No network is asked for what is on this machine: there, nothing passes by itself.
fn of_words(doing: &str, transport: Transport, said: &str) -> Option<Failure> {
    let found = row(said).filter(|(kind, ..)| transport == Transport::Registry || *kind != FailureKind::Unreachable);
    let (damaged, hint) = match transport {
        Transport::Registry => return found.map(|(kind, hint, _)| with_hint(Failure::new(*kind, format!("{doing}: {said}")), *hint)),
        Transport::Oci => ("the image is damaged", LAYOUT),
        Transport::ContainersStorage => ("the image is damaged", STORED),
        Transport::OciArchive | Transport::DockerArchive => ("the file is damaged, ends early, or is no archive of an image", ARCHIVE),
    };
    match found {
        Some((kind, hint, _)) if *kind != FailureKind::NotFound || !is_damaged(said) => {
            Some(with_hint(Failure::new(*kind, format!("{doing}: {said}")), *hint))
        }
        _ => is_damaged(said).then(|| Failure::new(FailureKind::Corrupt, format!("{doing}: {damaged}: {said}")).hint(hint)),
    }
}

fn is_damaged(said: &str) -> bool {
    let said = said.to_lowercase();
    SPOILED.iter().any(|text| said.contains(text))
}

/// A row of the table.
type Meaning = (FailureKind, Option<&'static str>, &'static [&'static str]);

fn row(said: &str) -> Option<&'static Meaning> {
    let said = said.to_lowercase();
    MEANINGS.iter().find(|(_, _, texts)| texts.iter().any(|text| said.contains(text)))
}

/// The words of skopeo, without those that the proxy library puts around them.
fn said(error: &Error) -> String {
    match error {
        Error::RequestInitiationFailure { error, .. } | Error::RetryableRequestFailure { error, .. } => error.to_string(),
        Error::BlobError(GetBlobError::Retryable(text) | GetBlobError::Other(text)) => text.to_string(),
        other => other.to_string(),
    }
}

/// The message in a log line: `time="…" level=fatal msg="…"`, with its quotes undone.
fn logged(text: &str) -> String {
    match text.split_once("level=fatal msg=\"") {
        Some((_, message)) => message.trim_end().trim_end_matches('"').replace("\\\"", "\""),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_asked_again_and_what_will_not_is_told_at_once() {
        let passing = |said: &str| {
            let error = explain(
                "resolving r.io/os:v1",
                Transport::Registry,
                &Error::RequestInitiationFailure { method: "OpenImage".into(), error: said.into() },
            );
            (is_passing(&error), Failure::find(&error).map(|failure| failure.kind))
        };
        let table = [
            ("reading manifest v1 in r.io/os: received unexpected HTTP status: 503 Service Unavailable", true),
            ("Requesting bearer token: invalid status code from registry 502 (Bad Gateway)", true),
            ("reading manifest v1: Get \"https://r.io/v2/os/manifests/v1\": read tcp 10.0.0.1:4: read: connection reset by peer", true),
            ("reading manifest v1: Get \"https://r.io/v2/os/manifests/v1\": unexpected EOF", true),
            ("reading manifest v1: received unexpected HTTP status: 501 Not Implemented", false),
            ("reading manifest v1: toomanyrequests: You have reached your pull rate limit", false),
            ("pinging container registry r.io: Get \"https://r.io/v2/\": EOF", false),
            ("pinging container registry r.io: Get \"https://r.io/v2/\": dial tcp 10.0.0.1:443: connect: connection refused", false),
            ("pinging container registry r.io: Get \"https://r.io/v2/\": x509: certificate signed by unknown authority", false),
        ];
        for (said, expected) in table {
            assert_eq!(passing(said), (expected, Some(FailureKind::Unreachable)), "{said}");
        }
        for said in ["reading manifest v1: manifest unknown", "reading manifest v1: unauthorized: authentication required"] {
            assert!(!passing(said).0, "{said}");
        }
        let failure = Failure::find(&in_a_row(
            explain(
                "resolving os",
                Transport::Registry,
                &Error::RequestInitiationFailure { method: "OpenImage".into(), error: table[0].0.into() },
            ),
            3,
        ))
        .unwrap();
        assert!(failure.message.ends_with("503 Service Unavailable, 3 times in a row"), "{failure}");
    }

    #[test]
    fn what_skopeo_says_is_understood() {
        use FailureKind::{Corrupt, Denied, NoSpace, NotFound, NotPermitted, Unreachable, Unsuitable};
        let table = [
            (NotFound, "reading manifest nope in 127.0.0.1:5931/os: manifest unknown: manifest unknown"),
            (NotFound, "reading manifest x in quay.io/acme/none: name unknown: repository not found"),
            (NotFound, "reading manifest one in 127.0.0.1:5946/os: StatusCode: 404, "),
            (NotFound, "no descriptor found for reference \"two\""),
            (NotFound, "Tag \"localhost/os:two\" not found"),
            (NotFound, "creating temp directory: open /nonexist.tar: no such file or directory"),
            (NotFound, "loading tar component manifest.json: file does not exist"),
            (
                NotFound,
                "reference \"[overlay@/var/lib/containers/storage+/run/containers/storage]localhost/none:x\" does not resolve to an image ID: identifier is not an image",
            ),
            (Denied, "reading manifest one in 127.0.0.1:5932/os: unauthorized: authentication required"),
            (Denied, "reading manifest one in 127.0.0.1:5945/os: StatusCode: 403, "),
            (
                Denied,
                "initializing source docker://docker.io/acme/os:v1: reading manifest v1 in docker.io/acme/os: requested access to the resource is denied",
            ),
            (Denied, "unable to retrieve auth token: invalid username/password: unauthorized: incorrect username or password"),
            (Denied, "Running image docker://127.0.0.1:5931/os:one is rejected by policy."),
            (Denied, "Source image rejected: A signature was required, but no signature exists"),
            (Denied, "Error loading trust policy: open nopol.json: no such file or directory"),
            (Denied, "getting username and password: 1 error occurred:\n\t* reading JSON file \"/a\": unexpected end of JSON input"),
            (NoSpace, "writing blob: write /srv/layout/oci-put-blob123: no space left on device"),
            (NotPermitted, "chown /home/a/storage/vfs: operation not permitted"),
            (NotPermitted, "open /run/containers/0/auth.json: permission denied"),
            (
                Unreachable,
                "pinging container registry 127.0.0.1:5999: Get \"http://127.0.0.1:5999/v2/\": dial tcp 127.0.0.1:5999: connect: connection refused",
            ),
            (
                Unreachable,
                "pinging container registry 127.0.0.1:5931: Get \"https://127.0.0.1:5931/v2/\": http: server gave HTTP response to HTTPS client",
            ),
            (
                Unreachable,
                "pinging container registry no-such-host.invalid: Get \"https://no-such-host.invalid/v2/\": dial tcp: lookup no-such-host.invalid on 10.0.0.1:53: no such host",
            ),
            (Unreachable, "pinging container registry r.io: Get \"https://r.io/v2/\": dial tcp 192.0.2.1:443: i/o timeout"),
            (Unreachable, "pinging container registry r.io: Get \"https://r.io/v2/\": x509: certificate signed by unknown authority"),
            (Unreachable, "reading manifest one in 127.0.0.1:5941/os: received unexpected HTTP status: 503 Service Unavailable"),
            (Unreachable, "pinging container registry 127.0.0.1:5947: invalid status code from registry 503 (Service Unavailable)"),
            (Unreachable, "Error fetching blob: invalid status code from registry 503 (Service Unavailable)"),
            (Unreachable, "unexpected EOF"),
            (Unsuitable, "no image found in image index for architecture amd64, variant \"\", OS linux"),
            (Unsuitable, "no image found in manifest list for architecture amd64, variant \"\", OS linux"),
            (Corrupt, "corrupted blob, expecting sha256:0550d0a6a89b3d856b1053379c2975cc32d0530d2d1cb3adebb11a06a860b269"),
            (Corrupt, "expected 7 bytes in blob, got 10240"),
            (Corrupt, "Error fetching blob: invalid status code from registry 404 (Not Found)"),
            (
                Corrupt,
                "locating item named \"sha256:a6\" for image with ID \"18cf\" (consider removing the image to resolve the issue): file does not exist",
            ),
        ];
        for (kind, text) in table {
            let error = Error::RequestInitiationFailure { method: "OpenImage".into(), error: text.into() };
            let failure = failure("resolving r.io/os:v1", Transport::Registry, &error).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((failure.kind, failure.message), (kind, format!("resolving r.io/os:v1: {text}")));
        }
    }

    #[test]
    fn what_is_on_this_machine_is_damaged_and_never_out_of_reach() {
        use Transport::{ContainersStorage, DockerArchive, OciArchive};
        let archive = (FailureKind::Corrupt, Some(ARCHIVE), "the file is damaged, ends early, or is no archive of an image: ");
        let stored = (FailureKind::Corrupt, Some(STORED), "the image is damaged: ");
        let not_found = (FailureKind::NotFound, None, "");
        let table = [
            (OciArchive, "creating temp directory: untarring file \"/var/tmp/oci1\": unexpected EOF", archive),
            (OciArchive, "creating temp directory: untarring file \"/var/tmp/oci1\": archive/tar: invalid tar header", archive),
            // It has the length of nothing, or of some whole files.
            (OciArchive, "open /var/tmp/oci3635704819/index.json: no such file or directory", archive),
            (OciArchive, "creating temp directory: open /none.tar: no such file or directory", not_found),
            (OciArchive, "no descriptor found for reference \"two\"", not_found),
            (DockerArchive, "loading tar component manifest.json: unexpected EOF", archive),
            (DockerArchive, "loading tar component manifest.json: archive/tar: invalid tar header", archive),
            (DockerArchive, "loading tar component manifest.json: file does not exist", archive),
            (DockerArchive, "copying contents to temporary file \"/var/tmp/docker-tar40\": unexpected EOF", archive),
            (DockerArchive, "Tag \"localhost/os:two\" not found", not_found),
            (ContainersStorage, "reading the layer: unexpected EOF", stored),
            (ContainersStorage, "reference \"localhost/os\" does not resolve to an image ID: identifier is not an image", not_found),
            (DockerArchive, "write /var/tmp/x: no space left on device", (FailureKind::NoSpace, Some(FREE_SPACE), "")),
        ];
        for (transport, text, (kind, hint, before)) in table {
            let request = Error::RequestInitiationFailure { method: "OpenImage".into(), error: text.into() };
            let found = failure("resolving x", transport, &request).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((found.kind, found.hint.as_deref(), found.message), (kind, hint, format!("resolving x: {before}{text}")));
            let command = anyhow::anyhow!("running skopeo: exit status: 1: level=fatal msg=\"{}\"", text.replace('"', "\\\""));
            let error = explain_command("resolving x", transport, command);
            assert!(Failure::is(&error, kind) && !is_passing(&error), "{error:#}");
        }
        let retryable = Error::RetryableRequestFailure { method: "OpenImage".into(), error: "the moon is full".into() };
        assert_eq!(failure("resolving x", OciArchive, &retryable), None);
        let refused = Error::RequestInitiationFailure { method: "OpenImage".into(), error: "dial tcp: connection refused".into() };
        assert_eq!(failure("resolving x", OciArchive, &refused), None);
    }

    #[test]
    fn hints_say_what_to_do() {
        let hint = |text| row(text).and_then(|(_, hint, _)| *hint);
        assert_eq!(hint("unauthorized: authentication required"), Some(CREDENTIALS));
        assert_eq!(hint("Running image x is rejected by policy."), Some(SIGNATURES));
        assert_eq!(hint("http: server gave HTTP response to HTTPS client"), Some(PLAIN_HTTP));
        assert_eq!(hint("reading manifest v1 in r.io/os: too many requests to registry"), Some(AGAIN_LATER));
        let config = |text| row(text).map(|(kind, hint, _)| (kind.exit_code(), *hint));
        let blocked = "registry r.io is blocked in /etc/containers/registries.conf or /etc/containers/registries.conf.d";
        assert_eq!(config(blocked), Some((4, Some(BLOCKED))));
        let odd = "loading registries configuration \"/etc/containers/registries.conf\": toml: line 2: expected '.' or '='";
        assert_eq!(config(odd), Some((2, Some(CONFIGURATION))));
        let missing = Error::SkopeoSpawnError(std::io::ErrorKind::NotFound.into());
        assert_eq!(failure("x", Transport::Registry, &missing), Some(not_installed()));
    }

    #[test]
    fn what_is_not_understood_is_passed_on() {
        let odd = Error::RequestInitiationFailure { method: "OpenImage".into(), error: "the moon is full".into() };
        assert_eq!(failure("resolving x", Transport::Registry, &odd), None);
        assert_eq!(explain("resolving x", Transport::Registry, &odd).to_string(), "resolving x: skopeo says: the moon is full");
        let odd = Error::RetryableRequestFailure { method: "OpenImage".into(), error: "the moon is full".into() };
        assert_eq!(failure("resolving x", Transport::Registry, &odd).map(|f| f.kind), Some(FailureKind::Unreachable));
    }

    #[test]
    fn what_is_not_there_is_told_from_what_cannot_be_found_out() {
        let said = |text: &str| is_absent(&anyhow::anyhow!("running skopeo inspect: exit status: 1: level=fatal msg=\"{text}\""));
        for text in [
            "reading manifest nope in 127.0.0.1:5931/os: manifest unknown: manifest unknown",
            "reading manifest v1 in 127.0.0.1:5931/os: name unknown: repository name not known to registry",
            "reading manifest v1 in r.io/os: StatusCode: 404, <html>",
            "reference \\\"[vfs@/a+/b]localhost/os:v1\\\" does not resolve to an image ID: identifier is not an image",
        ] {
            assert!(said(text), "{text}");
        }
        for text in [
            "open /none/auth.json: no such file or directory",
            "reading manifest v1 in r.io/os: unauthorized: access to the requested resource is not authorized",
            "pinging container registry 127.0.0.1:5999: dial tcp 127.0.0.1:5999: connect: connection refused",
            "the moon is full",
        ] {
            assert!(!said(text), "{text}");
        }
        assert!(!is_absent(&not_installed().into()));
    }

    #[test]
    fn the_message_of_a_command_is_found_in_its_log() {
        let error = anyhow::anyhow!(
            "running skopeo inspect: exit status: 1: time=\"2026-11-22T04:52:46Z\" level=fatal msg=\"Error parsing image name \
             \\\"docker://127.0.0.1:5931/os:nope\\\": reading manifest nope in 127.0.0.1:5931/os: manifest unknown\""
        );
        let failure = Failure::find(&explain_command("resolving x", Transport::Registry, error)).unwrap();
        assert_eq!(failure.kind, FailureKind::NotFound);
        let said =
            "Error parsing image name \"docker://127.0.0.1:5931/os:nope\": reading manifest nope in 127.0.0.1:5931/os: manifest unknown";
        assert_eq!(failure.message, format!("resolving x: {said}"));
    }
}
