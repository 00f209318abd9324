//! Images for the tests of `selkie lint`: one that has nothing wrong with it, and what it takes to spoil it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::lint::Finding;
use selkie::ops::lint::{self, Options, Report, Target};
use selkie::ops::pull;
use selkie::progress::Silent;
use selkie::store::{Store, Verity};
use selkie::uki::{Parts, assemble};

use super::store_common::{Entry, Kind, dir, file, sha256, symlink, tar};

/// The version of the kernel in the clean image.
pub const KERNEL: &str = "usr/lib/modules/6.1";
/// What the initramfs starts.
pub const PROGRAM: &str = "usr/lib/selkie/selkie-initramfs";

/// An image to be written: its files in one layer, layers on top of it, and what its configuration says.
pub struct Image {
    pub entries: Vec<Entry>,
    pub initramfs: Vec<(String, Vec<u8>)>,
    pub more_layers: Vec<Vec<u8>>,
    pub created: Option<&'static str>,
    /// The annotations of its manifest.
    pub annotations: Vec<(&'static str, String)>,
}

impl Image {
    /// An image that triggers no check.
    pub fn clean() -> Self {
        let directories = [
            "boot",
            "dev",
            "etc",
            "proc",
            "run",
            "sys",
            "sysroot",
            "usr",
            "usr/bin",
            "usr/lib",
            "usr/lib/modules",
            KERNEL,
            "usr/lib/selkie",
            "usr/lib/systemd",
            "usr/lib/systemd/boot",
            "usr/lib/systemd/boot/efi",
            "usr/lib/systemd/system",
            "usr/lib/sysusers.d",
            "usr/lib/tmpfiles.d",
            "var",
            "var/cache",
            "var/lib",
            "var/lib/web",
            "var/lib/state",
            "var/log",
        ];
        let loader = format!("usr/lib/systemd/boot/efi/systemd-boot{}.efi", if cfg!(target_arch = "aarch64") { "aa64" } else { "x64" });
        let files = [
            (format!("{KERNEL}/vmlinuz"), "kernel".repeat(100)),
            (format!("{KERNEL}/modules.builtin"), "kernel/fs/overlayfs/overlay.ko\n".to_owned()),
            (PROGRAM.to_owned(), "the program\n".repeat(20)),
            (loader, "boot loader".repeat(100)),
            ("usr/bin/selkie".to_owned(), "selkie".to_owned()),
            ("usr/bin/skopeo".to_owned(), "skopeo".to_owned()),
            ("usr/lib/os-release".to_owned(), "ID=debian\nVERSION_ID=13\n".to_owned()),
            ("usr/lib/systemd/systemd".to_owned(), "init".to_owned()),
            ("usr/lib/systemd/system/web.service".to_owned(), "[Service]\nStateDirectory=state\n".to_owned()),
            ("usr/lib/sysusers.d/web.conf".to_owned(), "u web - \"Web server\"\n".to_owned()),
            ("usr/lib/tmpfiles.d/web.conf".to_owned(), "d /var/home\nd /var/roothome\nd /var/lib/web 0755 web web -\n".to_owned()),
            ("etc/passwd".to_owned(), "root:x:0:0:root:/root:/bin/sh\nweb:x:990:990::/:/sbin/nologin\n".to_owned()),
            ("etc/group".to_owned(), "root:x:0:\nweb:x:990:\nnogroup:x:65534:\n".to_owned()),
            ("etc/shadow".to_owned(), "root:*:19000::::::\nweb:!*:19000::::::\n".to_owned()),
            ("etc/machine-id".to_owned(), "uninitialized\n".to_owned()),
        ];
        let links = [
            ("home", "var/home"),
            ("root", "var/roothome"),
            ("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"),
            ("var/run", "/run"),
        ];
        let mut entries: Vec<Entry> = directories.iter().map(dir).collect();
        entries.extend([dir("tmp").mode(0o1777), dir("var/tmp").mode(0o1777)]);
        entries.extend(files.iter().map(|(path, text)| file(path, text)));
        entries.extend(links.iter().map(|(path, target)| symlink(path, target)));
        let initramfs = [
            (PROGRAM, "the program\n".repeat(20)),
            ("usr/lib/systemd/system/selkie-setup-root.service", String::new()),
            ("etc/systemd/system/initrd-root-fs.target.requires/selkie-setup-root.service", String::new()),
            ("lib/modules/6.1/kernel/fs/erofs/erofs.ko.xz", "erofs".to_owned()),
            ("usr/lib/modules/6.1/kernel/fs/ext4/ext4.ko", "ext4".to_owned()),
            ("usr/lib/modules/6.1/kernel/fs/jbd2/jbd2.ko", "jbd2".to_owned()),
            ("usr/lib/modules/6.1/modules.dep", "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\nkernel/x.ko: kernel/y.ko\n".to_owned()),
        ];
        let initramfs = initramfs.into_iter().map(|(path, text)| (path.to_owned(), text.into_bytes())).collect();
        Self { entries, initramfs, more_layers: Vec::new(), created: Some("2024-06-01T12:00:00.5Z"), annotations: Vec::new() }
    }

