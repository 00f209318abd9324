//! Full file systems: told with numbers before anything is written where that can be known, and nothing is lost where it cannot.
//!
//! Small tmpfs mounts in a mount namespace of the test's thread, and a FAT file system on a loop device where the kernel has FAT; needs root.
#![expect(clippy::print_stdout, reason = "which file system it was is worth knowing")]

#[path = "common/chunked.rs"]
mod chunked;
mod common;
#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;
#[path = "common/relay.rs"]
mod relay;
mod space_common;
mod store_common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use chunked::{Spoil, chunked};
use common::host::Machine;
use common::layout;
use oci::{Layout, plain_http};
use registry::{Registry, push};
use relay::{Odd, Relay};
use rustix::mount::MountFlags;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::ImageId;
use selkie::ops::pull;
use selkie::ops::upgrade::{Outcome, Until};
use selkie::progress::{Progress, Silent};
use selkie::store::{Keep, Scratch, Store, Unproven, Verity};
use selkie::sys::dir;
use selkie::sys::mount::enter_private_namespace;
use serde_json::Value;
use space_common::{assert_unchanged, fill, installed, mount, resize};
use store_common::{base, file, sha256, sized, tar, zeros};

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
fn a_disk_that_fills_up_during_a_pull_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "4m", "8m");
    // Of none of them alone is it clear that it cannot fit.
    let add = |files, letter: &&str| layout::with(files, &format!("usr/{letter}"), &letter.repeat(3 << 20));
    machine.release("stable", &["a", "b", "c", "d"].iter().fold(layout::bootable("2"), add));
    let error = machine.upgrade(&first, None, Until::Stage).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!((failure.kind, &*failure.message), (FailureKind::NoSpace, "a file system is full"), "{error:#}");
    assert_unchanged(&machine, &first);
    resize(&temp.path().join("sysroot"), "64m");
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, Outcome::Staged);
}

/// A repository on a file system of this size.
fn repository(place: &Path, size: &str) -> Store {
    enter_private_namespace().expect("these tests mount file systems: run them as root");
    mount(place, size, MountFlags::empty());
    Store::open_or_init(dir::open_path(place).unwrap(), "r", None, Verity::IfPossible).unwrap()
}

#[test]
fn a_file_that_cannot_fit_is_told_by_its_header() {
    let temp = tempfile::tempdir().unwrap();
    let (layer, diff_id) = (|| zeros(64 << 20), sha256(b"layer"));
    let store = repository(temp.path(), "8m");
    let mut read = layer();
    let error = store.import_layer(&diff_id, &mut read).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    let words = "storing file \"usr/big\": the file system of the repository has 7 MiB free (expected at least 64 MiB)";
    assert!(failure.message == words && failure.hint.is_some(), "{failure}");
    assert!(error.is::<Unproven>(), "{error:#}");
    assert!(std::io::copy(&mut read, &mut std::io::sink()).unwrap() > 63 << 20, "the rest is not read");
    assert!(!store.has_layer(&diff_id).unwrap() && store.objects().unwrap().is_empty());
    // What is not kept needs no room.
    let scratch = Scratch::new(temp.path(), store.algorithm()).unwrap();
    scratch.measure_layer(&diff_id, layer(), Keep::Names(|_| false)).unwrap();
    // Where nobody knows how much room there is, it is tried.
    let unbounded = repository(&temp.path().join("unbounded"), "0");
    assert_eq!(unbounded.import_layer(&diff_id, layer()).unwrap().bytes_new, 64 << 20);
}

/// Gives a file another size in its header in the list of tar headers; in the list, too, if `listed`.
fn resize_in_headers(lines: &mut [Value], file: &str, size: u64, listed: bool) {
    let place = lines.iter().position(|line| line["name"] == file).unwrap();
    if listed {
        lines[place]["size"] = size.into();
    }
    let before = &mut lines[place - 1]["payload"];
    let mut bytes = openssl::base64::decode_block(before.as_str().unwrap()).unwrap();
    bytes.truncate(bytes.len() - 512);
    sized(&mut bytes, file.as_bytes(), size);
    *before = openssl::base64::encode_block(&bytes).into();
}

