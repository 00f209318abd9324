//! Each check of `selkie lint` has images that trigger it and images that do not; the clean image triggers none.

mod lint_common;
mod store_common;

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use lint_common::{Image, KERNEL, PROGRAM, cpio, ids, look, look_at_directory, run, signed, uki};
use selkie::error::FailureKind;
use selkie::lint::{CHECKS, Check, Severity};
use selkie::ops::lint::Target;
use selkie::store::{NodeKind, Store, Verity};
use store_common::{block, dir, failure, file, hardlink, symlink, tar};

/// What spoils the clean image.
type Spoil = fn(&mut Image);

/// Images that trigger a check, and only that one.
const TRIGGERS: &[(&str, Spoil)] = &[
    ("sparse-entries", |image| image.more_layers.push(sparse())),
    ("root-file-system", |image| image.more_layers.push(unknown_entry())),
    ("directories", |image| image.remove("proc")),
    ("directories", |image| {
        image.remove("run");
        image.put(symlink("run", "var/lib"));
    }),
    ("init", |image| image.remove("usr/lib/systemd/systemd")),
    ("kernel", |image| image.remove(&format!("{KERNEL}/vmlinuz"))),
    ("kernel", |image| image.write("usr/lib/modules/6.2/vmlinuz", "another")),
    ("kernel", |image| image.put(dir(format!("{KERNEL}/initramfs.img")))),
    ("initramfs", |image| image.write(&format!("{KERNEL}/initramfs.img"), "no archive")),
    ("initramfs", |image| image.write(&format!("{KERNEL}/initramfs.img"), "")),
    ("initramfs", |image| image.remove_from_initramfs(PROGRAM)),
    ("initramfs", |image| image.remove_from_initramfs("usr/lib/systemd/system/selkie-setup-root.service")),
    ("initramfs", |image| {
        image.remove_from_initramfs("etc/systemd/system/initrd-root-fs.target.requires/selkie-setup-root.service");
    }),
    ("initramfs", |image| {
        let whole = cpio(&image.initramfs);
        image.put(file(format!("{KERNEL}/initramfs.img"), &whole[..whole.len() - 200]));
    }),
    ("initramfs-modules", |image| image.remove_from_initramfs("lib/modules/6.1/kernel/fs/erofs/erofs.ko.xz")),
    ("initramfs-modules", |image| image.remove_from_initramfs("usr/lib/modules/6.1/kernel/fs/ext4/ext4.ko")),
    ("initramfs-modules", |image| image.remove_from_initramfs("usr/lib/modules/6.1/kernel/fs/jbd2/jbd2.ko")),
    ("initramfs-modules", |image| image.remove_from_initramfs("usr/lib/modules/6.1/modules.dep")),
    ("initramfs-modules", |image| image.remove(&format!("{KERNEL}/modules.builtin"))),
    ("initramfs-stale", |image| image.append(PROGRAM, "a new version")),
    ("boot-loader", |image| image.remove("usr/lib/systemd/boot/efi")),
    ("kargs", |image| image.write("usr/lib/bootc/kargs.d/10-x.toml", "kargs = \"quiet\"\n")),
    ("kargs", |image| image.write("usr/lib/bootc/kargs.d/10-x.toml", "kargs = []\nunknown = 1\n")),
    ("kargs", |image| image.put(file("usr/lib/bootc/kargs.d/10-x.toml", [0xff, 0xfe]))),
    ("configuration", |image| image.write("usr/lib/selkie/config.d/10-x.toml", "update.polcy = 'stage'\n")),
    ("configuration", |image| image.write("etc/selkie/config.d/10-x.toml", "update.window = '02:00-04:00 Nowhere/Town'\n")),
    ("configuration", |image| image.put(file("usr/lib/selkie/config.d/10-x.toml", [0xff, 0xfe]))),
    ("kargs", |image| image.put(dir("usr/lib/bootc/kargs.d/10-x.toml"))),
    ("uki-digest", |image| {
        image.seal();
        image.write("usr/changed-after-sealing", "x");
    }),
    ("uki-digest", |image| image.write("boot/EFI/Linux/selkie.efi", "MZ, and no more")),
    ("uki-digest", |image| image.put(file("boot/EFI/Linux/selkie.efi", signed(uki("composefs.digest=v1-sha256-12:abc"))))),
    ("uki-digest", |image| {
        image.seal();
        let other = format!("composefs.digest=v1-sha512-12:{}", "a".repeat(128));
        image.put(file("boot/EFI/Linux/selkie.efi", signed(uki(&other))));
    }),
    ("uki-digest", |image| {
        image.seal();
        let again = format!("composefs.digest=v1-sha256-12:{} quiet", image.boot_image());
        image.put(file("boot/EFI/Linux/two.efi", signed(uki(&again))));
    }),
    ("uki-digest", |image| {
        image.seal();
        let again = format!("composefs.digest=v1-sha256-12:{}", image.boot_image());
        image.put(file("boot/EFI/Linux/selkie.efi.extra.d/x.addon.efi", signed(uki(&again))));
    }),
    ("uki-verity", |image| {
        image.seal();
        let lax = format!("composefs.digest=?v1-sha256-12:{}", image.boot_image());
        image.put(file("boot/EFI/Linux/selkie.efi", signed(uki(&lax))));
    }),
    ("seal-annotations", |image| image.annotations = vec![("dev.selkie.recipe", "99".to_owned())]),
    ("seal-annotations", |image| {
        image.seal();
        image.annotations[1].1 = "sha256".to_owned();
    }),
    ("uki-unsigned", |image| {
        image.seal();
        let same = format!("composefs.digest=v1-sha256-12:{}", image.boot_image());
        image.put(file("boot/EFI/Linux/selkie.efi", uki(&same)));
    }),
    ("uki-foreign", |image| image.put(file("boot/EFI/Linux/debian.efi", signed(uki("root=/dev/vda"))))),
    ("machine-id", |image| image.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")),
    ("machine-id", |image| image.write("var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n")),
    ("machine-secrets", |image| image.write("var/lib/systemd/random-seed", "seed")),
    ("machine-secrets", |image| image.write("etc/ssl/private/ssl-cert-snakeoil.key", "key")),
    ("ssh-host-keys", |image| image.write("etc/ssh/ssh_host_ed25519_key", "key")),
    ("empty-password", |image| image.append("etc/shadow", "guest::19000::::::\n")),
    ("empty-password", |image| image.write("etc/passwd", "root::0:0::/root:/bin/sh\n")),
    ("world-writable", |image| image.put(file("etc/open.conf", "x").mode(0o666))),
    ("world-writable", |image| image.put(dir("var/lib/web").mode(0o777))),
    ("mount-points", |image| image.remove("sysroot")),
    ("os-release", |image| image.remove("usr/lib/os-release")),
    ("os-release", |image| image.write("usr/lib/os-release", "ID=debian\n")),
    ("os-release", |image| image.write("usr/lib/os-release", "VERSION_ID=13\n")),
    ("boot-loader-update", |image| {
        image.put(symlink(
            "etc/systemd/system/sysinit.target.wants/systemd-boot-update.service",
            "/usr/lib/systemd/system/systemd-boot-update.service",
        ));
    }),
    ("upgrade-programs", |image| image.remove("usr/bin/skopeo")),
    ("upgrade-programs", |image| image.remove("usr/bin/selkie")),
    ("state-links", |image| image.put(dir("home"))),
    ("usr-etc", |image| image.put(dir("usr/etc"))),
    ("var-run", |image| image.put(dir("var/run"))),
    ("var-run", |image| image.put(symlink("var/run", "lib"))),
    ("var-content", |image| image.put(dir("var/lib/nobody-makes-this"))),
    ("var-content", |image| image.write("var/lib/web/data", "data")),
    ("var-content", |image| image.put(dir("var/log/web"))),
    ("accounts", |image| image.append("etc/passwd", "daemon:x:1\n")),
    ("accounts", |image| image.append("etc/passwd", "root:x:0:0::/:/bin/sh\n")),
    ("accounts", |image| image.append("etc/group", "daemons:x:one:\n")),
    ("accounts", |image| image.put(file("etc/passwd", b"root:x:0:0::/:/bin/sh\nr\xff:x:1:0::/:/bin/sh\n"))),
    ("sysusers", |image| image.append("etc/passwd", "new:x:989:990::/:/sbin/nologin\n")),
    ("sysusers", |image| image.append("etc/group", "new:x:989:\n")),
    ("resolv-conf", |image| image.write("etc/resolv.conf", "")),
    ("resolv-conf", |image| image.write("etc/resolv.conf", "nameserver 10.0.2.3\n")),
    ("hostname", |image| image.write("etc/hostname", "build-7\n")),
    ("container-marker", |image| image.write(".dockerenv", "")),
    ("container-marker", |image| image.write("run/.containerenv", "engine=\"buildah\"\n")),
    ("volatile-content", |image| image.write("tmp/left", "x")),
    ("volatile-content", |image| image.write("dev/null", "x")),
    ("hidden-content", |image| image.write("boot/vmlinuz-6.1", "kernel")),
    ("hidden-content", |image| image.write("sysroot/ostree/file", "x")),
    ("package-cache", |image| image.write("var/lib/apt/lists/deb.debian.org_Packages", "list")),
    ("package-cache", |image| image.write("var/cache/dnf/x.solv", "x")),
    ("logs", |image| image.write("var/log/dpkg.log", "installed\n")),
    ("setuid", |image| image.put(file("usr/bin/mine", "x").mode(0o4755))),
    ("setuid", |image| image.put(file("usr/bin/mine", "x").mode(0o2755))),
    ("setuid", |image| image.put(file("usr/bin/mine", "x").mode(0o755).xattr("security.capability", &[1; 20]))),
    ("layer-waste", |image| {
        image.put(file("usr/large", vec![7; 2 << 20]));
        image.more_layers.push(tar(&[file("usr/.wh.large", "")]));
    }),
    ("layer-waste", |image| {
        image.put(file("usr/large", vec![7; 2 << 20]));
        image.more_layers.push(tar(&[file("usr/large", "small")]));
    }),
    ("rebuild-times", |image| image.put(file("usr/new", "x").mtime(1_717_243_000, 0))),
    ("rebuild-times", |image| image.created = Some("1970-01-01T00:00:00Z")),
    ("rebuild-caches", |image| image.write("var/cache/ldconfig/aux-cache", "x")),
    ("rebuild-caches", |image| image.put(file("usr/lib/python3/x.pyc", pyc(0)))),
];

/// Images that are near to triggering a check, and trigger none.
const NEAR_MISSES: &[(&str, Spoil)] = &[
    ("a kernel that has all modules built in", |image| {
        image.initramfs.retain(|(path, _)| !path.contains("modules"));
        image.write(
            &format!("{KERNEL}/modules.builtin"),
            "kernel/fs/erofs/erofs.ko\nkernel/fs/overlayfs/overlay.ko\nkernel/fs/ext4/ext4.ko\n",
        );
    }),
    ("an initramfs behind microcode", |image| {
        let early = cpio(&[("kernel/x86/microcode/GenuineIntel.bin".to_owned(), vec![1; 700])]);
        let whole = [early, vec![0; 512], cpio(&image.initramfs)].concat();
        image.put(file(format!("{KERNEL}/initramfs.img"), whole));
    }),
    ("kernel arguments", |image| {
        image.write("usr/lib/bootc/kargs.d/10-x.toml", "kargs = [\"console=ttyS0\"]\nmatch-architectures = [\"x86_64\"]\n");
        image.write("usr/lib/bootc/kargs.d/README", "not read");
    }),
    ("configuration", |image| {
        image.write(
            "usr/lib/selkie/config.d/10-x.toml",
            "update.policy = 'apply'\nupdate.window = ['Sun 02:00-04:00 Europe/Berlin', '01:00-02:00']\n",
        );
        image.write("usr/lib/selkie/config.d/README", "not read");
    }),
    ("a sealed image", Image::seal),
    ("a sealed image without annotations", |image| {
        image.seal();
        image.annotations.clear();
    }),
    ("a layer that repeats files", |image| {
        image.put(file("usr/large", vec![7; 2 << 20]));
        image.more_layers.push(tar(&[file("usr/large", vec![7; 2 << 20])]));
    }),
    ("an empty machine id", |image| image.write("etc/machine-id", "")),
    ("a machine id that is the other", |image| image.put(symlink("var/lib/dbus/machine-id", "/etc/machine-id"))),
    ("an empty seed", |image| image.write("var/lib/systemd/random-seed", "")),
    ("public keys", |image| image.write("etc/ssh/ssh_host_ed25519_key.pub", "key")),
    ("a locked password", |image| image.append("etc/shadow", "guest:!:19000::::::\n")),
    ("a writable file in /usr", |image| image.put(file("usr/open", "x").mode(0o666))),
    ("the version of the image", |image| image.write("usr/lib/os-release", "ID=debian\nIMAGE_VERSION=7\n")),
    ("/home is a partition", |image| {
        image.put(dir("home"));
        image.write("etc/fstab", "# /root x\nLABEL=home /home ext4 defaults 0 2\n");
    }),
    ("/root is a mount unit", |image| {
        image.put(dir("root"));
        image.write("usr/lib/systemd/system/root.mount", "[Mount]\n");
    }),
    ("no /var/run", |image| image.remove("var/run")),
    ("what tmpfiles.d copies", |image| {
        image.write("var/lib/web/data/deep", "data");
        image.append("usr/lib/tmpfiles.d/web.conf", "C /var/lib/web/data - - - - /usr/share/web\n");
    }),
    ("what package managers keep", |image| image.write("var/lib/dpkg/status", "Package: x\n")),
    ("ids of the distribution", |image| {
        image.append("etc/passwd", "daemon:x:1:1::/:/sbin/nologin\nnobody:x:65534:65534::/:/sbin/nologin\n")
    }),
    ("a user that joins a group", |image| {
        image.append("usr/lib/sysusers.d/web.conf", "m www adm2\n");
        image.append("etc/group", "adm2:x:988:\n");
    }),
    ("lines of NIS", |image| image.append("etc/passwd", "+::::::\n")),
    ("a resolv.conf that the machine replaces", |image| {
        image.write("etc/resolv.conf", "");
        image.append("usr/lib/tmpfiles.d/web.conf", "L+! /etc/resolv.conf - - - - ../run/x\n");
    }),
    ("an empty host name", |image| image.write("etc/hostname", "\n")),
    ("the stub that builders write to", |image| image.write("run/systemd/resolve/stub-resolv.conf", "nameserver 10.0.2.3\n")),
    ("an empty file and a link in /run", |image| {
        image.write("run/mounted-on", "");
        image.put(symlink("run/shm", "/dev/shm"));
    }),
    ("links in /dev", |image| image.put(symlink("dev/fd", "/proc/self/fd"))),
    ("an empty lock", |image| image.write("var/lib/apt/lists/lock", "")),
    ("an empty log", |image| image.write("var/log/btmp", "")),
    ("su", |image| image.put(file("usr/bin/su", "x").mode(0o4755))),
    ("a directory that hands down its group", |image| image.put(dir("usr/share").mode(0o2755))),
    ("Python that is not checked by time", |image| image.put(file("usr/lib/python3/x.pyc", pyc(3)))),
    ("an image that does not say when it was made", |image| image.created = None),
    ("hard links", |image| image.put(hardlink("usr/bin/skopeo2", "usr/bin/skopeo"))),
];

#[test]
fn the_clean_image_triggers_nothing() {
    let report = look(&Image::clean(), &[]).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.complete && report.counts.pass(true));
    let [layer] = &report.layers[..] else { panic!("{:?}", report.layers) };
    assert_eq!((layer.uncompressed, layer.created_by.as_deref()), (Some(layer.size), Some("COPY rootfs/ /")));
}

