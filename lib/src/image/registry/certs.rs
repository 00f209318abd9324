//! Certificates of single registries, as containers-certs.d(5) has them: authorities that are trusted beside those of the machine, and a
//! certificate of our own with its key.

use std::path::{Path, PathBuf};

use openssl::pkey::PKey;
use openssl::x509::X509;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};

use super::Unusable;

/// Where distributions keep the authorities that the machine trusts, in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How to speak TLS with `host` (`HOST[:PORT]`), by the first of `folders` that has a folder of that name.
///
/// # Errors
///
/// Where a file there cannot be read or is malformed.
pub(super) fn tls(folders: &[PathBuf], host: &str, insecure: bool) -> Result<TlsConfig, Unusable> {
    let mut tls = TlsConfig::builder().provider(TlsProvider::NativeTls).disable_verification(insecure);
    let folder = folders.iter().map(|folder| folder.join(host)).find(|folder| folder.is_dir());
    let found = folder.map(|folder| Found::read(&folder)).transpose()?.unwrap_or_default();
    tls = tls.root_certs(if found.authorities.is_empty() {
        RootCerts::PlatformVerifier
    } else {
        found.authorities.into_iter().chain(of_the_machine()).collect::<Vec<_>>().into()
    });
    Ok(tls.client_cert(found.client).build())
}

#[derive(Default)]
struct Found {
    authorities: Vec<Certificate<'static>>,
    client: Option<ClientCert>,
}

impl Found {
    fn read(folder: &Path) -> Result<Self, Unusable> {
        let wrong = |path: &Path, found: &dyn std::fmt::Display| Unusable::new(format!("reading {}: {found}", path.display()));
        let entries = std::fs::read_dir(folder).map_err(|e| wrong(folder, &e))?;
        let paths = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(|e| wrong(folder, &e))?;
        let mut found = Self::default();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => found.authorities.extend(certificates(&path).map_err(|e| wrong(&path, &e))?),
                Some("cert") if found.client.is_some() => return Err(wrong(folder, &"more than one certificate of our own")),
                Some("cert") => {
                    let key = path.with_extension("key");
                    let key = private_key(&key).map_err(|e| wrong(&key, &e))?;
                    found.client = Some(ClientCert::new_with_certs(&certificates(&path).map_err(|e| wrong(&path, &e))?, key));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn of_the_machine() -> Vec<Certificate<'static>> {
    BUNDLES.iter().find_map(|path| certificates(Path::new(path)).ok()).unwrap_or_default()
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, std::io::Error> {
    let stack = X509::stack_from_pem(&std::fs::read(path)?)?;
    stack.iter().map(|certificate| Ok(Certificate::from_der(&certificate.to_der()?).to_owned())).collect()
}

/// A key without a password, in whatever form; the TLS library takes only one of them.
fn private_key(path: &Path) -> Result<PrivateKey<'static>, std::io::Error> {
    // An empty password: without any, OpenSSL would ask on the terminal.
    let key = PKey::private_key_from_pem_passphrase(&std::fs::read(path)?, b"")?;
    PrivateKey::from_pem(&key.private_key_to_pem_pkcs8()?).map_err(std::io::Error::other)
}
