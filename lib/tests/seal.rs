//! `seal`: systemd's real stub and boot loader, real keys; the kernel is a dummy. What a machine does with the result is in `sealed.rs` and in the
//! virtual machines.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::host::silent;
use common::layout::{self, Files, What};
use common::sealed::{self, STUBS};
use selkie::error::{Failure, FailureKind};
use selkie::image::{OutputOptions, SourceOptions};
use selkie::image_id::Algorithm;
use selkie::ops::disk::{self, SecureBoot};
use selkie::ops::pull::{self, Repository};
use selkie::ops::rechunk;
use selkie::ops::seal::{self, BOOT_IMAGE, Options, RECIPE, Report};
use selkie::signing::{KeySource, Signer};
use selkie::store::{self, Store, Verity};
use selkie::sys::dir;
use selkie::uki::{Kind, Uki};

/// A directory with images in `images/`, keys, and room to work.
struct Desk {
    temp: tempfile::TempDir,
}

/// The files of an image that can be sealed.
fn sealable(version: &str) -> Files {
    let mut files = layout::without(layout::bootable(version), &["usr/lib/systemd/boot/efi/systemd-bootx64.efi"]);
    for name in ["linuxx64.efi.stub", "systemd-bootx64.efi"] {
        let bytes = std::fs::read(format!("{STUBS}/{name}")).expect("package systemd-boot-efi");
        files.push((format!("usr/lib/systemd/boot/efi/{name}"), What::File(bytes)));
    }
    files
}

impl Desk {
    fn new() -> Self {
        let desk = Self { temp: tempfile::tempdir().unwrap() };
        std::fs::create_dir(desk.path("scratch")).unwrap();
        layout::write(&desk.path("images"), "plain", &sealable("1"));
        desk.certificate("db");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.path("images").display())
    }

    fn certificate(&self, name: &str) {
        let output = Command::new("openssl")
            .args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=selkie test/", "-keyout"])
            .args([self.path(&format!("{name}.key")), "-out".into(), self.path(&format!("{name}.crt"))])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn signer(&self, key: &str, certificate: &str) -> Signer {
        Signer::Key { key: KeySource::new(&self.path(key), None).unwrap(), certificate: self.path(certificate) }
    }

    fn options(&self, from: &str, to: &str) -> Options {
        Options {
            image: self.reference(from).parse().unwrap(),
            source: SourceOptions::default(),
            output: self.reference(to).parse().unwrap(),
            destination: OutputOptions::default(),
            signer: Some(self.signer("db.key", "db.crt")),
            arguments: vec![],
            addons: vec![],
            algorithm: Algorithm::Sha256,
            mtime: 0,
            scratch: self.path("scratch"),
        }
    }

    fn seal(&self, options: &Options) -> anyhow::Result<Report> {
        let sealed = seal::run(options, &silent());
        assert_eq!(std::fs::read_dir(self.path("scratch")).unwrap().count(), 0, "something is left behind");
        sealed
    }

    fn index(&self) -> Vec<u8> {
        std::fs::read(self.path("images/index.json")).unwrap()
    }

    /// The layout's blobs and index, by name and size.
    fn tags(&self) -> String {
        String::from_utf8(self.index()).unwrap()
    }
}

fn pulled(scratch: &Path, reference: &str) -> pull::Pulled {
    sealed::pulled(scratch, reference)
}

