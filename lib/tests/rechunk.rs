//! `rechunk`: the same root in other layers, read by zstd, tar and skopeo as well.

mod rechunk_common;
#[path = "common/registry.rs"]
mod registry;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rechunk_common::oci::{flip, noise, plain_http};
use rechunk_common::{Desk, PACKAGES, Tar, block_on, listed, root, silent};
use registry::{Registry, copy};
use selkie::error::{Failure, FailureKind};
use selkie::image::{Receiver, Source, Wanted, Way};
use selkie::ops::rechunk::{Options, Report};
use selkie::ops::seal::BOOT_IMAGE;
use selkie::progress::Silent;
use selkie::store::{NodeKind, Tree};
use tar::EntryType;

/// When images are built; packages are older.
const MONDAY: u64 = 1_700_086_400;
const TUESDAY: u64 = MONDAY + 86_400;

/// A second layer as a Containerfile's would be: a file more, one changed, one removed, a directory emptied.
fn upper() -> Vec<u8> {
    Tar::new()
        .file("usr/lib/os-release", b"ID=debian\nPRETTY_NAME=\"Debian, derived\"\n")
        .file("usr/lib/.wh.perl", b"")
        .file("usr/lib/zlib/.wh..wh..opq", b"")
        .directories(&["srv"], 5)
        .file("srv/app", b"app")
        .bytes()
}

