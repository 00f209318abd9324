//! The life of a repository: made, completed, refused, tagged, swept, damaged.

mod store_common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use selkie::error::{Failure, FailureKind};
use selkie::image_id::Algorithm;
use selkie::progress::Silent;
use selkie::store::{AllBytes, Content, NodeKind, Store, Verity, kernel, os_release, require_bootable_layout, systemd_boot};
use store_common::{tar, *};

fn open(temp: &tempfile::TempDir, algorithm: Option<Algorithm>, verity: Verity) -> anyhow::Result<Store> {
    Store::open_or_init(selkie::sys::dir::open_path(temp.path()).unwrap(), "repository", algorithm, verity)
}

fn kind<T>(result: anyhow::Result<T>) -> Option<FailureKind> {
    result.err().map(|error| Failure::find(&error).unwrap_or_else(|| panic!("not a failure: {error:#}")).kind)
}

fn os(version: &str) -> Vec<Vec<u8>> {
    let first = vec![dir("usr"), dir("usr/lib"), file("usr/lib/shared", [9; 300])];
    vec![tar(&first), tar(&[file("usr/lib/version", version.repeat(100))])]
}

#[test]
fn a_new_repository_is_sha256_and_private() {
    let temp = temporary();
    let store = open(&temp, None, Verity::IfPossible).unwrap();
    assert_eq!(store.algorithm(), Algorithm::Sha256);
    let path = temp.path().join("repository");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(path.join("meta.json")).unwrap()).unwrap();
    assert_eq!((meta["algorithm"].as_str(), &meta["erofs_formats"]["default"]), (Some("fsverity-sha256-12"), &serde_json::json!(1)));
    assert_eq!(meta["erofs_formats"].get("extra").and_then(|extra| extra.as_array()).map_or(0, Vec::len), 0);
}

#[test]
fn the_algorithm_stays() {
    let temp = temporary();
    drop(open(&temp, Some(Algorithm::Sha512), Verity::IfPossible).unwrap());
    assert_eq!(open(&temp, None, Verity::IfPossible).unwrap().algorithm(), Algorithm::Sha512);
    assert_eq!(open(&temp, Some(Algorithm::Sha512), Verity::IfPossible).unwrap().algorithm(), Algorithm::Sha512);
    assert_eq!(kind(open(&temp, Some(Algorithm::Sha256), Verity::IfPossible)), Some(FailureKind::StoreMismatch));
}

#[test]
fn an_initialisation_that_was_cut_is_completed() {
    let temp = temporary();
    let path = temp.path().join("repository");
    std::fs::create_dir(&path).unwrap();
    assert_eq!(kind(Store::open(selkie::sys::dir::open_path(temp.path()).unwrap(), "repository")), Some(FailureKind::NotFound));
    open(&temp, None, Verity::IfPossible).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o700);
}

/// Where the index says that it does not know an object, nobody looks whether it is here, until it is to get its name.
#[test]
fn objects_that_the_index_does_not_know_are_reused() {
    let shared = || file("usr/shared", [9; 300]);
    let layers =
        [vec![shared()], vec![shared(), file("usr/a", [1; 300])], vec![shared(), file("usr/b", [2; 300]), file("usr/c", [2; 300])]];
    let [first, second, third] = layers.map(|entries| tar(&entries));
    let temp = temporary();
    let repository = repository(&temp);
    repository.import_layer(&sha256(&first), &first[..]).unwrap();
    let mut found = Vec::new();
    // There is no index; then there is one that was made before the first layer's file was taken in.
    for layer in [&second, &third] {
        let known = known(&repository);
        let stats = repository.take_layer(&sha256(layer), AllBytes(&layer[..]), &known).unwrap().stats;
        found.push((stats.objects_new, stats.objects_reused));
        let other = tar(&[file("usr/other", [3; 300])]);
        let other = repository.take_layer(&sha256(&other), AllBytes(&other[..]), &known).unwrap();
        repository.name_layers(other.layer.as_slice()).unwrap();
        repository.remember(other.taken).unwrap();
    }
    assert_eq!(found, [(1, 1), (1, 2)]);
}

#[test]
fn layers_get_their_names_together() {
    let layers = [1, 2].map(|n| tar(&[file("usr/a", [n; 300])]));
    let temp = temporary();
    let repository = repository(&temp);
    let known = known(&repository);
    let arrivals = layers.each_ref().map(|layer| repository.take_layer(&sha256(layer), AllBytes(&layer[..]), &known).unwrap());
    let are_here = || layers.each_ref().map(|layer| repository.has_layer(&sha256(layer)).unwrap());
    assert_eq!(are_here(), [false, false]);
    repository.name_layers(&arrivals.map(|arrival| arrival.layer.unwrap())).unwrap();
    assert_eq!(are_here(), [true, true]);
    // Nothing is left to be named of a layer that is here.
    assert!(repository.take_layer(&sha256(&layers[0]), AllBytes(&layers[0][..]), &known).unwrap().layer.is_none());
}

