//! Small images in OCI layout. The files are tiny; the formats are real.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use ocidir::cap_std::fs::Dir;
use ocidir::oci_spec::image::{
    Arch, ConfigBuilder, ImageConfigurationBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder,
};
use ocidir::{OciDir, cap_std::ambient_authority};

/// A path and what is there.
pub type Files = Vec<(String, What)>;

/// What is at a path.
pub enum What {
    Directory,
    File(Vec<u8>),
    Fifo,
    /// Major and minor number of a character device.
    Device(u32, u32),
}

/// The files of an image that boots. `version` is in os-release, in `/usr/version` and in the kernel, so that two versions differ.
pub fn bootable(version: &str) -> Files {
    let directories = [
        "boot",
        "dev",
        "etc",
        "proc",
        "run",
        "sys",
        "sysroot",
        "tmp",
        "usr",
        "usr/lib",
        "usr/lib/modules",
        "usr/lib/modules/6.1",
        "usr/lib/systemd",
        "usr/lib/systemd/boot",
        "usr/lib/systemd/boot/efi",
        "var",
        "var/lib",
    ];
    let os_release = format!("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux {version}\"\nVERSION_ID={version}\n");
    let loader = format!("usr/lib/systemd/boot/efi/systemd-boot{}.efi", if cfg!(target_arch = "aarch64") { "aa64" } else { "x64" });
    let files = [
        ("usr/lib/modules/6.1/vmlinuz", format!("kernel {version} {}", "k".repeat(5000))),
        ("usr/lib/modules/6.1/initramfs.img", format!("initramfs {}", "i".repeat(9000))),
        ("usr/lib/os-release", os_release),
        ("usr/lib/systemd/systemd", "init".to_owned()),
        (&loader, "boot loader ".repeat(100)),
        ("usr/version", version.to_owned()),
        ("etc/hostname", "selkie\n".to_owned()),
        ("var/lib/seed", "seed\n".to_owned()),
    ];
    let directories = directories.map(|d| (d.to_owned(), What::Directory));
    directories.into_iter().chain(files.map(|(path, text)| (path.to_owned(), What::File(text.into_bytes())))).collect()
}

/// The same without some paths.
pub fn without(files: Files, gone: &[&str]) -> Files {
    files.into_iter().filter(|(path, _)| !gone.iter().any(|g| path == g || path.starts_with(&format!("{g}/")))).collect()
}

/// The same with one more file.
pub fn with(files: Files, path: &str, content: &str) -> Files {
    with_other(files, path, What::File(content.as_bytes().to_vec()))
}

/// The same with one more of anything.
pub fn with_other(mut files: Files, path: &str, what: What) -> Files {
    files.push((path.to_owned(), what));
    files
}

/// Writes an image of one gzip layer into the layout at `dir` under `tag`, replacing what the tag named.
pub fn write(dir: &Path, tag: &str, files: &Files) {
    write_annotated(dir, tag, files, &[]);
}

/// The same with annotations of the manifest.
pub fn write_annotated(dir: &Path, tag: &str, files: &Files, annotations: &[(&str, String)]) {
    std::fs::create_dir_all(dir).unwrap();
    let oci = OciDir::ensure(Dir::open_ambient_dir(dir, ambient_authority()).unwrap()).unwrap();
    let mut blob = oci.create_gzip_layer(None).unwrap();
    blob.write_all(&tarball(files)).unwrap();
    let layer = blob.complete().unwrap();
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(vec![layer.uncompressed_sha256_as_digest().to_string()]).build().unwrap();
    let config = ImageConfigurationBuilder::default()
        .architecture(Arch::default())
        .os(Os::Linux)
        .rootfs(rootfs)
        .config(ConfigBuilder::default().build().unwrap())
        .build()
        .unwrap();
    let config = oci.write_config(config).unwrap();
    let layer = layer.blob.descriptor().media_type(MediaType::ImageLayerGzip).build().unwrap();
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(vec![layer])
        .annotations(annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect::<HashMap<_, _>>())
        .build()
        .unwrap();
    let platform = PlatformBuilder::default().architecture(Arch::default()).os(Os::Linux).build().unwrap();
    oci.insert_manifest(manifest, Some(tag), platform).unwrap();
}

fn tarball(files: &Files) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let (kind, mode, bytes) = match content {
            What::Directory => (tar::EntryType::Directory, 0o755, [].as_slice()),
            What::File(bytes) => (tar::EntryType::Regular, 0o644, bytes.as_slice()),
            What::Fifo => (tar::EntryType::Fifo, 0o620, [].as_slice()),
            What::Device(major, minor) => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                (tar::EntryType::Char, 0o640, [].as_slice())
            }
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    }
    tar.into_inner().unwrap()
}
