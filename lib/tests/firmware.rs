//! A machine whose firmware enforces Secure Boot and that runs a sealed image: what it would not boot is refused before it boots next.

mod common;

use std::path::Path;
use std::process::Command;

use common::host::{Machine, silent};
use common::layout::{self, Files, What};
use common::sealed;
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::host::Host;
use selkie::ops::upgrade::{self, Outcome, Until};
use selkie::ops::{rollback, status};
use selkie::progress::Silent;
use selkie::signing::{KeySource, Signer};
use selkie::sys::dir;

const SECURITY: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";

/// A machine that runs a sealed image signed by `own`. There is another certificate, `other`.
struct Desk {
    temp: tempfile::TempDir,
    machine: Machine,
    booted: ImageId,
}

impl Desk {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (machine, booted) = Machine::install(temp.path());
        std::fs::create_dir(temp.path().join("efivars")).unwrap();
        let mut desk = Self { temp, machine, booted };
        for name in ["own", "other"] {
            desk.certificate(name);
        }
        // A plain kernel runs: what comes next is nobody's business here, whatever the firmware says.
        desk.firmware(Some(1), &["other"], &[]);
        desk.booted = desk.upgrade(&desk.sealed("2", Some("own"))).unwrap();
        desk
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.temp.path().join(name)
    }

    fn certificate(&self, name: &str) {
        let words =
            ["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &format!("/CN=selkie {name}/"), "-keyout"];
        let files = [self.path(&format!("{name}.key")), "-out".into(), self.path(&format!("{name}.crt"))];
        run(Command::new("openssl").args(words).args(files));
        run(Command::new("cert-to-efi-sig-list").args([self.path(&format!("{name}.crt")), self.path(&format!("{name}.esl"))]));
    }

    fn sign(&self, name: &str, binary: &[u8]) -> Vec<u8> {
        let key = KeySource::new(&self.path(&format!("{name}.key")), None).unwrap();
        Signer::Key { key, certificate: self.path(&format!("{name}.crt")) }.sign(binary, self.temp.path()).unwrap()
    }

    /// The files of a sealed image, with its unified kernel image signed.
    fn sealed(&self, version: &str, signer: Option<&str>) -> Files {
        let sign = |(path, what)| match (what, signer) {
            (What::File(bytes), Some(name)) if path == "boot/EFI/Linux/selkie.efi" => (path, What::File(self.sign(name, &bytes))),
            (what, _) => (path, what),
        };
        sealed::sealed(version).into_iter().map(sign).collect()
    }

    /// The same with an addon.
    fn with_addon(&self, mut files: Files, signer: &str) -> Files {
        let directory = "boot/EFI/Linux/selkie.efi.extra.d";
        files.push((directory.to_owned(), What::Directory));
        files.push((format!("{directory}/more.addon.efi"), What::File(self.sign(signer, &sealed::addon("quiet")))));
        files
    }

    /// What the firmware says: whether it enforces, and what it lists.
    fn firmware(&self, secure_boot: Option<u8>, db: &[&str], dbx: &[&str]) {
        let write = |name: String, bytes: &[u8]| std::fs::write(self.path("efivars").join(name), [&[6, 0, 0, 0], bytes].concat()).unwrap();
        let path = self.path("efivars").join("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
        let _ = std::fs::remove_file(path);
        if let Some(value) = secure_boot {
            write("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c".into(), &[value]);
        }
        let lists =
            |names: &[&str]| names.iter().flat_map(|name| std::fs::read(self.path(&format!("{name}.esl"))).unwrap()).collect::<Vec<_>>();
        write(format!("db-{SECURITY}"), &lists(db));
        write(format!("dbx-{SECURITY}"), &lists(dbx));
    }

    fn host(&self) -> Host {
        self.machine.host(&self.booted).with_efivars(dir::open_path(self.path("efivars")).unwrap())
    }

    fn upgrade_on(&self, host: &Host, files: &Files) -> anyhow::Result<ImageId> {
        self.machine.release("stable", files);
        let options = upgrade::Options { image: None, source: SourceOptions::default(), until: Until::Stage, keep: 0, retry: false };
        let report = upgrade::run(host, &options, &silent())?;
        assert_eq!(report.outcome, Outcome::Staged);
        Ok(report.staged.unwrap())
    }

    fn upgrade(&self, files: &Files) -> anyhow::Result<ImageId> {
        self.upgrade_on(&self.host(), files)
    }

    fn status(&self) -> status::Status {
        status::run(&self.machine.host(&self.booted))
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn refused<T: std::fmt::Debug>(result: anyhow::Result<T>, words: &str) {
    let error = result.unwrap_err();
    let failure = Failure::find(&error).unwrap_or_else(|| panic!("{error:#}"));
    assert!(failure.kind == FailureKind::Unsuitable && format!("{error:#}").contains(words), "{error:#}: {words}");
    assert!(failure.hint.is_some(), "{error:#}");
}

#[test]
fn what_the_firmware_would_not_start_is_refused() {
    let desk = Desk::new();
    let own = || desk.sealed("3", Some("own"));
    let table = [
        (layout::bootable("3"), &["own"][..], &[][..], "the image is not sealed"),
        (desk.sealed("3", None), &["own"], &[], "/boot/EFI/Linux/selkie.efi is not signed"),
        (desk.sealed("3", Some("other")), &["own"], &[], "selkie.efi is signed by \"selkie other\", and db does not accept that"),
        (own(), &[], &[], "db does not accept"),
        (own(), &["own"], &["own"], "signed by \"selkie own\", and dbx revokes it"),
        (desk.with_addon(own(), "other"), &["own"], &[], "more.addon.efi is signed by \"selkie other\""),
    ];
    let before = desk.status();
    for (files, db, dbx, words) in table {
        desk.firmware(Some(1), db, dbx);
        refused(desk.upgrade(&files), words);
        assert_eq!(desk.status(), before, "{words}");
    }
    desk.firmware(Some(1), &["other", "own"], &[]);
    let next = desk.upgrade(&desk.with_addon(own(), "other")).unwrap();
    assert_eq!(desk.status().staged.unwrap().id, next);
}

#[test]
fn other_machines_are_not_affected() {
    for secure_boot in [None, Some(0)] {
        let desk = Desk::new();
        desk.firmware(secure_boot, &["own"], &[]);
        desk.upgrade(&desk.sealed("3", Some("other"))).unwrap();
        desk.upgrade(&layout::bootable("4")).unwrap();
    }
    let desk = Desk::new();
    desk.upgrade_on(&desk.machine.host(&desk.booted), &layout::bootable("3")).unwrap();
}

#[test]
fn rollback_asks_the_firmware_too() {
    let desk = Desk::new();
    desk.firmware(Some(1), &["own"], &[]);
    let before = desk.status();
    refused(rollback::run(&desk.host(), &Silent), "the image is not sealed");
    assert_eq!(desk.status(), before);
    // From what is staged back to what runs.
    desk.upgrade(&desk.sealed("3", Some("own"))).unwrap();
    assert_eq!(rollback::run(&desk.host(), &Silent).unwrap().staged, desk.booted);
    desk.firmware(Some(0), &[], &[]);
    rollback::run(&desk.host(), &Silent).unwrap();
}

#[test]
fn lists_that_cannot_be_read_are_an_error() {
    let desk = Desk::new();
    desk.firmware(Some(1), &["own"], &[]);
    std::fs::write(Path::new(&desk.path("efivars")).join(format!("db-{SECURITY}")), b"\x06\0\0\0nonsense").unwrap();
    let error = desk.upgrade(&desk.sealed("3", Some("own"))).unwrap_err();
    assert!(format!("{error:#}").contains("reading EFI variable db: reading signature lists"), "{error:#}");
}
