//! Which machine an image is for, in Go's words (`amd64`, `arm64`), and choosing among several. Pure.

use oci_spec::image::{Arch, Descriptor, MediaType, Os, Platform};

use crate::error::{Failure, FailureKind};

/// The architecture of this machine, as OCI images name it.
pub fn this_machine() -> String {
    Arch::default().to_string()
}

/// What a descriptor in an index leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leads {
    ToManifest,
    ToIndex,
    Elsewhere,
}

/// By media type; Docker's names mean the same.
pub(super) fn leads(media_type: &MediaType) -> Leads {
    match media_type {
        MediaType::ImageManifest => Leads::ToManifest,
        MediaType::ImageIndex => Leads::ToIndex,
        MediaType::Other(name) if name == "application/vnd.docker.distribution.manifest.v2+json" => Leads::ToManifest,
        MediaType::Other(name) if name == "application/vnd.docker.distribution.manifest.list.v2+json" => Leads::ToIndex,
        _ => Leads::Elsewhere,
    }
}

/// One image that an index offers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    /// The descriptor of its manifest.
    pub(super) manifest: Descriptor,
    /// For which machine it is.
    pub(super) platform: Platform,
    /// The digest of the outermost index that led to it, where one did.
    pub(super) index_digest: Option<String>,
}

impl Candidate {
    fn is_for(&self, architecture: &str) -> bool {
        self.platform.os() == &Os::Linux && self.platform.architecture().to_string() == architecture
    }
}

/// The candidate for Linux on `architecture`. A variant (`v3`) may need more than this machine has, so the first without one
/// is preferred.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`], naming the platforms that are there.
pub(super) fn choose(image: &str, candidates: Vec<Candidate>, architecture: &str) -> Result<Candidate, Failure> {
    let there = shown(candidates.iter().map(|c| &c.platform));
    let mut fitting: Vec<Candidate> = candidates.into_iter().filter(|c| c.is_for(architecture)).collect();
    let plain = fitting.iter().position(|c| c.platform.variant().is_none()).unwrap_or(0);
    if fitting.is_empty() { Err(none_for(image, architecture, &there)) } else { Ok(fitting.swap_remove(plain)) }
}

/// Checks the platform that an image's own configuration names.
pub(super) fn check(image: &str, os: &Os, found: &Arch, architecture: &str) -> Result<(), Failure> {
    if os == &Os::Linux && found.to_string() == architecture {
        return Ok(());
    }
    Err(none_for(image, architecture, &format!("{os}/{found}")))
}

/// The failure for "not for this machine". `there` lists what the image has, or is empty where that is not known.
pub(super) fn none_for(image: &str, architecture: &str, there: &str) -> Failure {
    let there = if there.is_empty() { String::new() } else { format!("; it is for {there}") };
    Failure::new(FailureKind::Unsuitable, format!("reading image {image}: there is none for linux/{architecture}{there}"))
        .hint("build the image for this architecture, or name another")
}

/// Platforms as text, `linux/arm64, linux/amd64/v3`. `unknown/unknown` is how attestations are marked, and no platform.
pub(super) fn shown<'a>(platforms: impl Iterator<Item = &'a Platform>) -> String {
    let one = |p: &Platform| {
        let variant = p.variant().as_ref().map(|v| format!("/{v}")).unwrap_or_default();
        format!("{}/{}{variant}", p.os(), p.architecture())
    };
    let mut all: Vec<String> = platforms.map(one).filter(|p| p != "unknown/unknown").collect();
    all.sort();
    all.dedup();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{DescriptorBuilder, PlatformBuilder};

    use super::*;

    fn candidate(os: &str, arch: &str, variant: Option<&str>, byte: u8) -> Candidate {
        let digest: oci_spec::image::Digest = format!("sha256:{}", hex::encode([byte; 32])).parse().unwrap();
        let manifest = DescriptorBuilder::default().media_type(MediaType::ImageManifest).digest(digest).size(1u64).build().unwrap();
        let mut platform = PlatformBuilder::default().os(Os::from(os)).architecture(Arch::from(arch)).build().unwrap();
        platform.set_variant(variant.map(str::to_owned));
        Candidate { manifest, platform, index_digest: None }
    }

    #[test]
    fn the_plain_variant_of_the_right_machine_is_chosen() {
        let all = [
            candidate("unknown", "unknown", None, 1),
            candidate("linux", "arm64", None, 2),
            candidate("windows", "amd64", None, 3),
            candidate("linux", "amd64", Some("v3"), 4),
            candidate("linux", "amd64", None, 5),
        ];
        assert_eq!(choose("x", all.to_vec(), "amd64").unwrap(), all[4]);
        assert_eq!(choose("x", all[..4].to_vec(), "amd64").unwrap(), all[3]);
        let failure = choose("r.io/os:v1", all.to_vec(), "s390x").unwrap_err();
        assert_eq!(failure.kind, FailureKind::Unsuitable);
        let message =
            "reading image r.io/os:v1: there is none for linux/s390x; it is for linux/amd64, linux/amd64/v3, linux/arm64, windows/amd64";
        assert_eq!(failure.message, message);
    }

    #[test]
    fn an_image_says_itself_what_it_is_for() {
        assert_eq!(check("x", &Os::Linux, &Arch::ARM64, "arm64"), Ok(()));
        let message = check("x", &Os::Linux, &Arch::ARM64, "amd64").unwrap_err().message;
        assert_eq!(message, "reading image x: there is none for linux/amd64; it is for linux/arm64");
    }
}