    /// Adds a thing, in the place of what has its path.
    pub fn put(&mut self, entry: Entry) {
        self.entries.retain(|there| there.path != entry.path);
        self.entries.push(entry);
    }

    /// Adds a file with this text.
    pub fn write(&mut self, path: &str, text: &str) {
        self.put(file(path, text));
    }

    /// Appends to a file.
    pub fn append(&mut self, path: &str, text: &str) {
        let entry = self.entries.iter_mut().find(|entry| entry.path == path.as_bytes()).unwrap();
        let Kind::File(bytes) = &mut entry.kind else { panic!("{path} is no file") };
        bytes.extend(text.as_bytes());
    }

    /// Removes a path with all that is below it.
    pub fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        let before = self.entries.len();
        self.entries.retain(|entry| entry.path != path.as_bytes() && !entry.path.starts_with(below.as_bytes()));
        assert!(self.entries.len() < before, "{path} is not there");
    }

    /// Removes a path from the initramfs.
    pub fn remove_from_initramfs(&mut self, path: &str) {
        let before = self.initramfs.len();
        self.initramfs.retain(|(there, _)| there != path);
        assert!(self.initramfs.len() < before, "{path} is not there");
    }

    /// All files, with the initramfs packed unless there is one of another making.
    fn finished(&self) -> Vec<Entry> {
        let path = format!("{KERNEL}/initramfs.img");
        let mut entries = self.entries.clone();
        let has_kernel = entries.iter().any(|entry| entry.path == KERNEL.as_bytes());
        if has_kernel && !entries.iter().any(|entry| entry.path == path.as_bytes()) {
            entries.push(file(path, zstd::encode_all(&cpio(&self.initramfs)[..], 3).unwrap()));
        }
        entries
    }

    /// Writes the image as an OCI layout; its reference.
    pub fn layout(&self, at: &Path) -> String {
        let layers: Vec<Vec<u8>> = [tar(&self.finished())].into_iter().chain(self.more_layers.iter().cloned()).collect();
        let blob = |media: &str, bytes: &[u8]| {
            let digest = sha256(bytes);
            let directory = at.join("blobs/sha256");
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
            serde_json::json!({"mediaType": format!("application/vnd.oci.image.{media}"), "digest": digest, "size": bytes.len()})
        };
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "created": self.created, "config": {},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| sha256(layer)).collect::<Vec<_>>()},
            "history": [{"created_by": "ENV x=y", "empty_layer": true}, {"created_by": "COPY rootfs/ /"}],
        });
        let descriptors: Vec<_> = layers.iter().map(|layer| blob("layer.v1.tar", layer)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "annotations": self.annotations.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "config": blob("config.v1+json", config.to_string().as_bytes()), "layers": descriptors,
        });
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [blob("manifest.v1+json", manifest.to_string().as_bytes())]});
        std::fs::write(at.join("index.json"), index.to_string()).unwrap();
        std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        format!("oci:{}", at.display())
    }

    /// The root that machines would boot.
    pub fn boot_image(&self) -> ImageId {
        let temp = super::store_common::temporary();
        let image = self.layout(temp.path()).parse().unwrap();
        let parent = selkie::sys::dir::open_path(temp.path()).unwrap();
        let store = Store::open_or_init(parent, "repository", None, Verity::Never).unwrap();
        let options = pull::Options { image, source: SourceOptions::default(), tag: None };
        pull::run(&store, &options, &(Arc::new(Silent) as _)).unwrap().boot_image
    }

    /// Seals the image, with a signature that is one in form.
    pub fn seal(&mut self) {
        let root = format!("v1-sha256-12:{}", self.boot_image());
        let cmdline = format!("composefs.digest={root} rw");
        self.annotations = vec![("dev.selkie.recipe", "1".to_owned()), ("dev.selkie.boot-image", root)];
        self.put(file("boot/EFI/Linux/selkie.efi", signed(uki(&cmdline))));
    }

    /// Unpacks the image into a directory, as well as its owner may.
    pub fn unpack(&self, at: &Path) {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::PermissionsExt;
        for entry in self.finished() {
            let path = at.join(std::ffi::OsStr::from_bytes(&entry.path));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match &entry.kind {
                Kind::Dir => std::fs::create_dir_all(&path).unwrap(),
                Kind::File(bytes) => std::fs::write(&path, bytes).unwrap(),
                Kind::Symlink(target) => {
                    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path).unwrap();
                    continue;
                }
                other => panic!("not unpacked: {other:?}"),
            }
            std::fs::set_permissions(&path, PermissionsExt::from_mode(entry.mode)).unwrap();
        }
    }
}

