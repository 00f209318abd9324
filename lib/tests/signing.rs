//! `signing`: real keys, systemd's real boot loader, and sbsign, sbverify and a software token as they are.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::symm::Cipher;
use openssl::x509::{X509, X509Name};
use selkie::error::{Failure, FailureKind};
use selkie::signing::{KeySource, Signer};
use selkie::uki::authenticode::check_signed_form;
use selkie::uki::{Parts, Uki, assemble};

/// From the package systemd-boot-efi.
const BOOT: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

/// A certificate of a key for itself, valid from and to these seconds from now.
fn certificate(key: &PKey<Private>, from: i64, to: i64) -> X509 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "selkie test").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(now + from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(now + to).unwrap()).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}

/// A key with its certificate in files, and a directory to work in.
struct Desk {
    temp: tempfile::TempDir,
    key: PKey<Private>,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { temp: tempfile::tempdir().unwrap(), key: rsa(2048) };
        desk.write("key.pem", &desk.key.private_key_to_pem_pkcs8().unwrap());
        desk.write("cert.pem", &certificate(&desk.key, -60, 3600).to_pem().unwrap());
        std::fs::create_dir(desk.path("scratch")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn signer(&self, key: &str, passphrase: Option<&str>, certificate: &str) -> Signer {
        let key = KeySource::new(&self.path(key), passphrase.map(|name| self.path(name))).unwrap();
        Signer::Key { key, certificate: self.path(certificate) }
    }

    fn sign(&self, signer: &Signer, binary: &[u8]) -> anyhow::Result<Vec<u8>> {
        let signed = signer.sign(binary, &self.path("scratch"));
        assert_eq!(std::fs::read_dir(self.path("scratch")).unwrap().count(), 0, "something is left behind");
        signed
    }

    /// What sbverify says about a binary and the certificate in a file.
    fn verified(&self, signed: &[u8], certificate: &str) -> bool {
        self.write("signed.efi", signed);
        let run = Command::new("sbverify").arg("--cert").args([self.path(certificate), self.path("signed.efi")]).output().unwrap();
        run.status.success()
    }
}

fn boot() -> Vec<u8> {
    std::fs::read(BOOT).unwrap()
}

fn failure(result: anyhow::Result<impl Sized>) -> Failure {
    let error = result.err().expect("it went well");
    Failure::find(&error).unwrap_or_else(|| panic!("{error:#}"))
}

#[test]
fn a_key_in_a_file_signs_loader_and_image() {
    let desk = Desk::new();
    let stub = std::fs::read(STUB).unwrap();
    let parts = Parts { stub: &stub, os_release: "ID=a\n", cmdline: "quiet", uname: "6.1", linux: b"kernel", initrd: b"initrd" };
    let signer = desk.signer("key.pem", None, "cert.pem");
    signer.check().unwrap();
    desk.write("other.pem", &certificate(&rsa(2048), -60, 3600).to_pem().unwrap());
    for unsigned in [boot(), assemble(&parts).unwrap()] {
        let signed = desk.sign(&signer, &unsigned).unwrap();
        check_signed_form(&unsigned, &signed).unwrap();
        assert!(Uki::read(&mut std::io::Cursor::new(&signed)).unwrap().signed);
        assert!(desk.verified(&signed, "cert.pem") && !desk.verified(&signed, "other.pem"));
    }
}

#[test]
fn only_what_is_unsigned_is_signed() {
    let desk = Desk::new();
    let signer = desk.signer("key.pem", None, "cert.pem");
    let signed = desk.sign(&signer, &boot()).unwrap();
    for (binary, reason) in [(signed, "signed already"), (b"#!/bin/sh".to_vec(), "reading an EFI binary")] {
        let failure = failure(desk.sign(&signer, &binary));
        assert_eq!(failure.kind, FailureKind::Unsuitable);
        assert!(failure.message.contains(reason), "{}", failure.message);
    }
}

#[test]
fn an_encrypted_key_wants_its_passphrase() {
    let desk = Desk::new();
    desk.write("locked.pem", &desk.key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"open sesame").unwrap());
    for (name, content) in [("right", "open sesame\n"), ("crlf", "open sesame\r\nmore\n"), ("wrong", "open"), ("empty", "")] {
        desk.write(name, content.as_bytes());
    }
    desk.write("long", &vec![b'a'; 100_000]);
    for name in ["right", "crlf"] {
        let signer = desk.signer("locked.pem", Some(name), "cert.pem");
        signer.check().unwrap();
        assert!(desk.verified(&desk.sign(&signer, &boot()).unwrap(), "cert.pem"));
    }
    let missing = failure(desk.signer("locked.pem", None, "cert.pem").check());
    assert_eq!(missing.kind, FailureKind::Usage);
    assert!(missing.message.contains("encrypted, and there is no passphrase") && missing.hint.is_some(), "{missing:?}");
    for name in ["wrong", "empty", "long"] {
        let wrong = failure(desk.signer("locked.pem", Some(name), "cert.pem").check());
        assert!(wrong.message.contains("not with this passphrase"), "{name}: {}", wrong.message);
    }
    assert_eq!(failure(desk.signer("locked.pem", Some("none"), "cert.pem").check()).kind, FailureKind::NotFound);
}