#[test]
fn what_spoils_an_image_is_found_and_nothing_else() {
    for (number, (id, spoil)) in TRIGGERS.iter().enumerate() {
        let mut image = Image::clean();
        spoil(&mut image);
        let report = look(&image, &[]).unwrap_or_else(|e| panic!("{number}: {id}: {e:#}"));
        assert_eq!(ids(&report.findings), [*id], "{number}: {:#?}", report.findings);
        let check = CHECKS.iter().find(|check| check.id == *id).unwrap();
        for finding in &report.findings {
            assert_eq!(finding.severity, check.severity);
            assert!(!finding.what.is_empty() && !finding.mend.is_empty() && !finding.what.contains('\n'), "{finding:?}");
            assert!(finding.paths.iter().all(|path| path.starts_with('/')), "{finding:?}");
        }
        assert_eq!(report.counts.pass(false), check.severity != Severity::Error, "{id}");
        assert_eq!(report.counts.pass(true), check.severity == Severity::Info, "{id}");
    }
}

#[test]
fn every_check_has_an_image_that_triggers_it() {
    let mut known: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    for id in &known {
        assert!(TRIGGERS.iter().any(|(row, _)| row == id), "{id} has no row");
        assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{id}");
    }
    known.sort_unstable();
    let count = known.len();
    known.dedup();
    assert_eq!(known.len(), count, "an id is there twice");
}

