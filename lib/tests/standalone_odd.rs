//! Repositories of no machine with something in them that selkie has not made: it stays, and nothing that it leads to goes.

mod common;
mod standalone_common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use composefs::fsverity::Sha256HashValue;
use composefs::repository::Repository as Library;
use composefs_oci::BLOB_CONTENT_TYPE;
use composefs_oci::oci_image::write_blob;
use selkie::error::FailureKind;
use selkie::image::SourceOptions;
use selkie::ops::fsck::{self, Damage, Kind, Options, Target, Verdict};
use selkie::ops::standalone::{Standalone, Verb};
use standalone_common::*;

#[test]
fn a_newer_repository_is_left_alone() {
    let made = Made::new();
    std::fs::write(made.path().join("meta.json"), r#"{"version":2,"algorithm":{"moon":1}}"#).unwrap();
    let before = content_of(&made.path());
    let options = |repair| Options { repair, image: None, source: SourceOptions::default(), scratch: made.temp.path().to_owned() };
    let target = || Target::standalone(made.open(Verb::Fsck).unwrap());
    let [check, repair] = [false, true].map(|repair| fsck::run(&target(), &options(repair), &common::host::silent()).map(drop));
    for result in [check, repair, made.gc(false).map(drop), made.untag(&made.tag("1")).map(drop)] {
        let (kind, message, hint) = failure(result);
        assert_eq!(kind, FailureKind::StoreMismatch, "{message}");
        assert!(message.contains("version 2 (expected at most 1)") && hint.contains("a newer selkie"), "{message}: {hint}");
    }
    assert_eq!(content_of(&made.path()), before);
}

/// Others have files whose names are as long as those of objects.
#[test]
fn a_directory_that_only_looks_like_a_repository_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    for number in 0..3 {
        let object = temp.path().join(format!("repo/objects/{number:02}")).join("c".repeat(62));
        std::fs::create_dir_all(object.parent().unwrap()).unwrap();
        std::fs::write(object, "of another tool").unwrap();
    }
    let path = temp.path().join("repo");
    assert_eq!(failure(Standalone::open(&path, Verb::Fsck)).0, FailureKind::NotFound);
    std::fs::create_dir(path.join("streams")).unwrap();
    let before = content_of(&path);
    let options = Options { repair: true, image: None, source: SourceOptions::default(), scratch: temp.path().to_owned() };
    let target = Target::standalone(Standalone::open(&path, Verb::Fsck).unwrap());
    let report = fsck::run(&target, &options, &common::host::silent()).unwrap();
    assert_eq!(report.verdict, Verdict::Damaged);
    assert!(format!("{report:?}").contains("this may be no repository"), "{report:?}");
    assert_eq!(content_of(&path), before);
}

#[test]
fn nothing_goes_while_something_has_a_name_that_nobody_understands() {
    type Spoil = fn(&Made);
    let table: [(&str, Spoil); 7] = [
        ("a reference to an object", |made| {
            let object = made.file().strip_prefix(made.path()).unwrap().to_owned();
            let refs = made.path().join("images/refs");
            std::fs::create_dir_all(&refs).unwrap();
            symlink(std::path::Path::new("../..").join(object), refs.join("mine")).unwrap();
        }),
        ("a reference to a name of the other kind", |made| {
            symlink(format!("../../images/{}", made.one.boot_image.hex()), made.path().join("streams/refs/mine")).unwrap();
        }),
        ("a directory among streams", |made| std::fs::create_dir(made.path().join("streams/notes")).unwrap()),
        ("a file among streams", |made| std::fs::write(made.path().join("streams/notes"), "dear").unwrap()),
        ("a file among images", |made| std::fs::write(made.path().join("images/notes"), "dear").unwrap()),
        ("a link to elsewhere", |made| symlink("../elsewhere", made.path().join("streams/notes")).unwrap()),
        ("a name that is not UTF-8", |made| {
            let object = std::fs::read_link(made.stream("layer")).unwrap();
            symlink(object, made.path().join("streams").join(OsStr::from_bytes(b"n\xf6tes"))).unwrap();
        }),
    ];
    for (what, spoil) in table {
        let made = Made::new();
        made.untag(&made.tag("1")).unwrap();
        spoil(&made);
        let before = content_of(&made.path());
        for dry_run in [true, false] {
            let (kind, message, _) = failure(made.gc(dry_run));
            assert_eq!(kind, FailureKind::Corrupt, "{what}: {message}");
            assert!(message.contains("nothing was removed"), "{what}: {message}");
        }
        assert_eq!(content_of(&made.path()), before, "{what}");
    }
}

