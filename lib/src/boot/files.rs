//! Kernels and initramfs images on the ESP: stored once per content, under the digest of what they hold.

use std::fmt;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};

use super::FILES;
use crate::error::{Failure, FailureKind};
use crate::sys::dir;

/// A source that is read twice: once for its digest, once to copy.
pub trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// What a file is to the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// The kernel.
    Linux,
    /// The initramfs.
    Initrd,
}

/// The name of a kernel or initramfs on the ESP, made of the SHA-256 of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFile {
    kind: FileKind,
    sha256: String,
    /// Size in bytes.
    pub size: u64,
}

impl BootFile {
    /// Reads `source` to its end and names it.
    pub fn measure(kind: FileKind, source: &mut dyn ReadSeek) -> Result<Self> {
        source.rewind().context("rewinding a boot file")?;
        let mut hasher = openssl::sha::Sha256::new();
        let mut size = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = source.read(&mut buffer).context("reading a boot file")?;
            if n == 0 {
                return Ok(Self { kind, sha256: hex::encode(hasher.finish()), size });
            }
            hasher.update(&buffer[..n]);
            size += n as u64;
        }
    }

    /// The file's name in [`FILES`].
    pub fn name(&self) -> String {
        let suffix = match self.kind {
            FileKind::Linux => "linux",
            FileKind::Initrd => "initrd",
        };
        format!("{}.{suffix}", self.sha256)
    }

    /// The path that an entry names: absolute, from the root of the ESP.
    pub fn path(&self) -> String {
        format!("/{FILES}/{}", self.name())
    }

    /// Whether `files` already holds exactly this content. A damaged or half-written copy does not count.
    pub(super) fn is_in(&self, files: &OwnedFd) -> Result<bool> {
        let Some(fd) = dir::open_file_optional(files, self.name())? else { return Ok(false) };
        let found = Self::measure(self.kind, &mut std::fs::File::from(fd))?;
        Ok(found == *self)
    }

    /// Copies `source` into `files`, durably.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Corrupt`] when the bytes are not the ones that were measured.
    pub(super) fn copy(&self, source: &mut dyn ReadSeek, files: &OwnedFd) -> Result<()> {
        source.rewind().context("rewinding a boot file")?;
        let mut pending = dir::Pending::create(files, &self.name(), 0o644)?;
        std::io::copy(source, pending.file()).with_context(|| format!("writing {self} to the ESP"))?;
        pending.file().flush().with_context(|| format!("writing {self} to the ESP"))?;
        pending.publish()?;
        if self.is_in(files)? {
            return Ok(());
        }
        Err(Failure::new(FailureKind::Corrupt, format!("writing {self} to the ESP: other bytes came back than were written")).into())
    }
}

impl fmt::Display for BootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}
