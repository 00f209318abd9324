//! The machine as it is: what runs, what can boot, what boots next. Loaded once by a verb, read-only; plans are made from it.

mod generations;

use anyhow::Result;

use crate::boot::{Boot, BootEntry, Choice, Entry, Place, Tries, Variable};
use crate::deploy::{Cause, DEPLOY, Deployments, FailedBoot, Found, Listing};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::origin::Origin;

/// Everything that a verb decides on.
#[derive(Debug, Clone, PartialEq)]
pub struct System {
    /// The image that `/` is mounted from.
    pub booted: ImageId,
    /// Our boot entries; the first is what boots next.
    pub entries: Vec<BootEntry>,
    /// Every deployment that has state on the disk, sorted by id.
    pub deployments: Vec<Found>,
    /// Roots that failed here: those on record, and those that the boot loader has given up without a word from them.
    pub failed: Vec<FailedBoot>,
    /// Roots whose record of a failure cannot be read: they failed, and nothing else is known.
    pub failed_unreadable: Vec<ImageId>,
    /// Boot entries of other systems, and entries that cannot be read, by file name.
    pub foreign: Vec<String>,
    /// The root that the firmware is told to boot next, once; the default is what it was after that.
    pub once: Option<ImageId>,
    /// The root that the firmware is told to boot whatever comes first in the order of the entries.
    pub preferred: Option<ImageId>,
    /// What is not as it should be, one sentence each. A problem never hides the rest.
    pub problems: Vec<String>,
    /// The highest serial of any entry of ours, also of one that cannot be read any further: the boot loader sorts it all the same.
    pub last_serial: u64,
}

impl System {
    /// Reads the state directory and the ESP.
    pub fn load(deployments: &Deployments, boot: &Boot, booted: ImageId) -> Result<Self> {
        Ok(Self::assemble(booted, Ok(Menu::read(boot.place())?), Ok(deployments.list()?)))
    }

    /// The same as far as it can be read; what cannot is a problem. For those who tell what there is: what is not seen is not absent, so nothing
    /// may be removed or decided on this.
    pub fn survey(deployments: Result<&Deployments, &Failure>, boot: Result<&Boot, &Failure>, booted: ImageId) -> Self {
        let menu = boot.map_err(ToString::to_string).and_then(|boot| Menu::read(boot.place()).map_err(|e| format!("{e:#}")));
        let listing = deployments.map_err(ToString::to_string).and_then(|d| d.list().map_err(|e| format!("{e:#}")));
        Self::assemble(booted, menu, listing)
    }

    fn assemble(booted: ImageId, menu: Result<Menu, String>, listing: Result<Listing, String>) -> Self {
        let unread = [menu.as_ref().err().cloned(), listing.as_ref().err().cloned()];
        let seen = (menu.as_ref().ok().map(|m| &*m.entries), listing.as_ref().ok().map(|l| &*l.found));
        let mut problems: Vec<String> = unread.into_iter().flatten().chain(problems(&booted, seen.0, seen.1)).collect();
        let (menu, listing) = (menu.unwrap_or_default(), listing.unwrap_or_default());
        problems.extend(menu.problems);
        problems.extend(listing.unknown.iter().map(|name| format!("{DEPLOY}/{} is not a deployment", name.display())));
        problems.extend(listing.failed_unreadable.iter().map(|(_, reason)| reason.clone()));
        let failed_unreadable = listing.failed_unreadable.into_iter().map(|(id, _)| id).collect();
        let mut system = Self {
            booted,
            entries: menu.entries,
            deployments: listing.found,
            failed: listing.failed,
            failed_unreadable,
            foreign: menu.foreign,
            once: None,
            preferred: None,
            problems,
            last_serial: menu.last_serial,
        };
        system.failed.extend(system.given_up());
        system
    }

    /// What is known about roots that the boot loader has given up and that are not on record. The one that runs has come up after all.
    fn given_up(&self) -> Vec<FailedBoot> {
        let silent = |entry: &&BootEntry| {
            let given_up = entry.tries.is_some_and(Tries::is_bad) && entry.image != self.booted;
            given_up && !self.failed.iter().any(|f| f.id == entry.image) && !self.failed_unreadable.contains(&entry.image)
        };
        self.entries.iter().filter(silent).map(|entry| self.failure(&entry.image, Cause::DidNotComeUp)).collect()
    }

