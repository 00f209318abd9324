//! Verbs that write to a repository of no machine are stopped after every durable step. What the tags lead to is whole at any time, and the same command again ends the work.

mod common;
#[path = "crash_common/content.rs"]
mod content;
mod crash_common;
#[path = "crash_common/host.rs"]
mod crash_host;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::host::silent;
use common::layout;
use content::{Files, assert_well_or_damaged, content};
use crash_common::{Job, Scene, kill_at_every_step, killed, temporary};
use crash_host::assert_whole;
use selkie::finding::Remedy;
use selkie::image::SourceOptions;
use selkie::ops::fsck::{self, Options, Report, Target, Verdict};
use selkie::ops::gc;
use selkie::ops::pull::{self, Repository};
use selkie::ops::standalone::{Standalone, Verb};
use selkie::ops::untag;
use selkie::progress::Progress;
use selkie::store::{CONTENT_INDEX, Store, Verity};
use selkie::sys::dir;

#[test]
fn child() {
    crash_common::child(&[
        ("pull --repo", |job| pull(&job.directory, "new", &job.progress)),
        ("untag --repo", |job| untag(&job.directory, "old", &job.progress)),
        ("gc --repo", |job| collect(&job.directory, &job.progress)),
        ("fsck --repair --repo", repair),
    ]);
}

fn repository(directory: &Path) -> PathBuf {
    directory.join("repo")
}

fn open(directory: &Path, verb: Verb) -> Standalone {
    Standalone::open(&repository(directory), verb).unwrap()
}

/// Two versions of an image, under the tags `old` and `new`.
fn release(directory: &Path) {
    for (tag, version) in [("old", "1"), ("new", "2")] {
        layout::write(&directory.join("images"), tag, &layout::with(layout::bootable(version), "usr/own", &version.repeat(5000)));
    }
}

/// Pulls under the tag of the image in its layout.
fn pull(directory: &Path, tag: &str, progress: &Arc<dyn Progress>) {
    let repository = Repository { path: repository(directory), algorithm: None, verity: Verity::IfPossible };
    let image = format!("oci:{}:{tag}", directory.join("images").display()).parse().unwrap();
    pull::run_into(&repository, &pull::Options { image, source: SourceOptions::default(), tag: Some(tag.to_owned()) }, progress).unwrap();
}

/// A tag that is gone already is what a call that was stopped has done.
fn untag(directory: &Path, tag: &str, progress: &Arc<dyn Progress>) {
    if tags(directory, "before").contains(&tag.to_owned()) {
        untag::run(&open(directory, Verb::Untag), tag, progress.as_ref()).unwrap();
    }
}

fn collect(directory: &Path, progress: &Arc<dyn Progress>) {
    gc::run_in(&open(directory, Verb::Gc), false, progress.as_ref()).unwrap();
}

fn check(directory: &Path, repair: bool, progress: &Arc<dyn Progress>) -> Report {
    let image = repair.then(|| format!("oci:{}:old", directory.join("images").display()).parse().unwrap());
    let options = Options { repair, image, source: SourceOptions::default(), scratch: directory.to_owned() };
    fsck::run(&Target::standalone(open(directory, Verb::Fsck)), &options, progress).unwrap()
}

fn repair(job: &Job) {
    let report = check(&job.directory, true, &job.progress);
    assert!(matches!(report.verdict, Verdict::Clean | Verdict::Repaired), "{report:?}");
}

/// The tags in the repository, each of whose images is whole.
fn tags(directory: &Path, when: &str) -> Vec<String> {
    let store = Store::open(dir::open_path(directory).unwrap(), "repo").unwrap_or_else(|e| panic!("{when}: {e:#}"));
    let whole = |(tag, manifest): (String, String)| {
        let stored = store.find(&manifest).unwrap().unwrap_or_else(|| panic!("{when}: {tag} names nothing"));
        assert_whole(&store, &stored.image, when);
        assert_whole(&store, &stored.boot_image, when);
        tag
    };
    let mut tags: Vec<_> = store.tags().unwrap().into_iter().map(whole).collect();
    tags.sort();
    tags
}

/// A repository that has had the first of two images all along.
struct Pull(PathBuf);

impl Scene for Pull {
    fn check(&self, when: &str) {
        assert!(tags(&self.0, when).contains(&"old".to_owned()), "{when}");
    }

    fn check_end(&self, when: &str) {
        assert_eq!(tags(&self.0, when), ["new", "old"], "{when}");
    }
}

#[test]
fn a_pull_into_a_repository_survives_a_stop_after_every_step() {
    kill_at_every_step("pull --repo", 3, |directory| {
        release(directory);
        pull(directory, "old", &silent());
        Pull(directory.to_owned())
    });
}

/// A repository that loses the first of two images.
struct Untag(PathBuf);

