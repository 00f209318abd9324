//! Repositories of no machine: checked, repaired, collected, untagged; and those of machines are refused.

mod common;
mod standalone_common;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::host::{Machine, silent};
use composefs::fsverity::Sha256HashValue;
use composefs::repository::Repository as Library;
use selkie::error::FailureKind;
use selkie::image::SourceOptions;
use selkie::ops::fsck::{self, Damage, Kind, Options, Outcome, Target, Verdict};
use selkie::ops::gc::{self, Swept};
use selkie::ops::pull::{self, Repository};
use selkie::ops::standalone::{Standalone, Verb};
use selkie::progress::{Event, Recorder};
use selkie::store::Verity;
use standalone_common::*;

#[test]
fn a_repository_that_is_well_is_clean_and_untouched() {
    let made = Made::new();
    let before = content_of(&made.path());
    made.is_clean();
    let checked = made.fsck(true).checked;
    assert_eq!((checked.tags, checked.streams, checked.images), (2, 6, 2));
    assert_eq!((checked.deployments, checked.entries), (0, 0));
    assert_eq!(content_of(&made.path()), before);
}

#[test]
fn what_is_damaged_comes_back_from_where_the_tag_says() {
    type Spoil = fn(&Made);
    let table: [(&str, Spoil); 10] = [
        ("a manifest has no name, and a layer is gone", |made| {
            std::fs::remove_file(made.stream("manifest")).unwrap();
            remove_object(&made.stream("layer"));
        }),
        ("a manifest is gone, a layer has no name, and files of it were changed", |made| {
            remove_object(&made.stream("manifest"));
            std::fs::remove_file(made.stream("layer")).unwrap();
            change(&made.file());
            change(&std::fs::canonicalize(made.image()).unwrap());
        }),
        ("a file was changed", |made| change(&made.file())),
        ("a file is gone", |made| std::fs::remove_file(made.file()).unwrap()),
        ("an image was changed", |made| change(&std::fs::canonicalize(made.image()).unwrap())),
        ("a layer is gone", |made| remove_object(&made.stream("layer"))),
        ("a layer has no name", |made| std::fs::remove_file(made.stream("layer")).unwrap()),
        ("a manifest has no name", |made| std::fs::remove_file(made.stream("manifest")).unwrap()),
        ("a manifest is gone with its name", |made| {
            remove_object(&made.stream("manifest"));
            std::fs::remove_file(made.stream("manifest")).unwrap();
        }),
        ("meta.json is gone", |made| std::fs::remove_file(made.path().join("meta.json")).unwrap()),
    ];
    for (what, spoil) in table {
        let made = Made::new();
        let well = images_of(&made.path());
        spoil(&made);
        assert_eq!(made.fsck(false).verdict, Verdict::Damaged, "{what}");
        let report = made.fsck(true);
        assert_eq!(report.verdict, Verdict::Repaired, "{what}: {report:#?}");
        assert_eq!(images_of(&made.path()), well, "{what}");
        made.is_clean();
    }
}

#[test]
fn a_tag_that_leads_nowhere_stays_and_the_way_out_is_told() {
    let made = Made::new();
    std::fs::remove_file(made.stream("manifest")).unwrap();
    remove_object(&made.stream("layer"));
    std::fs::rename(made.temp.path().join("images"), made.temp.path().join("elsewhere")).unwrap();
    let report = made.fsck(true);
    assert_eq!(report.verdict, Verdict::Damaged);
    let reasons = report.findings.iter().filter_map(|f| if let Outcome::Left { reason } = &f.outcome { Some(&**reason) } else { None });
    let reasons: Vec<&str> = reasons.collect();
    let way_out = format!("selkie untag NAME --repo {}", made.path().display());
    assert!(reasons.iter().any(|reason| reason.contains(&way_out)), "{reasons:?}");
    assert!(report.findings.iter().any(|f| (f.kind, f.damage) == (Kind::Tag, Damage::Dangling)), "{report:#?}");
    // It can be given up.
    assert_eq!(failure(made.gc(false)).0, FailureKind::Corrupt);
    made.untag(&made.tag("1")).unwrap();
    made.gc(false).unwrap();
    made.is_clean();
    made.store().check_objects(&made.two.boot_image).unwrap();
}

