//! Key and certificate: read, and found fit for each other and for the firmware.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use openssl::asn1::Asn1Time;
use openssl::pkey::{Id, PKey, PKeyRef, Private};
use openssl::x509::X509;

use super::{KeySource, apart, sbsign, usage};
use crate::error::{Failure, FailureKind};

/// A private key and its certificate that can sign.
pub(super) struct Credentials {
    pub(super) key: Key,
}

/// The private key, as the signing program takes it.
pub(super) enum Key {
    /// Unencrypted, in PEM.
    Pem(Vec<u8>),
    /// The URI of one on a token.
    Token(String),
}

/// What firmware verifies: UEFI wants RSA with 2048 bits of everyone, and more bits or other algorithms of nobody.
const BITS: u32 = 2048;

/// Keys, certificates and passphrases are a few kilobytes.
const LONGEST: u64 = 1024 * 1024;

impl Credentials {
    /// Reads and checks both.
    pub(super) fn load(key: &KeySource, certificate: &Path) -> Result<Self> {
        let public = load_certificate(certificate)?;
        let key = match key {
            KeySource::Pkcs11(uri) => Key::Token(check_uri(uri)?),
            KeySource::File { path, passphrase } => {
                let key = load_key(path, passphrase.as_deref())?;
                if !public.public_key().is_ok_and(|public| public.public_eq(&key)) {
                    return Err(apart(path.display(), certificate).into());
                }
                Key::Pem(key.private_key_to_pem_pkcs8().context("handing the key on")?)
            }
        };
        Ok(Self { key })
    }
}

/// Reads a certificate that firmware can verify by, and that is valid now.
pub(super) fn load_certificate(path: &Path) -> Result<X509> {
    let shown = path.display();
    let bytes = read(path, "certificate")?;
    let certificate = X509::from_pem(&bytes).map_err(|_| {
        let failure = usage(format!("reading certificate {shown}: no certificate in it (expected PEM)"));
        match X509::from_der(&bytes) {
            Ok(_) => failure.hint(format!("it is DER: openssl x509 -inform DER -in {shown} -out NAME.pem")),
            Err(_) => failure.hint("a PEM certificate starts with -----BEGIN CERTIFICATE-----"),
        }
    })?;
    let now = Asn1Time::days_from_now(0).context("asking for the time")?;
    if certificate.not_before() > now.as_ref() {
        return Err(usage(format!("reading certificate {shown}: not valid before {}", certificate.not_before())).into());
    }
    if certificate.not_after() < now.as_ref() {
        return Err(usage(format!("reading certificate {shown}: expired, not valid after {}", certificate.not_after())).into());
    }
    let public = certificate.public_key().map_err(|e| usage(format!("reading certificate {shown}: its public key: {e}")))?;
    check_algorithm(&public, &format!("certificate {shown}"))?;
    Ok(certificate)
}

fn load_key(path: &Path, passphrase: Option<&Path>) -> Result<PKey<Private>> {
    let shown = path.display();
    let pem = read(path, "key")?;
    let passphrase = passphrase.map(read_passphrase).transpose()?;
    let mut encrypted = false;
    let key = PKey::private_key_from_pem_callback(&pem, |buffer| {
        encrypted = true;
        let words = passphrase.as_deref().unwrap_or_default();
        // OpenSSL has room for a kilobyte.
        let Some(start) = buffer.get_mut(..words.len()) else { return Ok(0) };
        start.copy_from_slice(words);
        Ok(words.len())
    });
    let key = key.map_err(|_| match (encrypted, &passphrase) {
        (false, _) => usage(format!("reading key {shown}: no private key in it (expected PEM)"))
            .hint("a PEM key starts with -----BEGIN PRIVATE KEY-----; keys on tokens are named by a pkcs11: URI"),
        (true, None) => usage(format!("reading key {shown}: it is encrypted, and there is no passphrase"))
            .hint("name a file that has the passphrase as its first line"),
        (true, Some(_)) => usage(format!("reading key {shown}: it is encrypted, and not with this passphrase")),
    })?;
    check_algorithm(&key, &format!("key {shown}"))?;
    Ok(key)
}

fn check_algorithm<T: openssl::pkey::HasPublic>(key: &PKeyRef<T>, what: &str) -> Result<()> {
    if key.id() == Id::RSA && key.bits() >= BITS {
        return Ok(());
    }
    let found = if key.id() == Id::RSA { format!("RSA with {} bits", key.bits()) } else { "not RSA".to_owned() };
    Err(usage(format!("reading {what}: {found} (expected RSA with {BITS} bits or more, which firmware verifies)")).into())
}

/// The first line of a file, without its end.
fn read_passphrase(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path, "passphrase")?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

fn check_uri(uri: &str) -> Result<String> {
    if !uri.starts_with(sbsign::PKCS11) {
        return Err(usage(format!("reading key {uri:?}: expected a pkcs11: URI")).into());
    }
    // Arguments are there for every user of the machine to see, and errors tell them.
    if uri.contains("pin-value") {
        return Err(usage("reading the key: a PIN in the URI would be seen by everyone on this machine")
            .hint("put it into a file: pkcs11:…?pin-source=file:/path")
            .into());
    }
    Ok(uri.to_owned())
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    let shown = path.display();
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            anyhow::Error::from(Failure::new(FailureKind::NotFound, format!("reading {what} {shown}: no such file")))
        }
        _ => anyhow::Error::from(error).context(format!("reading {what} {shown}")),
    })?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).with_context(|| format!("reading {what} {shown}"))?;
    Ok(bytes)
}
