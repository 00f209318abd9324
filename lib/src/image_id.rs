//! [`ImageId`]: the fs-verity digest of an EROFS image, the one name of a root file system.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The hash of fs-verity, with 4096-byte blocks and no salt. One repository uses one algorithm for all its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256: the default, a quarter cheaper per pull on processors with SHA instructions.
    Sha256,
    /// SHA-512: what bootc uses.
    Sha512,
}

impl Algorithm {
    /// Length of a digest in hexadecimal digits.
    pub fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// The name in kernel arguments: `sha256` or `sha512`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = AlgorithmError;

    fn from_str(s: &str) -> Result<Self, AlgorithmError> {
        match s {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(AlgorithmError(s.to_owned())),
        }
    }
}

/// Not the name of an algorithm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading fs-verity algorithm {0:?}: not known (expected sha256 or sha512)")]
pub struct AlgorithmError(String);

/// The fs-verity digest of an EROFS image, in lowercase hexadecimal. Its length tells the algorithm, as in composefs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// All digits, lowercase.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, for people and file names that only need to be distinct, never for identification.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    /// The algorithm, told by the length.
    pub fn algorithm(&self) -> Algorithm {
        if self.0.len() == Algorithm::Sha256.hex_len() { Algorithm::Sha256 } else { Algorithm::Sha512 }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageId {
    type Err = ImageIdError;

    fn from_str(s: &str) -> Result<Self, ImageIdError> {
        let known = [Algorithm::Sha256, Algorithm::Sha512].iter().any(|a| a.hex_len() == s.len());
        let lower_hex = s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if known && lower_hex { Ok(Self(s.to_owned())) } else { Err(ImageIdError(s.to_owned())) }
    }
}

impl TryFrom<String> for ImageId {
    type Error = ImageIdError;

    fn try_from(s: String) -> Result<Self, ImageIdError> {
        s.parse()
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> String {
        id.0
    }
}

/// Not an image id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading image id {0:?}: expected 64 or 128 lowercase hexadecimal digits")]
pub struct ImageIdError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_tells_the_algorithm() {
        let short: ImageId = "ab".repeat(32).parse().unwrap();
        let long: ImageId = "cd".repeat(64).parse().unwrap();
        assert_eq!((short.algorithm(), long.algorithm()), (Algorithm::Sha256, Algorithm::Sha512));
        assert_eq!(short.to_string().parse(), Ok(short));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "ab", &"AB".repeat(32), &"zz".repeat(32), &"ab".repeat(33)] {
            assert_eq!(bad.parse::<ImageId>(), Err(ImageIdError(bad.to_owned())), "{bad}");
        }
    }
}