#[test]
fn the_documentation_has_the_table() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lint.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let row = |check: &Check| format!("| `{}` | {} | {} | {} |", check.id, check.severity, check.about, check.mend);
    assert_eq!(rows, CHECKS.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn near_misses_trigger_nothing() {
    for (name, spoil) in NEAR_MISSES {
        let mut image = Image::clean();
        spoil(&mut image);
        let report = look(&image, &[]).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(report.findings, [], "{name}");
    }
}

#[test]
fn a_directory_is_looked_at_as_an_image_is() {
    let report = look_at_directory(&Image::clean()).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.layers.is_empty());
    for (id, spoil) in TRIGGERS {
        let mut image = Image::clean();
        spoil(&mut image);
        // A directory has no layers and no digest, and nobody knows when it was made.
        let of_image =
            ["rebuild-", "uki-digest", "seal-annotations"].iter().any(|start| id.starts_with(start)) || !image.more_layers.is_empty();
        let plain = image.entries.iter().all(|entry| entry.xattrs.is_empty());
        if plain && !of_image {
            let report = look_at_directory(&image).unwrap();
            assert_eq!(ids(&report.findings), [*id], "{:#?}", report.findings);
        }
    }
}

#[test]
fn a_directory_may_have_anything_in_it() {
    let temp = store_common::temporary();
    let root = temp.path().join("root");
    Image::clean().unpack(&root);
    std::fs::hard_link(root.join("usr/bin/skopeo"), root.join("usr/bin/again")).unwrap();
    std::fs::write(root.join(OsStr::from_bytes(b"usr/\xff")), "x".repeat(100)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("usr/socket")).unwrap();
    // Nobody writes to it: opening it would wait for ever.
    let fifo = CString::new(root.join("usr/fifo").as_os_str().as_bytes()).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644), 0).unwrap();
    let parent = selkie::sys::dir::open_path(temp.path()).unwrap();
    let store = Store::open_or_init(parent, "repository", None, Verity::Never).unwrap();
    let read = store.read_directory(selkie::sys::dir::open_path(&root).unwrap()).unwrap();
    assert_eq!(read.mounts, [""; 0].map(std::path::PathBuf::from));
    let node = |path: &[u8]| read.tree.get_link(OsStr::from_bytes(path)).unwrap().unwrap();
    assert_eq!((node(b"/usr/bin/skopeo").inode, node(b"/usr/bin/skopeo").links), (node(b"/usr/bin/again").inode, 2));
    assert!(matches!(node(b"/usr/fifo").kind, NodeKind::Fifo) && matches!(node(b"/usr/socket").kind, NodeKind::Socket));
    let NodeKind::File(long) = node(b"/usr/\xff").kind else { panic!() };
    assert_eq!(read.tree.read(&long).unwrap(), [b'x'; 100]);
    assert!(matches!(node(b"/home").kind, NodeKind::Symlink(target) if target == "var/home"));
}

