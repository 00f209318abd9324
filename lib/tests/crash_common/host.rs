//! A machine whose verb is killed: whatever is left boots the old root or the new one, and nothing that somebody relies on is lost.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::path::Path;

use selkie::image_id::ImageId;
use selkie::ops::host::Host;
use selkie::store::Store;

use crate::common::host::Machine;
use crate::crash_common::{Job, Scene};

/// A machine while a root runs, and what may become of it.
pub struct Running {
    pub machine: Machine,
    pub booted: ImageId,
    /// What may boot next after a stop.
    pub may: Vec<ImageId>,
    /// What boots next when the verb has ended.
    pub then: ImageId,
    /// Roots that have to stay, bootable: pinned ones.
    pub kept: Vec<ImageId>,
}

impl Running {
    /// A machine on which the root that runs boots next before and after.
    pub fn unchanged(machine: Machine, booted: &ImageId) -> Self {
        Self { machine, booted: booted.clone(), may: vec![booted.clone()], then: booted.clone(), kept: vec![] }
    }

    /// A machine on which `next` boots next in the end.
    pub fn going_to(machine: Machine, booted: &ImageId, next: &ImageId) -> Self {
        Self { machine, booted: booted.clone(), may: vec![booted.clone(), next.clone()], then: next.clone(), kept: vec![] }
    }
}

impl Scene for Running {
    fn booted(&self) -> Option<&ImageId> {
        Some(&self.booted)
    }

    /// Invariants I1 to I4.
    fn check(&self, when: &str) {
        let host = self.machine.host(&self.booted);
        let system = host.system().unwrap();
        assert_eq!(system.problems, [""; 0], "{when}");
        let next = &system.default_entry().unwrap_or_else(|| panic!("{when}: nothing boots")).image;
        assert!(self.may.contains(next), "{when}: {} boots next", next.short());
        let store = host.store().unwrap();
        let bootable = |id: &ImageId| system.entries.iter().any(|e| e.image == *id && system.can_boot(e));
        for id in self.kept.iter().chain([&self.booted]) {
            assert!(bootable(id), "{when}: {} has lost its entry or its deployment", id.short());
        }
        for id in &self.kept {
            assert!(system.deployments.iter().any(|d| d.id == *id && d.pinned), "{when}: {} is not pinned any more", id.short());
        }
        for entry in &system.entries {
            assert_whole(&store, &entry.image, when);
            assert!(entry.offered && entry.missing.is_empty(), "{when}: {} lacks {:?}", entry.file, entry.missing);
            for source in system.deployments.iter().filter(|d| d.id == entry.image).filter_map(|d| d.etc_from.as_ref()) {
                assert!(system.deployments.iter().any(|d| d.id == *source), "{when}: /etc of {} has lost its source", entry.file);
                assert_whole(&store, source, when);
            }
        }
        for name in dir_names(&self.machine.root.join("esp/EFI/selkie")) {
            assert_kernel_is_what_it_is_named(&self.machine.root.join("esp/EFI/selkie").join(name), when);
        }
    }

    fn check_end(&self, when: &str) {
        let host = self.machine.host(&self.booted);
        assert_eq!(host.system().unwrap().default_entry().unwrap().image, self.then, "{when}: what boots next");
    }
}

/// Every object of an image is there and has the bytes that its name says.
pub fn assert_whole(store: &Store, image: &ImageId, when: &str) {
    let fail = |e| panic!("{when}: {e:#}");
    store.tree(image).map_or_else(fail, drop);
    store.check_objects(image).map_or_else(fail, drop);
}

fn dir_names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    entries.filter(|name| !name.starts_with('.')).collect()
}

fn assert_kernel_is_what_it_is_named(path: &Path, when: &str) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let Some((digest, "linux" | "initrd")) = name.split_once('.') else { return };
    let found = openssl::sha::sha256(&std::fs::read(path).unwrap());
    assert_eq!(hex::encode(found), digest, "{when}: {}", path.display());
}

impl Job {
    /// The machine that the verb runs on.
    pub fn machine(&self) -> Machine {
        Machine { root: self.directory.clone() }
    }

    /// The same while its root runs.
    pub fn host(&self) -> Host {
        self.machine().host(self.booted.as_ref().unwrap())
    }
}
