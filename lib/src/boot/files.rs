//! What an entry loads, on the ESP: stored once per content, under the digest of what it holds.

use std::fmt;
use std::io::{Cursor, Read, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};

use super::FILES;
use crate::error::{Failure, FailureKind};
use crate::sys::dir;

/// One file on the ESP, with its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct BootFile {
    name: String,
    bytes: Vec<u8>,
}

/// All files of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    kind: Kind,
    /// In the order in which they are written: what makes the others matter comes last.
    files: Vec<BootFile>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kernel,
    Uki,
}

impl BootFiles {
    /// A kernel and its initramfs, which get their arguments from the entry.
    pub fn kernel(linux: Vec<u8>, initrd: Vec<u8>) -> Self {
        let [initrd_name, linux_name] = kernel_names(&sha256(&[&linux]), &sha256(&[&initrd]));
        let files = vec![BootFile { name: initrd_name, bytes: initrd }, BootFile { name: linux_name, bytes: linux }];
        Self { kind: Kind::Kernel, files }
    }

    /// Where the files of [`BootFiles::kernel`] lie, in that order, from the root of the ESP: by the SHA-256 of the kernel and of the initramfs.
    pub fn kernel_paths(linux: &[u8; 32], initrd: &[u8; 32]) -> [String; 2] {
        kernel_names(&hex::encode(linux), &hex::encode(initrd)).map(|name| format!("{FILES}/{name}"))
    }

    /// A unified kernel image, which has its arguments in itself, and the addons that go with it, by their names
    /// (`NAME.addon.efi`). systemd-stub looks for them in a directory beside the image, so the name of the image is made of
    /// all of them: the same image with other addons is another file.
    pub fn uki(uki: Vec<u8>, mut addons: Vec<(String, Vec<u8>)>) -> Self {
        addons.sort();
        let digests: Vec<String> = addons.iter().map(|(name, bytes)| format!("{name}\0{}\0", sha256(&[bytes]))).collect();
        let parts: Vec<&[u8]> = std::iter::once(uki.as_slice()).chain(digests.iter().map(String::as_bytes)).collect();
        let name = format!("{}{UKI}", sha256(&parts));
        let mut files: Vec<BootFile> =
            addons.into_iter().map(|(addon, bytes)| BootFile { name: format!("{name}{ADDONS}/{addon}"), bytes }).collect();
        files.push(BootFile { name, bytes: uki });
        Self { kind: Kind::Uki, files }
    }

    /// The files, in the order in which they are to be written.
    pub fn iter(&self) -> impl Iterator<Item = &BootFile> {
        self.files.iter()
    }

    /// The lines of an entry that name them.
    pub(super) fn keys(&self) -> Vec<(&'static str, String)> {
        let path = |file: &BootFile| format!("/{FILES}/{}", file.name);
        match (self.kind, self.files.as_slice()) {
            (Kind::Kernel, [initrd, linux]) => vec![("linux", path(linux)), ("initrd", path(initrd))],
            (_, files) => files.last().map(|uki| ("efi", path(uki))).into_iter().collect(),
        }
    }

    /// Whether the arguments are in the files already.
    pub(super) fn bring_arguments(&self) -> bool {
        self.kind == Kind::Uki
    }
}

/// The names of an initramfs and its kernel.
fn kernel_names(linux: &str, initrd: &str) -> [String; 2] {
    [format!("{initrd}.initrd"), format!("{linux}.linux")]
}

impl BootFile {
    /// Where it lies, from the root of the ESP.
    pub fn path(&self) -> String {
        format!("{FILES}/{}", self.name)
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `files` already holds exactly this content. A damaged or half-written copy does not count.
    pub(super) fn is_in(&self, files: &OwnedFd) -> Result<bool> {
        let Some(fd) = dir::open_file_optional(files, &self.name)? else { return Ok(false) };
        same(std::fs::File::from(fd), &self.bytes).with_context(|| format!("reading {self} on the ESP"))
    }

    /// Writes it into `files`, durably.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Corrupt`] when other bytes come back.
    pub(super) fn write(&self, files: &OwnedFd) -> Result<()> {
        let writing = || format!("writing {self} to the ESP");
        let (parent, name) = match self.name.rsplit_once('/') {
            Some((below, name)) => (dir::ensure(files, below, 0o755)?, name),
            None => (files.try_clone().with_context(writing)?, &*self.name),
        };
        let mut pending = dir::Pending::create(parent, name, 0o644)?;
        pending.file().write_all(&self.bytes).with_context(writing)?;
        pending.publish()?;
        if self.is_in(files)? {
            return Ok(());
        }
        Err(Failure::new(FailureKind::Corrupt, format!("{}: other bytes came back than were written", writing())).into())
    }
}

impl fmt::Display for BootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for BootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}

