//! EFI variables that the boot loader leaves for the operating system (systemd's Boot Loader Interface).

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};

use super::dir;

/// The vendor of the Boot Loader Interface's variables.
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The vendor of the variables that the UEFI specification itself defines.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Whether the firmware checks what it starts (UEFI specification, section 32.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecureBoot {
    /// It starts only what is signed with a key that it trusts.
    Enforced,
    /// It has no platform key: everything starts, and keys can be enrolled.
    SetupMode,
    /// It does not check.
    Off,
}

/// Reads the firmware's mode.
///
/// # Errors
///
/// A variable that is not one byte.
pub fn secure_boot(efivars: impl AsFd) -> Result<SecureBoot> {
    Ok(match (flag(&efivars, "SecureBoot")?, flag(&efivars, "SetupMode")?) {
        (true, false) => SecureBoot::Enforced,
        (_, true) => SecureBoot::SetupMode,
        (false, false) => SecureBoot::Off,
    })
}

/// A variable of one byte; `false` where it is not there, as in firmware without Secure Boot.
fn flag(efivars: impl AsFd, name: &str) -> Result<bool> {
    match dir::read_optional(efivars, format!("{name}-{GLOBAL}"))?.as_deref() {
        None => Ok(false),
        Some([_, _, _, _, value]) => Ok(*value == 1),
        Some(other) => anyhow::bail!("reading EFI variable {name}: {} bytes (expected 5)", other.len()),
    }
}

/// The vendor of the firmware's image security databases (UEFI specification, section 32.6.1).
const SECURITY: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";

/// The value of a security database, `db` or `dbx`; empty where it is not there.
///
/// # Errors
///
/// A variable that cannot be read.
pub fn security_database(efivars: impl AsFd, name: &str) -> Result<Vec<u8>> {
    let Some(mut bytes) = dir::read_optional(efivars, format!("{name}-{SECURITY}"))? else { return Ok(Vec::new()) };
    ensure!(bytes.len() >= ATTRIBUTES, "reading EFI variable {name}: {} bytes (expected at least four)", bytes.len());
    Ok(bytes.split_off(ATTRIBUTES))
}

/// The attributes that efivarfs puts before each value, in bytes.
const ATTRIBUTES: usize = 4;

/// The partition UUID of the ESP that the boot loader was started from, in lower case; `None` where no loader said so.
///
/// `efivars` is the directory where efivarfs is mounted.
pub fn loader_partition(efivars: impl AsFd) -> Result<Option<String>> {
    Ok(loader_variable(efivars, "LoaderDevicePartUUID")?.map(|uuid| uuid.to_lowercase()))
}

/// The text of a variable of the boot loader; `None` where it is not there or empty.
pub fn loader_variable(efivars: impl AsFd, name: &str) -> Result<Option<String>> {
    let Some(bytes) = dir::read_optional(efivars, format!("{name}-{VENDOR}"))? else { return Ok(None) };
    let text = parse_string(&bytes).with_context(|| format!("reading EFI variable {name}"))?;
    Ok((!text.is_empty()).then_some(text))
}

/// efivarfs puts four bytes of attributes before the value, which is UTF-16LE with a final NUL.
fn parse_string(bytes: &[u8]) -> Result<String> {
    ensure!(bytes.len() >= 4 && bytes.len().is_multiple_of(2), "{} bytes (expected four and UTF-16 text)", bytes.len());
    let units: Vec<u16> = bytes[4..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16(&units).context("text that is not UTF-16")?;
    Ok(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_follows_four_bytes_of_attributes() {
        let temp = tempfile::tempdir().unwrap();
        let mut bytes = vec![7, 0, 0, 0];
        bytes.extend("ABCD-12\0".encode_utf16().flat_map(u16::to_le_bytes));
        std::fs::write(temp.path().join(format!("LoaderDevicePartUUID-{VENDOR}")), bytes).unwrap();
        let efivars = dir::open_path(temp.path()).unwrap();
        assert_eq!(loader_partition(&efivars).unwrap().as_deref(), Some("abcd-12"));
        assert!(parse_string(&[0, 0, 0]).is_err());
    }

    #[test]
    fn an_empty_variable_is_like_none() {
        let temp = tempfile::tempdir().unwrap();
        let efivars = dir::open_path(temp.path()).unwrap();
        let name = "LoaderEntryDefault";
        for (bytes, text) in [(vec![7, 0, 0, 0], None), (vec![7, 0, 0, 0, 0, 0], None), (vec![7, 0, 0, 0, 97, 0, 0, 0], Some("a"))] {
            std::fs::write(temp.path().join(format!("{name}-{VENDOR}")), bytes).unwrap();
            assert_eq!(loader_variable(&efivars, name).unwrap().as_deref(), text);
        }
        std::fs::write(temp.path().join(format!("{name}-{VENDOR}")), "odd").unwrap();
        assert!(loader_variable(&efivars, name).unwrap_err().to_string().contains(name));
    }

    #[test]
    fn secure_boot_is_enforced_only_with_a_platform_key() {
        for (secure, setup, mode) in [
            (Some(1), Some(0), SecureBoot::Enforced),
            (Some(1), None, SecureBoot::Enforced),
            (Some(0), Some(1), SecureBoot::SetupMode),
            (Some(1), Some(1), SecureBoot::SetupMode),
            (Some(0), Some(0), SecureBoot::Off),
            (None, None, SecureBoot::Off),
        ] {
            let temp = tempfile::tempdir().unwrap();
            for (name, value) in [("SecureBoot", secure), ("SetupMode", setup)] {
                if let Some(value) = value {
                    std::fs::write(temp.path().join(format!("{name}-{GLOBAL}")), [6, 0, 0, 0, value]).unwrap();
                }
            }
            assert_eq!(secure_boot(dir::open_path(temp.path()).unwrap()).unwrap(), mode, "{secure:?} {setup:?}");
            std::fs::write(temp.path().join(format!("SecureBoot-{GLOBAL}")), [6]).unwrap();
            assert!(secure_boot(dir::open_path(temp.path()).unwrap()).is_err());
        }
    }

    #[test]
    fn a_security_database_is_what_follows_the_attributes() {
        let temp = tempfile::tempdir().unwrap();
        let efivars = dir::open_path(temp.path()).unwrap();
        assert_eq!(security_database(&efivars, "db").unwrap(), b"");
        std::fs::write(temp.path().join(format!("db-{SECURITY}")), b"\x27\0\0\0lists").unwrap();
        std::fs::write(temp.path().join(format!("dbx-{SECURITY}")), b"\x27\0").unwrap();
        assert_eq!(security_database(&efivars, "db").unwrap(), b"lists");
        assert!(security_database(&efivars, "dbx").unwrap_err().to_string().contains("dbx"));
    }

    #[test]
    fn no_variable_is_no_error() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(loader_partition(dir::open_path(temp.path()).unwrap()).unwrap(), None);
    }
}
