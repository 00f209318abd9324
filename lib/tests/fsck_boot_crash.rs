//! `selkie fsck --repair` is killed after every durable step. Whatever is left boots what it could boot before or more, and the same command again
//! ends with a clean machine.

mod common;
mod crash_common;
#[path = "crash_common/host.rs"]
mod crash_host;
mod fsck_common;

use std::path::Path;

use crash_common::{Scene, kill_at_every_step};
use crash_host::assert_whole;
use fsck_common::{Three, options};
use selkie::boot::Tries;
use selkie::image_id::ImageId;
use selkie::ops::fsck::{self as verb, Target};

#[test]
fn child() {
    crash_common::child(&[("fsck --repair", |job| {
        let target = Target::running(job.host());
        drop(verb::run(&target, &options(&job.machine(), true), &job.progress).unwrap());
    })]);
}

/// A damaged machine, and what it is to be again.
struct Damaged {
    three: Three,
    /// Roots that could boot when it was damaged: none of them is lost meanwhile.
    boots: Vec<ImageId>,
    order: Vec<(ImageId, u64, Option<Tries>)>,
    entries: Vec<(std::path::PathBuf, Vec<u8>)>,
}

impl Damaged {
    fn new(root: &Path, damage: impl FnOnce(&Three)) -> Self {
        let three = Three::at(root);
        let (order, entries) = (three.order(), three.entries());
        std::fs::write(three.esp().join("loader/entries/debian.conf"), "title Debian\nlinux /gone\n").unwrap();
        damage(&three);
        let boots = bootable(&three);
        Self { three, boots, order, entries }
    }
}

/// Roots that a boot loader can start, to the end: entry, kernel, deployment with an /etc or whose to carry, image.
fn bootable(three: &Three) -> Vec<ImageId> {
    let host = three.machine.host(&three.second);
    let system = host.system().unwrap();
    let has_etc = |id: &ImageId| {
        let source = system.deployments.iter().find(|d| d.id == *id).and_then(|d| d.etc_from.as_ref());
        match source {
            Some(source) => system.deployments.iter().any(|d| d.id == *source),
            None => three.deployment(id).join("etc/upper").exists(),
        }
    };
    let entries = system.entries.iter().filter(|entry| system.can_boot(entry) && has_etc(&entry.image));
    let whole = entries.filter(|entry| ["linux ", "initrd "].iter().all(|line| is_what_it_is_named(three, &entry.image, line)));
    whole.map(|entry| entry.image.clone()).collect()
}

fn is_what_it_is_named(three: &Three, id: &ImageId, line: &str) -> bool {
    let path = three.kernel(id, line);
    let bytes = std::fs::read(three.esp().join(&path)).unwrap();
    path.contains(&hex::encode(openssl::sha::sha256(&bytes)))
}

impl Scene for Damaged {
    fn booted(&self) -> Option<&ImageId> {
        Some(&self.three.second)
    }

    fn check(&self, when: &str) {
        let now = bootable(&self.three);
        assert!(self.boots.iter().all(|id| now.contains(id)), "{when}: only {now:?} can boot");
        let host = self.three.machine.host(&self.three.second);
        let (system, store) = (host.system().unwrap(), host.store().unwrap());
        for entry in system.entries.iter().filter(|entry| now.contains(&entry.image)) {
            assert_whole(&store, &entry.image, when);
        }
        // What a boot loader would start first and cannot is there only as long as it was there before.
        let next = system.default_entry().map(|entry| entry.image.clone());
        assert!(self.boots.is_empty() || next.is_some(), "{when}: nothing boots");
    }

    fn check_end(&self, when: &str) {
        let report = self.three.look();
        assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{when}: {report:#?}");
        assert_eq!(self.three.order(), self.order, "{when}");
        let mut entries = self.three.entries();
        entries.retain(|(path, _)| !path.ends_with("debian.conf") && !path.to_string_lossy().contains(self.three.first.short()));
        let mut before = self.entries.clone();
        before.retain(|(path, _)| !path.to_string_lossy().contains(self.three.first.short()));
        assert_eq!(entries, before, "{when}");
        assert!(self.three.esp().join("loader/entries/debian.conf").exists(), "{when}");
        assert_eq!(self.three.machine.host(&self.three.second).system().unwrap().problems, [""; 0], "{when}");
    }
}

#[test]
fn a_repair_of_everything_at_once_survives_a_stop_after_every_step() {
    kill_at_every_step("fsck --repair", 14, |root| {
        Damaged::new(root, |three| {
            std::fs::write(three.entry(&three.second), "title x\n").unwrap();
            std::fs::remove_file(three.entry(&three.third)).unwrap();
            std::fs::remove_dir_all(three.esp().join("EFI/selkie")).unwrap();
            std::fs::remove_dir_all(three.deployment(&three.first)).unwrap();
            std::fs::write(three.esp().join("loader/entries/.selkie-tmp-x.conf"), "x").unwrap();
            std::fs::write(three.deployment(&three.second).join(".selkie-tmp-pinned"), "x").unwrap();
            std::fs::write(three.deployment(&three.third).join("etc-from.json"), "{").unwrap();
        })
    });
}

#[test]
fn a_deployment_is_there_whole_or_not_at_all() {
    kill_at_every_step("fsck --repair", 2, |root| {
        Damaged::new(root, |three| std::fs::remove_dir_all(three.deployment(&three.third)).unwrap())
    });
}

#[test]
fn one_kernel_after_another_comes_back() {
    kill_at_every_step("fsck --repair", 3, |root| {
        Damaged::new(root, |three| {
            for id in [&three.first, &three.third] {
                std::fs::write(three.esp().join(three.kernel(id, "linux ")), "half").unwrap();
            }
            std::fs::write(three.esp().join(three.kernel(&three.first, "initrd ")), "half").unwrap();
        })
    });
}

#[test]
fn an_entry_beside_others_is_replaced_in_one_step() {
    kill_at_every_step("fsck --repair", 4, |root| {
        Damaged::new(root, |three| {
            let path = three.entry(&three.second);
            std::fs::copy(&path, path.with_file_name(format!("selkie-{}-2+1-2.conf", three.second.short()))).unwrap();
            let odd = three.entry(&three.third);
            std::fs::rename(&odd, odd.with_file_name(format!("selkie-{}-3+x.conf", three.third.short()))).unwrap();
            std::fs::write(three.entry(&three.first), "").unwrap();
            std::fs::remove_file(three.deployment(&three.first).join("origin.json")).unwrap();
        })
    });
}
