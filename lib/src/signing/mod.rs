//! Signing EFI binaries for Secure Boot (Authenticode), with a key of one's own, one on a token, or a command that signs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Where a private key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A PEM file, possibly encrypted.
    File {
        /// The key.
        path: PathBuf,
        /// A file whose first line is the passphrase of an encrypted key.
        passphrase: Option<PathBuf>,
    },
    /// A `pkcs11:` URI (RFC 7512).
    Pkcs11(String),
}

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// A private key with its certificate.
    Key {
        /// The private key.
        key: KeySource,
        /// The certificate, a PEM file.
        certificate: PathBuf,
    },
    /// A command for `sh -c` that signs one file: it reads `$SELKIE_INPUT` (also `$1`) and writes `$SELKIE_OUTPUT` (also `$2`).
    Command(String),
}

impl Signer {
    /// Looks at everything that can be looked at before there is something to sign.
    ///
    /// # Errors
    ///
    /// One failure that says what is wrong with key, certificate or tool.
    pub fn check(&self) -> Result<()> {
        bail!("not written yet")
    }

    /// Signs an EFI binary; temporary files are below `scratch` and gone afterwards.
    ///
    /// # Errors
    ///
    /// As [`Signer::check`], and a result that is not `unsigned` with a signature.
    pub fn sign(&self, _unsigned: &[u8], _scratch: &Path) -> Result<Vec<u8>> {
        bail!("not written yet")
    }
}
