//! `disk`: from an image in OCI layout to a disk image, looked at with the tools of others.

mod common;

use std::path::Path;
use std::process::Command;

use common::{host::silent, layout};
use selkie::disk::Format;
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::ops::disk::{self, Options, Report};

fn options(root: &Path, output: &str) -> Options {
    Options {
        image: format!("oci:{}:stable", root.join("images").display()).parse().unwrap(),
        target_image: Some("quay.io/acme/os:stable".parse().unwrap()),
        source: SourceOptions::default(),
        algorithm: None,
        output: root.join(output),
        format: Format::Raw,
        size: None,
        root_size: None,
        esp_size: Some(64 << 20),
        arguments: vec!["console=ttyS0".into()],
        secure_boot: None,
        mtime: 1_700_000_000,
    }
}

fn make(root: &Path, output: &str) -> Report {
    disk::run(&options(root, output), &silent()).unwrap()
}

fn released(files: &layout::Files) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    layout::write(&temp.path().join("images"), "stable", files);
    temp
}

/// Runs a program that must succeed; its output.
fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// Start of a partition in bytes, counted from 1.
fn start(image: &Path, partition: &str) -> u64 {
    let info = tool("sgdisk", &[&format!("--info={partition}"), image.to_str().unwrap()]);
    let line = info.lines().find_map(|l| l.strip_prefix("First sector: ")).unwrap();
    line.split(' ').next().unwrap().parse::<u64>().unwrap() * 512
}

#[test]
fn the_machine_on_the_disk_is_whole() {
    let temp = released(&layout::bootable("1"));
    let report = make(temp.path(), "a.raw");
    let (image, id) = (temp.path().join("a.raw"), &report.pulled.boot_image);
    let (esp, root) =
        (format!("{}@@{}", image.display(), start(&image, "1")), format!("{}?offset={}", image.display(), start(&image, "2")));
    let entry = tool("mtype", &["-i", &esp, &format!("::/loader/entries/selkie-{}-1.conf", id.short())]);
    assert!(entry.contains(&format!("options composefs.digest=v1-sha256-12:{id} root=gpt-auto rw console=ttyS0")), "{entry}");
    for file in entry.lines().filter_map(|l| l.strip_prefix("linux ").or_else(|| l.strip_prefix("initrd "))) {
        tool("mtype", &["-i", &esp, &format!("::{file}")]);
    }
    tool("mtype", &["-i", &esp, "::/EFI/BOOT/BOOTX64.EFI"]);
    let debugfs = |request: &str| tool("debugfs", &["-R", request, &root]);
    let origin = debugfs(&format!("cat /state/deploy/{id}/origin.json"));
    assert!(origin.contains("\"image\": \"quay.io/acme/os:stable\""), "{origin}");
    assert!(debugfs("cat /state/os/default/var/lib/seed").contains("seed"));
    assert!(debugfs("cat /composefs/meta.json").contains("fsverity-sha256-12"));
    // 0x80000 says extents, 0x100000 fs-verity.
    assert!(debugfs("stat /composefs/meta.json").contains("Flags: 0x180000"));
    assert!(debugfs(&format!("stat /composefs/objects/{}/{}", &id.hex()[..2], &id.hex()[2..])).contains("Flags: 0x180000"));
    assert!(debugfs(&format!("stat /state/deploy/{id}/etc/upper")).contains("Mode:  0755"));
    assert!(debugfs("stat /composefs").contains("Mode:  0700"));
    assert!(report.pulled.verity);
}