#[test]
fn a_reference_to_what_is_no_stream_is_told() {
    let made = Made::new();
    symlink(format!("../../images/{}", made.one.boot_image.hex()), made.path().join("streams/refs/mine")).unwrap();
    let report = made.fsck(true);
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.kind, finding.damage, &*finding.name)).collect();
    assert_eq!(found, [(Kind::Tag, Damage::Unreadable, "streams/refs/mine")]);
    assert!(made.path().join("streams/refs/mine").exists());
}

#[test]
fn a_directory_with_the_name_of_an_object_stays_and_the_rest_goes() {
    let made = Made::new();
    made.untag(&made.tag("1")).unwrap();
    let directory = made.path().join("objects/ab").join("c".repeat(62));
    std::fs::create_dir_all(&directory).unwrap();
    let swept = made.gc(false).unwrap();
    assert!(swept.streams == 3 && directory.is_dir() && made.image().symlink_metadata().is_err(), "{swept:?}");
    made.store().check_objects(&made.two.boot_image).unwrap();
}

/// What `cfsctl` pulls besides images, such as signatures: their layers are blobs, with the names of layers or of blobs.
#[test]
fn artifacts_of_other_tools_are_whole_and_stay_as_long_as_their_tags() {
    let made = Made::new();
    let sha256 = |bytes: &[u8]| format!("sha256:{}", hex::encode(openssl::sha::sha256(bytes)));
    let library = Arc::new(Library::<Sha256HashValue>::open_path(rustix::fs::CWD, made.path()).unwrap());
    let write = |kind: &str, content_type: u64, bytes: &[u8], named: &[(String, Sha256HashValue)], tag: Option<&str>| {
        let mut stream = library.create_stream(content_type).unwrap();
        named.iter().for_each(|(key, id)| stream.add_named_stream_ref(key, id));
        stream.write_external(bytes).unwrap();
        library.write_stream(stream, &format!("oci-{kind}-{}", sha256(bytes)), tag).unwrap()
    };
    let (blob, signature, config, manifest) = ([b'b'; 1000], [b's'; 1000], br#"{"artifact":true}"#, br#"{"schemaVersion":2}"#);
    let (digest, by_blob) = write_blob(&library, &blob).unwrap();
    let by_layer = write("layer", BLOB_CONTENT_TYPE, &signature, &[], None);
    let layers = [(digest.to_string(), by_blob), (sha256(&signature), by_layer)];
    let of_config = write("config", u64::from_le_bytes(*b"ociconfg"), config, &layers, None);
    let named = [&[(format!("config:{}", sha256(config)), of_config)], &layers[..]].concat();
    write("manifest", u64::from_le_bytes(*b"ocimanif"), manifest, &named, Some("oci/signature"));
    library.sync().unwrap();
    drop(library);
    assert_eq!(made.fsck(false).findings, []);
    let before = images_of(&made.path());
    let swept = made.gc(false).unwrap();
    assert_eq!((swept.objects, swept.streams, images_of(&made.path())), (0, 0, before));
    made.untag("signature").unwrap();
    assert_eq!(made.gc(false).unwrap().streams, 4);
    made.is_clean();
}
