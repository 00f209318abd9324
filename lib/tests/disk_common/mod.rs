//! A disk image with everything in it that a disk image can have, and other people's tools to look at it.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use selkie::disk::{Attributes, Content, Device, EspTree, Format, Layout, RootTree, Written, root_partition_type, write};
use selkie::image_id::Algorithm;
use selkie::progress::Silent;

pub const MIB: u64 = 1 << 20;
pub const ESP: u64 = 34 * MIB;
pub const ROOT: u64 = 64 * MIB;
pub const MTIME: u64 = 1_700_000_000;
pub const OBJECT_SIZES: [usize; 10] = [1, 4095, 4096, 4097, 65536, 65537, 128 * 4096, 128 * 4096 + 1, 200_000, 3_000_001];
pub const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub fn layout() -> Layout {
    Layout {
        seed: [7; 32],
        size: None,
        esp_size: Some(ESP),
        root_size: Some(ROOT),
        mtime: MTIME,
        format: Format::Raw,
        root_type: root_partition_type("amd64").unwrap(),
    }
}

pub fn attributes(mode: u32) -> Attributes {
    Attributes { mode, mtime: MTIME, ..Attributes::default() }
}

pub fn bytes(size: usize) -> Vec<u8> {
    (0..size as u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

pub fn esp() -> EspTree {
    let mut esp = EspTree::new();
    esp.add_file("EFI/BOOT/BOOTX64.EFI", Content::Bytes(bytes(123_456))).unwrap();
    esp.add_file("EFI/Linux/a-long-name-of-a-kernel-6.12.0+1.efi", Content::Bytes(bytes(700_000))).unwrap();
    esp.add_file("loader/loader.conf", Content::Bytes(b"timeout 3\n".to_vec())).unwrap();
    esp
}

/// Names that are trouble for line-based tools, with their contents.
pub fn odd_files() -> Vec<(PathBuf, Vec<u8>)> {
    let long = "n".repeat(255);
    let names: [&[u8]; 12] = [
        b"two words",
        b"say \"hi\"",
        b"back\\slash",
        b"new\nline",
        b"return\r",
        b"not\xffutf8\xfe",
        b"<12>",
        b"-f",
        b"#comment",
        b" \t ",
        b".selkie-name-3",
        long.as_bytes(),
    ];
    let path = |name: &[u8]| Path::new("odd").join(OsStr::from_bytes(name));
    let mut files: Vec<_> = names.iter().enumerate().map(|(i, name)| (path(name), bytes(i * 1000))).collect();
    files.push((Path::new("odd").join("a\nb/c\nd/e\nf"), bytes(5000)));
    files
}

/// Objects as a repository would have them: some in files, some in memory.
pub fn objects(sources: &Path) -> Vec<(PathBuf, Algorithm, Content)> {
    let mut objects = Vec::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for size in OBJECT_SIZES {
            let path = PathBuf::from(format!("objects/{algorithm}/{size}"));
            let source = sources.join(format!("{algorithm}-{size}"));
            std::fs::write(&source, bytes(size)).unwrap();
            objects.push((path, algorithm, if size % 2 == 0 { Content::File(source) } else { Content::Bytes(bytes(size)) }));
        }
    }
    objects
}

pub fn root(sources: &Path) -> RootTree {
    let mut root = RootTree::new(attributes(0o755));
    for directory in ["odd", "odd/a\nb", "odd/a\nb/c\nd", "objects", "objects/sha256", "objects/sha512", "many", "deep"] {
        root.add_directory(directory, attributes(0o755)).unwrap();
    }
    for (path, content) in odd_files() {
        root.add_file(path, attributes(0o644), Content::Bytes(content)).unwrap();
    }
    for (path, algorithm, content) in objects(sources) {
        root.add_object(path, attributes(0o644), content, algorithm, None).unwrap();
    }
    for i in 0..500 {
        root.add_file(format!("many/file-with-a-name-of-some-length-{i}"), attributes(0o600), Content::Bytes(bytes(i))).unwrap();
    }
    let mut deep = PathBuf::from("deep");
    for i in 0..40 {
        deep.push(format!("{i}-{}", "d".repeat(90)));
        root.add_directory(&deep, attributes(0o700)).unwrap();
    }
    let sparse = sources.join("sparse");
    let file = File::create(&sparse).unwrap();
    file.set_len(5_000_000).unwrap();
    file.write_all_at(b"middle", 2_500_000).unwrap();
    root.add_file("sparse", attributes(0o644), Content::File(sparse)).unwrap();
    special(&mut root);
    root
}

pub fn special(root: &mut RootTree) {
    let xattrs =
        vec![("security.capability".into(), CAPABILITY.to_vec()), ("user.long".into(), vec![b'x'; 2000]), ("user.none".into(), vec![])];
    let ping = Attributes { mode: 0o4755, uid: 70_000, gid: 65_536, mtime: 5_000_000_000, xattrs };
    root.add_file("ping", ping, Content::Bytes(bytes(100))).unwrap();
    let upper = Attributes { xattrs: vec![("trusted.overlay.opaque".into(), b"y".to_vec())], ..attributes(0o1777) };
    root.add_directory("upper", upper).unwrap();
    root.add_symlink("short", Attributes { uid: 9, ..attributes(0o777) }, "target with space").unwrap();
    root.add_symlink("long", attributes(0o777), "t".repeat(100)).unwrap();
    root.add_symlink("longest", attributes(0o777), "\"".repeat(4095)).unwrap();
    root.add_symlink("broken\nname", Attributes { uid: 8, ..attributes(0o777) }, "broken\ntarget").unwrap();
    root.add_device("sda1", attributes(0o660), Device::Block(8, 1)).unwrap();
    root.add_device("null", attributes(0o666), Device::Character(1, 3)).unwrap();
    root.add_device("large", attributes(0o600), Device::Character(510, 40_000)).unwrap();
    root.add_device("upper/pipe", Attributes { gid: 4, ..attributes(0o620) }, Device::Fifo).unwrap();
}

/// An image, and the directory in which it is.
pub struct Image {
    pub directory: tempfile::TempDir,
    pub path: PathBuf,
    pub written: Written,
}

pub fn image(layout: &Layout) -> Image {
    let directory = tempfile::tempdir().unwrap();
    let sources = directory.path().join("sources");
    std::fs::create_dir(&sources).unwrap();
    let path = directory.path().join("what is this?.img");
    let written = write(layout, &esp(), &root(&sources), directory.path(), &path, &Silent).unwrap();
    Image { directory, path, written }
}

impl Image {
    /// A partition as a file of its own.
    pub fn partition(&self, number: u32) -> PathBuf {
        let info = tool("sgdisk", &[format!("--info={number}").as_ref(), self.path.as_os_str()]);
        let field = |name: &str| -> u64 {
            let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let (first, last) = (field("First sector: ") * 512, field("Last sector: ") * 512 + 512);
        let path = self.directory.path().join(format!("partition{number}"));
        let words = [format!("skip={first}"), format!("count={}", last - first), format!("of={}", path.display())];
        let mut args = ["bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse", "status=none"].map(OsStr::new).to_vec();
        args.extend(words.iter().map(OsStr::new));
        let input = format!("if={}", self.path.display());
        args.push(input.as_ref());
        tool("dd", &args);
        path
    }
}

/// Runs a program that has to end well; its standard output.
pub fn tool(program: &str, args: &[&OsStr]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(args).env("PATH", path).env("LC_ALL", "C").env("TZ", "UTC").output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

pub fn debugfs(partition: &Path, request: &str) -> String {
    tool("debugfs", &["-R".as_ref(), request.as_ref(), partition.as_os_str()])
}

pub fn sha256(path: &Path) -> String {
    let line = tool("sha256sum", &["-z".as_ref(), path.as_os_str()]);
    line[..64].to_owned()
}

pub fn temporaries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().as_bytes().starts_with(b".")).collect()
}