#[test]
fn one_layer_more_and_the_same_root() {
    let desk = Desk::new();
    let options = Options { arguments: vec!["console=ttyS0".into()], ..desk.options("plain", "sealed") };
    let report = desk.seal(&options).unwrap();
    let (plain, after) = (pulled(desk.temp.path(), &desk.reference("plain")), pulled(desk.temp.path(), &desk.reference("sealed")));
    assert_eq!((&after.boot_image, after.layers), (&plain.boot_image, plain.layers + 1));
    assert_eq!((&report.boot_image, &report.image, &report.manifest_digest), (&after.boot_image, &after.image, &after.manifest_digest));
    let expected = format!("composefs.digest=v1-sha256-12:{} root=gpt-auto rw console=ttyS0", plain.boot_image);
    assert_eq!((report.kernel_arguments.as_str(), report.signed), (expected.as_str(), true));

    let store = Store::open(dir::open_path(desk.temp.path()).unwrap(), "scratch-repository").unwrap();
    let tree = store.tree(&after.image).unwrap();
    let seal = store::seal(&tree).unwrap().unwrap();
    seal.check(&plain.boot_image).unwrap();
    assert_eq!((seal.uki.signed, seal.uki.uname.as_deref(), seal.uki.has_initrd), (true, Some("6.1"), true));
    assert_eq!(seal.uki.os_release.unwrap().pretty_name.as_deref(), Some("Debian GNU/Linux 1"));
    for path in ["/boot/EFI/Linux/selkie.efi", "/boot/EFI/systemd/systemd-bootx64.efi"] {
        let file = desk.path("check.efi");
        std::fs::write(&file, tree.read(&tree.file(path).unwrap().unwrap()).unwrap()).unwrap();
        let run = Command::new("sbverify").arg("--cert").args([desk.path("db.crt"), file]).output().unwrap();
        assert!(run.status.success(), "{path}: {}", String::from_utf8_lossy(&run.stderr));
    }
    assert!(tree.children("/boot").unwrap().iter().map(|(name, _)| name).eq(["EFI"]));

    let manifest = desk.path("images/blobs/sha256").join(report.manifest_digest.trim_start_matches("sha256:"));
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    assert_eq!(manifest["annotations"][BOOT_IMAGE], format!("v1-sha256-12:{}", plain.boot_image));
    assert_eq!(manifest["annotations"][RECIPE], "1");
}

#[test]
fn the_same_input_gives_the_same_unsigned_bytes() {
    let desk = Desk::new();
    let unsigned = Options { signer: None, ..desk.options("plain", "a") };
    let (a, b) = (desk.seal(&unsigned).unwrap(), desk.seal(&Options { output: desk.reference("b").parse().unwrap(), ..unsigned }).unwrap());
    assert_eq!((a.manifest_digest.as_str(), a.signed), (b.manifest_digest.as_str(), false));
    let signed = desk.seal(&desk.options("plain", "c")).unwrap();
    assert_eq!(signed.unsigned_sha256, a.unsigned_sha256);
    let other = desk.seal(&Options { arguments: vec!["quiet".into()], ..desk.options("plain", "d") }).unwrap();
    assert_ne!(other.unsigned_sha256, a.unsigned_sha256);
}

#[test]
fn a_command_may_sign() {
    let desk = Desk::new();
    let (key, certificate) = (desk.path("db.key"), desk.path("db.crt"));
    let command = format!("sbsign --key {} --cert {} --output \"$SELKIE_OUTPUT\" \"$SELKIE_INPUT\"", key.display(), certificate.display());
    let report = desk
        .seal(&Options { signer: Some(Signer::Command { command, certificate: Some(certificate) }), ..desk.options("plain", "sealed") })
        .unwrap();
    assert!(report.signed);
}

#[test]
fn an_image_derived_from_a_sealed_one_is_sealed_anew() {
    let desk = Desk::new();
    desk.seal(&desk.options("plain", "sealed")).unwrap();
    // The files of the sealed image, and one more: what a Containerfile FROM it gives.
    let first = std::fs::read_to_string(desk.path("images/index.json")).unwrap();
    let derived = layout::with(sealable("1"), "usr/derived", "x");
    let stale = pulled(desk.temp.path(), &desk.reference("sealed"));
    let derived = sealed::with_uki(derived, "selkie.efi", &format!("composefs.digest=v1-sha256-12:{}", stale.boot_image));
    layout::write(&desk.path("images"), "derived", &derived);
    assert!(desk.tags().len() > first.len());
    let report = desk.seal(&desk.options("derived", "derived-sealed")).unwrap();
    assert_ne!(report.boot_image, stale.boot_image);
    let again = pulled(desk.temp.path(), &desk.reference("derived-sealed"));
    let store = Store::open(dir::open_path(desk.temp.path()).unwrap(), "scratch-repository").unwrap();
    store::seal(&store.tree(&again.image).unwrap()).unwrap().unwrap().check(&again.boot_image).unwrap();
}

