//! Sealed images: a real systemd stub, with the command line of one's choice.

use std::path::Path;

use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::pull::{self, Options, Pulled};
use selkie::store::{Store, Verity};
use selkie::sys::dir;
use selkie::uki::pe::Pe;
use selkie::uki::{Parts, assemble, assemble_addon};

use super::host::silent;
use super::layout::{self, Files, What};

/// From the package systemd-boot-efi.
pub const STUBS: &str = "/usr/lib/systemd/boot/efi";

/// What the host of these tests may lack, a sealed image of theirs does not insist on: fs-verity (`?`).
pub fn arguments(id: &ImageId) -> String {
    format!("composefs.digest=?v1-{}-12:{id} root=gpt-auto rw sealed=yes", id.algorithm())
}

/// The files of a bootable image and a seal for it.
pub fn sealed(version: &str) -> Files {
    let files = layout::bootable(version);
    let id = boot_image(&files);
    with_uki(files, "selkie.efi", &arguments(&id))
}

/// The same with a unified kernel image that has `cmdline`.
pub fn with_uki(files: Files, name: &str, cmdline: &str) -> Files {
    let path = format!("boot/EFI/Linux/{name}");
    let mut files = directories(files);
    files.push((path, What::File(uki(cmdline))));
    files
}

/// A unified kernel image on the real stub.
pub fn uki(cmdline: &str) -> Vec<u8> {
    let stub = std::fs::read(format!("{STUBS}/linuxx64.efi.stub")).expect("package systemd-boot-efi");
    assemble(&Parts { stub: &stub, os_release: "ID=debian\n", cmdline, uname: "6.1", linux: b"kernel", initrd: b"initrd" }).unwrap()
}

/// An addon for it.
pub fn addon(cmdline: &str) -> Vec<u8> {
    assemble_addon(&addon_stub(), cmdline, "6.1").unwrap()
}

/// A stub for addons, which the systemd of this machine may be too old to have: that of images, under the other name.
pub fn addon_stub() -> Vec<u8> {
    let mut stub = std::fs::read(format!("{STUBS}/linuxx64.efi.stub")).expect("package systemd-boot-efi");
    let magic = b"#### LoaderInfo: systemd-stub ";
    let at = stub.windows(magic.len()).position(|window| window == magic).unwrap();
    // Longer by one byte than what it replaces; the version behind it makes room.
    stub[at..at + magic.len() + 1].copy_from_slice(b"#### LoaderInfo: systemd-addon ");
    let pe = Pe::read(&mut std::io::Cursor::new(&stub)).unwrap();
    if pe.section(".sbat").is_some() {
        let at = stub[..4096].windows(8).position(|window| window == b".sbat\0\0\0").unwrap();
        stub[at..at + 8].copy_from_slice(b".nosbat\0");
    }
    stub
}

fn directories(mut files: Files) -> Files {
    for path in ["boot/EFI", "boot/EFI/Linux"] {
        if !files.iter().any(|(known, _)| known == path) {
            files.push((path.to_owned(), What::Directory));
        }
    }
    files
}

/// The boot image of some files.
pub fn boot_image(files: &Files) -> ImageId {
    let temp = tempfile::tempdir().unwrap();
    let images = temp.path().join("images");
    layout::write(&images, "x", files);
    pulled(temp.path(), &format!("oci:{}:x", images.display())).boot_image
}

/// Pulls an image into a repository below `scratch`.
pub fn pulled(scratch: &Path, image: &str) -> Pulled {
    let store = Store::open_or_init(dir::open_path(scratch).unwrap(), "scratch-repository", None, Verity::Never).unwrap();
    let options = Options { image: image.parse().unwrap(), source: SourceOptions::default(), tag: None };
    pull::run(&store, &options, &silent()).unwrap()
}
