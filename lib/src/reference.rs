//! [`ImageReference`]: where an image is, as a user writes it. Pure: nothing here looks at a disk or a network.
//!
//! The grammar of registry names, tags and digests is that of the OCI distribution specification. Short names are not
//! guessed at: a name without a registry is an error that says how to write it.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Failure, FailureKind};

/// Longest repository name, registry included, that registries take.
const MAX_NAME: usize = 255;

/// How an image is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A registry, over HTTPS.
    Registry,
    /// A directory in OCI image layout.
    Oci,
    /// A tar file of an OCI image layout.
    OciArchive,
    /// The storage of podman, buildah and CRI-O on this machine.
    ContainersStorage,
    /// A tar file as written by `docker save`.
    DockerArchive,
}

impl Transport {
    const WITH_PREFIX: [Self; 4] = [Self::Oci, Self::OciArchive, Self::ContainersStorage, Self::DockerArchive];

    /// What a reference of this transport begins with; registries need nothing.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Registry => "",
            Self::Oci => "oci:",
            Self::OciArchive => "oci-archive:",
            Self::ContainersStorage => "containers-storage:",
            Self::DockerArchive => "docker-archive:",
        }
    }
}

/// A transport with a name in it. [`fmt::Display`] is the inverse of [`FromStr`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference(Place);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Registry { name: String, tag: Option<String>, digest: Option<String> },
    File { transport: Transport, path: String, tag: Option<String> },
    Storage { name: String },
}

impl ImageReference {
    /// How the image is reached.
    pub fn transport(&self) -> Transport {
        match &self.0 {
            Place::Registry { .. } => Transport::Registry,
            Place::File { transport, .. } => *transport,
            Place::Storage { .. } => Transport::ContainersStorage,
        }
    }

    /// What is named, without transport, tag and digest: a repository with its registry, a path, a storage name.
    pub fn name(&self) -> &str {
        match &self.0 {
            Place::Registry { name, .. } | Place::Storage { name } => name,
            Place::File { path, .. } => path,
        }
    }

    /// The tag, where one was written or implied.
    pub fn tag(&self) -> Option<&str> {
        match &self.0 {
            Place::Registry { tag, .. } | Place::File { tag, .. } => tag.as_deref(),
            Place::Storage { .. } => None,
        }
    }

    /// The digest that the reference is pinned to (`sha256:…`).
    pub fn digest(&self) -> Option<&str> {
        match &self.0 {
            Place::Registry { digest, .. } => digest.as_deref(),
            Place::File { .. } | Place::Storage { .. } => None,
        }
    }

    /// The form that skopeo understands, e.g. `docker://quay.io/acme/os:stable`. Where there is a tag and a digest, the
    /// digest decides and the tag is left out, because skopeo takes only one of them.
    pub fn skopeo(&self) -> String {
        match &self.0 {
            Place::Registry { name, digest: Some(digest), .. } => format!("docker://{name}@{digest}"),
            Place::Registry { .. } => format!("docker://{self}"),
            Place::File { .. } | Place::Storage { .. } => self.to_string(),
        }
    }

    /// The same repository, pinned to one digest. `None` where the transport has no digests, or where `digest` is none.
    pub fn pinned(&self, digest: &str) -> Option<ImageReference> {
        match &self.0 {
            Place::Registry { name, .. } if is_digest(digest) => {
                Some(Self(Place::Registry { name: name.clone(), tag: None, digest: Some(digest.to_owned()) }))
            }
            _ => None,
        }
    }

    /// Whether it is a path that begins at the working directory.
    pub fn is_from_here(&self) -> bool {
        matches!(&self.0, Place::File { path, .. } if !Path::new(path).is_absolute())
    }