/// Seal first and rechunk then, and the other way round.
#[test]
fn a_seal_outlives_other_layers_and_other_layers_can_be_sealed() {
    let desk = Desk::new();
    let other_layers = |from: &str, to: &str| {
        let seal = desk.options(from, to);
        let (image, source, output, destination) = (seal.image, seal.source, seal.output, seal.destination);
        let options = rechunk::Options { image, source, output, destination, layers: rechunk::LAYERS, scratch: seal.scratch };
        rechunk::run(&options, &silent()).unwrap()
    };
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let sealed = desk.seal(&Options { algorithm, ..desk.options("plain", "sealed") }).unwrap();
        let after = other_layers("sealed", "sealed-rechunked");
        assert_eq!((&after.image, &after.boot_image, after.algorithm), (&sealed.image, &sealed.boot_image, algorithm));
        let repository = Repository { path: desk.path(&algorithm.to_string()), algorithm: None, verity: Verity::IfPossible };
        let image = desk.reference("sealed-rechunked").parse().unwrap();
        let options = pull::Options { image, source: SourceOptions::default(), tag: None };
        let pulled = pull::run_into(&repository, &options, &silent()).unwrap();
        assert_eq!((pulled.algorithm, &pulled.boot_image), (algorithm, &sealed.boot_image));
        let store = Store::open(dir::open_path(desk.temp.path()).unwrap(), algorithm.to_string()).unwrap();
        store::seal(&store.tree(&pulled.image).unwrap()).unwrap().unwrap().check(&sealed.boot_image).unwrap();
    }
    let plain = other_layers("plain", "rechunked");
    assert_eq!(desk.seal(&desk.options("rechunked", "rechunked-sealed")).unwrap().boot_image, plain.boot_image);
}

#[test]
fn a_seal_says_the_algorithm_of_new_repositories() {
    let desk = Desk::new();
    let report = desk.seal(&Options { algorithm: Algorithm::Sha512, ..desk.options("plain", "sealed") }).unwrap();
    assert_eq!(report.boot_image.algorithm(), Algorithm::Sha512);
    let repository = |name: &str, algorithm| Repository { path: desk.path(name), algorithm, verity: Verity::IfPossible };
    let options = pull::Options { image: desk.reference("sealed").parse().unwrap(), source: SourceOptions::default(), tag: None };
    let pulled = pull::run_into(&repository("new", None), &options, &silent()).unwrap();
    assert_eq!((pulled.algorithm, &pulled.boot_image), (Algorithm::Sha512, &report.boot_image));
    let error = disk::run(&disk_options(&desk, "sealed", Some(Algorithm::Sha256)), &silent()).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::StoreMismatch, "{error:#}");
}

fn disk_options(desk: &Desk, tag: &str, algorithm: Option<Algorithm>) -> disk::Options {
    disk::Options {
        image: desk.reference(tag).parse().unwrap(),
        target_image: Some("quay.io/acme/os:stable".parse().unwrap()),
        source: SourceOptions::default(),
        algorithm,
        output: desk.path("disk.raw"),
        format: selkie::disk::Format::Raw,
        size: None,
        root_size: None,
        esp_size: None,
        arguments: vec![],
        secure_boot: None,
        mtime: 0,
    }
}

