//! [`Origin`]: what a deployment came from, kept beside it as `origin.json`.

use serde::{Deserialize, Serialize};

use crate::image_id::ImageId;
use crate::record::Record;

/// Where a deployment came from, and what must be known to boot it again without asking a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    /// Version of this format.
    pub version: u32,
    /// The reference that is followed, as the user wrote it, e.g. `quay.io/acme/os:stable`; a path in it begins at the root.
    pub image: String,
    /// Digest of the manifest of this architecture (`sha256:…`).
    pub manifest_digest: String,
    /// Digest of the image index that led there, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_digest: Option<String>,
    /// Digest of the image configuration.
    pub config_digest: String,
    /// Kernel arguments of this machine, without the one that names the root image. A sealed deployment boots with those of its unified
    /// kernel image instead; they are kept for the next one that is not sealed.
    pub kernel_arguments: String,
    /// Those among them that the image brought: they go when an image comes that does not bring them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_arguments: Vec<String>,
    /// What the image calls its version (label `org.opencontainers.image.version`, else os-release), for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// `PRETTY_NAME` of the image's os-release, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_name: Option<String>,
    /// The deployment that ran when this one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_under: Option<ImageId>,
    /// Its number on this machine: the serial of its first activation. It keeps that whatever is activated later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// When it was staged last, in seconds since 1970, for people: nothing is decided by it. Not there where the clock was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<u64>,
}

impl Origin {
    /// The version of the format that this code writes, and the newest that it reads.
    pub const VERSION: u32 = 1;
}

impl Record for Origin {
    const VERSION: u32 = Self::VERSION;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record;

    fn origin() -> Origin {
        Origin {
            version: Origin::VERSION,
            image: "quay.io/acme/os:stable".into(),
            manifest_digest: "sha256:aa".into(),
            index_digest: None,
            config_digest: "sha256:bb".into(),
            kernel_arguments: "rw console=ttyS0".into(),
            image_arguments: vec!["console=ttyS0".into()],
            os_version: Some("13".into()),
            os_name: None,
            made_under: Some("ab".repeat(32).parse().unwrap()),
            number: Some(7),
            staged: None,
        }
    }

    #[test]
    fn an_origin_from_before_there_were_numbers_is_read() {
        let old = Origin { number: None, staged: None, ..origin() };
        let json = String::from_utf8(record::write(&old).unwrap()).unwrap();
        assert!(!json.contains("number") && !json.contains("staged"), "{json}");
        assert_eq!(record::read::<Origin>(json.as_bytes()).unwrap(), old);
    }
}
