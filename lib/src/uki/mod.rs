//! Unified kernel images: kernel, initramfs, command line and os-release in one EFI binary, which the firmware verifies as a whole.
//!
//! After UAPI.5 (Unified Kernel Image) and systemd-stub(7). [`Uki::read`] tells what a binary is; [`assemble`] and [`assemble_addon`] make one
//! from a systemd stub, as ukify does.

use std::io::{Read, Seek};

use crate::cmdline::{RootImage, RootImageError};
use crate::os_release::OsRelease;

/// What an EFI binary is, by the sections that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A unified kernel image: it has a kernel (`.linux`).
    Image,
    /// An addon: no kernel, and a command line (`.cmdline`) that systemd-stub appends to that of the image.
    Addon,
    /// Neither: a boot loader, a bare kernel, a stub.
    Other,
}

/// What an EFI binary says about itself. Reading one is cheap: headers and small sections only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uki {
    /// Image, addon, or something else.
    pub kind: Kind,
    /// `.osrel`.
    pub os_release: Option<OsRelease>,
    /// `.cmdline`, without the NUL bytes and white space at its ends.
    pub cmdline: Option<String>,
    /// `.uname`: the kernel's version, trimmed likewise.
    pub uname: Option<String>,
    /// Whether there is an `.initrd`.
    pub has_initrd: bool,
    /// Whether there is a certificate table. Who signed, and whether the signature holds, is not looked at.
    pub signed: bool,
}

impl Uki {
    /// Reads an EFI binary from its start, wherever `file` stands.
    ///
    /// # Errors
    ///
    /// No PE32+ binary, or one that is cut short or contradicts itself; a text section that is not UTF-8, too long or there twice.
    pub fn read<R: Read + Seek>(_file: &mut R) -> Result<Self, UkiError> {
        Err(UkiError::NotPe("not written yet"))
    }

    /// The composefs roots that the command line names, in order; none where there is no command line.
    ///
    /// # Errors
    ///
    /// A composefs argument that cannot be read.
    pub fn root_images(&self) -> Result<Vec<RootImage>, RootImageError> {
        Ok(Vec::new())
    }
}

/// What a unified kernel image is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// systemd's `linux<arch>.efi.stub`.
    pub stub: &'a [u8],
    /// The text of `/usr/lib/os-release`.
    pub os_release: &'a str,
    /// The kernel command line.
    pub cmdline: &'a str,
    /// The kernel's version, as `uname -r` says it.
    pub uname: &'a str,
    /// The kernel.
    pub linux: &'a [u8],
    /// The initramfs, or several one after the other.
    pub initrd: &'a [u8],
}

/// Makes an unsigned unified kernel image. The same parts give the same bytes.
///
/// # Errors
///
/// A stub that is none, is signed, has one of the sections already or has no room for more; parts that do not fit into 4 GiB.
pub fn assemble(_parts: &Parts<'_>) -> Result<Vec<u8>, UkiError> {
    Err(UkiError::NotPe("not written yet"))
}

/// Makes an unsigned addon from systemd's `addon<arch>.efi.stub`. The same input gives the same bytes.
///
/// # Errors
///
/// As [`assemble`].
pub fn assemble_addon(_stub: &[u8], _cmdline: &str) -> Result<Vec<u8>, UkiError> {
    Err(UkiError::NotPe("not written yet"))
}

/// Why an EFI binary cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum UkiError {
    /// Not a binary of the form that x86-64 and AArch64 firmware starts.
    #[error("reading an EFI binary: {0} (expected PE32+)")]
    NotPe(&'static str),
    /// The file could not be read.
    #[error("reading an EFI binary")]
    Io(#[from] std::io::Error),
}