#[test]
fn what_cannot_sign_is_refused_before_any_work() {
    let desk = Desk::new();
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let (curve, small) = (PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap(), rsa(1024));
    desk.write("curve.pem", &curve.private_key_to_pem_pkcs8().unwrap());
    desk.write("key.der", &desk.key.private_key_to_der().unwrap());
    for (name, certificate) in [
        ("other.pem", certificate(&rsa(2048), -60, 3600)),
        ("expired.pem", certificate(&desk.key, -3600, -60)),
        ("early.pem", certificate(&desk.key, 3600, 7200)),
        ("small.pem", certificate(&small, -60, 3600)),
        ("curve-cert.pem", certificate(&curve, -60, 3600)),
    ] {
        desk.write(name, &certificate.to_pem().unwrap());
    }
    desk.write("cert.der", &certificate(&desk.key, -60, 3600).to_der().unwrap());
    desk.write("text", b"hello\n");

    let table = [
        ("none", "cert.pem", FailureKind::NotFound, "reading key"),
        ("key.pem", "none", FailureKind::NotFound, "reading certificate"),
        ("text", "cert.pem", FailureKind::Usage, "no private key in it (expected PEM)"),
        ("cert.pem", "cert.pem", FailureKind::Usage, "no private key in it (expected PEM)"),
        ("key.der", "cert.pem", FailureKind::Usage, "no private key in it (expected PEM)"),
        ("key.pem", "text", FailureKind::Usage, "no certificate in it (expected PEM)"),
        ("key.pem", "key.pem", FailureKind::Usage, "no certificate in it (expected PEM)"),
        ("key.pem", "cert.der", FailureKind::Usage, "no certificate in it (expected PEM)"),
        ("key.pem", "other.pem", FailureKind::Usage, "do not belong together"),
        ("key.pem", "expired.pem", FailureKind::Usage, "expired, not valid after"),
        ("key.pem", "early.pem", FailureKind::Usage, "not valid before"),
        ("key.pem", "small.pem", FailureKind::Usage, "RSA with 1024 bits (expected RSA with 2048 bits or more"),
        ("key.pem", "curve-cert.pem", FailureKind::Usage, "not RSA"),
        ("curve.pem", "cert.pem", FailureKind::Usage, "not RSA"),
    ];
    for (key, certificate, kind, message) in table {
        let signer = desk.signer(key, None, certificate);
        for failure in [failure(signer.check()), failure(desk.sign(&signer, &boot()))] {
            assert_eq!(failure.kind, kind, "{key}, {certificate}: {}", failure.message);
            assert!(failure.message.contains(message), "{key}, {certificate}: {}", failure.message);
        }
    }
    let der = failure(desk.signer("key.pem", None, "cert.der").check());
    assert!(der.hint.unwrap().contains("openssl x509 -inform DER"));
}

#[test]
fn a_command_signs_what_it_is_given() {
    let desk = Desk::new();
    let sbsign = format!("sbsign --key {} --cert {}", desk.path("key.pem").display(), desk.path("cert.pem").display());
    for files in [r#"--output "$SELKIE_OUTPUT" "$SELKIE_INPUT""#, r#"--output "$2" "$1""#] {
        let signer = Signer::Command { command: format!("{sbsign} {files}"), certificate: None };
        signer.check().unwrap();
        assert!(desk.verified(&desk.sign(&signer, &boot()).unwrap(), "cert.pem"));
    }
}

