//! The boot loader itself, on the ESP: `EFI/systemd/systemd-boot<arch>.efi`, which the firmware's own entry names, and `EFI/BOOT/BOOT<ARCH>.EFI`, which
//! firmware starts where no entry leads anywhere. Each is replaced as a whole, one after the other, so that one of them always starts.

use std::cmp::Ordering;
use std::io::Write;

use anyhow::{Context, Result};

use super::{LOADER_CONF, Place};
use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::sys::dir::{self, Pending};

/// A boot loader on an ESP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// Where it lies, from the root of the ESP.
    pub path: String,
    /// The version of systemd-boot; `None` for what is something else.
    pub version: Option<String>,
}

/// A binary that is no systemd-boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("finding the version of the boot loader: it does not say one (expected systemd-boot)")]
pub struct LoaderError;

impl Loader {
    /// The version that a binary of systemd-boot says in itself: `#### LoaderInfo: systemd-boot 257.9-1 ####`.
    ///
    /// # Errors
    ///
    /// It is something else.
    pub fn version_of(bytes: &[u8]) -> Result<String, LoaderError> {
        const BEFORE: &[u8] = b"#### LoaderInfo: systemd-boot ";
        const AFTER: &[u8] = b" ####";
        let start = find(bytes, BEFORE).ok_or(LoaderError)? + BEFORE.len();
        let rest = &bytes[start..bytes.len().min(start + 256)];
        let end = find(rest, AFTER).ok_or(LoaderError)?;
        let version = std::str::from_utf8(&rest[..end]).map_err(|_| LoaderError)?;
        let fit = !version.is_empty() && version.chars().all(|c| c.is_ascii_graphic());
        if fit { Ok(version.to_owned()) } else { Err(LoaderError) }
    }

