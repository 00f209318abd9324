//! Full file systems: told with numbers before anything is written where that can be known, and nothing is lost where it cannot.
//!
//! Small tmpfs mounts in a mount namespace of the test's thread, and a FAT file system on a loop device where the kernel has FAT; needs root.
#![expect(clippy::print_stdout, reason = "which file system it was is worth knowing")]

mod common;
#[path = "common/oci.rs"]
mod oci;
mod space_common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::host::Machine;
use common::layout;
use oci::{Layout, plain_http};
use rustix::mount::MountFlags;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::ImageId;
use selkie::ops::pull;
use selkie::ops::upgrade::{Outcome, Until};
use selkie::progress::{Progress, Silent};
use selkie::store::{Store, Verity};
use selkie::sys::dir;
use selkie::sys::mount::enter_private_namespace;
use space_common::{assert_unchanged, fill, installed, mount, noise};

#[test]
fn an_esp_without_room_is_told_before_it_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "64m", "2m");
    std::fs::write(temp.path().join("esp/other"), vec![1; 1 << 20]).unwrap();
    machine.release("stable", &layout::bootable("2"));
    let error = machine.upgrade(&first, None, Until::Stage).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    assert!(failure.message.contains("MiB free (expected at least"), "{failure}");
    assert_unchanged(&machine, &first);
    std::fs::remove_file(temp.path().join("esp/other")).unwrap();
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, Outcome::Staged);
}

#[test]
fn layers_that_cannot_fit_are_not_fetched() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "4m", "8m");
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (state >> 33) as u8 % 90)
    });
    let noise: String = noise.take(6_000_000).collect();
    machine.release("stable", &layout::with(layout::bootable("2"), "usr/noise", &noise));
    let error = machine.upgrade(&first, None, Until::Stage).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    assert!(failure.message.starts_with("pulling "), "{failure}");
    assert_unchanged(&machine, &first);
}

#[test]
fn a_repository_that_is_read_only_is_told_before_anything_is_read() {
    enter_private_namespace().expect("these tests mount file systems: run them as root");
    let temp = tempfile::tempdir().unwrap();
    let (place, layout) = (temp.path().join("place"), Layout::new());
    mount(&place, "16m", MountFlags::empty());
    let repository = pull::Repository { path: place.join("r"), algorithm: None, verity: Verity::IfPossible };
    let store = Store::open_or_init(dir::open_path(&place).unwrap(), "r", None, Verity::IfPossible).unwrap();
    drop(store);
    rustix::mount::mount_remount(&place, MountFlags::RDONLY, "").unwrap();
    // There is no such image, which is not found out.
    let options = pull::Options { image: layout.reference(Some("none")).parse().unwrap(), source: plain_http(), tag: None };
    let error = pull::run_into(&repository, &options, &(Arc::new(Silent) as Arc<dyn Progress>)).unwrap_err();
    assert_eq!(Failure::find(&error).map(|f| f.kind), Some(FailureKind::NotPermitted), "{error:#}");
    assert_eq!(
        format!("{error:#}"),
        format!("opening repository {} to write: Read-only file system (os error 30)", repository.path.display())
    );
}

#[test]
fn a_sealed_image_is_not_fetched_where_the_esp_is_short() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "64m", "8m");
    // Room for what a sealed image of this kind needs is known from the one that runs.
    let sealed = |version: &str| common::sealed::sealed(version);
    machine.release("stable", &sealed("2"));
    let second = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
    let esp = temp.path().join("esp");
    fill(&esp, 1 << 20);
    // As `selkie seal` does, so that it is known before anything is fetched.
    let third = sealed("3");
    let root = format!("?v1-sha256-12:{}", common::sealed::boot_image(&layout::bootable("3")));
    layout::write_annotated(&machine.root.join("images"), "stable", &third, &[(selkie::ops::seal::BOOT_IMAGE, root)]);
    let objects = || machine.host(&second).store().unwrap().objects().unwrap().len();
    let before = objects();
    let error = machine.upgrade(&second, None, Until::Stage).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    assert!(failure.message.contains("the ESP has 1 MiB free (expected at least 2 MiB)"), "{failure}");
    assert!(objects() <= before, "nothing was fetched");
    std::fs::remove_file(esp.join("other")).unwrap();
    assert_eq!(machine.upgrade(&second, None, Until::Stage).unwrap().outcome, Outcome::Staged);
}

#[test]
fn older_roots_go_where_the_esp_is_short() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "64m", "16m");
    let big = |version: &str| {
        let files = layout::without(layout::bootable(version), &["usr/lib/modules/6.1/vmlinuz"]);
        layout::with(files, "usr/lib/modules/6.1/vmlinuz", &format!("kernel {version} {}", version.repeat(3 << 20)))
    };
    let mut booted = first;
    for version in ["2", "3", "4", "5", "6", "7"] {
        machine.release("stable", &big(version));
        booted = machine.upgrade_keeping(&booted, None, Until::Stage, 9).unwrap().staged.unwrap();
        machine.boot(&booted);
        let system = machine.host(&booted).system().unwrap();
        assert_eq!((system.default_entry().map(|e| &e.image), system.problems.len()), (Some(&booted), 0), "{version}");
    }
    let left = machine.host(&booted).system().unwrap().entries.len();
    assert!((3..6).contains(&left), "{left} entries are left");
}