#[test]
fn what_no_tag_leads_to_goes_and_the_rest_stays_whole() {
    let made = Made::new();
    let nothing = made.gc(false).unwrap();
    assert_eq!((nothing.objects, nothing.images, nothing.streams, nothing.tags.len()), (0, 0, 0, 2));
    let report = made.untag(&made.tag("1")).unwrap();
    assert_eq!((report.manifest_digest.as_ref(), &report.left), (Some(&made.one.stored_manifest), &vec![made.tag("2")]));
    // What a pull left that was stopped.
    let left = made.path().join(".selkie-tmp-left");
    std::fs::write(&left, "half").unwrap();
    let stray = made.path().join("objects/ab").join("c".repeat(62));
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(&stray, "stray").unwrap();
    std::fs::write(made.path().join("unsynced"), "").unwrap();

    let before = content_of(&made.path());
    let plan = made.gc(true).unwrap();
    assert_eq!(content_of(&made.path()), before, "a plan changes nothing");
    let done = made.gc(false).unwrap();
    assert_eq!(Swept { dry_run: false, ..plan }, done);
    let after = content_of(&made.path());
    let gone = || before.iter().filter(|(path, _)| path.starts_with("objects") && !after.contains_key(*path));
    assert_eq!((done.objects, done.bytes), (gone().count() as u64, gone().map(|(_, bytes)| bytes.len() as u64).sum()));
    assert_eq!((done.images, done.streams, done.leftovers), (1, 3, 1));
    assert!(done.bytes > 10_000 && !stray.exists() && !left.exists() && !made.path().join("unsynced").exists());
    made.is_clean();
    made.store().check_objects(&made.two.boot_image).unwrap();

    // It is what it would be if the other image had never been there, and what the library leaves.
    let fresh = tempfile::tempdir().unwrap();
    std::fs::rename(made.temp.path().join("images"), fresh.path().join("images")).unwrap();
    pull_into(fresh.path(), "2", Some(&made.tag("2")));
    assert_eq!(images_of(&made.path()), images_of(&fresh.path().join("repo")));
    let library = Library::<Sha256HashValue>::open_path(rustix::fs::CWD, made.path()).unwrap();
    assert_eq!(library.gc(&[]).unwrap().objects_removed, 0);
    drop(library);

    made.untag(&made.tag("2")).unwrap();
    made.gc(false).unwrap();
    assert_eq!(images_of(&made.path()), BTreeMap::new());
}

#[test]
fn nothing_goes_while_what_a_tag_leads_to_is_damaged() {
    type Spoil = fn(&Made);
    let table: [(&str, Spoil); 14] = [
        ("the manifest has no name", |made| std::fs::remove_file(made.stream("manifest")).unwrap()),
        ("the manifest is gone", |made| remove_object(&made.stream("manifest"))),
        ("the manifest was changed", |made| change(&made.stream("manifest"))),
        ("the configuration has no name", |made| std::fs::remove_file(made.stream("config")).unwrap()),
        ("the configuration is gone", |made| remove_object(&made.stream("config"))),
        ("the configuration was changed", |made| change(&made.stream("config"))),
        ("the layer has no name", |made| std::fs::remove_file(made.stream("layer")).unwrap()),
        ("the layer is gone", |made| remove_object(&made.stream("layer"))),
        ("the layer was changed", |made| change(&made.stream("layer"))),
        ("the image has no name", |made| std::fs::remove_file(made.image()).unwrap()),
        ("the image is gone", |made| remove_object(&made.image())),
        ("the image was changed", |made| change(&made.image())),
        ("a file is gone", |made| std::fs::remove_file(made.file()).unwrap()),
        ("the tag is no link", |made| {
            std::fs::write(made.path().join("streams/refs/oci/other"), "x").unwrap();
        }),
    ];
    for (what, spoil) in table {
        let made = Made::new();
        let stray = made.path().join("objects/ab").join("c".repeat(62));
        std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
        std::fs::write(&stray, "stray").unwrap();
        spoil(&made);
        let before = content_of(&made.path());
        for dry_run in [true, false] {
            let (kind, message, hint) = failure(made.gc(dry_run));
            assert_eq!(kind, FailureKind::Corrupt, "{what}: {message}");
            assert!(message.contains("nothing was removed"), "{what}: {message}");
            assert!(hint.contains(&format!("selkie fsck --repair --repo {}", made.path().display())), "{what}: {hint}");
        }
        assert_eq!(content_of(&made.path()), before, "{what}");
        // What is given up is in nobody's way.
        for tag in [&made.tag("1"), "other"] {
            let _ = made.untag(tag);
        }
        made.gc(false).unwrap();
        assert!(!stray.exists(), "{what}");
        made.is_clean();
        made.store().check_objects(&made.two.boot_image).unwrap();
    }
}