    /// Whether version `a` is older or newer than `b`, by the rules of the version format specification (UAPI.10), as `bootctl` compares.
    pub fn compare(a: &str, b: &str) -> Ordering {
        uapi_version::strverscmp(a, b)
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Where loaders for `architecture` (as UEFI names it) lie, in the order in which they are replaced. Firmware that follows its own entry starts the first,
/// and where that does not start, it goes on to the second.
fn paths(architecture: &str) -> [(&'static str, String); 2] {
    [("EFI/systemd", format!("systemd-boot{architecture}.efi")), ("EFI/BOOT", format!("BOOT{}.EFI", architecture.to_uppercase()))]
}

impl Place {
    /// The boot loaders that are here.
    pub fn loaders(&self, architecture: &str) -> Result<Vec<Loader>> {
        let mut loaders = Vec::new();
        for (directory, name) in paths(architecture) {
            let path = format!("{directory}/{name}");
            if let Some(bytes) = dir::read_optional(self.esp_root(), &path)? {
                loaders.push(Loader { path, version: Loader::version_of(&bytes).ok() });
            }
        }
        Ok(loaders)
    }

    /// The newest systemd-boot here, with its bytes.
    pub fn newest_loader(&self, architecture: &str) -> Result<Option<(String, Vec<u8>)>> {
        let mut newest: Option<(String, Vec<u8>)> = None;
        for loader in self.loaders(architecture)? {
            let Some(version) = loader.version else { continue };
            if newest.as_ref().is_none_or(|(old, _)| Loader::compare(&version, old) == Ordering::Greater) {
                newest = dir::read_optional(self.esp_root(), &loader.path)?.map(|bytes| (version, bytes));
            }
        }
        Ok(newest)
    }

    /// Puts `bytes` where the loader at `path` is, whole or not at all, and reads it back.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NoSpace`] before anything is written, [`FailureKind::Corrupt`] when other bytes come back: then the other loader has to stay.
    pub fn replace_loader(&self, path: &str, bytes: &[u8], progress: &dyn Progress) -> Result<()> {
        let (directory, name) = path.rsplit_once('/').context("writing a boot loader: no directory in its path")?;
        self.check_esp_space(bytes.len() as u64)?;
        let directory = dir::ensure(self.esp_root(), directory, 0o755)?;
        dir::sweep(&directory)?;
        let mut pending = Pending::create(&directory, name, 0o644)?;
        pending.file().write_all(bytes).with_context(|| format!("writing {path}"))?;
        pending.sync()?;
        dir::sync_filesystem(self.esp_root()).context("syncing the ESP")?;
        pending.publish()?;
        dir::sync_filesystem(self.esp_root()).context("syncing the ESP")?;
        if dir::read_optional(&directory, name)?.as_deref() != Some(bytes) {
            return Err(Failure::new(FailureKind::Corrupt, format!("writing {path}: other bytes came back than were written")).into());
        }
        progress.step(&format!("write {path}"));
        Ok(())
    }

    /// Makes an ESP start systemd-boot: its configuration, and each loader that is missing. What is there stays, whoever put it there. What stays in the way of
    /// the firmware's default is the result.
    pub fn install_loader(&self, architecture: &str, bytes: &[u8], progress: &dyn Progress) -> Result<Option<String>> {
        let configuration = dir::ensure(self.esp_root(), "loader", 0o755)?;
        if dir::read_optional(&configuration, "loader.conf")?.is_none() {
            dir::write_durably(&configuration, "loader.conf", 0o644, LOADER_CONF.as_bytes())?;
            progress.step("write loader.conf");
        }
        let there = self.loaders(architecture)?;
        for (directory, name) in paths(architecture) {
            let path = format!("{directory}/{name}");
            if !there.iter().any(|loader| loader.path == path) {
                self.replace_loader(&path, bytes, progress)?;
            }
        }
        Ok(there.into_iter().find(|loader| loader.version.is_none()).map(|loader| loader.path))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::progress::{Recorder, Silent};

    fn loader(version: &str) -> Vec<u8> {
        format!("MZ\0\0#### LoaderInfo: systemd-boot {version} ####\0").into_bytes()
    }

    fn place(path: &Path) -> Place {
        Place::new("a", dir::open_path(path).unwrap())
    }

    #[test]
    fn a_version_is_what_the_binary_says() {
        for (bytes, version) in [
            (loader("257.9-1~deb13u1"), Ok("257.9-1~deb13u1")),
            (loader(""), Err(LoaderError)),
            (loader("1 2"), Err(LoaderError)),
            (loader(&"9".repeat(300)), Err(LoaderError)),
            (b"#### LoaderInfo: GRUB 2 ####".to_vec(), Err(LoaderError)),
            (b"#### LoaderInfo: systemd-boot 25".to_vec(), Err(LoaderError)),
            (vec![], Err(LoaderError)),
        ] {
            assert_eq!(Loader::version_of(&bytes).as_deref(), version.as_ref().map(|v: &&str| *v));
        }
    }

    #[test]
    fn versions_are_compared_as_bootctl_does() {
        for (a, b, order) in [
            ("257.9-1", "257.10-1", Ordering::Less),
            ("258", "257.9-1", Ordering::Greater),
            ("258~rc1", "258", Ordering::Less),
            ("257-1", "257-1", Ordering::Equal),
        ] {
            assert_eq!(Loader::compare(a, b), order, "{a} {b}");
        }
    }

    #[test]
    fn a_loader_is_installed_where_there_is_none_and_others_stay() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("EFI/BOOT")).unwrap();
        std::fs::write(temp.path().join("EFI/BOOT/BOOTX64.EFI"), "another system").unwrap();
        let recorder = Recorder::default();
        let in_the_way = place(temp.path()).install_loader("x64", &loader("257"), &recorder).unwrap();
        assert_eq!(in_the_way.as_deref(), Some("EFI/BOOT/BOOTX64.EFI"));
        assert_eq!(recorder.steps(), ["write loader.conf", "write EFI/systemd/systemd-bootx64.efi"]);
        let found = place(temp.path()).loaders("x64").unwrap();
        let expected = [("EFI/systemd/systemd-bootx64.efi", Some("257")), ("EFI/BOOT/BOOTX64.EFI", None)];
        assert_eq!(found, expected.map(|(path, version)| Loader { path: path.into(), version: version.map(str::to_owned) }));
        assert_eq!(std::fs::read(temp.path().join("EFI/BOOT/BOOTX64.EFI")).unwrap(), b"another system");
        std::fs::remove_file(temp.path().join("EFI/BOOT/BOOTX64.EFI")).unwrap();
        assert_eq!(place(temp.path()).install_loader("x64", &loader("258"), &Silent).unwrap(), None);
        let (version, bytes) = place(temp.path()).newest_loader("x64").unwrap().unwrap();
        assert_eq!((version.as_str(), bytes), ("258", loader("258")));
    }
}
