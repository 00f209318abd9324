//! Disk images as other people's programs see them: sgdisk, fsck.vfat, mtools, e2fsck, debugfs, fsverity and qemu-img.

mod disk_common;

use disk_common::*;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use selkie::disk::{Content, Format, Identifiers, Layout, RootTree, write};
use selkie::error::{Failure, FailureKind};
use selkie::image_id::Algorithm;
use selkie::progress::{Event, Recorder, Silent};

#[test]
fn the_partition_table_is_clean() {
    let image = image(&layout());
    let verify = tool("sgdisk", &["-v".as_ref(), image.path.as_os_str()]);
    assert!(verify.contains("No problems found") && !verify.contains("Caution") && !verify.contains("Warning"), "{verify}");
    let ids = Identifiers::from_seed(&[7; 32]);
    assert_eq!(image.written.identifiers, ids);
    let table = [
        ("1", "ESP", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", ids.esp_partition),
        ("2", "root", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", ids.root_partition),
    ];
    for (number, name, kind, id) in table {
        let info = tool("sgdisk", &[format!("--info={number}").as_ref(), image.path.as_os_str()]);
        for expected in [format!("Partition name: '{name}'"), kind.to_owned(), id.to_string().to_uppercase()] {
            assert!(info.contains(&expected), "{info}: {expected}");
        }
    }
    let metadata = std::fs::metadata(&image.path).unwrap();
    assert_eq!((metadata.len(), image.written.size), (MIB + ESP + ROOT + MIB, MIB + ESP + ROOT + MIB));
    assert!(metadata.blocks() * 512 < 24 * MIB, "{} bytes on disk", metadata.blocks() * 512);
    assert_eq!(temporaries(image.directory.path()), Vec::<PathBuf>::new());
}

#[test]
fn the_esp_is_clean_and_has_its_files() {
    let image = image(&layout());
    let esp = image.partition(1);
    let fsck = tool("fsck.vfat", &["-n".as_ref(), "-v".as_ref(), esp.as_os_str()]);
    assert!(fsck.contains("32 bits/entry") || fsck.contains("FATs, 32 bit entries"), "{fsck}");
    for (name, size) in [("EFI/BOOT/BOOTX64.EFI", 123_456), ("EFI/Linux/a-long-name-of-a-kernel-6.12.0+1.efi", 700_000)] {
        let copy = image.directory.path().join("copy");
        tool("mcopy", &["-n".as_ref(), "-i".as_ref(), esp.as_os_str(), format!("::{name}").as_ref(), copy.as_os_str()]);
        assert!(std::fs::read(&copy).unwrap() == bytes(size), "{name}");
        std::fs::remove_file(copy).unwrap();
    }
    let listing = tool("mdir", &["-i".as_ref(), esp.as_os_str(), "::EFI".as_ref()]);
    assert!(listing.contains("2023-11-14  22:13"), "{listing}");
    assert!(listing.contains("Volume in drive : is ESP"), "{listing}");
}

#[test]
fn the_root_is_clean_and_has_its_files() {
    let image = image(&layout());
    let root = image.partition(2);
    tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), root.as_os_str()]);
    let out = image.directory.path().join("out");
    std::fs::create_dir(&out).unwrap();
    debugfs(&root, &format!("rdump / {}", out.display()));
    for (path, content) in odd_files() {
        assert!(std::fs::read(out.join(&path)).unwrap() == content, "{path:?}");
    }
    for size in OBJECT_SIZES {
        assert!(std::fs::read(out.join(format!("objects/sha256/{size}"))).unwrap() == bytes(size), "{size}");
    }
    let mut sparse = vec![0; 5_000_000];
    sparse[2_500_000..2_500_006].copy_from_slice(b"middle");
    assert!(std::fs::read(out.join("sparse")).unwrap() == sparse);
    for (link, target) in [("short", "target with space".to_owned()), ("long", "t".repeat(100)), ("longest", "\"".repeat(4095))] {
        assert_eq!(std::fs::read_link(out.join(link)).unwrap(), Path::new(&target), "{link}");
    }
    assert_eq!(std::fs::read_link(out.join("broken\nname")).unwrap(), Path::new("broken\ntarget"));
    let names = |path: &str| std::fs::read_dir(out.join(path)).unwrap().count();
    assert_eq!((names("odd"), names("many"), names("deep"), names("upper")), (13, 500, 1, 0));
}

