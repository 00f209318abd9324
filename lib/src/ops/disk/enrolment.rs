//! Secure Boot keys on the ESP of a new machine, where systemd-boot finds them at the first boot and enrols them (systemd-boot(7)).

use std::path::Path;

use anyhow::{Context, Result};

use super::SecureBoot;
use crate::disk::{Content, EspTree};
use crate::error::{Failure, FailureKind};
use crate::signing::database::{Database, Trust, signed_value};

/// The set of keys that is enrolled without a question.
const DIRECTORY: &str = "loader/keys/auto";
/// Signed lists by the variables that they go into; without the first three nothing would be enforced.
const LISTS: [(&str, bool); 4] = [("PK.auth", true), ("KEK.auth", true), ("db.auth", true), ("dbx.auth", false)];
/// The largest of them, the list of what is revoked, has some ten thousand bytes.
const LARGEST: u64 = 1 << 20;

/// The signed lists of a directory: file names and bytes.
pub(super) struct Keys {
    lists: Vec<(&'static str, Vec<u8>)>,
    enroll: &'static str,
}

impl Keys {
    /// Reads and checks them.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where one is missing, [`FailureKind::Unsuitable`] where one is no signed list.
    pub(super) fn read(options: &SecureBoot) -> Result<Self> {
        let mut lists = Vec::new();
        for (name, needed) in LISTS {
            let path = options.keys.join(name);
            match read(&path).with_context(|| format!("reading {}", path.display()))? {
                Some(bytes) if signed_value(&bytes).is_some() => lists.push((name, bytes)),
                Some(_) => return Err(no_list(&path).into()),
                None if needed => return Err(missing(&path).into()),
                None => {}
            }
        }
        Ok(Self { lists, enroll: if options.force { "force" } else { "if-safe" } })
    }

    /// What the firmware will go by once they are enrolled.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unsuitable`] for lists that cannot be read.
    pub(super) fn trust(&self) -> Result<Trust> {
        let read = |wanted: &str| match self.lists.iter().find(|(name, _)| *name == wanted) {
            None => Ok(Database::default()),
            Some((name, bytes)) => Database::parse_signed(bytes)
                .map_err(|error| Failure::new(FailureKind::Unsuitable, format!("reading {name}: {error}")).hint(MAKE_LISTS)),
        };
        Ok(Trust { db: read("db.auth")?, dbx: read("dbx.auth")? })
    }

    /// Puts them onto an ESP.
    pub(super) fn add_to(self, esp: &mut EspTree) -> Result<()> {
        self.lists.into_iter().try_for_each(|(name, bytes)| esp.add_file(&format!("{DIRECTORY}/{name}"), Content::Bytes(bytes)))
    }

    /// What `loader.conf` says of them.
    pub(super) fn configuration(&self) -> String {
        format!("secure-boot-enroll {}\n", self.enroll)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

const MAKE_LISTS: &str = "make the signed lists with `sign-efi-sig-list` (package efitools); docs/sealing.md shows how";

fn missing(path: &Path) -> Failure {
    Failure::new(
        FailureKind::NotFound,
        format!("reading {}: there is no such file (expected PK.auth, KEK.auth and db.auth)", path.display()),
    )
    .hint(MAKE_LISTS)
}

fn no_list(path: &Path) -> Failure {
    let message = format!("reading {}: it is not a signed list of keys (expected EFI_VARIABLE_AUTHENTICATION_2)", path.display());
    Failure::new(FailureKind::Unsuitable, message)
        .hint("an .esl or .crt file has to be signed first: `sign-efi-sig-list` (package efitools); docs/sealing.md shows how")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `sign-efi-sig-list` begins a file.
    fn list() -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend([
            0x28, 0, 0, 0, 0, 2, 0xf1, 0x0e, 0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7,
        ]);
        bytes.extend([1; 32]);
        bytes
    }

    #[test]
    fn keys_are_whole_and_signed() {
        let temp = tempfile::tempdir().unwrap();
        let options = SecureBoot { keys: temp.path().to_owned(), force: false };
        let kind = || Keys::read(&options).map(|keys| keys.lists.len()).map_err(|error| Failure::find(&error).unwrap().kind);
        assert_eq!(kind(), Err(FailureKind::NotFound));
        for name in ["PK.auth", "KEK.auth", "db.auth"] {
            std::fs::write(temp.path().join(name), list()).unwrap();
        }
        assert_eq!(kind(), Ok(3));
        for bad in [&b""[..], b"-----BEGIN CERTIFICATE-----", &list()[..40], &list()[1..]] {
            std::fs::write(temp.path().join("dbx.auth"), bad).unwrap();
            assert_eq!(kind(), Err(FailureKind::Unsuitable));
        }
    }
}