#[test]
fn damaged_metadata_is_no_reason_to_remove_anything() {
    let made = Made::new();
    std::fs::write(made.path().join("meta.json"), "{").unwrap();
    let before = content_of(&made.path());
    for result in [made.gc(false).map(drop), made.gc(true).map(drop), made.untag(&made.tag("1")).map(drop)] {
        let (kind, message, hint) = failure(result);
        assert_eq!(kind, FailureKind::Corrupt, "{message}");
        assert!(message.contains("meta.json") && hint.contains("selkie fsck --repair") && hint.contains("--repo DIR"), "{message}: {hint}");
    }
    assert_eq!(content_of(&made.path()), before);
}

/// Other tools name images, too: such an image has its files in it, whatever became of the layers that it was made of.
#[test]
fn an_image_that_another_tool_has_named_keeps_its_files() {
    let made = Made::new();
    let refs = made.path().join("images/refs");
    std::fs::create_dir_all(&refs).unwrap();
    symlink(format!("../{}", made.one.boot_image.hex()), refs.join("mine")).unwrap();
    symlink(format!("../{}", "0".repeat(64)), refs.join("nowhere")).unwrap();
    made.untag(&made.tag("1")).unwrap();
    let swept = made.gc(false).unwrap();
    assert_eq!((swept.streams, swept.images, swept.leftovers), (3, 0, 1));
    assert!(refs.join("nowhere").symlink_metadata().is_err());
    made.store().check_objects(&made.one.boot_image).unwrap();
    made.is_clean();
}

#[test]
fn an_unknown_tag_is_told_with_those_that_are_there() {
    let made = Made::new();
    let before = content_of(&made.path());
    let (kind, message, _) = failure(made.untag("three"));
    assert_eq!(kind, FailureKind::NotFound);
    assert!(message.contains(&format!("expected one of {}, {}", made.tag("1"), made.tag("2"))), "{message}");
    assert_eq!(failure(made.untag("")).0, FailureKind::Usage);
    assert_eq!(content_of(&made.path()), before);
    for version in ["1", "2"] {
        made.untag(&made.tag(version)).unwrap();
    }
    assert!(failure(made.untag("three")).1.contains("there are none"));
}

#[test]
fn a_tag_goes_by_the_reference_that_was_pulled_too() {
    let made = Made::new();
    let digest = format!("sha256:{}", "ab".repeat(32));
    let table = [
        ("quay.io/acme/os", "quay.io/acme/os:latest".to_owned()),
        (&format!("quay.io/my_app@{digest}"), format!("quay.io/my_app_{digest}")),
        (&made.tag("1"), made.tag("1")),
    ];
    for (reference, tag) in table {
        made.store().tag(&made.one.stored_manifest, &tag).unwrap();
        assert_eq!(made.untag(reference).unwrap().tag, tag);
    }
    assert_eq!(made.store().tags_named().unwrap().len(), 1);
}

