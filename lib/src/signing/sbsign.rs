//! The adapter of sbsign and sbverify (package sbsigntool).

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};

use super::credentials::{Credentials, Key};
use super::{apart, missing_program};
use crate::error::{Failure, FailureKind};
use crate::sys::process::{Call, call, run};

/// How the URI of a key on a token starts.
pub(super) const PKCS11: &str = "pkcs11:";

/// Where sbsign reads a private key: it stays in memory, and the key that was looked at is the one that signs.
const KEY_ON_INPUT: &str = "/dev/stdin";

const INSTALL: &str = "install the package sbsigntool";

/// Fails if one of the two programs is missing.
pub(super) fn check_installed() -> Result<()> {
    for program in ["sbsign", "sbverify"] {
        run(&[program.into(), "--help".into()], b"").map_err(|error| missing_program(error, INSTALL))?;
    }
    Ok(())
}

/// Signs the file `input` into the file `output`.
pub(super) fn sign(credentials: &Credentials, certificate: &Path, input: &Path, output: &Path) -> Result<()> {
    let argv = argv(&credentials.key, certificate, input, output);
    let pem: &[u8] = match &credentials.key {
        Key::Pem(pem) => pem,
        Key::Token(_) => &[],
    };
    let signed = call(Call { argv: &argv, input: pem, ..Call::default() }).map_err(|error| missing_program(error, INSTALL));
    match (signed, &credentials.key) {
        (Err(error), Key::Token(uri)) if Failure::find(&error).is_none() => Err(token_failed(uri, certificate, &error).into()),
        (signed, _) => signed.map(drop).context("signing an EFI binary"),
    }
}

/// Fails unless the file `signed` has a signature by `certificate` that holds.
pub(super) fn verify(certificate: &Path, signed: &Path) -> Result<()> {
    let argv: [OsString; 4] = ["sbverify".into(), "--cert".into(), certificate.into(), signed.into()];
    let verified = run(&argv, b"").map_err(|error| missing_program(error, INSTALL));
    match verified {
        Err(error) if Failure::find(&error).is_none() => {
            let message = format!("verifying the signature by {}: {error}", certificate.display());
            Err(Failure::new(FailureKind::Corrupt, message).hint("the certificate must be that of the key which signs").into())
        }
        verified => verified.map(drop),
    }
}

fn argv(key: &Key, certificate: &Path, input: &Path, output: &Path) -> Vec<OsString> {
    let mut argv: Vec<OsString> = vec!["sbsign".into()];
    match key {
        Key::Pem(_) => argv.extend(["--key", KEY_ON_INPUT].map(OsString::from)),
        Key::Token(uri) => argv.extend(["--engine", "pkcs11", "--key", uri].map(OsString::from)),
    }
    argv.extend(["--cert".into(), certificate.into(), "--output".into(), output.into(), input.into()]);
    argv
}

/// What is known about a signature that a token did not make.
fn token_failed(uri: &str, certificate: &Path, error: &anyhow::Error) -> Failure {
    // OpenSSL's words. Of a key in a file this is known before; a token has to be asked to sign.
    if error.to_string().contains("key values mismatch") {
        return apart(uri, certificate);
    }
    Failure::new(FailureKind::NotFound, format!("signing with the key {uri}: {error}"))
        .hint("this needs the package libengine-pkcs11-openssl, a token that p11-kit knows, and a PIN: pkcs11:…?pin-source=file:/path")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv_of(key: Key) -> Vec<OsString> {
        argv(&key, Path::new("/c.pem"), Path::new("/in"), Path::new("/out"))
    }

    #[test]
    fn a_key_is_no_file_and_no_argument() {
        let expected = ["sbsign", "--key", "/dev/stdin", "--cert", "/c.pem", "--output", "/out", "/in"];
        assert_eq!(argv_of(Key::Pem(b"secret".to_vec())), expected);
    }

    #[test]
    fn a_token_has_an_engine() {
        let expected = ["sbsign", "--engine", "pkcs11", "--key", "pkcs11:token=a", "--cert", "/c.pem", "--output", "/out", "/in"];
        assert_eq!(argv_of(Key::Token("pkcs11:token=a".into())), expected);
    }
}
