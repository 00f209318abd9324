//! What firmware's lists say to a binary: real keys, real signatures, lists by efitools.

use std::path::PathBuf;
use std::process::Command;

use selkie::signing::database::{Database, Trust};
use selkie::signing::{KeySource, Signer};
use selkie::uki::pe::Pe;

const BOOT: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";

/// A directory with keys, certificates and lists.
struct Desk {
    temp: tempfile::TempDir,
}

impl Desk {
    /// Certificates `root`, `leaf` (issued by `root`) and `other`.
    fn new() -> Self {
        let desk = Self { temp: tempfile::tempdir().unwrap() };
        for name in ["root", "leaf", "other"] {
            let mut words: Vec<String> =
                ["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"].map(Into::into).into();
            words.extend([format!("/CN=selkie {name}/"), "-keyout".into(), desk.word(name, "key"), "-out".into(), desk.word(name, "crt")]);
            if name == "leaf" {
                words.extend(["-CA".into(), desk.word("root", "crt"), "-CAkey".into(), desk.word("root", "key")]);
            }
            run("openssl", &words);
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn word(&self, name: &str, end: &str) -> String {
        self.path(&format!("{name}.{end}")).display().to_string()
    }

    fn signed(&self, name: &str) -> Vec<u8> {
        let key = KeySource::new(&self.path(&format!("{name}.key")), None).unwrap();
        let signer = Signer::Key { key, certificate: self.path(&format!("{name}.crt")) };
        signer.sign(&std::fs::read(BOOT).unwrap(), self.temp.path()).unwrap()
    }

    /// A list of certificates, as it stands in a variable.
    fn list(&self, names: &[&str]) -> Vec<u8> {
        let lists = names.iter().map(|name| {
            run("cert-to-efi-sig-list", &[self.word(name, "crt"), self.word(name, "esl")]);
            std::fs::read(self.path(&format!("{name}.esl"))).unwrap()
        });
        lists.collect::<Vec<_>>().concat()
    }

    fn database(&self, names: &[&str]) -> Database {
        Database::parse(&self.list(names)).unwrap()
    }
}

fn run(program: &str, words: &[String]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_signer_or_who_stands_behind_it_is_listed() {
    let desk = Desk::new();
    let unsigned = std::fs::read(BOOT).unwrap();
    let (root, leaf) = (desk.signed("root"), desk.signed("leaf"));
    for (listed, binary, accepted) in [
        (&["root"][..], &root, true),
        (&["root"], &leaf, true),
        (&["leaf"], &leaf, true),
        (&["leaf"], &root, false),
        (&["other"], &leaf, false),
        (&["other", "root"], &leaf, true),
        (&[], &leaf, false),
        (&["root", "leaf"], &unsigned, false),
    ] {
        assert_eq!(desk.database(listed).accepts(binary).unwrap(), accepted, "{listed:?}");
        assert_eq!(desk.database(listed).revokes(binary).unwrap(), accepted, "{listed:?}");
    }
}

/// Two signatures: firmware starts it when one of them is accepted.
#[test]
fn one_of_several_signatures_suffices() {
    let desk = Desk::new();
    std::fs::write(desk.path("in"), desk.signed("other")).unwrap();
    run(
        "sbsign",
        &["--key", &desk.word("root", "key"), "--cert", &desk.word("root", "crt"), "--output"]
            .map(str::to_owned)
            .into_iter()
            .chain([desk.word("out", "efi"), desk.path("in").display().to_string()])
            .collect::<Vec<_>>(),
    );
    let both = std::fs::read(desk.path("out.efi")).unwrap();
    for (name, accepted) in [("root", true), ("other", true), ("leaf", false)] {
        assert_eq!(desk.database(&[name]).accepts(&both).unwrap(), accepted, "{name}");
    }
}

#[test]
fn a_digest_may_be_listed() {
    let desk = Desk::new();
    run("hash-to-efi-sig-list", &[BOOT.to_owned(), desk.word("hash", "esl")]);
    let database = Database::parse(&std::fs::read(desk.path("hash.esl")).unwrap()).unwrap();
    let signed = desk.signed("root");
    assert!(database.accepts(&std::fs::read(BOOT).unwrap()).unwrap());
    assert!(database.accepts(&signed).unwrap(), "the signature is no part of it");
    let mut other = signed;
    other[0x1000] ^= 1;
    assert!(!database.accepts(&other).unwrap());
}

#[test]
fn a_signed_list_is_read_like_a_variable() {
    let desk = Desk::new();
    std::fs::write(desk.path("db.esl"), desk.list(&["other", "root"])).unwrap();
    let words = ["-k", &desk.word("root", "key"), "-c", &desk.word("root", "crt"), "db", &desk.word("db", "esl"), &desk.word("db", "auth")];
    run("sign-efi-sig-list", &words.map(str::to_owned));
    let database = Database::parse_signed(&std::fs::read(desk.path("db.auth")).unwrap()).unwrap();
    assert!(database.accepts(&desk.signed("leaf")).unwrap());
    assert!(Database::parse_signed(&desk.list(&["root"])).is_err());
}

#[test]
fn an_objection_says_what_was_found() {
    let desk = Desk::new();
    let trust = |db: &[&str], dbx: &[&str]| Trust { db: desk.database(db), dbx: desk.database(dbx) };
    let leaf = desk.signed("leaf");
    let unsigned = std::fs::read(BOOT).unwrap();
    let table = [
        (trust(&["root"], &["other"]), &leaf, None),
        (trust(&["root"], &["leaf"]), &leaf, Some("signed by \"selkie leaf\", and dbx revokes it")),
        (trust(&["leaf"], &["root"]), &leaf, Some("signed by \"selkie leaf\", and dbx revokes it")),
        (trust(&["other"], &[]), &leaf, Some("signed by \"selkie leaf\", and db does not accept that")),
        (trust(&["root"], &[]), &unsigned, Some("not signed, and db does not accept that")),
        (trust(&["root"], &[]), &b"MZ".to_vec(), Some("not to be read: ")),
    ];
    for (trust, binary, expected) in table {
        let found = trust.objection(binary);
        assert!(found.is_some() == expected.is_some() && found.iter().all(|found| found.starts_with(expected.unwrap())), "{found:?}");
    }
}

/// Whatever a byte of the signature says: no panic, and nothing else that is accepted.
#[test]
fn a_signature_that_was_changed_does_not_hold() {
    let desk = Desk::new();
    let signed = desk.signed("leaf");
    let database = desk.database(&["root"]);
    let table = Pe::read(&mut std::io::Cursor::new(&signed)).unwrap().certificates().unwrap();
    let changed = |at: usize, by: u8| {
        let mut changed = signed.clone();
        changed[at] ^= by;
        database.accepts(&changed).unwrap_or(false)
    };
    for at in [0x400, 0x1000, signed.len() / 2] {
        assert!(!changed(at, 1), "byte {at} of the binary");
    }
    let (start, end) = (table.start as usize, table.end as usize);
    let still = (start..end).step_by(7).flat_map(|at| [0x01, 0x80, 0xff].map(|by| changed(at, by))).filter(|accepted| *accepted).count();
    let all = (end - start) / 7 * 3;
    // Lists of algorithms and what is attached without being signed may be anything.
    assert!(still < all / 5, "{still} of {all} changes do not matter");
    for length in [8, 64, 512, 1024] {
        let mut cut = signed[..start + length].to_vec();
        let size = (cut.len() - start) as u32;
        let entry = signed.windows(4).position(|w| w == (start as u32).to_le_bytes()).unwrap() + 4;
        cut[entry..entry + 4].copy_from_slice(&size.to_le_bytes());
        assert!(!database.accepts(&cut).unwrap_or(false), "{length} bytes of the table");
    }
}
