//! A machine with three roots, to be damaged: one to go back to, one that runs, one that is staged.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};

use selkie::boot::Tries;
use selkie::deploy::Cause;
use selkie::finding::{Damage, Kind, Remedy};
use selkie::image_id::ImageId;
use selkie::ops::fsck::{self as verb, Options, Report, Target, Verdict};
use selkie::ops::upgrade::Until;

use crate::common::host::{Machine, silent};
use crate::common::layout;

/// What a test expects to be found.
pub fn subject(kind: Kind, name: &str, damage: Damage, remedy: Remedy) -> (Kind, String, Damage, Remedy) {
    (kind, name.to_owned(), damage, remedy)
}

pub fn options(machine: &Machine, repair: bool) -> Options {
    Options { repair, scratch: machine.root.clone(), ..Options::default() }
}

/// Runs the verb.
pub fn fsck(machine: &Machine, booted: &ImageId, repair: bool) -> Report {
    verb::run(&Target::running(machine.host(booted)), &options(machine, repair), &silent()).unwrap()
}

/// The machine.
pub struct Three {
    _temp: Option<tempfile::TempDir>,
    pub machine: Machine,
    pub first: ImageId,
    pub second: ImageId,
    pub third: ImageId,
}

impl Three {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let made = Self::at(temp.path());
        Self { _temp: Some(temp), ..made }
    }

    /// The same below `root`.
    pub fn at(root: &Path) -> Self {
        let (machine, first) = Machine::install(root);
        machine.boot(&first);
        let second = next(&machine, &first, "2");
        machine.boot(&second);
        let entries = root.join("esp/loader/entries");
        let id = format!("selkie-{}-2", second.short());
        std::fs::rename(entries.join(format!("{id}+3.conf")), entries.join(format!("{id}.conf"))).unwrap();
        let third = next(&machine, &second, "3");
        Self { _temp: None, machine, first, second, third }
    }

    pub fn look(&self) -> Report {
        fsck(&self.machine, &self.second, false)
    }

    pub fn repair(&self) -> Report {
        fsck(&self.machine, &self.second, true)
    }

    pub fn assert_clean(&self) {
        self.assert_clean_but_for_choices();
        assert_eq!(self.machine.host(&self.second).survey().problems, [""; 0]);
    }

    pub fn assert_clean_but_for_choices(&self) {
        let report = self.look();
        assert_eq!((report.verdict, report.findings, report.unchecked), (Verdict::Clean, vec![], vec![]));
        assert_eq!(self.machine.host(&self.second).system().unwrap().problems, [""; 0]);
    }

    pub fn esp(&self) -> PathBuf {
        self.machine.root.join("esp")
    }

    pub fn deployment(&self, id: &ImageId) -> PathBuf {
        self.machine.root.join(format!("sysroot/state/deploy/{id}"))
    }

    /// The entry file of a root.
    pub fn entry(&self, id: &ImageId) -> PathBuf {
        let system = self.machine.host(&self.second).system().unwrap();
        self.esp().join("loader/entries").join(&system.entry(id).unwrap().file)
    }

    /// The path that a line of the entry of a root names, from the root of the ESP.
    pub fn kernel(&self, id: &ImageId, line: &str) -> String {
        let text = std::fs::read_to_string(self.entry(id)).unwrap();
        text.lines().find_map(|l| l.strip_prefix(line)).unwrap().trim_start_matches('/').to_owned()
    }

    /// Root, serial and counter of every entry, the one that boots next first.
    pub fn order(&self) -> Vec<(ImageId, u64, Option<Tries>)> {
        let system = self.machine.host(&self.second).system().unwrap();
        system.entries.into_iter().map(|entry| (entry.image, entry.serial, entry.tries)).collect()
    }

    /// Every entry file with its bytes.
    pub fn entries(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = std::fs::read_dir(self.esp().join("loader/entries")).unwrap().map(|entry| entry.unwrap().path());
        let mut entries: Vec<_> = entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        entries.sort();
        entries
    }

    /// The roots as a listing has them.
    pub fn sorted(&self) -> [&ImageId; 3] {
        let mut ids = [&self.first, &self.second, &self.third];
        ids.sort();
        ids
    }

    /// Writes down that a root has failed.
    pub fn fail(&self, id: &ImageId) {
        let host = self.machine.host(&self.second);
        let record = host.system().unwrap().failure(id, Cause::ChecksFailed);
        host.deployments().unwrap().record_failed(&record).unwrap();
    }
}

/// Stages the next version of an image whose boots are counted.
fn next(machine: &Machine, booted: &ImageId, version: &str) -> ImageId {
    machine.release("stable", &layout::with(layout::bootable(version), "usr/lib/systemd/systemd-bless-boot", "bless"));
    machine.upgrade_keeping(booted, None, Until::Stage, 9).unwrap().staged.unwrap()
}