#[test]
fn a_disk_of_a_sealed_image_starts_its_kernel_image_and_enrols_keys() {
    let desk = Desk::new();
    desk.seal(&desk.options("plain", "sealed")).unwrap();
    let keys = desk.path("keys");
    std::fs::create_dir(&keys).unwrap();
    for name in ["PK", "KEK", "db"] {
        signed_list(&desk, name, &keys);
    }
    let secure_boot = Some(SecureBoot { keys: keys.clone(), force: false });
    let with = |tag: &str| disk::Options { secure_boot: secure_boot.clone(), ..disk_options(&desk, tag, None) };
    let error = disk::run(&with("plain"), &silent()).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Unsuitable, "{error:#}");
    let kargs = disk::Options { arguments: vec!["quiet".into()], ..with("sealed") };
    assert_eq!(Failure::find(&disk::run(&kargs, &silent()).unwrap_err()).unwrap().kind, FailureKind::Usage);

    disk::run(&with("sealed"), &silent()).unwrap();
    let esp = |path: &str| {
        let drive = format!("{}@@1M", desk.path("disk.raw").display());
        let output = Command::new("mtype").args(["-i", &drive, &format!("::{path}")]).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    assert!(String::from_utf8(esp("/loader/loader.conf")).unwrap().contains("secure-boot-enroll if-safe"));
    assert_eq!(esp("/loader/keys/auto/PK.auth"), std::fs::read(keys.join("PK.auth")).unwrap());
    let report = pulled(desk.temp.path(), &desk.reference("sealed"));
    let entry = String::from_utf8(esp(&format!("/loader/entries/selkie-{}-1.conf", report.boot_image.short()))).unwrap();
    let path = entry.lines().find_map(|line| line.strip_prefix("efi ")).unwrap();
    assert!(!entry.contains("options"), "{entry}");
    std::fs::write(desk.path("uki.efi"), esp(path)).unwrap();
    let loader = esp("/EFI/BOOT/BOOTX64.EFI");
    std::fs::write(desk.path("loader.efi"), loader).unwrap();
    for name in ["uki.efi", "loader.efi"] {
        let run = Command::new("sbverify").arg("--cert").args([desk.path("db.crt"), desk.path(name)]).output().unwrap();
        assert!(run.status.success(), "{name}");
    }
}

/// Such a machine would enrol the keys, and then start nothing any more.
#[test]
fn no_disk_locks_itself_out() {
    let desk = Desk::new();
    desk.certificate("other");
    desk.seal(&desk.options("plain", "sealed")).unwrap();
    desk.seal(&Options { signer: None, ..desk.options("plain", "unsigned") }).unwrap();
    let addons = vec![("more".to_owned(), "quiet".to_owned())];
    layout::write(&desk.path("images"), "with-stub", &with_addon_stub(sealable("1")));
    desk.seal(&Options { addons, ..desk.options("with-stub", "with-addon") }).unwrap();
    let keys = |name: &str, db: &str, dbx: Option<&str>| {
        let keys = desk.path(name);
        std::fs::create_dir(&keys).unwrap();
        for (list, of) in [("PK", Some("db")), ("KEK", Some("db")), ("db", Some(db)), ("dbx", dbx)] {
            if let Some(of) = of {
                signed_list_of(&desk, list, of, &keys);
            }
        }
        keys
    };
    let (right, wrong, revoked) = (keys("right", "db", None), keys("wrong", "other", None), keys("revoked", "db", Some("db")));
    let garbled = keys("garbled", "db", None);
    let auth = std::fs::read(garbled.join("db.auth")).unwrap();
    std::fs::write(garbled.join("db.auth"), &auth[..auth.len() - 1]).unwrap();
    let make = |tag: &str, keys: &Path| {
        let secure_boot = Some(SecureBoot { keys: keys.to_owned(), force: false });
        disk::run(&disk::Options { secure_boot, ..disk_options(&desk, tag, None) }, &silent())
    };
    let table = [
        ("unsigned", &right, "the boot loader is not signed"),
        ("sealed", &wrong, "the boot loader is signed by \"selkie test\", and db does not accept that"),
        ("sealed", &revoked, "and dbx revokes it"),
        ("sealed", &garbled, "reading db.auth"),
    ];
    for (tag, keys, words) in table {
        let error = make(tag, keys).unwrap_err();
        let failure = Failure::find(&error).unwrap_or_else(|| panic!("{error:#}"));
        assert!(failure.kind == FailureKind::Unsuitable && failure.hint.is_some() && failure.message.contains(words), "{error:#}: {words}");
        assert!(!desk.path("disk.raw").exists());
    }
    make("with-addon", &right).unwrap();
}