#[test]
fn owners_modes_times_and_devices_are_kept() {
    let image = image(&layout());
    let root = image.partition(2);
    let table: [(&str, &[&str]); 11] = [
        ("/", &["Type: directory", "Mode:  0755", "User:     0   Group:     0"]),
        ("/ping", &["Type: regular", "Mode:  04755", "User: 70000   Group: 65536", "Size: 100", "mtime: 0x2a05f200:00000001"]),
        ("/upper", &["Type: directory", "Mode:  01777"]),
        ("/upper/pipe", &["Type: FIFO", "Mode:  0620", "User:     0   Group:     4"]),
        ("/sda1", &["Type: block special", "Mode:  0660", "Device major/minor number: 08:01"]),
        ("/null", &["Type: character special", "Mode:  0666", "Device major/minor number: 01:03"]),
        ("/large", &["Device major/minor number: 510:40000"]),
        ("/short", &["Type: symlink", "Mode:  0777", "User:     9", "Fast link dest: \"target with space\""]),
        ("/broken\nname", &["Type: symlink", "User:     8"]),
        ("/odd/two words", &["Flags: 0x80000", "Size: 0"]),
        ("/objects/sha512/4097", &["Mode:  0644", "Flags: 0x180000", "Size: 4097", "Blockcount: 32", "Links: 1"]),
    ];
    for (path, expected) in table {
        let stat = debugfs(&root, &format!("stat \"{path}\""));
        for expected in expected {
            assert!(stat.contains(expected), "{path}: {expected}\n{stat}");
        }
        let times: Vec<&str> = stat.lines().filter(|line| line.contains("time: 0x")).map(str::trim).collect();
        let own = times.iter().filter(|time| !time.contains("0x6553f100:00000000")).count();
        assert_eq!((times.len(), own), (4, usize::from(path == "/ping")), "{path}: {times:?}");
    }
}

#[test]
fn extended_attributes_are_kept() {
    let image = image(&layout());
    let root = image.partition(2);
    let value = image.directory.path().join("value");
    let table = [
        ("/ping", "security.capability", CAPABILITY.to_vec()),
        ("/ping", "user.long", vec![b'x'; 2000]),
        ("/ping", "user.none", vec![]),
        ("/upper", "trusted.overlay.opaque", b"y".to_vec()),
    ];
    for (path, name, expected) in table {
        debugfs(&root, &format!("ea_get -f {} {path} {name}", value.display()));
        assert_eq!(std::fs::read(&value).unwrap(), expected, "{name} of {path}");
    }
    let count = debugfs(&root, "ea_list /ping").lines().filter(|line| line.contains('(')).count();
    assert_eq!(count, 3);
}

/// What lies behind the end of each sealed file, compared with what fsverity makes of the same bytes.
#[test]
fn objects_are_sealed_as_the_kernel_expects() {
    let image = image(&layout());
    let partition = image.partition(2);
    let source = image.directory.path().join("source");
    for (path, algorithm, _) in objects(&image.directory.path().join("sources")) {
        let size: usize = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        std::fs::write(&source, bytes(size)).unwrap();
        let (expected, _) = fsverity(&source, algorithm, image.directory.path());
        let found = beyond_the_end(&partition, &path, size as u64);
        assert!(found == expected, "{}: {} bytes (expected {})", path.display(), found.len(), expected.len());
    }
}