const UKI: &str = ".efi";
/// What systemd-stub appends to the name of an image to find its addons.
pub(super) const ADDONS: &str = ".extra.d";

/// The file that brings `name`, a name in our directory, or the directory of addons beside it; `None` for a name that we never gave.
pub(super) fn brought_by(name: &str) -> Option<&str> {
    let file = name.strip_suffix(ADDONS).filter(|image| image.ends_with(UKI)).unwrap_or(name);
    let stem = [".linux", ".initrd", UKI].into_iter().find_map(|suffix| file.strip_suffix(suffix))?;
    (stem.len() == 64 && stem.bytes().all(|b| b.is_ascii_hexdigit())).then_some(file)
}

fn sha256(parts: &[&[u8]]) -> String {
    let mut hasher = openssl::sha::Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hex::encode(hasher.finish())
}

/// Whether a reader yields exactly `expected`.
fn same(mut file: impl Read, expected: &[u8]) -> std::io::Result<bool> {
    let mut expected = Cursor::new(expected);
    let (mut found, mut wanted) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut found)?;
        if n == 0 {
            return Ok(expected.position() == expected.get_ref().len() as u64);
        }
        if expected.read_exact(&mut wanted[..n]).is_err() || found[..n] != wanted[..n] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_contents_have_equal_names() {
        let names = |files: &BootFiles| files.iter().map(|file| file.name.clone()).collect::<Vec<_>>();
        let kernel = BootFiles::kernel(b"k".to_vec(), b"i".to_vec());
        assert_eq!(names(&kernel), names(&BootFiles::kernel(b"k".to_vec(), b"i".to_vec())));
        let paths = BootFiles::kernel_paths(&openssl::sha::sha256(b"k"), &openssl::sha::sha256(b"i"));
        assert_eq!(kernel.iter().map(BootFile::path).collect::<Vec<_>>(), paths);
        let addon = |text: &str| vec![("a.addon.efi".to_owned(), text.as_bytes().to_vec())];
        let ukis =
            [BootFiles::uki(b"u".to_vec(), vec![]), BootFiles::uki(b"u".to_vec(), addon("x")), BootFiles::uki(b"u".to_vec(), addon("y"))];
        let mut last: Vec<String> = ukis.iter().map(|files| names(files).pop().unwrap()).collect();
        assert!(names(&ukis[1])[0].ends_with(".efi.extra.d/a.addon.efi"));
        last.dedup();
        assert_eq!(last.len(), 3);
    }

    #[test]
    fn only_names_of_ours_are_known() {
        let hex = "ab".repeat(32);
        for (name, file) in [
            (format!("{hex}.linux"), Some(format!("{hex}.linux"))),
            (format!("{hex}.efi"), Some(format!("{hex}.efi"))),
            (format!("{hex}.efi.extra.d"), Some(format!("{hex}.efi"))),
            (format!("{hex}.initrd.extra.d"), None),
            ("vmlinuz".into(), None),
            (format!("{}.efi", "zz".repeat(32)), None),
        ] {
            assert_eq!(brought_by(&name), file.as_deref(), "{name}");
        }
    }

    #[test]
    fn a_longer_and_a_shorter_file_are_other_files() {
        for (found, expected, is) in
            [("abc", "abc", true), ("ab", "abc", false), ("abcd", "abc", false), ("", "", true), ("abd", "abc", false)]
        {
            assert_eq!(same(found.as_bytes(), expected.as_bytes()).unwrap(), is, "{found} {expected}");
        }
    }
}