    /// A new record of a failure of root `id`, with what its origin says.
    pub fn failure(&self, id: &ImageId, cause: Cause) -> FailedBoot {
        let origin = self.origin(id).ok();
        FailedBoot {
            version: FailedBoot::VERSION,
            id: id.clone(),
            image: origin.map(|o| o.image.clone()),
            manifest_digest: origin.map(|o| o.manifest_digest.clone()),
            os_version: origin.and_then(|o| o.os_version.clone()),
            cause,
            at: None,
            boot_id: None,
            tries_left: self.entry(id).and_then(|entry| entry.tries).map(|tries| tries.left),
            reboots: 0,
            checks: Vec::new(),
        }
    }

    /// Notes which roots the firmware is told to boot.
    #[must_use]
    pub fn with_choices(mut self, choices: &[Choice]) -> Self {
        let chosen = |variable: Variable| {
            let choice = choices.iter().find(|choice| choice.variable == variable)?;
            self.entries.iter().find(|entry| choice.is(&entry.file)).map(|entry| entry.image.clone())
        };
        (self.once, self.preferred) = (chosen(Variable::OneShot), chosen(Variable::Default));
        self
    }

    /// Adds the problem that the firmware holds choices of other entries than the one that is to boot next. One boot of a root that can boot is
    /// none: that was asked for, and [`Self::once`] tells it. Without a look at the entries nothing is known about them.
    pub fn check_choices(&mut self, choices: &[Choice]) {
        let default = self.default_entry().map(|e| e.file.clone());
        let asked_for = |choice: &Choice| {
            let mut chosen = self.entries.iter().filter(|entry| choice.is(&entry.file));
            choice.variable == Variable::OneShot && chosen.any(|entry| self.can_boot(entry))
        };
        let problems: Vec<String> =
            choices.iter().filter(|choice| !asked_for(choice)).filter_map(|choice| choice.problem(default.as_deref())).collect();
        self.problems.extend(problems);
    }

    /// The entry that boots next: the first that the boot loader offers, whether that can boot or not ([`Self::can_boot`]).
    pub fn default_entry(&self) -> Option<&BootEntry> {
        default_entry(&self.entries)
    }

    /// The entry that boots next, if that is not what runs now.
    pub fn staged(&self) -> Option<&BootEntry> {
        self.default_entry().filter(|e| e.image != self.booted)
    }

    /// The newest entry that neither runs nor boots next, and that the boot loader has not given up. One that has run comes before one that was staged and never did.
    pub fn previous(&self) -> Option<&BootEntry> {
        let default = self.default_entry().map(|e| &e.image);
        let given_up = |entry: &BootEntry| entry.tries.is_some_and(Tries::is_bad);
        let others = || {
            let other = |e: &&BootEntry| e.image != self.booted && Some(&e.image) != default && self.can_boot(e) && !given_up(e);
            self.entries.iter().filter(other)
        };
        others().find(|e| self.has_run(&e.image)).or_else(|| others().next())
    }

    /// Where `rollback` goes: from a staged root back to the booted one, which needs no entry for that, else to the previous one.
    pub fn rollback_target(&self) -> Option<&ImageId> {
        match self.staged() {
            Some(_) => Some(&self.booted),
            None => self.previous().map(|e| &e.image),
        }
    }

    /// The entry of an image.
    pub fn entry(&self, id: &ImageId) -> Option<&BootEntry> {
        self.entries.iter().find(|e| e.image == *id)
    }

    /// The origin of a deployment.
    ///
    /// # Errors
    ///
    /// The deployment or its origin is not there or cannot be read.
    pub fn origin(&self, id: &ImageId) -> Result<&Origin> {
        match self.deployments.iter().find(|d| d.id == *id).map(|d| &d.origin) {
            Some(Ok(origin)) => Ok(origin),
            Some(Err(reason)) => Err(Failure::new(FailureKind::Corrupt, format!("reading deployment {}: {reason}", id.short())).into()),
            None => Err(Failure::new(FailureKind::NotFound, format!("reading deployment {}: no state on this machine", id.short())).into()),
        }
    }

    /// Deployments that are kept: what runs, what boots next, what the firmware is told to boot, one to go back to, what is pinned, `more` of
    /// the newest others that can boot, and whatever the first boot of one of these will carry `/etc` from (invariants I3 and I4).
    pub fn kept(&self, more: usize) -> Vec<&ImageId> {
        let roles =
            [self.default_entry().map(|e| &e.image), self.once.as_ref(), self.preferred.as_ref(), self.previous().map(|e| &e.image)];
        let pinned = self.deployments.iter().filter(|d| d.pinned).map(|d| &d.id);
        let mut kept = vec![&self.booted];
        for id in roles.into_iter().flatten().chain(pinned) {
            if !kept.contains(&id) {
                kept.push(id);
            }
        }
        let mut left = more;
        for entry in self.entries.iter().filter(|e| self.can_boot(e) && !e.tries.is_some_and(Tries::is_bad)) {
            if left > 0 && !kept.contains(&&entry.image) {
                kept.push(&entry.image);
                left -= 1;
            }
        }
        let sources = self.deployments.iter().filter(|d| kept.contains(&&d.id)).filter_map(|d| d.etc_from.as_ref());
        let sources: Vec<&ImageId> = sources.collect();
        kept.extend(sources);
        kept
    }