#[test]
fn a_skipped_check_is_not_made_and_an_unknown_one_is_refused() {
    let mut image = Image::clean();
    image.write("etc/hostname", "build-7\n");
    assert_eq!(look(&image, &["hostname"]).unwrap().findings, []);
    let refused = failure(&look(&image, &["host-name"]).unwrap_err());
    assert_eq!(refused.kind, FailureKind::Usage);
    assert!(CHECKS.iter().all(|check| refused.message.contains(check.id)), "{refused}");
}

#[test]
fn what_cannot_be_read_at_all_is_an_error() {
    let temp = store_common::temporary();
    let missing = Target::Rootfs(temp.path().join("missing"));
    assert_eq!(failure(&run(missing, temp.path(), &[]).unwrap_err()).kind, FailureKind::NotFound);
    let image = format!("oci:{}", temp.path().join("missing").display()).parse().unwrap();
    let missing = Target::Image { image, source: selkie::image::SourceOptions::default() };
    assert_eq!(failure(&run(missing, temp.path(), &[]).unwrap_err()).kind, FailureKind::NotFound);
}

#[test]
fn an_image_that_is_no_system_gets_a_whole_report() {
    let mut image = Image::clean();
    image.remove("usr");
    let report = look(&image, &[]).unwrap();
    let found = ids(&report.findings);
    for id in ["directories", "init", "kernel", "os-release", "boot-loader"] {
        assert!(found.contains(&id), "{id}: {found:?}");
    }
}