    /// The same with a path that begins at the root, where it is one that begins at the working directory `here`. Links in it stay: what is above `here` is
    /// known, and what is above a name in the path, only the disk knows.
    ///
    /// # Errors
    ///
    /// No reference can have that path, because of what is in `here`.
    pub fn from_root(&self, here: &Path) -> Result<ImageReference, ReferenceError> {
        let Place::File { transport, path, tag } = &self.0 else { return Ok(self.clone()) };
        if !self.is_from_here() {
            return Ok(self.clone());
        }
        let (mut whole, mut named) = (here.to_owned(), false);
        for part in Path::new(path).components() {
            match part {
                Component::CurDir => {}
                Component::ParentDir if !named => _ = whole.pop(),
                part => {
                    whole.push(part);
                    named = true;
                }
            }
        }
        let fits = |path: &&str| !path.contains(|c: char| c == ':' || c.is_control());
        let Some(path) = whole.to_str().filter(fits) else {
            return Err(ReferenceError { reference: self.to_string(), problem: Problem::Here });
        };
        Ok(Self(Place::File { transport: *transport, path: path.to_owned(), tag: tag.clone() }))
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.transport().prefix(), self.name())?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = self.digest() {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(s: &str) -> Result<Self, ReferenceError> {
        let wrong = |problem: Problem| ReferenceError { reference: s.to_owned(), problem };
        if let Some(foreign) = FOREIGN.iter().find(|prefix| s.starts_with(**prefix)) {
            return Err(wrong(Problem::Transport(foreign)));
        }
        for transport in Transport::WITH_PREFIX {
            if let Some(rest) = s.strip_prefix(transport.prefix()) {
                return local(transport, rest).map(Self).map_err(wrong);
            }
        }
        registry(s.strip_prefix("docker://").unwrap_or(s)).map(Self).map_err(wrong)
    }
}

/// Prefixes that other tools know and that would otherwise be taken for a registry's name.
const FOREIGN: [&str; 8] =
    ["https://", "http://", "docker-daemon:", "dir:", "ostree:", "sif:", "ostree-unverified-registry:", "ostree-image-signed:"];

fn local(transport: Transport, rest: &str) -> Result<Place, Problem> {
    if rest.contains(char::is_control) {
        return Err(Problem::Path);
    }
    if transport == Transport::ContainersStorage {
        let name = Some(rest).filter(|r| !r.is_empty()).ok_or(Problem::Path)?;
        return Ok(Place::Storage { name: name.to_owned() });
    }
    // As in skopeo: the first colon ends the path, so that a tag may be a whole image name.
    let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
    if path.is_empty() {
        return Err(Problem::Path);
    }
    if tag.is_some_and(str::is_empty) {
        return Err(Problem::Tag);
    }
    Ok(Place::File { transport, path: path.to_owned(), tag: tag.map(str::to_owned) })
}

fn registry(s: &str) -> Result<Place, Problem> {
    let (rest, digest) = s.split_once('@').map_or((s, None), |(rest, digest)| (rest, Some(digest)));
    if digest.is_some_and(|d| !is_digest(d)) {
        return Err(Problem::Digest);
    }
    if rest.starts_with(['/', '.']) {
        return Err(Problem::Bare);
    }
    let (host, after) = rest.split_once('/').ok_or(Problem::NoRegistry)?;
    if !(host.contains(['.', ':']) || host == "localhost") {
        return Err(Problem::NoRegistry);
    }
    let (path, tag) = after.split_once(':').map_or((after, None), |(path, tag)| (path, Some(tag)));
    if !is_host(host) {
        return Err(Problem::Host);
    }
    if !path.split('/').all(is_path_component) {
        return Err(if path.contains(|c: char| c.is_ascii_uppercase()) { Problem::Uppercase } else { Problem::Name });
    }
    if tag.is_some_and(|t| !is_tag(t)) {
        return Err(Problem::Tag);
    }
    if host.len() + 1 + path.len() > MAX_NAME {
        return Err(Problem::Long);
    }
    let tag = tag.or(if digest.is_none() { Some("latest") } else { None });
    Ok(Place::Registry { name: format!("{host}/{path}"), tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        Some((address, after)) => return address.parse::<std::net::Ipv6Addr>().is_ok() && (after.is_empty() || is_port(after)),
        None => host.find(':').map_or((host, ""), |colon| host.split_at(colon)),
    };
    name.split('.').all(is_host_label) && (port.is_empty() || is_port(port))
}

/// A colon and a number.
fn is_port(s: &str) -> bool {
    s.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0))
}

