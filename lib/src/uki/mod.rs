//! Unified kernel images: kernel, initramfs, command line and os-release in one EFI binary, which the firmware verifies as a whole.
//!
//! After UAPI.5 (Unified Kernel Image) and systemd-stub(7). [`Uki::read`] tells what a binary is; [`assemble`] and [`assemble_addon`] make one
//! from a systemd stub, as ukify does; [`authenticode`] is what a signature may change in one.

mod append;
mod assemble;
pub mod authenticode;
pub mod pe;

use std::io::{Read, Seek};

use crate::cmdline::{Cmdline, RootImage, RootImageError};
use crate::os_release::OsRelease;

pub use assemble::{assemble, assemble_addon};
use pe::Pe;

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

/// Sections of which there is at most one. With a second, or with profiles (`.profile`), it is the boot menu that decides which counts.
const SINGLE: [&str; 6] = [".osrel", ".cmdline", ".uname", ".linux", ".initrd", ".profile"];

/// A text section is never longer, in bytes.
const TEXT: u64 = 1024 * 1024;

impl Uki {
    /// Reads an EFI binary from its start, wherever `file` stands.
    ///
    /// # Errors
    ///
    /// No PE32+ binary, or one that is cut short or contradicts itself; a section that there may be once and is there twice; a text section
    /// that is longer than 1 MiB, not UTF-8, or has a NUL byte before its end.
    pub fn read<R: Read + Seek>(file: &mut R) -> Result<Self, UkiError> {
        let pe = Pe::read(file)?;
        if let Some(name) = SINGLE.into_iter().find(|name| pe.sections().filter(|section| section.is(name)).count() > 1) {
            return Err(UkiError::Twice(name));
        }
        let mut text = |name| text(&pe, file, name);
        let (os_release, cmdline, uname) = (text(".osrel")?, text(".cmdline")?, text(".uname")?);
        let kind = match (pe.section(".linux"), &cmdline) {
            (Some(_), _) => Kind::Image,
            (None, Some(_)) => Kind::Addon,
            (None, None) => Kind::Other,
        };
        Ok(Self {
            kind,
            os_release: os_release.map(|text| OsRelease::parse(&text)),
            cmdline,
            uname,
            has_initrd: pe.section(".initrd").is_some(),
            signed: pe.signed(),
        })
    }

    /// The composefs roots that the command line names, in order; none where there is no command line.
    ///
    /// # Errors
    ///
    /// A composefs argument that cannot be read.
    pub fn root_images(&self) -> Result<Vec<RootImage>, RootImageError> {
        self.cmdline.as_deref().map_or(Ok(Vec::new()), |line| Cmdline::parse(line).root_images())
    }
}

fn text<R: Read + Seek>(pe: &Pe, file: &mut R, name: &'static str) -> Result<Option<String>, UkiError> {
    let Some(section) = pe.section(name) else { return Ok(None) };
    let content = section.content(file, TEXT)?;
    let text = std::str::from_utf8(&content).map_err(|_| UkiError::NotText(name))?;
    let text = trim(text);
    // The stub and a reader of this struct would not agree on where it ends.
    if text.contains('\0') { Err(UkiError::NotText(name)) } else { Ok(Some(text.to_owned())) }
}

fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c == '\0' || c.is_whitespace())
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

/// Why an EFI binary cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum UkiError {
    /// The file could not be read.
    #[error("reading an EFI binary")]
    Io(#[from] std::io::Error),
    /// Not a binary of the form that 64-bit firmware starts, or one that contradicts itself.
    #[error("reading an EFI binary: {0}")]
    Malformed(String),
    /// A section that there may be once is there twice.
    #[error("reading an EFI binary: more than one section {0} (expected one: images with several profiles are not supported)")]
    Twice(&'static str),
    /// A section of text that is none.
    #[error("section {0} of an EFI binary: not UTF-8, or with a NUL byte in it (expected text)")]
    NotText(&'static str),
    /// Nothing to put into a section.
    #[error("putting together an EFI binary: nothing to put into section {0}")]
    Empty(&'static str),
    /// Not the stub that is needed.
    #[error("putting together an EFI binary: the stub is {found:?} (expected {expected})")]
    NotStub {
        /// What it says that it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The stub is signed; the signature would not hold for what is made of it.
    #[error("putting together an EFI binary: the stub is signed (expected an unsigned one)")]
    StubIsSigned,
    /// The stub is not a bare one.
    #[error("putting together an EFI binary: the stub has a section {0} already (expected a bare stub)")]
    StubHas(&'static str),
    /// The kernel does not run where the stub runs.
    #[error("putting together an EFI binary: kernel for machine {kernel:#06x}, stub for machine {stub:#06x} (expected the same)")]
    OtherMachine {
        /// `IMAGE_FILE_MACHINE_*` of the kernel.
        kernel: u16,
        /// `IMAGE_FILE_MACHINE_*` of the stub.
        stub: u16,
    },
    /// The stub's section table cannot grow.
    #[error("putting together an EFI binary: the stub's headers have no room for {sections} more sections")]
    NoRoom {
        /// How many were to be added.
        sections: usize,
    },
    /// Sizes and places in EFI binaries have 32 bits.
    #[error("putting together an EFI binary: more than 4 GiB")]
    TooLarge,
    /// Not the same binary with a signature.
    #[error("comparing an EFI binary with its signed form: {0} (expected the same bytes and a signature)")]
    NotSignedForm(String),
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