    /// Whether a root has an entry that is known to boot: one whose boot went well took the counter away.
    pub fn is_proven(&self, id: &ImageId) -> bool {
        self.has_run(id) && self.entries.iter().any(|e| e.image == *id && e.tries.is_none())
    }

    /// Whether a root has been booted: the first boot takes the request to carry `/etc` away.
    pub fn has_run(&self, id: &ImageId) -> bool {
        self.deployments.iter().any(|d| d.id == *id && d.etc_from.is_none())
    }

    /// Whether everything is there that the entry needs.
    pub fn can_boot(&self, entry: &BootEntry) -> bool {
        can_boot(entry, &self.deployments)
    }
}

/// systemd-boot knows nothing of deployments, and finds out about a missing initramfs when it is too late to choose another entry.
fn default_entry(entries: &[BootEntry]) -> Option<&BootEntry> {
    entries.iter().find(|e| e.offered)
}

fn can_boot(entry: &BootEntry, deployments: &[Found]) -> bool {
    entry.offered && entry.missing.is_empty() && deployments.iter().any(|d| d.id == entry.image)
}

/// What `loader/entries` holds.
#[derive(Default)]
struct Menu {
    entries: Vec<BootEntry>,
    foreign: Vec<String>,
    problems: Vec<String>,
    last_serial: u64,
}

impl Menu {
    fn read(place: &Place) -> Result<Self> {
        let entries = place.entries()?;
        let (mut foreign, mut problems, mut last_serial) = (Vec::new(), Vec::new(), 0);
        for found in place.found()? {
            match found.entry.as_ref().ok().and_then(Entry::serial) {
                Some(serial) => {
                    last_serial = last_serial.max(serial);
                    if place.is_dead(&found) {
                        problems.push(format!("boot entry {} starts nothing: its unified kernel image is missing or damaged", found.file));
                    }
                }
                None => foreign.push(found.file),
            }
        }
        Ok(Self { entries, foreign, problems, last_serial })
    }
}