fn is_host_label(label: &str) -> bool {
    let letters = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    letters && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = |b: Option<&u8>| b.is_some_and(|b| word(*b));
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends(part.as_bytes().first())
        && ends(part.as_bytes().last())
        && separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`
fn is_tag(tag: &str) -> bool {
    let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && tag.len() <= 128 && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let hex = |s: &str, len| s.len() == len && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match digest.split_once(':') {
        Some(("sha256", rest)) => hex(rest, 64),
        Some(("sha512", rest)) => hex(rest, 128),
        _ => false,
    }
}

impl TryFrom<String> for ImageReference {
    type Error = ReferenceError;

    fn try_from(s: String) -> Result<Self, ReferenceError> {
        s.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> String {
        reference.to_string()
    }
}

/// Not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading image reference {reference:?}: {problem}")]
pub struct ReferenceError {
    reference: String,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("the registry is missing (expected the name in full, such as docker.io/library/debian:trixie or quay.io/acme/os:stable)")]
    NoRegistry,
    #[error(
        "it is a path (expected a registry's name, or `oci:` before the path of a layout, `oci-archive:` or `docker-archive:` before that of an archive)"
    )]
    Bare,
    #[error("the registry's name or port is off (expected HOST or HOST:PORT)")]
    Host,
    #[error("the repository has capital letters (expected lowercase only)")]
    Uppercase,
    #[error("the repository's name is off (expected lowercase letters and digits, separated by / . _ __ or -)")]
    Name,
    #[error("the name is too long (expected at most {MAX_NAME} characters)")]
    Long,
    #[error("the tag is off (expected at most 128 letters, digits, underscores, dots and dashes, not beginning with a dot or dash)")]
    Tag,
    #[error("the digest is off (expected sha256: with 64 or sha512: with 128 lowercase hexadecimal digits)")]
    Digest,
    #[error(
        "its path has to be kept, and the one from the root cannot be written in a reference: the working directory has a colon, a control character or no UTF-8 in \
         its name (expected another working directory)"
    )]
    Here,
    #[error("the path or name is off (expected at least one character, and no control characters)")]
    Path,
    #[error(
        "{0} is not a known transport (expected a registry's name such as quay.io/acme/os:stable, or oci:, oci-archive:, \
         containers-storage:, docker-archive:)"
    )]
    Transport(&'static str),
}

impl From<ReferenceError> for Failure {
    fn from(error: ReferenceError) -> Failure {
        Failure::new(FailureKind::Usage, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_written_how_it_is_shown_and_what_skopeo_gets() {
        let sha512 = format!("sha512:{}", "ab".repeat(64));
        let table = [
            ("quay.io/acme/os:stable", "quay.io/acme/os:stable", "docker://quay.io/acme/os:stable", Transport::Registry),
            ("docker://quay.io/acme/os:stable", "quay.io/acme/os:stable", "docker://quay.io/acme/os:stable", Transport::Registry),
            ("quay.io/acme/os", "quay.io/acme/os:latest", "docker://quay.io/acme/os:latest", Transport::Registry),
            ("localhost/os", "localhost/os:latest", "docker://localhost/os:latest", Transport::Registry),
            (
                "localhost:5000/a/b/c__d-e.f",
                "localhost:5000/a/b/c__d-e.f:latest",
                "docker://localhost:5000/a/b/c__d-e.f:latest",
                Transport::Registry,
            ),
            ("[::1]:5000/os:v1", "[::1]:5000/os:v1", "docker://[::1]:5000/os:v1", Transport::Registry),
            (&format!("r.io/os@{SHA256}"), &format!("r.io/os@{SHA256}"), &format!("docker://r.io/os@{SHA256}"), Transport::Registry),
            (&format!("r.io/os@{sha512}"), &format!("r.io/os@{sha512}"), &format!("docker://r.io/os@{sha512}"), Transport::Registry),
            (&format!("r.io/os:v1@{SHA256}"), &format!("r.io/os:v1@{SHA256}"), &format!("docker://r.io/os@{SHA256}"), Transport::Registry),
            ("oci:/srv/os", "oci:/srv/os", "oci:/srv/os", Transport::Oci),
            ("oci:os:v1", "oci:os:v1", "oci:os:v1", Transport::Oci),
            ("oci:os:localhost/os:v1", "oci:os:localhost/os:v1", "oci:os:localhost/os:v1", Transport::Oci),
            ("oci-archive:os.tar:v1", "oci-archive:os.tar:v1", "oci-archive:os.tar:v1", Transport::OciArchive),
            ("docker-archive:os.tar", "docker-archive:os.tar", "docker-archive:os.tar", Transport::DockerArchive),
            (
                "containers-storage:localhost/os:v1",
                "containers-storage:localhost/os:v1",
                "containers-storage:localhost/os:v1",
                Transport::ContainersStorage,
            ),
            (
                "containers-storage:[vfs@/a+/b]x:1",
                "containers-storage:[vfs@/a+/b]x:1",
                "containers-storage:[vfs@/a+/b]x:1",
                Transport::ContainersStorage,
            ),
        ];
        for (written, shown, skopeo, transport) in table {
            let reference: ImageReference = written.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.skopeo().as_str(), reference.transport()), (shown, skopeo, transport));
            assert_eq!(shown.parse::<ImageReference>().as_ref(), Ok(&reference), "round trip of {shown}");
            let json = serde_json::to_string(&reference).unwrap();
            assert_eq!(json, format!("{shown:?}"));
            assert_eq!(serde_json::from_str::<ImageReference>(&json).unwrap(), reference);
        }
    }

    #[test]
    fn paths_begin_at_the_root_where_they_are_kept() {
        let table = [
            ("oci:os:v1", "oci:/srv/images/os:v1"),
            ("oci:./os", "oci:/srv/images/os"),
            ("oci:.", "oci:/srv/images"),
            ("oci-archive:a/./b.tar:r.io/os:v1", "oci-archive:/srv/images/a/b.tar:r.io/os:v1"),
            ("docker-archive:../os.tar", "docker-archive:/srv/os.tar"),
            ("oci:./../../../../os", "oci:/os"),
            // `a` may be a link to elsewhere.
            ("oci:../a/../os", "oci:/srv/a/../os"),
            ("oci:/a/../os/:v1", "oci:/a/../os/:v1"),
            ("r.io/os", "r.io/os:latest"),
            ("containers-storage:localhost/os", "containers-storage:localhost/os"),
        ];
        for (written, expected) in table {
            let reference: ImageReference = written.parse().unwrap();
            let kept = reference.from_root(Path::new("/srv/images")).unwrap();
            assert_eq!(kept.to_string(), expected, "{written}");
            assert_eq!(expected.parse().as_ref(), Ok(&kept), "round trip of {expected}");
            assert_eq!((reference.is_from_here(), kept.is_from_here()), (kept != reference, false), "{written}");
        }
        let reference: ImageReference = "oci:os".parse().unwrap();
        for here in ["/srv/a:b", "/srv/a\nb"] {
            assert!(reference.from_root(Path::new(here)).unwrap_err().to_string().contains("working directory"), "{here:?}");
        }
        assert!("oci:/os".parse::<ImageReference>().unwrap().from_root(Path::new("/srv/a:b")).is_ok());
    }

    #[test]
    fn parts_are_told_apart() {
        let parts = |s: &str| {
            let r: ImageReference = s.parse().unwrap();
            (r.name().to_owned(), r.tag().map(str::to_owned), r.digest().map(str::to_owned))
        };
        assert_eq!(parts("r.io:1/os"), ("r.io:1/os".into(), Some("latest".into()), None));
        assert_eq!(parts(&format!("r.io/os@{SHA256}")), ("r.io/os".into(), None, Some(SHA256.into())));
        assert_eq!(parts("oci:dir:r.io/os:v1"), ("dir".into(), Some("r.io/os:v1".into()), None));
        assert_eq!(parts("containers-storage:os:v1"), ("os:v1".into(), None, None));
    }

    #[test]
    fn only_registries_can_be_pinned_and_only_to_digests() {
        let pinned = |s: &str, digest| s.parse::<ImageReference>().unwrap().pinned(digest).map(|r| r.to_string());
        assert_eq!(pinned("r.io/os:v1", SHA256), Some(format!("r.io/os@{SHA256}")));
        assert_eq!(pinned(&format!("r.io/os@sha256:{}", "0".repeat(64)), SHA256), Some(format!("r.io/os@{SHA256}")));
        assert_eq!(pinned("r.io/os:v1", "sha256:no"), None);
        assert_eq!(pinned("oci:dir", SHA256), None);
    }

    #[test]
    fn what_is_off_is_named() {
        let long = format!("r.io/{}", "a".repeat(MAX_NAME));
        let long_tag = format!("r.io/os:{}", "a".repeat(129));
        let table = [
            ("", Problem::NoRegistry),
            ("debian", Problem::NoRegistry),
            ("/srv/layout:v1", Problem::Bare),
            ("./layout:v1", Problem::Bare),
            ("../layout:v1", Problem::Bare),
            ("debian:trixie", Problem::NoRegistry),
            ("acme/os", Problem::NoRegistry),
            ("docker://acme/os", Problem::NoRegistry),
            ("localhost:/os", Problem::Host),
            ("localhost:0/os", Problem::Host),
            ("localhost:65536/os", Problem::Host),
            ("localhost:+80/os", Problem::Host),
            ("-a.io/os", Problem::Host),
            ("a..io/os", Problem::Host),
            ("[::g]:1/os", Problem::Host),
            ("r.io/Os", Problem::Uppercase),
            ("r.io/", Problem::Name),
            ("r.io/a//b", Problem::Name),
            ("r.io/a___b", Problem::Name),
            ("r.io/a.-b", Problem::Name),
            ("r.io/a-", Problem::Name),
            ("r.io/a b", Problem::Name),
            ("r.io/ä", Problem::Name),
            (&long, Problem::Long),
            ("r.io/os:", Problem::Tag),
            ("r.io/os:.v", Problem::Tag),
            ("r.io/os:a:b", Problem::Tag),
            (&long_tag, Problem::Tag),
            ("r.io/os@sha256:abc", Problem::Digest),
            ("r.io/os@md5:d41d8cd98f00b204e9800998ecf8427e", Problem::Digest),
            (&format!("r.io/os@{}", SHA256.to_uppercase()), Problem::Digest),
            ("oci:", Problem::Path),
            ("oci::tag", Problem::Path),
            ("oci:dir:", Problem::Tag),
            ("oci:a\nb", Problem::Path),
            ("containers-storage:", Problem::Path),
            ("https://r.io/os", Problem::Transport("https://")),
            ("dir:/srv/os", Problem::Transport("dir:")),
        ];
        for (written, problem) in table {
            let expected = ReferenceError { reference: written.to_owned(), problem };
            assert_eq!(written.parse::<ImageReference>(), Err(expected), "{written}");
        }
    }

    #[test]
    fn a_short_name_is_told_how_to_be_written() {
        let failure = Failure::from("debian".parse::<ImageReference>().unwrap_err());
        assert_eq!(failure.kind, FailureKind::Usage);
        assert!(failure.message.contains("docker.io/library/debian"), "{failure}");
    }
}