#[test]
fn var_begins_with_all_that_the_image_has_there() {
    let large = "a line that is an object of its own\n".repeat(1000);
    let files = layout::with(layout::bootable("1"), "var/lib/large", &large);
    let files = layout::with_other(files, "var/lib/pipe", layout::What::Fifo);
    let temp = released(&layout::with_other(files, "var/lib/loop", layout::What::Device(10, 237)));
    make(temp.path(), "a.raw");
    let image = temp.path().join("a.raw");
    let root = format!("{}?offset={}", image.display(), start(&image, "2"));
    let debugfs = |request: &str, name: &str| tool("debugfs", &["-R", &format!("{request} /state/os/default/var/lib/{name}"), &root]);
    let stat = |name: &str| debugfs("stat", name);
    assert!(debugfs("cat", "large").contains(&large));
    // A copy that can be changed: it has extents and, other than the object, no fs-verity.
    assert!(stat("large").contains("Flags: 0x80000"), "{}", stat("large"));
    assert!(stat("pipe").contains("Type: FIFO") && stat("pipe").contains("Mode:  0620"), "{}", stat("pipe"));
    assert!(stat("loop").contains("Type: character special") && stat("loop").contains("10:237"), "{}", stat("loop"));
}

#[test]
fn two_runs_give_the_same_bytes() {
    let temp = released(&layout::bootable("1"));
    make(temp.path(), "a.raw");
    make(temp.path(), "b.raw");
    tool("cmp", &[temp.path().join("a.raw").to_str().unwrap(), temp.path().join("b.raw").to_str().unwrap()]);
    let left: Vec<_> = std::fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "temporaries are left: {left:?}");
}

#[test]
fn what_cannot_boot_makes_no_disk() {
    let loader = "usr/lib/systemd/boot";
    let (kernel, initramfs, init) = ("usr/lib/modules/6.1/vmlinuz", "usr/lib/modules/6.1/initramfs.img", "usr/lib/systemd/systemd");
    for gone in [kernel, initramfs, loader, "usr", init, "etc", "var", "run", "proc", "sys", "dev", "tmp"] {
        let temp = released(&layout::without(layout::bootable("1"), &[gone]));
        let error = disk::run(&options(temp.path(), "a.raw"), &silent()).unwrap_err();
        let failure = Failure::find(&error).unwrap_or_else(|| panic!("{gone}: {error:#}"));
        assert_eq!((failure.kind, failure.hint.is_some()), (FailureKind::Unsuitable, true), "{gone}: {error:#}");
        assert!(!temp.path().join("a.raw").exists());
    }
}

#[test]
fn sizes_that_are_too_small_and_outputs_that_exist_are_refused() {
    let temp = released(&layout::bootable("1"));
    let refused = |options: &Options| Failure::find(&disk::run(options, &silent()).unwrap_err()).map(|f| f.kind);
    let small_esp = Options { esp_size: Some(1 << 20), ..options(temp.path(), "a.raw") };
    let small_root = Options { root_size: Some(1 << 20), ..options(temp.path(), "a.raw") };
    assert_eq!(refused(&small_esp), Some(FailureKind::NoSpace));
    assert_eq!(refused(&small_root), Some(FailureKind::NoSpace));
    for bad in ["composefs=00", "a\nlinux /evil", ""] {
        let odd = Options { arguments: vec![bad.into()], ..options(temp.path(), "a.raw") };
        assert_eq!(refused(&odd), Some(FailureKind::Usage), "{bad:?}");
    }
    let nowhere = Options { target_image: None, ..options(temp.path(), "a.raw") };
    assert_eq!(refused(&nowhere), Some(FailureKind::Usage), "the machine could not follow a path of this one");
    let relative = Options { target_image: Some("oci:updates:stable".parse().unwrap()), ..options(temp.path(), "a.raw") };
    assert_eq!(refused(&relative), Some(FailureKind::Usage), "the machine has another working directory");
    let small_disk = Options { size: Some(65 << 20), ..options(temp.path(), "a.raw") };
    assert_eq!(refused(&small_disk), Some(FailureKind::NoSpace));
    assert_eq!(refused(&options(temp.path(), "none/a.raw")), Some(FailureKind::NotFound));
    std::fs::write(temp.path().join("a.raw"), "precious").unwrap();
    assert_eq!(refused(&options(temp.path(), "a.raw")), Some(FailureKind::Usage));
    assert_eq!(std::fs::read(temp.path().join("a.raw")).unwrap(), b"precious");
}
