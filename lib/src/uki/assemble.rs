//! Unified kernel images and addons from systemd's stubs, with the sections in the order and with the flags that ukify 257 gives them.
//!
//! ukify once put `.linux` last, with a virtual size beyond its length, for kernels that unpacked themselves in place. systemd 257.1 took both
//! back: the stub makes that room itself, and a virtual size that is not the kernel's length breaks whoever reads the kernel by it
//! (measurements, the kernel's own signature).

use std::io::Cursor;

use super::append::{LINUX, New, append};
use super::pe::Pe;
use super::{Parts, UkiError, trim};

/// Makes an unsigned unified kernel image. The same parts give the same bytes.
///
/// The stub's own `.sbat` stays as it is; a kernel's is not merged into it, as it matters to shim only.
///
/// # Errors
///
/// A stub that is none, is signed, has one of the sections already or has no room for more; a part that is empty, or a text with a NUL byte
/// in it; a kernel for another processor than the stub; parts that do not fit into 4 GiB.
pub fn assemble(parts: &Parts<'_>) -> Result<Vec<u8>, UkiError> {
    let sections = [
        text(".osrel", parts.os_release)?,
        text(".cmdline", parts.cmdline)?,
        text(".uname", parts.uname)?,
        filled(LINUX, parts.linux)?,
        filled(".initrd", parts.initrd)?,
    ];
    let stub = check_stub(parts.stub, "systemd-stub", &sections)?;
    if let Ok(kernel) = Pe::read(&mut Cursor::new(parts.linux))
        && kernel.machine() != stub.machine()
    {
        return Err(UkiError::OtherMachine { kernel: kernel.machine(), stub: stub.machine() });
    }
    append(parts.stub, &sections)
}

/// Makes an unsigned addon from systemd's `addon<arch>.efi.stub`, for images with the kernel `uname` and no others. The same input gives the
/// same bytes.
///
/// # Errors
///
/// As [`assemble`].
pub fn assemble_addon(stub: &[u8], cmdline: &str, uname: &str) -> Result<Vec<u8>, UkiError> {
    text(".uname", uname)?;
    // systemd-stub compares as far as this section goes: without a NUL at its end 6.1 would be good for 6.10, too.
    let uname = format!("{uname}\0");
    let uname = New { name: ".uname", content: uname.as_bytes() };
    let sections = [text(".cmdline", cmdline)?, uname, text(".sbat", ADDON_SBAT)?];
    check_stub(stub, "systemd-addon", &sections)?;
    append(stub, &sections)
}

/// What shim wants to see in everything that it lets through; addon stubs come without. The generation is that of systemd's addons.
const ADDON_SBAT: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md
uki-addon,1,UKI Addon,addon,1,https://www.freedesktop.org/software/systemd/man/latest/systemd-stub.html
";

fn filled<'a>(name: &'static str, content: &'a [u8]) -> Result<New<'a>, UkiError> {
    if content.is_empty() { Err(UkiError::Empty(name)) } else { Ok(New { name, content }) }
}

fn text<'a>(name: &'static str, content: &'a str) -> Result<New<'a>, UkiError> {
    if content.contains('\0') {
        return Err(UkiError::NotText(name));
    }
    if trim(content).is_empty() { Err(UkiError::Empty(name)) } else { Ok(New { name, content: content.as_bytes() }) }
}

/// Reads the stub's headers if it is an untouched stub that calls itself `expected`.
fn check_stub(stub: &[u8], expected: &'static str, sections: &[New<'_>]) -> Result<Pe, UkiError> {
    let file = &mut Cursor::new(stub);
    let pe = Pe::read(file)?;
    let magic = pe.section(".sdmagic").ok_or(UkiError::NotStub { found: "no section .sdmagic".into(), expected })?;
    let magic = magic.content(file, MAGIC_LIMIT)?;
    let magic = String::from_utf8_lossy(&magic);
    let found = trim(&magic).trim_matches(['#', ' ']).trim_start_matches("LoaderInfo:").trim_start();
    if !found.starts_with(expected) {
        return Err(UkiError::NotStub { found: found.to_owned(), expected });
    }
    if pe.signed() {
        return Err(UkiError::StubIsSigned);
    }
    match sections.iter().find(|new| pe.section(new.name).is_some()) {
        Some(New { name, .. }) => Err(UkiError::StubHas(name)),
        None => Ok(pe),
    }
}

/// `#### LoaderInfo: systemd-stub 257.13-1 ####`, in bytes at most.
const MAGIC_LIMIT: u64 = 4096;