/// What has to be behind the end of a sealed file, by the tool of the kernel's developers, and its digest.
fn fsverity(source: &Path, algorithm: Algorithm, scratch: &Path) -> (Vec<u8>, String) {
    let [tree, descriptor] = ["tree", "descriptor"].map(|name| scratch.join(name));
    let options = [
        format!("--hash-alg={algorithm}"),
        format!("--out-merkle-tree={}", tree.display()),
        format!("--out-descriptor={}", descriptor.display()),
        "--compact".to_owned(),
    ];
    let mut args = vec![OsStr::new("digest"), source.as_os_str()];
    args.extend(options.iter().map(OsStr::new));
    let digest = tool("fsverity", &args);
    let (mut expected, descriptor) = (std::fs::read(&tree).unwrap(), std::fs::read(&descriptor).unwrap());
    assert_eq!((expected.len() % 4096, descriptor.len()), (0, 256));
    expected.extend(&descriptor);
    expected.resize(expected.len() + 4096 - 256 - 4, 0);
    expected.extend(256_u32.to_le_bytes());
    (expected, digest.split_whitespace().next().unwrap().to_owned())
}

/// The blocks of a file from the next 64 KiB after its end on, to the last that it has.
fn beyond_the_end(partition: &Path, path: &Path, size: u64) -> Vec<u8> {
    let extents = debugfs(partition, &format!("dump_extents -l /{}", path.display()));
    let start = size.next_multiple_of(65536) / 4096;
    let mut found = Vec::new();
    for line in extents.lines().skip(1) {
        assert!(!line.contains("Uninit"), "{line}");
        let numbers: Vec<u64> = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        let [.., first, last, physical, _, length] = numbers[..] else { panic!("{line}") };
        assert_eq!(last - first + 1, length);
        if first >= start {
            assert_eq!(first, start + found.len() as u64 / 4096, "{extents}");
            let mut blocks = vec![0; length as usize * 4096];
            File::open(partition).unwrap().read_exact_at(&mut blocks, physical * 4096).unwrap();
            found.extend(blocks);
        }
    }
    found
}

#[test]
fn a_file_of_many_extents_is_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    let size = 700 * MIB + 1;
    let file = File::create(&source).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"end", size - 3).unwrap();
    let (expected, digest) = fsverity(&source, Algorithm::Sha512, directory.path());
    let mut root = RootTree::new(attributes(0o755));
    root.add_object("object", attributes(0o644), Content::File(source.clone()), Algorithm::Sha512, Some(&digest)).unwrap();
    let path = directory.path().join("image");
    let written = write(&Layout { root_size: None, ..layout() }, &esp(), &root, directory.path(), &path, &Silent).unwrap();
    let copy = directory.path().join("copy");
    let image = Image { directory, path, written };
    let partition = image.partition(2);
    tool("e2fsck", &["-f".as_ref(), "-n".as_ref(), partition.as_os_str()]);
    assert!(beyond_the_end(&partition, Path::new("object"), size) == expected);
    debugfs(&partition, &format!("dump object {}", copy.display()));
    tool("cmp", &[source.as_os_str(), copy.as_os_str()]);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let one = image(&layout());
    let other = image(&layout());
    assert_eq!(sha256(&one.path), sha256(&other.path));
    let seeded = image(&Layout { seed: [8; 32], ..layout() });
    assert_ne!(sha256(&one.path), sha256(&seeded.path));
}

#[test]
fn qcow2_is_the_same_disk() {
    let raw = image(&layout());
    let qcow2 = image(&Layout { format: Format::Qcow2, ..layout() });
    assert!(std::fs::read(&qcow2.path).unwrap().starts_with(b"QFI\xfb"));
    let back = qcow2.directory.path().join("back");
    let words = ["convert", "-f", "qcow2", "-O", "raw"].map(OsStr::new);
    tool("qemu-img", &[&words[..], &[qcow2.path.as_os_str(), back.as_os_str()]].concat());
    assert_eq!(sha256(&raw.path), sha256(&back));
    assert_eq!(temporaries(qcow2.directory.path()), Vec::<PathBuf>::new());
}