/// An addon and a unified kernel image of which only one is signed by whom the machine trusts.
#[test]
fn every_part_of_a_disk_counts() {
    let desk = Desk::new();
    desk.certificate("other");
    let keys = desk.path("keys");
    std::fs::create_dir(&keys).unwrap();
    for name in ["PK", "KEK", "db"] {
        signed_list(&desk, name, &keys);
    }
    layout::write(&desk.path("images"), "with-stub", &with_addon_stub(sealable("1")));
    // Signs what has this text in it with the other key.
    let signer = |text: &str| {
        let (db, other) = (desk.path("db"), desk.path("other"));
        let command = format!(
            "if grep -aq '{text}' \"$1\"; then k={}; else k={}; fi; sbsign --key $k.key --cert $k.crt --output \"$2\" \"$1\"",
            other.display(),
            db.display()
        );
        Some(Signer::Command { command, certificate: None })
    };
    for (text, words) in [("uki-addon,1", "more.addon.efi is signed by"), ("LoaderInfo: systemd-stub", "selkie.efi is signed by")] {
        let addons = vec![("more".to_owned(), "quiet".to_owned())];
        desk.seal(&Options { addons, signer: signer(text), ..desk.options("with-stub", "mixed") }).unwrap();
        let secure_boot = Some(SecureBoot { keys: keys.clone(), force: false });
        let error = disk::run(&disk::Options { secure_boot, ..disk_options(&desk, "mixed", None) }, &silent()).unwrap_err();
        assert!(Failure::find(&error).unwrap().message.contains(words), "{error:#}: {words}");
    }
}

/// The files with a stub for addons.
fn with_addon_stub(files: Files) -> Files {
    layout::with_other(files, "usr/lib/systemd/boot/efi/addonx64.efi.stub", What::File(sealed::addon_stub()))
}

/// The addons of a sealed image: name and what it says.
fn addons(desk: &Desk, tag: &str) -> Vec<(String, Uki)> {
    let image = pulled(desk.temp.path(), &desk.reference(tag)).image;
    let store = Store::open(dir::open_path(desk.temp.path()).unwrap(), "scratch-repository").unwrap();
    let tree = store.tree(&image).unwrap();
    let seal = store::seal(&tree).unwrap().unwrap();
    let read = |file| Uki::read(&mut std::io::Cursor::new(tree.read(file).unwrap())).unwrap();
    seal.addons.iter().map(|(name, file)| (name.clone(), read(file))).collect()
}

#[test]
fn addons_are_for_this_kernel_and_go_with_the_seal() {
    let desk = Desk::new();
    layout::write(&desk.path("images"), "with-stub", &with_addon_stub(sealable("1")));
    let with = |name: &str, line: &str| vec![(name.to_owned(), line.to_owned())];
    desk.seal(&Options { addons: with("serial", "console=ttyS0  quiet"), ..desk.options("with-stub", "sealed") }).unwrap();
    let found = addons(&desk, "sealed");
    assert_eq!(found.len(), 1);
    let (name, addon) = &found[0];
    assert_eq!((name.as_str(), addon.kind, addon.signed), ("serial.addon.efi", Kind::Addon, true));
    assert_eq!((addon.cmdline.as_deref(), addon.uname.as_deref()), (Some("console=ttyS0 quiet"), Some("6.1")));

    // What a Containerfile FROM it gives, with one more file: it has the old seal and the old addon.
    let stale = pulled(desk.temp.path(), &desk.reference("sealed"));
    let root = format!("composefs.digest=v1-sha256-12:{}", stale.boot_image);
    let mut derived = sealed::with_uki(layout::with(with_addon_stub(sealable("1")), "usr/derived", "x"), "selkie.efi", &root);
    let directory = "boot/EFI/Linux/selkie.efi.extra.d";
    derived.push((directory.to_owned(), What::Directory));
    derived.push((format!("{directory}/serial.addon.efi"), What::File(sealed::addon("quiet"))));
    layout::write(&desk.path("images"), "derived", &derived);
    desk.seal(&Options { addons: with("verbose", "debug"), ..desk.options("derived", "derived-sealed") }).unwrap();
    let found = addons(&desk, "derived-sealed");
    assert_eq!(found.len(), 1, "the old one is gone");
    assert_eq!((found[0].0.as_str(), found[0].1.cmdline.as_deref()), ("verbose.addon.efi", Some("debug")));
}

fn signed_list(desk: &Desk, name: &str, to: &Path) {
    signed_list_of(desk, name, "db", to);
}