/// The first image is written by a thread of its own, while the second is made.
#[test]
fn an_image_that_cannot_be_written_leaves_no_tag() {
    let temp = temporary();
    let repository = repository(&temp);
    let images = temp.path().join("repository/images");
    std::fs::write(&images, "").unwrap();
    let error = store(&repository, &os("1"), Some("os")).unwrap_err();
    assert!(format!("{error:#}").contains("writing the image"), "{error:#}");
    assert_eq!(repository.tags().unwrap(), []);
    std::fs::remove_file(&images).unwrap();
    store(&repository, &os("1"), Some("os")).unwrap();
}

#[test]
fn a_device_that_no_image_can_hold_is_told_with_its_path() {
    let temp = temporary();
    let layers = with_base(vec![vec![dir("dev"), special("dev/odd", Kind::Char(1 << 20, 0))]]);
    let error = store(&repository(&temp), &layers, None).unwrap_err();
    assert_eq!(failure(&error).kind, FailureKind::Unsuitable, "{error:#}");
    assert!(format!("{error:#}").contains("/dev/odd: a device with number"), "{error:#}");
}

#[test]
fn other_directories_are_not_taken_over() {
    let temp = temporary();
    let path = temp.path().join("repository");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("letter"), "dear").unwrap();
    assert_eq!(kind(open(&temp, None, Verity::IfPossible)), Some(FailureKind::StoreMismatch));
    std::fs::remove_file(path.join("letter")).unwrap();
    std::fs::write(path.join("meta.json"), r#"{"version":99,"algorithm":"fsverity-sha256-12","erofs_formats":{"default":1}}"#).unwrap();
    assert_eq!(kind(open(&temp, None, Verity::IfPossible)), Some(FailureKind::StoreMismatch));
    std::fs::write(path.join("meta.json"), r#"{"version":1,"algorithm":"fsverity-sha512-12","features":{}}"#).unwrap();
    assert_eq!(kind(open(&temp, None, Verity::IfPossible)), Some(FailureKind::StoreMismatch), "EROFS V2 only");
}

#[test]
fn a_damaged_repository_is_told_with_what_to_do() {
    let temp = temporary();
    let repository = repository(&temp);
    let stored = store(&repository, &os("1"), Some("os")).unwrap();
    let objects = repository.objects().unwrap();
    let tree = repository.tree(&stored.boot_image).unwrap();
    let shared = tree.file("/usr/lib/shared").unwrap().unwrap();
    let Content::Object(object) = &shared.content else { panic!("not an object") };
    let told = |error: anyhow::Error, words: &str| {
        let failure = Failure::find(&error).unwrap_or_else(|| panic!("not a failure: {error:#}"));
        assert_eq!((failure.kind, failure.kind.exit_code()), (FailureKind::Corrupt, 6), "{error:#}");
        assert!(failure.message.contains(words) && failure.hint.is_some_and(|hint| hint.contains("selkie fsck --repair")), "{error:#}");
    };
    std::fs::remove_file(temp.path().join("repository/objects").join(object.path())).unwrap();
    told(tree.read(&shared).unwrap_err(), &format!("opening object {object}"));
    told(tree.digest(&shared).unwrap_err(), &format!("opening object {object}"));
    told(repository.check_objects(&stored.boot_image).unwrap_err(), " is missing");
    drop((tree, repository));
    let meta = temp.path().join("repository/meta.json");
    let whole = std::fs::read(&meta).unwrap();
    let open_only = || Store::open(selkie::sys::dir::open_path(temp.path()).unwrap(), "repository");
    let other = String::from_utf8(whole.clone()).unwrap().replace("sha256", "sha512").into_bytes();
    assert_ne!(other, whole);
    let spoiled = [&b""[..], b"{", &whole[..whole.len() / 2], b"[]", b"{}", b"\0\0\0\0", br#"{"version":1,"algorithm":"moon"}"#, &other];
    for bytes in spoiled {
        std::fs::write(&meta, bytes).unwrap();
        for error in [open(&temp, None, Verity::IfPossible).unwrap_err(), open_only().unwrap_err()] {
            told(error, "opening repository repository: its meta.json is damaged: ");
        }
        assert_eq!(std::fs::read(&meta).unwrap(), bytes, "nothing is changed");
    }
    std::fs::write(&meta, r#"{"version":2,"algorithm":{"moon":1}}"#).unwrap();
    assert_eq!(kind(open_only()), Some(FailureKind::StoreMismatch), "it is newer");
    std::fs::remove_file(&meta).unwrap();
    for error in [open(&temp, None, Verity::IfPossible).unwrap_err(), open_only().unwrap_err()] {
        told(error, "its meta.json is gone");
    }
    std::fs::write(&meta, whole).unwrap();
    assert_eq!(open_only().unwrap().objects().unwrap().len(), objects.len() - 1);
    // A file of another tool is none of the repository's business, wherever it stands.
    for prefix in 0..=255_u8 {
        let directory = temp.path().join(format!("repository/objects/{prefix:02x}"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("c".repeat(126)), "stray").unwrap();
    }
    open_only().unwrap();
}

#[test]
fn there_is_none() {
    let temp = temporary();
    let found = Store::open(selkie::sys::dir::open_path(temp.path()).unwrap(), "no/where");
    assert_eq!(kind(found), Some(FailureKind::NotFound));
}

/// On a file system without fs-verity, a sealed repository is refused, and nothing is left of the attempt.
#[test]
fn without_verity_it_says_so() {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap(); // no tmpfs has fs-verity
    assert_eq!(kind(open(&temp, None, Verity::Required)), Some(FailureKind::StoreMismatch));
    assert!(!temp.path().join("repository").exists());
    let unsealed = open(&temp, None, Verity::IfPossible).unwrap();
    assert!(!unsealed.is_sealed());
    drop(unsealed);
    assert_eq!(kind(open(&temp, None, Verity::Required)), Some(FailureKind::StoreMismatch));
}

#[test]
fn garbage_collection_keeps_what_a_tag_leads_to() {
    let temp = temporary();
    let repository = repository(&temp);
    let one = store(&repository, &os("1"), Some("acme/os:one")).unwrap();
    let two = store(&repository, &os("2"), Some("acme/os:two")).unwrap();
    repository.tag(&one.manifest_digest, "pin").unwrap();
    let tags =
        [("acme/os:one", &one), ("acme/os:two", &two), ("pin", &one)].map(|(tag, image)| (tag.to_owned(), image.manifest_digest.clone()));
    assert_eq!(repository.tags().unwrap(), tags);
    assert_eq!(repository.alone(&Silent).unwrap().gc(&[]).unwrap(), Default::default());

    assert!(repository.untag("acme/os:one").unwrap());
    assert!(!repository.untag("acme/os:one").unwrap());
    assert_eq!(repository.alone(&Silent).unwrap().gc(&[]).unwrap(), Default::default());
    let before = flatten(&repository.tree(&two.boot_image).unwrap());
    assert!(repository.untag("pin").unwrap());
    // Its file, its upper layer, its configuration and manifest with their streams, its two images.
    let swept = repository.alone(&Silent).unwrap().gc(&[]).unwrap();
    assert_eq!((swept.objects, swept.images, swept.streams), (8, 2, 3));
    assert_eq!(repository.find(&one.manifest_digest).unwrap(), None);
    assert_eq!(kind(repository.tree(&one.image)), Some(FailureKind::NotFound));
    assert_eq!(kind(repository.tag(&one.manifest_digest, "again")), Some(FailureKind::NotFound));
    assert_eq!(repository.find(&two.manifest_digest).unwrap(), Some(two.clone()));
    assert_eq!(flatten(&repository.tree(&two.boot_image).unwrap()), before);
    repository.sync().unwrap();

    // What is left is what the image needs, the streams, and the documents.
    let all = repository.objects().unwrap();
    let needed = repository.objects_of(&two.boot_image).unwrap();
    assert_eq!(needed.len(), 3);
    assert!(needed.iter().all(|object| all.contains(object)));
    let on_disk = temp.path().join("repository/objects").join(needed[0].id.path());
    assert_eq!(on_disk.metadata().unwrap().len(), needed[0].size);
}

#[test]
fn the_same_again_changes_nothing() {
    let temp = temporary();
    let repository = repository(&temp);
    let first = store(&repository, &os("1"), Some("os")).unwrap();
    let objects = repository.objects().unwrap();
    let (manifest, config) = documents(&os("1"));
    assert_eq!(repository.commit(&manifest, &config, Some("os")).unwrap(), first);
    assert_eq!(repository.objects().unwrap(), objects);
    assert_eq!(repository.find(&first.manifest_digest).unwrap(), Some(first));
}

#[test]
fn documents_that_do_not_fit_are_refused() {
    let temp = temporary();
    let repository = repository(&temp);
    let (manifest, config) = documents(&os("1"));
    assert_eq!(kind(repository.commit(&manifest, &config, None)), Some(FailureKind::NotFound), "layers are missing");
    let (_, other) = documents(&os("2"));
    assert_eq!(kind(repository.commit(&manifest, &other, None)), Some(FailureKind::Corrupt));
    assert_eq!(kind(store(&repository, &os("1"), Some("@os"))), Some(FailureKind::Usage));
    assert_eq!(repository.tags().unwrap(), []);
}

/// Every object that an interrupted sweep could have taken is noticed, and taken in again.
#[test]
fn what_is_missing_is_noticed() {
    let temp = temporary();
    let repository = repository(&temp);
    let stored = store(&repository, &os("1"), Some("os")).unwrap();
    let objects = repository.objects().unwrap();
    for object in &objects {
        std::fs::remove_file(temp.path().join("repository/objects").join(object.id.path())).unwrap();
        assert_eq!(repository.find(&stored.manifest_digest).unwrap(), None, "{object:?}");
        assert_eq!(store(&repository, &os("1"), Some("os")).unwrap(), stored);
        assert_eq!(repository.find(&stored.manifest_digest).unwrap().as_ref(), Some(&stored));
        assert_eq!(repository.objects().unwrap(), objects);
    }
}

#[test]
fn damage_is_found_without_fs_verity() {
    let temp = temporary();
    let repository = repository(&temp);
    let stored = store(&repository, &os("1"), Some("os")).unwrap();
    let tree = repository.tree(&stored.boot_image).unwrap();
    let NodeKind::File(shared) = tree.get("/usr/lib/shared").unwrap().unwrap().kind else { panic!("not a file") };
    let Content::Object(object) = &shared.content else { panic!("not an object") };
    assert_eq!(tree.read(&shared).unwrap(), [9; 300]);
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[100] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&temp.path().join("repository/objects").join(object.path()));
    assert_eq!(kind(tree.read(&shared)), Some(FailureKind::Corrupt));
    flip(&temp.path().join("repository/images").join(stored.boot_image.hex()));
    assert_eq!(kind(repository.tree(&stored.boot_image)), Some(FailureKind::Corrupt));
}

#[test]
fn paths_are_followed_as_in_a_chroot() {
    let temp = temporary();
    let repository = repository(&temp);
    let layers = [tar(&[
        file("usr/bin/sh", "sh"),
        symlink("bin", "usr/bin"),
        symlink("usr/bin/up", "../../../../bin/./sh"),
        symlink("usr/bin/root", "/bin//sh"),
        symlink("usr/bin/loop", "loop"),
        symlink("usr/bin/lost", "/nowhere"),
        dir("usr"),
    ])];
    let tree = repository.tree(&store(&repository, &layers, None).unwrap().image).unwrap();
    for path in ["/usr/bin/sh", "usr/bin/sh", "/bin/sh", "/bin/up", "bin/root", "/bin/../bin/sh", "/../bin/sh"] {
        let file = tree.file(path).unwrap().unwrap_or_else(|| panic!("{path} leads nowhere"));
        assert_eq!(tree.read(&file).unwrap(), b"sh", "{path}");
    }
    for path in ["/bin/lost", "/bin/none", "/bin/sh/x", "/etc/x"] {
        assert_eq!(tree.get(path).unwrap(), None, "{path}");
    }
    assert!(tree.get("/bin/loop").is_err());
    assert_eq!(tree.get_link("/bin/lost").unwrap().unwrap().kind, NodeKind::Symlink("/nowhere".into()));
    assert_eq!(tree.get("/").unwrap().unwrap().kind, NodeKind::Directory);
    let names: Vec<_> = tree.children("/bin").unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["loop", "lost", "root", "sh", "up"]);
    assert_eq!(tree.children("/bin/sh").unwrap(), []);
}

#[test]
fn what_a_machine_boots_with() {
    let temp = temporary();
    let repository = repository(&temp);
    let arch = if cfg!(target_arch = "x86_64") { "x64" } else { "aa64" };
    let loader = format!("usr/lib/systemd/boot/efi/systemd-boot{arch}.efi");
    let good = vec![
        dir("usr"),
        file("usr/lib/modules/6.12/vmlinuz", [1; 100]),
        file("usr/lib/modules/6.12/initramfs.img", [2; 200]),
        file("usr/lib/modules/6.11/modules.dep", "left by another kernel"),
        file("usr/lib/os-release", "ID=debian\nVERSION_ID=\"13\"\n"),
        symlink("etc/os-release", "../usr/lib/os-release"),
        symlink("lib", "usr/lib"),
        file(&loader, "plain"),
        file(format!("{loader}.signed"), "signed"),
    ];
    let tree = |entries: &[Entry]| {
        let stored = store(&repository, &[tar(entries)], None).unwrap();
        repository.tree(&stored.boot_image).unwrap()
    };
    let whole = tree(&good);
    let found = kernel(&whole).unwrap();
    assert_eq!((found.version.as_str(), found.kernel.size, found.initrd.size), ("6.12", 100, 200));
    assert_eq!(os_release(&whole).unwrap().version_id.as_deref(), Some("13"));
    assert_eq!(whole.read(&systemd_boot(&whole, "amd64").unwrap().file).unwrap(), b"signed");

    let without = |gone: &str| tree(&good.iter().filter(|entry| !entry.path.ends_with(gone.as_bytes())).cloned().collect::<Vec<_>>());
    let refused = |result: anyhow::Result<_>| {
        let failure = Failure::find(&result.map(|_: selkie::store::Kernel| ()).unwrap_err()).unwrap();
        assert_eq!(failure.kind, FailureKind::Unsuitable);
        assert!(failure.hint.is_some());
        failure.message
    };
    assert_eq!(refused(kernel(&without("vmlinuz"))), "finding the kernel: the image has no /usr/lib/modules/VERSION/vmlinuz");
    assert_eq!(refused(kernel(&without("initramfs.img"))), "finding the initramfs: the image has no /usr/lib/modules/6.12/initramfs.img");
    let mut two = good.clone();
    two.push(file("usr/lib/modules/6.9/vmlinuz", "x"));
    assert_eq!(refused(kernel(&tree(&two))), "finding the kernel: the image has 2 kernels: 6.12, 6.9 (expected one)");
    assert_eq!(whole.read(&systemd_boot(&without(".signed"), "amd64").unwrap().file).unwrap(), b"plain");
    let nothing = tree(&[dir("usr")]);
    assert_eq!(kind(systemd_boot(&nothing, "amd64")), Some(FailureKind::Unsuitable));
    assert_eq!(os_release(&nothing).unwrap(), Default::default());
}

#[test]
fn what_a_boot_mounts_on_and_starts() {
    let temp = temporary();
    let repository = repository(&temp);
    let directories = ["etc", "var", "usr", "run", "proc", "sys", "dev", "tmp", "boot", "sysroot"];
    let refused = |gone: &[&str], instead: &[Entry]| {
        let rest = directories.iter().filter(|name| !gone.contains(*name)).map(dir);
        let stored = store(&repository, &[tar(&rest.chain(instead.iter().cloned()).collect::<Vec<_>>())], None).unwrap();
        let refused = require_bootable_layout(&repository.tree(&stored.boot_image).unwrap()).err()?;
        let failure = Failure::find(&refused).unwrap_or_else(|| panic!("not a failure: {refused:#}"));
        assert_eq!(failure.kind, FailureKind::Unsuitable);
        Some((failure.message, failure.hint.unwrap()))
    };
    let systemd = || file("usr/lib/systemd/systemd", "init");
    assert_eq!(refused(&[], &[systemd()]), None);
    assert_eq!(refused(&[], &[symlink("sbin", "usr/sbin"), file("usr/sbin/init", "another init")]), None);
    assert_eq!(refused(&[], &[symlink("sbin/init", "../lib/systemd/systemd"), symlink("lib", "usr/lib"), systemd()]), None);
    assert_eq!(refused(&["tmp"], &[systemd(), symlink("tmp", "run/tmp")]), None);
    assert_eq!(refused(&["boot", "sysroot"], &[systemd()]), None, "they are made in the boot image");
    let (message, hint) = refused(&["var", "proc", "sys"], &[symlink("var", "usr/var"), file("sys", "a file")]).unwrap();
    assert_eq!(
        message,
        "looking for what booting needs: /var is a symbolic link, /proc is missing, /sys is not a directory, \
         there is neither /sbin/init nor /usr/lib/systemd/systemd (expected directories and an init program)"
    );
    assert_eq!(hint, "in the Containerfile, make /var, /proc, /sys plain directories and install systemd (Debian: systemd-sysv)");
    let (message, hint) = refused(&[], &[symlink("sbin/init", "/usr/bin/nowhere"), dir("usr/lib/systemd/systemd")]).unwrap();
    assert!(message.starts_with("looking for what booting needs: there is neither /sbin/init nor"), "{message}");
    assert_eq!(hint, "in the Containerfile, install systemd (Debian: systemd-sysv)");
}