#[test]
fn links_in_circles_and_foreign_bytes_are_findings() {
    let mut image = Image::clean();
    image.put(symlink("etc/passwd", "shadow"));
    image.put(symlink("etc/shadow", "passwd"));
    image.put(symlink("usr/lib/tmpfiles.d/x.conf", "x.conf"));
    image.put(file(b"etc/\xff\xfe", "x"));
    image.put(file("usr/lib/tmpfiles.d/web.conf", b"d /var/home\nd /var/roothome\nd /var/lib/web\nd \"\xff\n\\\n%\n"));
    image.put(file("usr/lib/sysusers.d/web.conf", b"u web\nu \xff\n\"\n"));
    let report = look(&image, &[]).unwrap();
    let found = ids(&report.findings);
    for id in ["accounts", "sysusers", "empty-password", "var-content"] {
        assert!(found.contains(&id), "{id}: {:#?}", report.findings);
    }
}

/// A layer with a sparse file of the old GNU format.
fn sparse() -> Vec<u8> {
    let mut layer = Vec::new();
    block(&mut layer, b'S', b"x", b"", b"", 0o644, (0, 0), 0, (0, 0));
    layer[257..265].copy_from_slice(b"ustar  \0");
    layer[386..482].fill(0);
    layer[483..495].copy_from_slice(b"00000001000\0");
    layer[148..156].fill(b' ');
    let sum: u32 = layer[..512].iter().map(|byte| u32::from(*byte)).sum();
    layer[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    [layer, tar(&[])].concat()
}

/// A layer with an entry of a type that no file system has.
fn unknown_entry() -> Vec<u8> {
    let mut layer = Vec::new();
    block(&mut layer, b'V', b"volume", b"", b"", 0o644, (0, 0), 0, (0, 0));
    [layer, tar(&[])].concat()
}

/// Compiled Python with these flags, of a source of the day on which the clean image was made.
fn pyc(flags: u32) -> Vec<u8> {
    [&[0xcb, 0x0d, 0x0d, 0x0a], &flags.to_le_bytes()[..], &1_717_243_000_u32.to_le_bytes(), &[0; 8]].concat()
}
