//! `uki`: an image on systemd's real stub, looked at with binutils.

use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use selkie::uki::pe::Pe;
use selkie::uki::{Kind, Parts, Uki, UkiError, assemble};

/// From the package systemd-boot-efi.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

fn objdump(option: &str, file: &Path) -> String {
    let output = Command::new("objdump").arg(option).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn others_see_the_sections_that_were_put_in() {
    let temp = tempfile::tempdir().unwrap();
    let stub = std::fs::read(STUB).unwrap();
    let initrd: Vec<u8> = (0..100_001_u32).map(|i| (i % 251) as u8).collect();
    let parts = Parts { stub: &stub, os_release: "ID=a\n", cmdline: "quiet", uname: "6.1", linux: b"kernel", initrd: &initrd };
    let image = assemble(&parts).unwrap();
    let file = temp.path().join("image.efi");
    std::fs::write(&file, &image).unwrap();

    let listing = objdump("-h", &file);
    for (name, size, code) in [
        (".osrel", 5, "DATA"),
        (".cmdline", 5, "DATA"),
        (".uname", 3, "DATA"),
        (".linux", 6, "CODE"),
        (".initrd", initrd.len(), "DATA"),
        (".sdmagic", 0x34, "DATA"),
    ] {
        let mut lines = listing.lines().skip_while(|line| line.split_whitespace().nth(1) != Some(name));
        let line = lines.next().unwrap_or_else(|| panic!("no {name} in {listing}"));
        let flags = lines.next().unwrap().trim();
        assert_eq!(line.split_whitespace().nth(2), Some(&format!("{size:08x}")[..]), "{name}");
        assert_eq!(flags, format!("CONTENTS, ALLOC, LOAD, READONLY, {code}"), "{name}");
    }
    let dump = temp.path().join("initrd");
    let option = format!("--dump-section=.initrd={}", dump.display());
    assert!(Command::new("objcopy").arg(option).arg(&file).arg(temp.path().join("copy")).status().unwrap().success());
    assert_eq!(std::fs::read(dump).unwrap()[..initrd.len()], initrd);
    assert!(objdump("-p", &file).contains("(EFI application)"));

    let uki = Uki::read(&mut std::fs::File::open(&file).unwrap()).unwrap();
    assert_eq!((uki.kind, uki.cmdline.as_deref(), uki.has_initrd, uki.signed), (Kind::Image, Some("quiet"), true, false));
}

#[test]
fn systemd_s_own_binaries_are_read_for_what_they_are() {
    let stub = std::fs::read(STUB).unwrap();
    let boot = std::fs::read("/usr/lib/systemd/boot/efi/systemd-bootx64.efi").unwrap();
    for binary in [&stub, &boot] {
        assert_eq!(Uki::read(&mut Cursor::new(binary)).unwrap().kind, Kind::Other);
        assert_eq!(Pe::read(&mut Cursor::new(binary)).unwrap().machine(), 0x8664);
    }
    let parts = Parts { stub: &boot, os_release: "a", cmdline: "a", uname: "a", linux: b"a", initrd: b"a" };
    match assemble(&parts) {
        Err(UkiError::NotStub { found, .. }) => assert!(found.starts_with("systemd-boot "), "{found}"),
        other => panic!("{other:?}"),
    }
}