/// Everything that is odd about files, in one layer.
fn odd() -> Vec<u8> {
    let mut device = Tar::header(EntryType::Char, 0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    let mut special = Tar::header(EntryType::Regular, 3);
    special.set_mode(0o6711);
    special.set_uid(1234);
    special.set_gid(5678);
    special.set_mtime(0);
    let long = format!("usr/{}/{}", "d".repeat(200), "f".repeat(250));
    let mut latin = Tar::header(EntryType::Fifo, 0);
    latin.as_old_mut().name[..12].copy_from_slice(b"usr/lib/\xe9t\xe9\n");
    latin.set_cksum();
    root(&PACKAGES, TUESDAY)
        .entry("dev/null", device, b"")
        .entry("usr/bin/special", special, b"abc")
        .file(&long, b"long")
        .link(EntryType::Symlink, "usr/lib/long-link", &long)
        .file("usr/lib/empty", b"")
        .file("usr/lib/zeros", &vec![0; 5 << 20])
        .link(EntryType::Link, "var/hard", "usr/bin/bash")
        .link(EntryType::Link, "etc/hard", "usr/bin/bash")
        .pax(&[
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\0\n\0"),
            ("SCHILY.xattr.user.\u{e9}", b""),
            ("mtime", b"1700000000.25"),
        ])
        .file("usr/bin/ping", b"ping")
        .pax(&[("SCHILY.xattr.user.dir", b"on a directory")])
        .directories(&["usr/lib/xattrs"], 3)
        .file("usr/lib/xattrs/a b\u{2603}\n", b"odd")
        .raw(&latin)
        .file("run/left", b"left")
        .bytes()
}

fn same(desk: &Desk, tag: &str) {
    let (before, after) = (desk.digests(&desk.original(tag)), desk.digests(&desk.new_reference(tag)));
    assert_eq!((before.image, before.boot_image), (after.image, after.boot_image));
    let (before, after) = (listed(&desk.tree(&desk.original(tag))), listed(&desk.tree(&desk.new_reference(tag))));
    for (path, node) in &before {
        // Of the root itself everything but the time of a root that no layer has is kept.
        assert_eq!(after.get(path), Some(node), "{}", path.display());
    }
    assert_eq!(before.len(), after.len());
}

#[test]
fn the_root_is_the_same_and_so_is_all_that_is_said_of_it() {
    let mut desk = Desk::new();
    desk.image("v1", vec![root(&PACKAGES, MONDAY).bytes(), upper()]);
    let report = desk.rechunk(&desk.options("v1")).unwrap();
    same(&desk, "v1");
    let (before, after) = block_on(async {
        let open = async |reference: String| Source::open(&reference.parse().unwrap(), &plain_http(), &Silent).await.unwrap();
        (open(desk.original("v1")).await, open(desk.new_reference("v1")).await)
    });
    let (before, after) = (before.resolved(), after.resolved());
    assert_eq!((&report.manifest_digest, &report.config_digest), (&after.manifest_digest, &after.config_digest));
    assert_eq!(after.annotation("example.kept").as_deref(), Some("yes"));
    assert_eq!(after.label("org.opencontainers.image.version").as_deref(), Some("1"));
    assert_eq!((report.layers_before, report.layers.len()), (2, after.layers.len()));
    let of = |layer: &selkie::image::Layer| (layer.digest.clone(), layer.diff_id.clone(), layer.size);
    assert!(report.layers.iter().map(|l| (l.digest.clone(), l.diff_id.clone(), l.size)).eq(after.layers.iter().map(of)));
    assert!(report.layers.iter().all(|layer| layer.chunked && layer.entries > 0));
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let (config, old) = (json(&after.config), json(&before.config));
    for key in ["architecture", "os", "config", "created"] {
        assert_eq!(config.get(key), old.get(key), "{key}");
    }
    let history: Vec<&str> = config["history"].as_array().unwrap().iter().map(|entry| entry["comment"].as_str().unwrap()).collect();
    assert!(history.iter().eq(report.layers.iter().map(|layer| &layer.group)));
    assert!(history.contains(&"file /usr/lib/modules/6.1/vmlinuz") && history.last() == Some(&"directories"), "{history:?}");
    assert!(history.iter().any(|group| group.starts_with("packages, part ")), "{history:?}");
}

#[test]
fn whatever_is_odd_stays_as_it_is() {
    let mut desk = Desk::new();
    desk.image("v1", vec![odd()]);
    let report = desk.rechunk(&desk.options("v1")).unwrap();
    same(&desk, "v1");
    // One layer has a name that no table of contents can tell.
    assert_eq!(report.layers.iter().filter(|layer| !layer.chunked).count(), 1);
    read_by_others(&desk, &report);
}

fn blobs(report: &Report) -> BTreeSet<String> {
    report.layers.iter().map(|layer| layer.digest.clone()).collect()
}

#[test]
fn an_update_of_one_package_leaves_the_layers_of_the_others() {
    let mut desk = Desk::new();
    desk.image("v1", vec![root(&PACKAGES, MONDAY).bytes()]);
    let mut packages = PACKAGES;
    packages[1].1 = 2;
    desk.image("v2", vec![root(&packages, TUESDAY).bytes()]);
    let (one, two) = (desk.rechunk(&desk.options("v1")).unwrap(), desk.rechunk(&desk.options("v2")).unwrap());
    let (before, changed) = (blobs(&one), |layer: &&selkie::ops::rechunk::Layer| !blobs(&one).contains(&layer.digest));
    let changed: Vec<&str> = two.layers.iter().filter(changed).map(|layer| layer.group.as_str()).collect();
    assert!(changed[0].starts_with("packages, part "), "{changed:?}");
    let rest = ["files of no package below /", "files of no package below /usr", "files of no package below /var", "directories"];
    assert_eq!(changed[1..], rest);
    assert_eq!((two.layers.len(), before.len()), (one.layers.len(), one.layers.len()));
    // Only what is new was written.
    let new: u64 = two.layers.iter().filter(|layer| !before.contains(&layer.digest)).map(|layer| layer.size).sum();
    assert!(two.bytes_written < new + 20_000 && two.bytes_written < two.size / 3, "{} of {}", two.bytes_written, two.size);
}

#[test]
fn the_packages_of_apk_are_apart_as_well() {
    let mut desk = Desk::new();
    let mut built = |tag: &str, musl: &[u8], mtime: u64| {
        let database = "P:musl\nV:1\no:musl\nF:usr/lib\nR:libc.so\n\nP:ssl_client\nV:1\no:busybox\nF:usr/bin\nR:ssl_client\n\n\
                        P:busybox\nV:1\no:busybox\nF:bin\nR:busybox\n\n";
        let tar = Tar::new()
            .directories(&["etc", "usr", "usr/bin", "usr/lib", "usr/lib/apk", "usr/lib/apk/db"], mtime)
            .link_at("bin", "usr/bin", mtime)
            .file("usr/lib/libc.so", musl)
            .file("usr/bin/ssl_client", &noise(3000))
            .file("usr/bin/busybox", &noise(2000))
            .file_at("usr/lib/apk/db/installed", database.as_bytes(), mtime);
        desk.image(tag, vec![tar.bytes()]);
        desk.rechunk(&desk.options(tag)).unwrap()
    };
    let (one, two) = (built("v1", b"1", MONDAY), built("v2", b"22", TUESDAY));
    let packages = |report: &Report| -> Vec<(u64, String)> {
        let of_packages = report.layers.iter().filter(|layer| layer.group.starts_with("packages, part "));
        of_packages.map(|layer| (layer.entries, layer.digest.clone())).collect()
    };
    let (one, two) = (packages(&one), packages(&two));
    assert_eq!(one.iter().map(|(entries, _)| entries).sum::<u64>(), 3);
    let shared: Vec<_> = one.iter().filter(|layer| two.contains(layer)).collect();
    assert!(one.len() == 2 && shared.len() == 1 && shared[0].0 == 2, "{one:?} {two:?}");
}

#[test]
fn the_same_image_gives_the_same_bytes() {
    let mut desk = Desk::new();
    desk.image("v1", vec![root(&PACKAGES, MONDAY).bytes()]);
    // The same root in other layers.
    desk.image("v2", vec![root(&PACKAGES[..2], 9).bytes(), root(&PACKAGES, MONDAY).bytes()]);
    let (one, two) = (desk.rechunk(&desk.options("v1")).unwrap(), desk.rechunk(&desk.options("v2")).unwrap());
    assert_eq!((&one.manifest_digest, blobs(&one)), (&two.manifest_digest, blobs(&two)));
    let again = Options {
        image: desk.new_reference("v1").parse().unwrap(),
        output: desk.new_reference("again").parse().unwrap(),
        ..desk.options("v1")
    };
    let again = desk.rechunk(&again).unwrap();
    assert_eq!(again.manifest_digest, one.manifest_digest);
    let fewer = Options { layers: 16, ..desk.options("v1") };
    assert!(desk.rechunk(&fewer).unwrap().layers.len() <= 16);
}

/// zstd gives tars of the digests that the configuration has, tar reads them, and skopeo copies the image without a change.
fn read_by_others(desk: &Desk, report: &Report) {
    for layer in &report.layers {
        let blob = desk.path("out/blobs").join(layer.digest.replace(':', "/"));
        let tar = Command::new("zstd").args(["-d", "-q", "-c"]).arg(&blob).output().unwrap();
        assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
        assert_eq!(format!("sha256:{}", hex(&tar.stdout)), layer.diff_id, "{}", layer.group);
        let file = desk.path("layer.tar");
        std::fs::write(&file, &tar.stdout).unwrap();
        let list = Command::new("tar").args(["-t", "-v", "-f"]).arg(&file).output().unwrap();
        assert!(list.status.success(), "{}: {}", layer.group, String::from_utf8_lossy(&list.stderr));
        let lines = String::from_utf8_lossy(&list.stdout).lines().count() as u64;
        assert!(lines >= layer.entries, "{}", layer.group);
    }
    let copied = desk.path("copied");
    copy(&["--preserve-digests"], &desk.new_reference("v1"), &format!("dir:{}", copied.display()));
    let manifest = std::fs::read(copied.join("manifest.json")).unwrap();
    assert_eq!(format!("sha256:{}", hex(&manifest)), report.manifest_digest);
}

fn hex(bytes: &[u8]) -> String {
    openssl::sha::sha256(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares what it is given with the files of a tree.
struct Check {
    files: Vec<Vec<u8>>,
    now: (usize, Vec<u8>),
    right: usize,
}

impl Receiver for Check {
    fn start(&mut self, file: usize) -> Result<()> {
        self.now = (file, Vec::new());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.now.1.extend(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<bool> {
        let right = self.now.1 == self.files[self.now.0];
        self.right += usize::from(right);
        Ok(right)
    }
}

/// Files of a tree: one name of each, and what is in it.
fn files(tree: &Tree) -> Vec<(PathBuf, Vec<u8>)> {
    let first = listed(tree).into_iter().filter(|(path, (_, first))| path == first);
    let file = |(path, (node, _)): (PathBuf, (selkie::store::Node, PathBuf))| match node.kind {
        NodeKind::File(file) => Some((path, tree.read(&file).unwrap())),
        _ => None,
    };
    first.filter_map(file).collect()
}

#[test]
fn every_file_can_be_fetched_by_itself_also_from_a_registry() {
    let registry = Registry::start();
    let mut desk = Desk::new();
    desk.image("v1", vec![root(&PACKAGES, MONDAY).file("usr/large", &[noise(3 << 20), vec![0; 5 << 20]].concat()).bytes()]);
    let output = format!("docker://{}", registry.name("acme/os:v1"));
    let report = desk.rechunk(&Options { output: output.parse().unwrap(), ..desk.options("v1") }).unwrap();
    assert_eq!(registry.tag("acme/os", "v1"), report.manifest_digest);
    let files = files(&desk.tree(&desk.original("v1")));
    block_on(async {
        let source = Source::open(&output.parse().unwrap(), &plain_http(), &Silent).await.unwrap();
        let mut found = 0;
        for index in 0..report.layers.len() {
            for (path, content) in &files {
                let wanted = [Wanted { path: path.clone(), size: content.len() as u64 }];
                let check = Check { files: vec![content.clone()], now: (0, vec![]), right: 0 };
                let (check, fetched) = source.fetch_files(index, &wanted, check, silent()).await.unwrap();
                found += usize::from(check.right == 1 && fetched.way == Way::Ranges);
            }
        }
        assert_eq!(found, files.len());
        source.close().await.unwrap();
    });
}

#[test]
fn the_storage_of_podman_takes_it() {
    let mut desk = Desk::new();
    desk.image("v1", vec![root(&PACKAGES, MONDAY).bytes(), upper()]);
    let report = desk.rechunk(&desk.options("v1")).unwrap();
    let storage = format!("containers-storage:[vfs@{}+{}]localhost/os:v1", desk.path("storage").display(), desk.path("run").display());
    copy(&[], &desk.new_reference("v1"), &storage);
    let digests = desk.digests(&storage);
    assert_eq!((digests.image, digests.boot_image), (report.image, report.boot_image));
}

fn refused(desk: &Desk, options: &Options) -> Failure {
    Failure::find(&desk.rechunk(options).unwrap_err()).unwrap()
}

#[test]
fn what_cannot_be_done_is_refused_and_nothing_is_published() {
    let mut desk = Desk::new();
    desk.image("v1", vec![root(&PACKAGES, MONDAY).bytes()]);
    let good = desk.options("v1");
    for layers in [0, 15, 111] {
        assert_eq!(refused(&desk, &Options { layers, ..good.clone() }).kind, FailureKind::Usage);
    }
    let digest = format!("docker://r.io/os@sha256:{}", "0".repeat(64));
    assert_eq!(refused(&desk, &Options { output: digest.parse().unwrap(), ..good.clone() }).kind, FailureKind::Usage);
    // What names a root that the layers do not give: an image that was derived from a sealed one.
    let image = desk.layout.image("amd64", &[(rechunk_common::oci::Compression::Gzip, root(&PACKAGES, MONDAY).bytes())]);
    let stale = format!("v1-sha256-12:{}", "0".repeat(64));
    let image = desk.layout.annotated(&image, &[(BOOT_IMAGE, &stale)]);
    desk.layout.publish(Some("stale"), &image);
    let failure = refused(&desk, &desk.options("stale"));
    assert!(failure.kind == FailureKind::Unsuitable && failure.message.contains("the seal of the image"), "{failure}");
    // A layer that is damaged.
    let layer = block_on(async { Source::open(&good.image, &plain_http(), &Silent).await.unwrap().resolved().layers[0].digest.clone() });
    flip(&desk.layout.blob(&layer));
    assert_eq!(refused(&desk, &good).kind, FailureKind::Corrupt);
    assert!(!Path::new(&desk.path("out")).exists());
}

#[test]
fn what_names_its_own_root_is_kept() {
    let mut desk = Desk::new();
    desk.image("plain", vec![root(&PACKAGES, MONDAY).bytes()]);
    let boot_image = format!("v1-sha256-12:{}", desk.digests(&desk.original("plain")).boot_image);
    let image = desk.layout.image("amd64", &[(rechunk_common::oci::Compression::Zstd, root(&PACKAGES, MONDAY).bytes())]);
    let image = desk.layout.annotated(&image, &[(BOOT_IMAGE, &boot_image)]);
    desk.layout.publish(Some("v1"), &image);
    desk.rechunk(&desk.options("v1")).unwrap();
    let source = block_on(Source::open(&desk.new_reference("v1").parse().unwrap(), &plain_http(), &Silent)).unwrap();
    assert_eq!(source.resolved().annotation(BOOT_IMAGE), Some(boot_image));
}