/// A unified kernel image on the stub of the package systemd-boot-efi.
pub fn uki(cmdline: &str) -> Vec<u8> {
    let stub = std::fs::read("/usr/lib/systemd/boot/efi/linuxx64.efi.stub").expect("package systemd-boot-efi");
    assemble(&Parts { stub: &stub, os_release: "ID=debian\n", cmdline, uname: "6.1", linux: b"kernel", initrd: b"initrd" }).unwrap()
}

/// The binary with a certificate table, in which nothing signs anything.
pub fn signed(mut binary: Vec<u8>) -> Vec<u8> {
    binary.resize(binary.len().next_multiple_of(8), 0);
    let header = u32::from_le_bytes(binary[0x3c..0x40].try_into().unwrap()) as usize;
    let entry = header + 4 + 20 + 112 + 4 * 8;
    let at = (binary.len() as u32).to_le_bytes();
    binary[entry..entry + 4].copy_from_slice(&at);
    binary[entry + 4..entry + 8].copy_from_slice(&16_u32.to_le_bytes());
    binary.extend([16, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    binary
}

/// An archive in the format newc.
pub fn cpio(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files.iter().chain([&("TRAILER!!!".to_owned(), Vec::new())]) {
        write!(bytes, "070701").unwrap();
        for number in [1, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0] {
            write!(bytes, "{number:08x}").unwrap();
        }
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Looks at an image.
pub fn look(image: &Image, skip: &[&str]) -> anyhow::Result<Report> {
    let temp = super::store_common::temporary();
    let reference = image.layout(temp.path()).parse().unwrap();
    run(Target::Image { image: reference, source: SourceOptions::default() }, temp.path(), skip)
}

/// Looks at an image that was unpacked.
pub fn look_at_directory(image: &Image) -> anyhow::Result<Report> {
    let temp = super::store_common::temporary();
    let root = temp.path().join("root");
    std::fs::create_dir(&root).unwrap();
    image.unpack(&root);
    // As in a build container that looks at its own root.
    let scratch = root.join("var/tmp");
    run(Target::Rootfs(root), &scratch, &[])
}

/// Runs the verb; nothing is left of it.
pub fn run(target: Target, scratch: &Path, skip: &[&str]) -> anyhow::Result<Report> {
    let before = std::fs::read_dir(scratch).unwrap().count();
    let options = Options { target, scratch: scratch.to_owned(), skip: skip.iter().map(|id| (*id).to_owned()).collect() };
    let report = lint::run(&options, &(Arc::new(Silent) as _));
    assert_eq!(std::fs::read_dir(scratch).unwrap().count(), before, "something was left");
    report
}

/// The ids of findings, each once.
pub fn ids(findings: &[Finding]) -> Vec<&'static str> {
    let mut ids: Vec<&str> = findings.iter().map(|finding| finding.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}