/// Who signed is looked at only where a certificate says who should have.
#[test]
fn a_command_signs_with_the_key_of_the_certificate() {
    let desk = Desk::new();
    let (other, stranger) = (rsa(2048), rsa(2048));
    desk.write("other.key", &other.private_key_to_pem_pkcs8().unwrap());
    desk.write("other.pem", &certificate(&other, -60, 3600).to_pem().unwrap());
    desk.write("stranger.pem", &certificate(&stranger, -60, 3600).to_pem().unwrap());
    desk.write("expired.pem", &certificate(&desk.key, -3600, -60).to_pem().unwrap());
    let signed_by = |key: &str, by: &str, expected: Option<&str>| {
        let (key, by) = (desk.path(key), desk.path(by));
        let command = format!("sbsign --key {} --cert {} --output \"$2\" \"$1\"", key.display(), by.display());
        desk.sign(&Signer::Command { command, certificate: expected.map(|name| desk.path(name)) }, &boot())
    };
    for expected in [None, Some("cert.pem")] {
        assert!(desk.verified(&signed_by("key.pem", "cert.pem", expected).unwrap(), "cert.pem"));
    }
    signed_by("other.key", "other.pem", None).unwrap();
    for wrong in ["other.pem", "stranger.pem"] {
        let wrong = failure(signed_by("key.pem", "cert.pem", Some(wrong)));
        assert_eq!(wrong.kind, FailureKind::Corrupt, "{}", wrong.message);
        assert!(wrong.message.contains("signed by \"selkie test\" (expected") && wrong.hint.is_some(), "{}", wrong.message);
    }
    let check = |name: &str| failure(Signer::Command { command: "true".into(), certificate: Some(desk.path(name)) }.check());
    assert!(check("expired.pem").message.contains("expired"));
    assert_eq!(check("none").kind, FailureKind::NotFound);
}

fn command_of(command: &str) -> Signer {
    Signer::Command { command: command.to_owned(), certificate: None }
}

