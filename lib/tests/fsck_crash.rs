//! A repair is killed after every durable step. What is left is never worse than before, and the same command again finishes the work.

mod common;
#[path = "crash_common/content.rs"]
mod content;
mod crash_common;
#[path = "crash_common/host.rs"]
mod crash_host;

use std::path::{Path, PathBuf};

use common::host::{Machine, silent};
use content::{Files, assert_well_or_damaged, content};
use crash_common::{Job, Scene, kill_at_every_step};
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::fsck::{self, Options, Target, Verdict};
use selkie::store::{Content, Store};
use selkie::sys::dir;

#[test]
fn child() {
    crash_common::child(&[("fsck --repair", repair)]);
}

fn options(repair: bool, directory: &Path) -> Options {
    Options { repair, image: None, source: SourceOptions::default(), scratch: directory.to_owned() }
}

fn repair(job: &Job) {
    let target = Target::running(job.machine().host(job.booted.as_ref().unwrap()));
    let report = fsck::run(&target, &options(true, &job.directory), &job.progress).unwrap();
    assert!(matches!(report.verdict, Verdict::Clean | Verdict::Repaired), "{report:?}");
}

/// A machine with something of every kind damaged, and its repository as it was before.
struct Sick {
    machine: Machine,
    id: ImageId,
    well: Files,
    damaged: Files,
}

fn repository(root: &Path) -> PathBuf {
    root.join("sysroot/composefs")
}

fn sick(root: &Path) -> Sick {
    let (machine, id) = Machine::install(root);
    let well = content(&repository(root));
    let store = Store::open(dir::open_path(root.join("sysroot")).unwrap(), "composefs").unwrap();
    let object = |hex: &str| repository(root).join("objects").join(&hex[..2]).join(&hex[2..]);
    let kernel = store.tree(&id).unwrap().file("/usr/lib/modules/6.1/vmlinuz").unwrap().unwrap();
    let Content::Object(kernel) = kernel.content else { panic!("the kernel is inline") };
    drop(store);
    std::fs::write(object(kernel.hex()), "changed").unwrap();
    std::fs::write(object(id.hex()), "truncated").unwrap();
    for name in dir::names(dir::open_path(repository(root).join("streams")).unwrap()).unwrap() {
        let path = repository(root).join("streams").join(&name);
        let name = name.to_str().unwrap();
        if name.starts_with("oci-config-") {
            std::fs::remove_file(&path).unwrap();
        } else if name.starts_with("oci-layer-") {
            std::fs::remove_file(std::fs::canonicalize(&path).unwrap()).unwrap();
        }
    }
    std::fs::write(repository(root).join("meta.json"), "{").unwrap();
    std::fs::write(repository(root).join("objects/.tmp-object-x"), "half").unwrap();
    Sick { machine, id, well, damaged: content(&repository(root)) }
}

impl Scene for Sick {
    fn booted(&self) -> Option<&ImageId> {
        Some(&self.id)
    }

    fn check(&self, when: &str) {
        assert_well_or_damaged(&content(&repository(&self.machine.root)), &self.well, &self.damaged, when);
    }

    fn check_end(&self, when: &str) {
        assert_eq!(content(&repository(&self.machine.root)), self.well, "{when}");
        let target = Target::running(self.machine.host(&self.id));
        let report = fsck::run(&target, &options(false, &self.machine.root), &silent()).unwrap();
        assert_eq!((report.verdict, report.findings), (Verdict::Clean, vec![]), "{when}");
    }
}

#[test]
fn a_repair_survives_a_stop_after_every_step() {
    kill_at_every_step("fsck --repair", 8, sick);
}
