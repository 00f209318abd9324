//! Content digests (`sha256:…`, `sha512:…`): computing them while bytes pass, and comparing.
//!
//! OpenSSL, because it uses the processor's SHA instructions whatever this crate was compiled for.

use anyhow::{Context, Result};
use oci_spec::image::Digest;
use openssl::hash::{Hasher as OpenSsl, MessageDigest};

use crate::error::{DAMAGED, Failure, FailureKind};

/// A running digest of one algorithm.
pub(super) struct Hasher {
    name: &'static str,
    inner: OpenSsl,
}

impl Hasher {
    /// A hasher of the algorithm of `digest`, which is written `algorithm:hex`.
    pub(super) fn like(digest: &str) -> Result<Self> {
        let (name, algorithm) = match digest.split_once(':') {
            Some(("sha256", _)) => ("sha256", MessageDigest::sha256()),
            Some(("sha512", _)) => ("sha512", MessageDigest::sha512()),
            _ => {
                let message = format!("reading digest {digest:?}: unknown algorithm (expected sha256 or sha512)");
                return Err(Failure::new(FailureKind::Unsuitable, message).into());
            }
        };
        Ok(Self { name, inner: OpenSsl::new(algorithm).context("starting a digest")? })
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.inner.update(bytes).map_err(std::io::Error::other)
    }

    /// The digest of all bytes since the start or the last `finish`.
    pub(super) fn finish(&mut self) -> std::io::Result<String> {
        let bytes = self.inner.finish().map_err(std::io::Error::other)?;
        Ok(format!("{}:{}", self.name, hex::encode(bytes)))
    }
}

/// The SHA-256 digest of `bytes`.
pub(super) fn sha256(bytes: &[u8]) -> Result<String> {
    of("sha256:", bytes)
}

/// Whether `bytes` have this digest.
pub(super) fn matches(bytes: &[u8], digest: &str) -> Result<bool> {
    Ok(of(digest, bytes)? == digest)
}

/// Checks a whole blob, called `what` in the error.
///
/// # Errors
///
/// [`FailureKind::Corrupt`], naming the digest expected and found.
pub(super) fn check(what: &str, bytes: &[u8], expected: &Digest) -> Result<()> {
    let found = of(expected.as_ref(), bytes)?;
    if found == expected.as_ref() {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Corrupt, format!("reading {what}: blob digest is {found} (expected {expected})")).hint(DAMAGED).into())
}

fn of(like: &str, bytes: &[u8]) -> Result<String> {
    let mut hasher = Hasher::like(like)?;
    hasher.update(bytes)?;
    Ok(hasher.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_algorithm_is_that_of_the_digest() {
        let sha512 = of("sha512:", b"").unwrap();
        assert!(sha512.starts_with("sha512:cf83e1357eefb8bdf1542850d66d8007"), "{sha512}");
        assert_eq!(sha256(b"").unwrap(), EMPTY);
        assert_eq!((matches(b"", &sha512).unwrap(), matches(b"x", &sha512).unwrap()), (true, false));
    }

    #[test]
    fn a_mismatch_names_both_and_an_unknown_algorithm_is_no_match() {
        let failure = Failure::find(&check("config", b"x", &EMPTY.parse().unwrap()).unwrap_err()).unwrap();
        assert_eq!(failure.kind, FailureKind::Corrupt);
        assert!(failure.message.contains("2d711642b726b044") && failure.message.contains(EMPTY), "{failure}");
        let sha384 = format!("sha384:{}", "0".repeat(96)).parse().unwrap();
        assert_eq!(Failure::find(&check("config", b"", &sha384).unwrap_err()).unwrap().kind, FailureKind::Unsuitable);
    }
}