#[test]
fn a_file_that_cannot_fit_by_a_table_that_lies_costs_a_whole_layer() {
    const SIZE: u64 = 64 << 30;
    let files = |version: &str| {
        let noise = noise(400_000);
        let content = (0..8).map(|n| file(format!("usr/{n}"), &noise.as_bytes()[n * 50_000..][..40_000]));
        // More than is rebuilt before it is known whether the file is taken.
        let text = [file("usr/text", version.repeat(1000)), file("usr/text-and-more", version.repeat(4 << 20))];
        tar(&base().into_iter().chain(content).chain(text).collect::<Vec<_>>())
    };
    // It is one hole.
    let hole = |table: &mut Value| {
        let entries = table["entries"].as_array_mut().unwrap();
        let entry = entries.iter_mut().find(|entry| entry["name"] == "usr/text").unwrap();
        (entry["size"], entry["chunkSize"], entry["chunkType"]) = (SIZE.into(), SIZE.into(), "zeros".into());
        entry["endOffset"] = entry["offset"].clone();
    };
    // Both tables lie, or the header alone: then the file comes without the one in the blob.
    let told_by_both = "its list of tar headers has something else before a file than the blob";
    let told_by_room = "storing file \"usr/text\": the file system of the repository has ";
    for (both, told) in [(true, told_by_both), (false, told_by_room)] {
        let temp = tempfile::tempdir().unwrap();
        let store = repository(temp.path(), "32m");
        let mut layout = Layout::new();
        chunked(&files("1"), &Spoil::nothing(true)).publish(&mut layout, "v1");
        let headers = |lines: &mut Vec<Value>| resize_in_headers(lines, "usr/text", SIZE, both);
        let spoil = Spoil { table: if both { &hole } else { &|_| {} }, headers: Some(&headers) };
        chunked(&files("2"), &spoil).publish(&mut layout, "v2");
        let pull = |tag: &str| {
            let options =
                pull::Options { image: layout.reference(Some(tag)).parse().unwrap(), source: plain_http(), tag: Some(tag.to_owned()) };
            pull::run(&store, &options, &(Arc::new(Silent) as Arc<dyn Progress>)).unwrap()
        };
        pull("v1");
        let pulled = pull("v2");
        let reason = pulled.fetched[0].reason.as_deref().unwrap_or_default();
        assert_eq!(pulled.fetched[0].way, pull::Way::Whole, "{pulled:?}");
        assert!(reason.starts_with(told), "{reason}");
        let text = store.tree(&pulled.image).unwrap().file("/usr/text").unwrap().unwrap();
        assert_eq!(text.size, 1000);
    }
}

#[test]
fn a_file_that_cannot_fit_by_the_header_in_the_blob_costs_no_whole_layer() {
    let files = |version: &str, extra: Option<store_common::Entry>| {
        let noise = noise(400_000);
        let content = (0..8).map(|n| file(format!("usr/{n}"), &noise.as_bytes()[n * 50_000..][..40_000]));
        tar(&base().into_iter().chain(content).chain([file("usr/text", version)]).chain(extra).collect::<Vec<_>>())
    };
    for headers in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let store = repository(temp.path(), "32m");
        let (mut layout, registry) = (Layout::new(), Registry::start());
        chunked(&files("1", None), &Spoil::nothing(headers)).publish(&mut layout, "v1");
        // Of the large file, the table says what is so.
        let big = file("usr/big", vec![b'a'; 40 << 20]);
        chunked(&files("2", Some(big)), &Spoil::nothing(headers)).publish(&mut layout, "v2");
        for tag in ["v1", "v2"] {
            push(&["--preserve-digests"], layout.path(), tag, &registry.name(&format!("acme/os:{tag}")));
        }
        let relay = Relay::start(&registry.address, Odd::Gone(usize::MAX));
        let pull = |address: &str, tag: &str| {
            let image = format!("{address}/acme/os:{tag}").parse().unwrap();
            let options = pull::Options { image, source: plain_http(), tag: Some(tag.to_owned()) };
            pull::run(&store, &options, &(Arc::new(Silent) as Arc<dyn Progress>))
        };
        pull(&registry.address, "v1").unwrap();
        let error = pull(&relay.address, "v2").unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
        let numbers = " MiB free (expected at least 40 MiB)";
        assert!(failure.message.starts_with("storing file \"usr/big\": ") && failure.message.ends_with(numbers), "{failure}");
        let blobs = relay.seen().into_iter().filter(|head| head.contains("user-agent: selkie/") && head.contains("/blobs/"));
        let (parts, whole): (Vec<_>, Vec<_>) = blobs.partition(|head| head.contains("\r\nrange: "));
        assert!(parts.len() > 1 && whole.is_empty(), "{headers}: {whole:#?}");
    }
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

/// Bytes that do not compress.
fn noise(length: usize) -> String {
    let mut state = length as u64;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (state >> 33) as u8 % 90)
    });
    next.take(length).collect()
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