impl Scene for Untag {
    fn check(&self, when: &str) {
        assert!(tags(&self.0, when).contains(&"new".to_owned()), "{when}");
        assert_eq!(check(&self.0, false, &silent()).findings, [], "{when}");
    }

    fn check_end(&self, when: &str) {
        assert_eq!(tags(&self.0, when), ["new"], "{when}");
    }
}

#[test]
fn removing_a_tag_survives_a_stop_after_every_step() {
    kill_at_every_step("untag --repo", 1, |directory| {
        release(directory);
        for tag in ["old", "new"] {
            pull(directory, tag, &silent());
        }
        Untag(directory.to_owned())
    });
}

/// A repository with an image that has lost its tag, and with what stopped pulls leave; and what has to be left of it.
struct Garbage {
    directory: PathBuf,
    clean: Files,
}

impl Garbage {
    fn new(directory: &Path) -> Self {
        release(directory);
        pull(directory, "new", &silent());
        let clean = content(&repository(directory));
        pull(directory, "old", &silent());
        untag(directory, "old", &silent());
        for left in [".selkie-tmp-left", "streams/.symlink-left", "unsynced"] {
            std::fs::write(repository(directory).join(left), "").unwrap();
        }
        Self { directory: directory.to_owned(), clean }
    }

    /// What is there but the content index, which may know more than it has to.
    fn without_index(content: &Files) -> BTreeMap<&PathBuf, &Vec<u8>> {
        content.iter().filter(|(path, _)| !path.ends_with(CONTENT_INDEX)).collect()
    }
}

impl Scene for Garbage {
    fn check(&self, when: &str) {
        assert_eq!(tags(&self.directory, when), ["new"], "{when}");
        // Nothing that is there leads to what is not.
        let findings = check(&self.directory, false, &silent()).findings;
        assert!(findings.iter().all(|finding| finding.remedy == Remedy::Remove), "{when}: {findings:?}");
    }

    fn check_end(&self, when: &str) {
        assert_eq!(Self::without_index(&content(&repository(&self.directory))), Self::without_index(&self.clean), "{when}");
        assert_eq!(check(&self.directory, false, &silent()).verdict, Verdict::Clean, "{when}");
    }
}

#[test]
fn a_collection_survives_a_stop_after_every_step() {
    kill_at_every_step("gc --repo", 8, Garbage::new);
}

/// What a collection that was stopped has left is nothing that a pull relies on.
#[test]
fn a_pull_after_a_collection_that_was_stopped_brings_all() {
    for stop in 1.. {
        let temp = temporary();
        drop(crash_common::prepared(|| Garbage::new(temp.path())));
        if !killed("gc --repo", temp.path(), None, stop) {
            break;
        }
        let when = format!("a pull after a collection that was stopped after step {stop}");
        assert!(!killed("pull --repo", temp.path(), None, 0));
        pull(temp.path(), "old", &silent());
        assert_eq!(tags(temp.path(), &when), ["new", "old"], "{when}");
    }
}

/// A repository with something of every kind damaged, and as it was before.
struct Sick {
    directory: PathBuf,
    well: Files,
    damaged: Files,
}

impl Sick {
    fn new(directory: &Path) -> Self {
        release(directory);
        pull(directory, "old", &silent());
        let well = content(&repository(directory));
        for (path, bytes) in &well {
            let name = path.strip_prefix(repository(directory)).unwrap();
            if name.starts_with("images") || (name.starts_with("objects") && bytes == "1".repeat(5000).as_bytes()) {
                std::fs::write(path.canonicalize().unwrap(), "changed").unwrap();
            } else if name.starts_with("streams") && name.to_str().unwrap().contains("oci-layer") {
                std::fs::remove_file(path.canonicalize().unwrap()).unwrap();
            } else if name.starts_with("streams") && name.to_str().unwrap().contains("oci-manifest") {
                std::fs::remove_file(path).unwrap();
            }
        }
        std::fs::write(repository(directory).join("meta.json"), "{").unwrap();
        std::fs::write(repository(directory).join("objects/.tmp-object-x"), "half").unwrap();
        Self { directory: directory.to_owned(), well, damaged: content(&repository(directory)) }
    }
}

impl Scene for Sick {
    fn check(&self, when: &str) {
        assert_well_or_damaged(&content(&repository(&self.directory)), &self.well, &self.damaged, when);
    }

    fn check_end(&self, when: &str) {
        assert_eq!(content(&repository(&self.directory)), self.well, "{when}");
        assert_eq!(check(&self.directory, false, &silent()).verdict, Verdict::Clean, "{when}");
    }
}

#[test]
fn a_repair_survives_a_stop_after_every_step() {
    kill_at_every_step("fsck --repair --repo", 6, Sick::new);
}