/// What is wrong with entries and deployments; with `None` for what could not be read, which is neither there nor missing.
fn problems(booted: &ImageId, entries: Option<&[BootEntry]>, deployments: Option<&[Found]>) -> Vec<String> {
    let mut problems = Vec::new();
    if let (Some(entries), Some(deployments)) = (entries, deployments) {
        let default = default_entry(entries).filter(|e| !can_boot(e, deployments));
        problems.extend(default.map(|e| format!("boot entry {} boots next and cannot", e.file)));
    }
    if entries.is_some_and(|entries| !entries.iter().any(|e| e.image == *booted)) {
        problems.push(format!("the booted root {} has no boot entry", booted.short()));
    }
    for entry in entries.unwrap_or_default() {
        if deployments.is_some_and(|d| !d.iter().any(|d| d.id == entry.image)) {
            problems.push(format!("boot entry {} names root {} that has no deployment", entry.file, entry.image.short()));
        }
        for path in &entry.missing {
            problems.push(format!("boot entry {} needs {path}, which is not on the ESP", entry.file));
        }
    }
    for found in deployments.unwrap_or_default() {
        if let Err(reason) = &found.origin {
            problems.push(format!("deployment {}: {reason}", found.id.short()));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::Cmdline;

    fn id(n: u8) -> ImageId {
        format!("{n:02x}").repeat(32).parse().unwrap()
    }

    fn entry(n: u8, serial: u64) -> BootEntry {
        BootEntry {
            file: format!("selkie-{n}.conf"),
            image: id(n),
            verity_required: true,
            serial,
            tries: None,
            title: "x".into(),
            arguments: Cmdline::default(),
            uki: None,
            offered: true,
            missing: vec![],
        }
    }

    fn system(booted: u8, entries: Vec<BootEntry>) -> System {
        let deployments: Vec<Found> =
            entries.iter().map(|e| Found { id: e.image.clone(), origin: Err("none".into()), etc_from: None, pinned: false }).collect();
        let last_serial = entries.iter().map(|e| e.serial).max().unwrap_or(0);
        let (failed, failed_unreadable, foreign, problems) = (vec![], vec![], vec![], vec![]);
        let (once, preferred) = (None, None);
        System { booted: id(booted), entries, deployments, failed, failed_unreadable, foreign, once, preferred, problems, last_serial }
    }

    #[test]
    fn roles_follow_from_entries_and_the_booted_root() {
        let name = |e: Option<&BootEntry>| e.map(|e| e.file.clone());
        for (booted, staged, previous, rollback) in [
            (3, None, Some("selkie-2.conf"), 2),
            (2, Some("selkie-3.conf"), Some("selkie-1.conf"), 2),
            (1, Some("selkie-3.conf"), Some("selkie-2.conf"), 1),
        ] {
            let system = system(booted, vec![entry(3, 9), entry(2, 5), entry(1, 4)]);
            assert_eq!(name(system.staged()).as_deref(), staged, "booted {booted}");
            assert_eq!(name(system.previous()).as_deref(), previous, "booted {booted}");
            assert_eq!(system.rollback_target(), Some(&id(rollback)), "booted {booted}");
            assert_eq!(system.next_serial(), 10);
        }
    }

    #[test]
    fn an_entry_without_its_kernel_has_no_role() {
        let mut broken = entry(3, 9);
        (broken.offered, broken.missing) = (false, vec!["/EFI/selkie/x.linux".into()]);
        let system = system(1, vec![broken, entry(2, 5), entry(1, 4)]);
        assert_eq!(system.staged(), Some(&entry(2, 5)));
        assert_eq!(system.kept(0), [&id(1), &id(2)]);
    }

    #[test]
    fn a_root_that_never_ran_is_not_what_one_goes_back_to() {
        let mut staged_twice = system(2, vec![entry(4, 9), entry(3, 8), entry(2, 7), entry(1, 6)]);
        staged_twice.deployments[0].etc_from = Some(id(2));
        staged_twice.deployments[1].etc_from = Some(id(2));
        assert_eq!(staged_twice.previous(), Some(&entry(1, 6)));
        staged_twice.booted = id(4);
        staged_twice.deployments[0].etc_from = None;
        assert_eq!(staged_twice.rollback_target(), Some(&id(2)));
        let mut only_new = system(1, vec![entry(1, 9), entry(2, 8)]);
        only_new.deployments[1].etc_from = Some(id(1));
        assert_eq!(only_new.rollback_target(), Some(&id(2)), "a rollback that was undone");
    }

    #[test]
    fn an_entry_without_its_initramfs_boots_next_and_is_no_place_to_go_back_to() {
        let mut broken = entry(3, 9);
        broken.missing = vec!["/EFI/selkie/x.initrd".into()];
        let staged = system(2, vec![broken.clone(), entry(2, 5), entry(1, 4)]);
        assert_eq!(staged.staged(), Some(&broken));
        assert_eq!(staged.rollback_target(), Some(&id(2)));
        let old = system(4, vec![entry(4, 10), broken, entry(2, 5)]);
        assert_eq!((old.default_entry(), old.previous()), (Some(&entry(4, 10)), Some(&entry(2, 5))));
    }

    #[test]
    fn the_boot_loader_does_not_ask_for_a_deployment() {
        let mut system = system(2, vec![entry(3, 9), entry(2, 5), entry(1, 4)]);
        system.deployments.remove(0);
        assert_eq!(system.staged(), Some(&entry(3, 9)));
        system.deployments.pop();
        assert_eq!(system.previous(), None);
    }

    #[test]
    fn what_a_first_boot_carries_etc_from_is_kept() {
        let mut system = system(3, vec![entry(4, 9), entry(3, 7), entry(2, 5), entry(1, 4)]);
        assert_eq!(system.kept(0), [&id(3), &id(4), &id(2)]);
        system.deployments[0].etc_from = Some(id(1));
        assert_eq!(system.kept(0), [&id(3), &id(4), &id(2), &id(1)]);
    }

    #[test]
    fn pins_choices_and_a_number_of_older_ones_are_kept() {
        let entries = || [6, 5, 4, 3, 2, 1].map(|n| entry(n, u64::from(n))).to_vec();
        let ids = |kept: Vec<&ImageId>| kept.into_iter().map(|kept| (1..7).find(|n| id(*n) == *kept).unwrap()).collect::<Vec<u8>>();
        for (booted, once, pinned, more, kept) in [
            (6, None, None, 0, vec![6, 5]),
            (6, None, None, 2, vec![6, 5, 4, 3]),
            (6, None, None, 99, vec![6, 5, 4, 3, 2, 1]),
            (6, None, Some(1), 0, vec![6, 5, 1]),
            (6, None, Some(4), 1, vec![6, 5, 4, 3]),
            (6, Some(2), None, 0, vec![6, 2, 5]),
            // An old root was chosen in the menu: the default is still the default, and what runs stays.
            (2, None, None, 0, vec![2, 6, 5]),
            (5, None, None, 0, vec![5, 6, 4]),
        ] {
            let mut system = system(booted, entries());
            system.once = once.map(id);
            system.deployments.iter_mut().for_each(|d| d.pinned = pinned.is_some_and(|n| d.id == id(n)));
            assert_eq!(ids(system.kept(more)), kept, "{booted} {once:?} {pinned:?} {more}");
        }
        let mut bad = system(6, entries());
        bad.entries[2].tries = Some(Tries { left: 0, done: 3 });
        bad.entries[3].missing = vec!["/x".into()];
        assert_eq!(ids(bad.kept(1)), [6, 5, 2], "neither a bad one nor one that cannot boot is worth keeping");
        bad.deployments[1].etc_from = Some(id(1));
        assert_eq!(ids(bad.kept(0)), [6, 2, 5, 1][..2], "one that never ran is no place to go back to");
        bad.deployments[0].etc_from = Some(id(1));
        assert_eq!(ids(bad.kept(0)), [6, 2, 1]);
    }

    #[test]
    fn two_entries_of_one_root_are_one_older_root() {
        let system = system(6, vec![entry(6, 9), entry(5, 8), entry(4, 7), entry(4, 6), entry(3, 5), entry(2, 4)]);
        assert_eq!(system.kept(2), [&id(6), &id(5), &id(4), &id(3)]);
    }

    #[test]
    fn the_firmware_chooses_by_variables() {
        let choice = |variable, entry: &str| Choice { variable, entry: entry.into() };
        let problems = |choices: &[Choice]| {
            let mut system = system(3, vec![entry(3, 9), entry(2, 5)]).with_choices(choices);
            system.check_choices(choices);
            (system.once, system.preferred, system.problems.len())
        };
        assert_eq!(problems(&[choice(Variable::OneShot, "selkie-2.conf")]), (Some(id(2)), None, 0));
        assert_eq!(problems(&[choice(Variable::OneShot, "windows")]), (None, None, 1));
        assert_eq!(problems(&[choice(Variable::Default, "selkie-2.conf")]), (None, Some(id(2)), 1));
        assert_eq!(problems(&[choice(Variable::Default, "selkie-*")]), (None, Some(id(3)), 0));
        assert_eq!(problems(&[]), (None, None, 0));
    }

    #[test]
    fn a_root_that_was_given_up_without_a_word_has_failed() {
        let tried = |n, left| BootEntry { tries: Some(Tries { left, done: 3 - left }), ..entry(n, 9) };
        let mut system = system(1, vec![tried(4, 0), tried(3, 0), tried(2, 1), tried(1, 0)]);
        let on_record = system.failure(&id(3), Cause::ChecksFailed);
        system.failed.push(on_record);
        let told: Vec<_> = system.given_up().into_iter().map(|f| (f.id, f.cause, f.tries_left)).collect();
        assert_eq!(told, [(id(4), Cause::DidNotComeUp, Some(0))]);
        system.failed_unreadable.push(id(4));
        assert_eq!(system.given_up(), []);
    }

    #[test]
    fn problems_are_told_one_by_one() {
        let mut broken = entry(3, 9);
        broken.missing = vec!["/EFI/selkie/x.initrd".into()];
        let found = Found { id: id(3), origin: Err("reading origin: gone".into()), etc_from: None, pinned: false };
        let told = problems(&id(1), Some(&[broken, entry(2, 5)]), Some(&[found]));
        assert_eq!(told.len(), 5, "{told:#?}");
        assert_eq!(told[0], "boot entry selkie-3.conf boots next and cannot");
    }

    #[test]
    fn a_default_that_boots_is_no_problem() {
        let found = |n| Found { id: id(n), origin: Err("none".into()), etc_from: None, pinned: false };
        let next = |entries: &[BootEntry], deployments: &[Found]| {
            problems(&id(1), Some(entries), Some(deployments)).iter().any(|p| p.contains("boots next and cannot"))
        };
        assert!(!next(&[entry(2, 5), entry(1, 4)], &[found(1), found(2)]));
        assert!(next(&[entry(2, 5), entry(1, 4)], &[found(1)]));
    }
}
