//! Signing EFI binaries for Secure Boot (Authenticode), with a key of one's own, one on a token, or a command that signs.
//!
//! Whoever signs, the result is looked at before it is believed: it must be the bytes that were to be signed with a signature of them, and
//! where the certificate is known, one that it verifies. What firmware will say to it is in [`database`].

mod command;
mod credentials;
pub mod database;
mod sbsign;
mod signature;

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use openssl::x509::X509;

use crate::error::{Failure, FailureKind};
use crate::uki::authenticode;
use crate::uki::pe::Pe;
use credentials::Credentials;
use database::Database;

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
    /// A `pkcs11:` URI (RFC 7512), with `pin-source` where the token wants a PIN.
    Pkcs11(String),
}

impl KeySource {
    /// What the words of a call mean: a `pkcs11:` URI, or else the path of a PEM file.
    ///
    /// # Errors
    ///
    /// A passphrase file for a token: its PIN has its place in the URI.
    pub fn new(word: &Path, passphrase: Option<PathBuf>) -> Result<Self> {
        match (word.to_str().filter(|word| word.starts_with(sbsign::PKCS11)), passphrase) {
            (None, passphrase) => Ok(Self::File { path: word.to_owned(), passphrase }),
            (Some(uri), None) => Ok(Self::Pkcs11(uri.to_owned())),
            (Some(_), Some(_)) => Err(usage("reading the key: a passphrase file for a key on a token (expected one for a key file)")
                .hint("name the file with the PIN in the URI: pkcs11:…?pin-source=file:/path")
                .into()),
        }
    }
}

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// A private key with its certificate.
    Key {
        /// The private key: RSA with 2048 bits or more, which is what firmware verifies.
        key: KeySource,
        /// The certificate, a PEM file; of several in it the first counts.
        certificate: PathBuf,
    },
    /// A command for `sh -c` that signs one file: it reads `$SELKIE_INPUT` (also `$1`) and writes `$SELKIE_OUTPUT` (also `$2`), two absolute
    /// paths. It runs in the current directory and may be called several times, once for each binary. The output does not exist yet.
    Command {
        /// The command.
        command: String,
        /// The certificate that its signatures must be by, a PEM file. Without one it is only known that they name the right digest.
        certificate: Option<PathBuf>,
    },
}

impl Signer {
    /// Looks at everything that can be looked at before there is something to sign: files, key and certificate, and whether the tool is
    /// there. A token and a command show themselves only when they sign.
    ///
    /// # Errors
    ///
    /// One failure that says what is wrong: of the kind `NotFound` for a file or program that is missing, else `Usage`.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Key { key, certificate } => {
                Credentials::load(key, certificate)?;
                sbsign::check_installed()
            }
            Self::Command { command, certificate } => {
                certificate.as_deref().map(credentials::load_certificate).transpose()?;
                command::check(command)
            }
        }
    }

    /// Signs an EFI binary. Temporary files are in a private directory below `scratch` and gone afterwards; no key is among them.
    ///
    /// # Errors
    ///
    /// As [`Signer::check`]; `unsigned` is signed already, or no EFI binary (`Unsuitable`); the result is not `unsigned` with a signature of
    /// it, by the certificate (`Corrupt`).
    pub fn sign(&self, unsigned: &[u8], scratch: &Path) -> Result<Vec<u8>> {
        check_unsigned(unsigned)?;
        let temporary = tempfile::Builder::new().prefix("sign-").tempdir_in(scratch);
        let temporary = temporary.with_context(|| format!("making a directory in {}", scratch.display()))?;
        let directory = std::path::absolute(temporary.path()).context("finding out where the signer works")?;
        let (input, output) = (directory.join("unsigned.efi"), directory.join("signed.efi"));
        std::fs::write(&input, unsigned).with_context(|| format!("writing {}", input.display()))?;
        match self {
            Self::Key { key, certificate } => {
                sbsign::sign(&Credentials::load(key, certificate)?, certificate, &input, &output)?;
                let signed = read_signed(&output, unsigned)?;
                sbsign::verify(certificate, &output)?;
                Ok(signed)
            }
            Self::Command { command, certificate } => {
                let certificate = certificate.as_deref().map(|path| Ok::<_, anyhow::Error>((path, credentials::load_certificate(path)?)));
                let certificate = certificate.transpose()?;
                command::sign(command, &input, &output)?;
                let signed = read_signed(&output, unsigned)?;
                if let Some((path, certificate)) = certificate {
                    check_signed_by(certificate, path, &signed)?;
                }
                Ok(signed)
            }
        }
    }
}

fn check_unsigned(unsigned: &[u8]) -> Result<()> {
    let unsuitable = |why: String| Failure::new(FailureKind::Unsuitable, format!("signing an EFI binary: {why}"));
    let pe = Pe::read(&mut Cursor::new(unsigned)).map_err(|e| unsuitable(e.to_string()))?;
    if pe.signed() {
        return Err(unsuitable("it is signed already (expected an unsigned one)".to_owned()).into());
    }
    Ok(())
}

/// Reads what a signer wrote, and checks that it is what it was given, with a signature of that.
fn read_signed(output: &Path, unsigned: &[u8]) -> Result<Vec<u8>> {
    let wrong = |why: String| {
        Failure::new(FailureKind::Corrupt, format!("looking at what the signer wrote: {why}"))
            .hint("the signer must write the signed form of the binary that it is given")
    };
    let file = std::fs::File::open(output).map_err(|e| wrong(format!("opening the output: {e}")))?;
    let mut signed = Vec::new();
    let limit = unsigned.len() as u64 + SIGNATURES;
    file.take(limit + 1).read_to_end(&mut signed).context("reading what the signer wrote")?;
    if signed.len() as u64 > limit {
        return Err(wrong(format!("{} bytes became more than {limit}", unsigned.len())).into());
    }
    authenticode::check_signed_form(unsigned, &signed).map_err(|e| wrong(e.to_string()))?;
    Ok(signed)
}

/// Fails unless `signed` has a signature by `certificate` that holds. Needs no sbverify, which who signs by a command may not have.
fn check_signed_by(certificate: X509, path: &Path, signed: &[u8]) -> Result<()> {
    if Database::of(certificate).accepts(signed)? {
        return Ok(());
    }
    let found = database::signers(signed).join(", ");
    let message = format!("looking at what the signer wrote: signed by {found} (expected a signature that holds, by {})", path.display());
    Err(Failure::new(FailureKind::Corrupt, message).hint("the certificate must be that of the key which the command signs with").into())
}

/// Signatures with their certificates are a few kilobytes; nothing that signs adds more bytes than this.
const SIGNATURES: u64 = 1024 * 1024;

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Usage, message)
}

/// A key that the certificate was not made for.
fn apart(key: impl std::fmt::Display, certificate: &Path) -> Failure {
    usage(format!("signing with key {key} and certificate {}: they do not belong together", certificate.display()))
        .hint("the certificate must have been made for this key")
}

/// `error`, with a hint for a program that is not installed.
fn missing_program(error: anyhow::Error, hint: &str) -> anyhow::Error {
    match Failure::find(&error) {
        Some(failure) if failure.kind == FailureKind::NotFound => Failure { hint: Some(hint.to_owned()), ..failure }.into(),
        _ => error,
    }
}