#[test]
fn a_command_that_signs_something_else_is_found_out() {
    let desk = Desk::new();
    let signed = desk.sign(&desk.signer("key.pem", None, "cert.pem"), &std::fs::read(STUB).unwrap()).unwrap();
    desk.write("stale.efi", &signed);
    let stale = desk.path("stale.efi");
    let table = [
        ("true".to_owned(), "opening the output"),
        (r#"cp "$1" "$2""#.to_owned(), "no certificate table"),
        (r#": > "$2""#.to_owned(), "reading an EFI binary"),
        (format!(r#"cp {} "$2""#, stale.display()), "expected the same bytes"),
        (r#"head -c 3000000 /dev/zero > "$2""#.to_owned(), "bytes became more than"),
    ];
    for (command, message) in table {
        let failure = failure(desk.sign(&command_of(&command), &boot()));
        assert_eq!(failure.kind, FailureKind::Corrupt, "{command}: {}", failure.message);
        assert!(failure.message.contains(message), "{command}: {}", failure.message);
    }
    let error = desk.sign(&command_of("echo no such key >&2; exit 3"), &boot()).unwrap_err();
    assert!(format!("{error:#}").contains("exit status: 3: no such key"), "{error:#}");
    assert_eq!(failure(command_of(" ").check()).kind, FailureKind::Usage);
}

#[test]
fn the_words_of_a_token_are_checked() {
    let desk = Desk::new();
    let open = Signer::Key { key: KeySource::Pkcs11("pkcs11:token=a?pin-value=1234".into()), certificate: desk.path("cert.pem") };
    let failure = failure(open.check());
    assert_eq!(failure.kind, FailureKind::Usage);
    assert!(!failure.message.contains("1234") && failure.hint.unwrap().contains("pin-source"));
    assert!(KeySource::new(Path::new("pkcs11:token=a"), Some(desk.path("pin"))).is_err());
    let token = KeySource::new(Path::new("pkcs11:token=a"), None).unwrap();
    assert_eq!(token, KeySource::Pkcs11("pkcs11:token=a".into()));
}

/// The software token finds its configuration in the environment, so that a process of its own signs: [`sign_in_this_environment`].
#[test]
fn a_key_on_a_token_signs() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("tokens")).unwrap();
    desk.write("softhsm2.conf", format!("directories.tokendir = {}\n", desk.path("tokens").display()).as_bytes());
    desk.write("pin", b"1234");
    let token = |arguments: &[&OsStr]| {
        let run = Command::new("softhsm2-util").args(arguments).env("SOFTHSM2_CONF", desk.path("softhsm2.conf")).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    };
    let words = |line: &'static str| line.split(' ').map(OsStr::new).collect::<Vec<_>>();
    token(&words("--init-token --free --label selkie --pin 1234 --so-pin 5678"));
    let key = desk.path("key.pem");
    token(&[words("--import"), vec![key.as_os_str()], words("--token selkie --label signing --id 01 --pin 1234")].concat());
    desk.write("other.pem", &certificate(&rsa(2048), -60, 3600).to_pem().unwrap());

    let sign = |uri: String, certificate: &str| {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "sign_in_this_environment", "--nocapture"])
            .env("SOFTHSM2_CONF", desk.path("softhsm2.conf"))
            .env("SELKIE_TEST_KEY", uri)
            .env("SELKIE_TEST_CERTIFICATE", desk.path(certificate))
            .env("SELKIE_TEST_DIRECTORY", desk.path("scratch"))
            .output()
            .unwrap();
        let said = [child.stdout, child.stderr].concat();
        (child.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let uri = |object| format!("pkcs11:token=selkie;object={object};type=private?pin-source=file:{}", desk.path("pin").display());
    let (ok, said) = sign(uri("signing"), "cert.pem");
    assert!(ok, "{said}");
    assert!(desk.verified(&std::fs::read(desk.path("scratch/token.efi")).unwrap(), "cert.pem"));
    let (ok, said) = sign(uri("nothing"), "cert.pem");
    assert!(!ok && said.contains("NotFound: signing with the key pkcs11:token=selkie;object=nothing"), "{said}");
    let (ok, said) = sign(uri("signing"), "other.pem");
    assert!(!ok && said.contains("Usage: signing with key pkcs11:") && said.contains("do not belong together"), "{said}");
}

#[test]
#[ignore = "others start it, with an environment of its own"]
fn sign_in_this_environment() {
    let word = |name| std::env::var(name).unwrap();
    let directory = PathBuf::from(word("SELKIE_TEST_DIRECTORY"));
    let signer = Signer::Key {
        key: KeySource::new(Path::new(&word("SELKIE_TEST_KEY")), None).unwrap(),
        certificate: word("SELKIE_TEST_CERTIFICATE").into(),
    };
    signer.check().unwrap();
    match signer.sign(&boot(), &directory) {
        Ok(signed) => std::fs::write(directory.join("token.efi"), signed).unwrap(),
        Err(error) => panic!("{}", Failure::find(&error).map_or(format!("{error:#}"), |f| format!("{:?}: {}", f.kind, f.message))),
    }
}

/// A program that looks at what a signer leaves in the open while it works: no file but the binary, and the key in no argument.
#[test]
fn nothing_secret_is_in_files_while_signing() {
    let desk = Desk::new();
    let listing = desk.path("listing");
    let spy = format!(
        r#"#!/bin/sh
[ "$1" = --help ] && exit 0
{{ echo "$@"; ls "{}"/*; }} >> "{}"
exec /usr/bin/sbsign "$@"
"#,
        desk.path("scratch").display(),
        listing.display()
    );
    std::fs::create_dir(desk.path("bin")).unwrap();
    desk.write("bin/sbsign", spy.as_bytes());
    std::fs::set_permissions(desk.path("bin/sbsign"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "sign_in_this_environment", "--nocapture"])
        .env("PATH", format!("{}:{}", desk.path("bin").display(), std::env::var("PATH").unwrap()))
        .env("SELKIE_TEST_KEY", desk.path("key.pem"))
        .env("SELKIE_TEST_CERTIFICATE", desk.path("cert.pem"))
        .env("SELKIE_TEST_DIRECTORY", desk.path("scratch"))
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let seen = std::fs::read_to_string(listing).unwrap();
    let (arguments, files) = seen.split_once('\n').unwrap();
    assert!(arguments.starts_with("--key /dev/stdin --cert "), "{arguments}");
    assert_eq!(files, "unsigned.efi\n");
}
