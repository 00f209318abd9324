//! A repair is killed after every durable step. What is left is never worse than before, and the same command again finishes the work.

mod common;
mod crash_common;
#[path = "crash_common/host.rs"]
mod crash_host;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::host::{Machine, silent};
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
    well: BTreeMap<PathBuf, Vec<u8>>,
    damaged: BTreeMap<PathBuf, Vec<u8>>,
}

fn repository(root: &Path) -> PathBuf {
    root.join("sysroot/composefs")
}

/// Every file of the repository by path, and where every link leads.
fn content(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![repository(root)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let (path, kind) = entry.map(|e| (e.path(), e.file_type().unwrap())).unwrap();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_symlink() {
                found.insert(path.clone(), std::fs::read_link(path).unwrap().into_os_string().into_encoded_bytes());
            } else {
                found.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    found
}

fn sick(root: &Path) -> Sick {
    let (machine, id) = Machine::install(root);
    let well = content(root);
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
    Sick { machine, id, well, damaged: content(root) }
}

impl Scene for Sick {
    fn booted(&self) -> Option<&ImageId> {
        Some(&self.id)
    }

    /// Every file is as it was when it was well, or as it was when it was damaged, or half of something under a temporary name.
    fn check(&self, when: &str) {
        let now = content(&self.machine.root);
        let temporary = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with('.');
        for (path, bytes) in &now {
            let known = self.well.get(path) == Some(bytes) || self.damaged.get(path) == Some(bytes);
            assert!(known || temporary(path), "{when}: {} is neither as it was nor well", path.display());
        }
        for path in self.damaged.keys().filter(|path| !temporary(path)) {
            assert!(now.contains_key(path), "{when}: {} is gone", path.display());
        }
    }

    fn check_end(&self, when: &str) {
        assert_eq!(content(&self.machine.root), self.well, "{when}");
        let target = Target::running(self.machine.host(&self.id));
        let report = fsck::run(&target, &options(false, &self.machine.root), &silent()).unwrap();
        assert_eq!((report.verdict, report.findings), (Verdict::Clean, vec![]), "{when}");
    }
}

#[test]
fn a_repair_survives_a_stop_after_every_step() {
    kill_at_every_step("fsck --repair", 8, sick);
}