/// As root, runs itself as nobody, who has no administrator's programs on the path; the image is the same.
#[test]
fn an_unprivileged_user_writes_the_same_image() {
    const OUTPUT: &str = "SELKIE_TEST_OUTPUT";
    if let Some(output) = std::env::var_os(OUTPUT) {
        let output = PathBuf::from(output);
        let directory = output.parent().unwrap();
        write(&layout(), &esp(), &root(directory), directory, &output, &Silent).unwrap();
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (program, output) = (directory.path().join("test"), directory.path().join("image"));
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let is_root = std::fs::metadata(directory.path()).unwrap().uid() == 0;
    let mut command = if is_root {
        chown(directory.path(), Some(65534), Some(65534)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.args(["--exact", "an_unprivileged_user_writes_the_same_image"]);
    let run = command.env_clear().env("PATH", "/usr/bin:/bin").env(OUTPUT, &output).current_dir(directory.path()).output().unwrap();
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert_eq!(std::fs::metadata(&output).unwrap().uid(), if is_root { 65534 } else { std::fs::metadata("/proc/self").unwrap().uid() });
    assert_eq!(sha256(&output), sha256(&image(&layout()).path));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("image");
    let plain = || RootTree::new(attributes(0o755));
    let mut corrupt = plain();
    let wrong = "ab".repeat(32);
    corrupt.add_object("object", attributes(0o644), Content::Bytes(bytes(10)), Algorithm::Sha256, Some(&wrong)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let of_size = |mib: u64| {
        let source = elsewhere.path().join(mib.to_string());
        File::create(&source).unwrap().set_len(mib * MIB).unwrap();
        let mut tree = plain();
        tree.add_file("large", attributes(0o644), Content::File(source)).unwrap();
        tree
    };
    let mut kernels = esp();
    kernels.add_file("kernel", Content::Bytes(vec![1; 33 << 20])).unwrap();
    let table = [
        (layout(), esp(), corrupt, FailureKind::Corrupt, "sealing object: fs-verity digest "),
        (Layout { root_size: Some(40 * MIB), ..layout() }, esp(), of_size(50), FailureKind::NoSpace, "(need 56 MiB, size 40 MiB)"),
        // Fits by the numbers of its content, but not beside what the file system itself takes.
        (Layout { root_size: Some(1024 * MIB), ..layout() }, esp(), of_size(942), FailureKind::NoSpace, "MiB, size 1024 MiB)"),
        (Layout { esp_size: Some(8 * MIB), ..layout() }, esp(), plain(), FailureKind::NoSpace, "(need 34.0 MiB, size 8.0 MiB)"),
        (layout(), kernels, plain(), FailureKind::NoSpace, "MiB, size 34.0 MiB)"),
        (Layout { size: Some(90 * MIB), ..layout() }, esp(), plain(), FailureKind::NoSpace, "(need 100 MiB, size 90 MiB)"),
        (
            Layout { size: Some(36 * MIB), root_size: None, ..layout() },
            esp(),
            plain(),
            FailureKind::NoSpace,
            "(expected at least 42 MiB: ESP 34, root 6)",
        ),
    ];
    for (layout, esp, root, kind, message) in table {
        let error = write(&layout, &esp, &root, directory.path(), &output, &Silent).unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.kind, kind, "{error:#}");
        assert!(failure.message.contains(message) && failure.hint.is_some(), "{failure}: {message}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{failure}");
    }
    std::fs::write(&output, "mine").unwrap();
    let error = write(&layout(), &esp(), &plain(), directory.path(), &output, &Silent).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Usage);
    assert_eq!(std::fs::read(&output).unwrap(), b"mine");
}

#[test]
fn progress_is_told_and_ends_with_all() {
    let directory = tempfile::tempdir().unwrap();
    let recorder = Recorder::default();
    let output = directory.path().join("image");
    let written = write(&layout(), &esp(), &root(directory.path()), directory.path(), &output, &recorder).unwrap();
    let (mut phases, mut most) = (Vec::new(), (0, 0));
    for event in recorder.events() {
        match event {
            Event::Phase { name } => phases.push(name),
            Event::Advance { done, total, .. } => most = most.max((done, total)),
            _ => {}
        }
    }
    assert_eq!(phases, ["writing the EFI system partition", "writing the root file system"]);
    assert_eq!(most, (written.content, written.content));
}