#[test]
fn roots_that_nobody_needs_make_room_on_the_root_file_system() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "24m", "8m");
    let big = |version: usize| layout::with(layout::bootable(&version.to_string()), "usr/noise", &noise(4_000_000 + version));
    let mut booted = first;
    for version in 2..9 {
        machine.release("stable", &big(version));
        booted = machine.upgrade_keeping(&booted, None, Until::Stage, 9).unwrap().staged.unwrap();
        machine.boot(&booted);
    }
    let list = selkie::ops::list::run(&machine.host(&booted));
    assert!(list.generations.len() >= 3 && list.problems.is_empty(), "{list:#?}");
}

/// An ESP of 200 MB: FAT32 on a loop device where this kernel has it, else a tmpfs of that size.
struct RealEsp {
    at: PathBuf,
    device: Option<String>,
}

impl RealEsp {
    fn mount(root: &Path) -> Self {
        const SIZE: u64 = 200_000_000;
        let at = root.join("esp");
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().ok()?;
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
        };
        std::fs::create_dir_all(&at).unwrap();
        let known = std::fs::read_to_string("/proc/filesystems").unwrap().lines().any(|line| line.trim() == "vfat");
        if known || run("modprobe", &["vfat"]).is_some() {
            let image = root.join("esp.img");
            std::fs::File::create(&image).unwrap().set_len(SIZE).unwrap();
            run("mkfs.vfat", &["-F", "32", image.to_str().unwrap()]).expect("mkfs.vfat");
            let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]).expect("losetup");
            run("mount", &["-t", "vfat", &device, at.to_str().unwrap()]).expect("mount");
            println!("the ESP is FAT32 on a loop device");
            return Self { at, device: Some(device) };
        }
        mount(&at, &SIZE.to_string(), MountFlags::empty());
        println!("the ESP is a tmpfs: this kernel has no FAT");
        Self { at, device: None }
    }
}

impl Drop for RealEsp {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        if let Some(device) = &self.device {
            let _ = Command::new("/usr/sbin/losetup").args(["--detach", device]).status();
        }
    }
}

/// A release whose kernel and initramfs take 60 MB.
fn sixty(version: &str) -> layout::Files {
    let files = layout::without(layout::bootable(version), &["usr/lib/modules/6.1/vmlinuz", "usr/lib/modules/6.1/initramfs.img"]);
    let files = layout::with(files, "usr/lib/modules/6.1/vmlinuz", &version.repeat(10_000_000));
    layout::with(files, "usr/lib/modules/6.1/initramfs.img", &version.repeat(50_000_000))
}

/// The boot files on the ESP, each as large as a whole one: what is half-written is shorter, or has the name of a temporary.
fn boot_files(root: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(root.join("esp/EFI/selkie")).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries.map(|entry| (entry.path(), entry.metadata().unwrap().len())).collect();
    files.sort();
    for (path, size) in &files {
        let whole = match path.extension().and_then(|extension| extension.to_str()) {
            Some("linux") => *size == 10_000_000 || *size < 10_000,
            Some("initrd") => *size == 50_000_000 || *size < 10_000,
            _ => false,
        };
        assert!(whole, "{} has {size} bytes", path.display());
    }
    files
}

#[test]
fn three_kernels_of_sixty_megabytes_on_an_esp_of_two_hundred() {
    let temp = tempfile::tempdir().unwrap();
    enter_private_namespace().expect("these tests mount file systems: run them as root");
    let _esp = RealEsp::mount(temp.path());
    let (machine, mut booted) = Machine::install(temp.path());
    let next = |booted: &ImageId, version: &str, keep: usize| {
        machine.release("stable", &sixty(version));
        machine.upgrade_keeping(booted, None, Until::Stage, keep)
    };
    // With older roots only kept where there is room, each upgrade finds room.
    for version in ["2", "3", "4", "5"] {
        booted = next(&booted, version, 9).unwrap().staged.unwrap();
        machine.boot(&booted);
        let system = machine.host(&booted).system().unwrap();
        assert_eq!((system.default_entry().map(|e| &e.image), system.problems.len()), (Some(&booted), 0), "{version}");
        boot_files(temp.path());
    }
    // Three that must stay fill it: the one that runs, the one before, and another that is pinned.
    let list = selkie::ops::list::run(&machine.host(&booted));
    let older: Vec<u64> = list.generations.iter().filter(|generation| generation.id != booted).filter_map(|g| g.number).collect();
    assert!(older.len() >= 2, "{list:#?}");
    for number in older.iter().take(2) {
        selkie::ops::pin::run(&machine.host(&booted), Some(&number.to_string()), true, &selkie::progress::Silent).unwrap();
    }
    let before = boot_files(temp.path());
    let error = next(&booted, "6", 0).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    let words = "MiB free (expected at least 59 MiB)";
    assert!(failure.message.contains("the ESP has ") && failure.message.contains(words) && failure.hint.is_some(), "{failure}");
    assert_unchanged(&machine, &booted);
    let left: Vec<_> = before.iter().filter(|(_, size)| *size >= 10_000_000).cloned().collect();
    assert_eq!(boot_files(temp.path()), left, "nothing was written, and what three roots need is there");
    // One pin less, and there is room.
    selkie::ops::pin::run(&machine.host(&booted), Some(&older[1].to_string()), false, &selkie::progress::Silent).unwrap();
    let staged = next(&booted, "6", 0).unwrap().staged.unwrap();
    assert_eq!(machine.host(&booted).system().unwrap().default_entry().map(|e| &e.image), Some(&staged));
    boot_files(temp.path());
}