#[test]
fn names_that_a_collection_would_remove_are_no_tags() {
    let made = Made::new();
    for tag in [".selkie-tmp-os", ".tmp-os", ".symlink-os"] {
        let image = made.tag("1").parse().unwrap();
        let repository = Repository { path: made.path(), algorithm: None, verity: Verity::IfPossible };
        let options = pull::Options { image, source: SourceOptions::default(), tag: Some(tag.to_owned()) };
        assert_eq!(failure(pull::run_into(&repository, &options, &silent())).0, FailureKind::Usage, "{tag}");
    }
}

#[test]
fn repositories_of_machines_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (_machine, id) = Machine::install(temp.path());
    let path = temp.path().join("sysroot/composefs");
    let nowhere = temp.path().join("nowhere");
    let verbs = [(Verb::Fsck, "selkie fsck"), (Verb::Gc, "selkie gc"), (Verb::Untag, "selkie gc")];
    let refused = |machine: &Path, path: &Path, found: &str| {
        for (verb, instead) in verbs {
            let (kind, message, hint) = failure(Standalone::open_on(machine, path, verb));
            assert_eq!(kind, FailureKind::Usage, "{message}");
            assert!(message.contains(found), "{message}");
            assert!(hint.contains(&format!("`{instead}` without --repo")), "{hint}");
        }
    };
    refused(&nowhere, &path, &format!("its tag deployment/{id}"));
    // A machine that has lost its tags, and its repository by other paths.
    std::fs::remove_file(path.join(format!("streams/refs/oci/deployment%2F{id}"))).unwrap();
    refused(&nowhere, &path, "state/deploy beside it");
    symlink(&path, temp.path().join("link")).unwrap();
    refused(&nowhere, &temp.path().join("link"), "state/deploy beside it");
    std::fs::remove_dir_all(temp.path().join("sysroot/state")).unwrap();
    Standalone::open_on(&nowhere, &path, Verb::Gc).unwrap();
    for other in [path.clone(), temp.path().join("link"), temp.path().join("esp/../sysroot/composefs")] {
        refused(&path, &other, "of this machine");
    }
    symlink("x", path.join("streams/refs/oci/downloaded")).unwrap();
    refused(&nowhere, &path, "its tag downloaded");
}

#[test]
fn what_is_no_repository_is_not_found() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("letter"), "dear").unwrap();
    for (path, expected) in [("", "there is none"), ("none", "no such directory")] {
        let (kind, message, _) = failure(Standalone::open(&temp.path().join(path), Verb::Fsck));
        assert_eq!(kind, FailureKind::NotFound);
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(failure(Standalone::open(&temp.path().join("letter"), Verb::Fsck)).0, FailureKind::Usage);
}

/// Whoever removes or repairs waits for who has it open, and says so.
#[test]
fn they_wait_for_a_pull_at_work() {
    type Run = fn(&Made, &Arc<Recorder>);
    let collect: Run = |made, recorder| drop(gc::run_in(&made.open(Verb::Gc).unwrap(), false, recorder.as_ref()).unwrap());
    let repair: Run = |made, recorder| {
        let options = Options { repair: true, image: None, source: SourceOptions::default(), scratch: made.temp.path().to_owned() };
        let progress: Arc<dyn selkie::progress::Progress> = recorder.clone();
        fsck::run(&Target::standalone(made.open(Verb::Fsck).unwrap()), &options, &progress).unwrap();
    };
    for run in [collect, repair] {
        let made = Made::new();
        let stray = made.path().join("objects/ab").join("c".repeat(62));
        std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
        std::fs::write(&stray, "stray").unwrap();
        let recorder = Arc::<Recorder>::default();
        let told = || recorder.events().iter().any(|event| matches!(event, Event::Note { message } if message.contains("such as a pull")));
        let at_work = made.store();
        thread::scope(|scope| {
            let waits = scope.spawn(|| run(&made, &recorder));
            let begun = Instant::now();
            while !told() && begun.elapsed() < Duration::from_secs(300) {
                thread::sleep(Duration::from_millis(50));
            }
            assert!(told() && stray.exists());
            drop(at_work);
            waits.join().unwrap();
        });
        assert!(!stray.exists());
    }
}