fn signed_list_of(desk: &Desk, name: &str, certificate: &str, to: &Path) {
    let list = to.join(format!("{name}.esl"));
    let run = |program: &str, words: Vec<std::ffi::OsString>| {
        let output = Command::new(program).args(words).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("cert-to-efi-sig-list", vec![desk.path(&format!("{certificate}.crt")).into(), list.clone().into()]);
    let auth = to.join(format!("{name}.auth"));
    let words = ["-k".into(), desk.path("db.key").into(), "-c".into(), desk.path("db.crt").into(), name.into(), list.into(), auth.into()];
    run("sign-efi-sig-list", words.into());
}

/// Each is refused with a message that says what to do, and the output stays as it was.
#[test]
fn what_cannot_be_sealed_leaves_the_output_untouched() {
    let desk = Desk::new();
    desk.seal(&desk.options("plain", "sealed")).unwrap();
    desk.certificate("other");
    let write = |tag: &str, files: &Files| layout::write(&desk.path("images"), tag, files);
    write("no-stub", &layout::without(sealable("1"), &["usr/lib/systemd/boot/efi/linuxx64.efi.stub"]));
    write("no-loader", &layout::without(sealable("1"), &["usr/lib/systemd/boot/efi/systemd-bootx64.efi"]));
    write("no-kernel", &layout::without(sealable("1"), &["usr/lib/modules/6.1/vmlinuz"]));
    write("no-os-release", &layout::without(sealable("1"), &["usr/lib/os-release"]));
    write("foreign", &sealed::with_uki(sealable("1"), "debian.efi", "root=/dev/sda1"));
    write("bad-kargs", &layout::with(sealable("1"), "usr/lib/bootc/kargs.d/a.toml", "nonsense"));
    let addon = Options { addons: vec![("a".into(), "quiet".into())], ..desk.options("plain", "x") };
    let name = Options { addons: vec![("../a".into(), "quiet".into())], ..desk.options("plain", "x") };
    let root = Options { arguments: vec!["composefs=ab".into()], ..desk.options("plain", "x") };
    let mixed = Options { signer: Some(desk.signer("other.key", "db.crt")), ..desk.options("plain", "x") };
    let cheat =
        Options { signer: Some(Signer::Command { command: "cp \"$1\" \"$2\"".into(), certificate: None }), ..desk.options("plain", "x") };
    let registry = Options { output: "127.0.0.1:9/os:x".parse().unwrap(), ..desk.options("plain", "x") };
    let table = [
        (desk.options("sealed", "x"), FailureKind::Unsuitable, "already"),
        (desk.options("no-stub", "x"), FailureKind::Unsuitable, "linuxx64.efi.stub"),
        (desk.options("no-loader", "x"), FailureKind::Unsuitable, "systemd-bootx64.efi"),
        (desk.options("no-kernel", "x"), FailureKind::Unsuitable, "vmlinuz"),
        (desk.options("no-os-release", "x"), FailureKind::Unsuitable, "os-release"),
        (desk.options("foreign", "x"), FailureKind::Unsuitable, "debian.efi"),
        (desk.options("bad-kargs", "x"), FailureKind::Unsuitable, "kargs.d/a.toml"),
        (desk.options("nowhere", "x"), FailureKind::NotFound, "nowhere"),
        (addon, FailureKind::Unsuitable, "no stub for addons"),
        (name, FailureKind::Usage, "not a name"),
        (root, FailureKind::Usage, "which root is booted"),
        (mixed, FailureKind::Usage, "key"),
        (cheat, FailureKind::Corrupt, "signing the unified kernel image"),
        (registry, FailureKind::Unreachable, "127.0.0.1:9"),
    ];
    let before = desk.index();
    for (options, kind, words) in table {
        let error = desk.seal(&options).unwrap_err();
        let failure = Failure::find(&error).unwrap_or_else(|| panic!("{error:#}"));
        assert!(failure.kind == kind && format!("{error:#}").contains(words), "{:?} {error:#}: {words}", failure.kind);
        assert_eq!(desk.index(), before, "{error:#}");
    }
}
