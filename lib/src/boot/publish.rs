//! Making a deployment bootable: files first, the entry last, as one durable rename.
//!
//! [`Place::stage`] writes everything that changes nothing yet; only consuming the [`StagedEntry`] makes the [`BootEntry`]. Dropping it
//! removes its temporary; kernels without an entry are swept later.

use std::io::Write;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, ensure};

use super::bls::sort_key;
use super::{BootEntry, BootFile, BootFiles, ENTRIES, Entry, FILES, Place, Tries};
use crate::cmdline::{Cmdline, RootImage};
use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::sys::dir::{self, Pending};

/// What an entry is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRequest {
    /// What it boots.
    pub root: RootImage,
    /// What the menu shows, e.g. `Debian GNU/Linux 13 (trixie)`.
    pub title: String,
    /// The version that the menu shows beside equal titles.
    pub version: String,
    /// Kernel arguments without the root image. A unified kernel image has its own and gets none of these.
    pub arguments: Cmdline,
    /// Order of activation: one more than the highest so far.
    pub serial: u64,
    /// How often the boot loader tries it until it has proven itself; for ever where `None`.
    pub tries: Option<Tries>,
}

impl EntryRequest {
    /// The name of the entry's file. It is unique for each activation, because the same root may be sealed anew: the entry that is known to
    /// boot stays until the new one has proven itself. Nobody reads a meaning out of it.
    pub fn file(&self) -> String {
        let id = format!("selkie-{}-{}.conf", self.root.id.short(), self.serial);
        self.tries.map_or_else(|| id.clone(), |tries| tries.file(&id))
    }

    /// The entry as it is written. A unified kernel image is started by an entry, too (key `efi`), instead of lying where the boot
    /// loader finds it by itself: it would be sorted by the version inside it then, and a rollback could not come first.
    pub fn entry(&self, files: &BootFiles) -> Entry {
        let entry = Entry::default().with("title", &self.title).with("version", &self.version).with("sort-key", sort_key(self.serial));
        let entry = files.keys().into_iter().fold(entry, |entry, (key, path)| entry.with(key, path));
        if files.bring_arguments() {
            return entry;
        }
        let mut options = Cmdline::default();
        options.push(self.root.to_string());
        self.arguments.args().for_each(|arg| options.push(arg));
        entry.with("options", options.to_string())
    }
}

/// Kernel and initramfs are on the ESP and the entry is written, under a name that no boot loader reads.
#[derive(Debug)]
#[must_use = "an entry that is not published is removed again"]
pub struct StagedEntry {
    place: Place,
    pending: Pending,
    live: BootEntry,
}

impl Place {
    /// Writes what the entry needs. Nothing changes for the machine yet.
    ///
    /// # Errors
    ///
    /// [`crate::error::FailureKind::NoSpace`], before anything is written, when the files do not fit.
    pub fn stage(&self, request: &EntryRequest, boot: &BootFiles, progress: &dyn Progress) -> Result<StagedEntry> {
        ensure!(
            request.arguments.without_root_image() == request.arguments,
            "staging a boot entry: the arguments name a root image of their own"
        );
        let files = dir::ensure(self.home().root(), FILES, 0o755)?;
        let entries = dir::ensure(self.home().root(), ENTRIES, 0o755)?;
        let missing = absent(boot, &files)?;
        self.check_space(sum(&missing))?;
        for file in missing {
            file.write(&files)?;
            progress.step(&format!("write {file}"));
        }
        let mut pending = Pending::create(&entries, &request.file(), 0o644)?;
        let entry = request.entry(boot);
        pending.file().write_all(entry.to_string().as_bytes()).context("writing the boot entry")?;
        let live = self.read_back(request, &entry)?;
        // FAT has no journal: allocation tables and directories reach the disk before a name makes them matter.
        pending.sync()?;
        dir::sync_filesystem(self.home().root()).context("syncing the ESP")?;
        progress.step("write entry");
        Ok(StagedEntry { place: self.try_clone()?, pending, live })
    }

    /// Checks that what is missing of `boot` fits.
    ///
    /// # Errors
    ///
    /// [`crate::error::FailureKind::NoSpace`] with both numbers.
    pub fn check_space_for(&self, boot: &BootFiles) -> Result<()> {
        let files = dir::ensure(self.home().root(), FILES, 0o755)?;
        self.check_space(sum(&absent(boot, &files)?))
    }

    /// The entry as the machine will see it; it must boot what was asked for.
    fn read_back(&self, request: &EntryRequest, entry: &Entry) -> Result<BootEntry> {
        match self.home().boot_entry(request.file(), entry) {
            Some(live) if live.image == request.root.id => Ok(live),
            found => {
                let found = found.map_or_else(|| "none".to_owned(), |live| live.image.to_string());
                let message = format!("staging a boot entry: it names root {found} (expected {})", request.root.id);
                Err(Failure::new(FailureKind::Corrupt, message).into())
            }
        }
    }
}

/// The files that are not there as they should be.
fn absent<'a>(boot: &'a BootFiles, files: &OwnedFd) -> Result<Vec<&'a BootFile>> {
    let mut absent = Vec::new();
    for file in boot.iter() {
        if !file.is_in(files)? {
            absent.push(file);
        }
    }
    Ok(absent)
}

fn sum(files: &[&BootFile]) -> u64 {
    files.iter().map(|file| file.bytes().len() as u64).sum()
}

impl StagedEntry {
    /// Makes the entry live. When this returns, a power cut boots the new root; before, the old one.
    pub fn publish(self, progress: &dyn Progress) -> Result<BootEntry> {
        self.pending.publish().context("publishing the boot entry")?;
        dir::sync_filesystem(self.place.home().root()).context("syncing the ESP")?;
        progress.step("publish entry");
        // The work is done by now: trouble with an entry that is of no use any more does not undo it.
        match self.place.remove_superseded() {
            Ok(true) => progress.step("remove superseded entry"),
            Ok(false) => {}
            Err(error) => progress.note(format!("removing an older entry of the same root: {error:#}; the next upgrade tries again")),
        }
        Ok(self.live)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::progress::{Recorder, Silent};

    fn esp(path: &Path) -> Place {
        Place::new("first", dir::open_path(path).unwrap())
    }

    fn request(byte: &str, serial: u64) -> EntryRequest {
        EntryRequest {
            root: RootImage::new(byte.repeat(32).parse().unwrap(), true),
            title: "Debian".into(),
            version: "13".into(),
            arguments: Cmdline::parse("rw quiet"),
            serial,
            tries: None,
        }
    }

    fn files(kernel: &str) -> BootFiles {
        BootFiles::kernel(kernel.into(), b"initrd".to_vec())
    }

    fn stage(esp: &Place, request: &EntryRequest, kernel: &str) -> StagedEntry {
        esp.stage(request, &files(kernel), &Silent).unwrap()
    }

    fn file_names(path: &Path) -> Vec<String> {
        let names = dir::names(dir::open_path(path).unwrap()).unwrap();
        names.into_iter().map(|n| n.into_string().unwrap()).collect()
    }

    #[test]
    fn an_entry_is_live_only_when_published() {
        let temp = tempfile::tempdir().unwrap();
        let esp = esp(temp.path());
        let recorder = Recorder::default();
        let staged = esp.stage(&request("aa", 1), &files("kernel"), &recorder).unwrap();
        assert_eq!(esp.entries().unwrap(), []);
        let live = staged.publish(&recorder).unwrap();
        assert_eq!(esp.entries().unwrap(), [live]);
        assert_eq!(recorder.steps().len(), 4);
        assert_eq!(recorder.steps().last().unwrap(), "publish entry");
    }

    #[test]
    fn a_dropped_entry_leaves_no_trace_after_a_sweep() {
        let temp = tempfile::tempdir().unwrap();
        let esp = esp(temp.path());
        drop(stage(&esp, &request("aa", 1), "kernel"));
        esp.sweep().unwrap();
        assert_eq!(file_names(&temp.path().join(ENTRIES)), [""; 0]);
        assert_eq!(file_names(&temp.path().join(FILES)), [""; 0]);
    }

    #[test]
    fn equal_kernels_are_stored_once_and_go_with_their_last_entry() {
        let temp = tempfile::tempdir().unwrap();
        let esp = esp(temp.path());
        let first = stage(&esp, &request("aa", 1), "kernel").publish(&Silent).unwrap();
        let second = stage(&esp, &request("bb", 2), "kernel").publish(&Silent).unwrap();
        let third = stage(&esp, &request("cc", 3), "other").publish(&Silent).unwrap();
        assert_eq!(esp.entries().unwrap(), [third, second.clone(), first.clone()]);
        assert_eq!(file_names(&temp.path().join(FILES)).len(), 3);
        esp.remove(&first).unwrap();
        assert_eq!(file_names(&temp.path().join(FILES)).len(), 3);
        esp.remove(&second).unwrap();
        assert_eq!(file_names(&temp.path().join(FILES)).len(), 2);
    }

    #[test]
    fn activating_an_old_root_again_replaces_its_entry() {
        let temp = tempfile::tempdir().unwrap();
        let esp = esp(temp.path());
        for (byte, serial) in [("aa", 1), ("bb", 2), ("aa", 3)] {
            stage(&esp, &request(byte, serial), "kernel").publish(&Silent).unwrap();
        }
        let order: Vec<u64> = esp.entries().unwrap().iter().map(|e| e.serial).collect();
        assert_eq!(order, [3, 2]);
    }

    #[test]
    fn an_entry_that_is_proven_stays_until_a_newer_one_of_its_root_is() {
        let temp = tempfile::tempdir().unwrap();
        let esp = esp(temp.path());
        let names = || file_names(&temp.path().join(ENTRIES)).join(" ").replace(&"aa".repeat(6), "a");
        let counted = |serial| EntryRequest { tries: Some(Tries::new(3)), ..request("aa", serial) };
        let live = stage(&esp, &counted(1), "kernel").publish(&Silent).unwrap();
        assert_eq!((live.tries, names().as_str()), (Some(Tries::new(3)), "selkie-a-1+3.conf"));
        stage(&esp, &request("aa", 2), "kernel").publish(&Silent).unwrap();
        assert_eq!(names(), "selkie-a-2.conf");
        stage(&esp, &counted(3), "kernel").publish(&Silent).unwrap();
        assert_eq!(names(), "selkie-a-2.conf selkie-a-3+3.conf");
        stage(&esp, &counted(4), "kernel").publish(&Silent).unwrap();
        assert_eq!(names(), "selkie-a-2.conf selkie-a-4+3.conf");
        let order = || esp.entries().unwrap().iter().map(|e| e.serial).collect::<Vec<_>>();
        assert_eq!(order(), [4, 2]);
        let entries = temp.path().join(ENTRIES);
        let rename = |from: &str, to: &str| {
            let name = |end: &str| entries.join(format!("selkie-{}-{end}.conf", "aa".repeat(6)));
            std::fs::rename(name(from), name(to)).unwrap();
        };
        rename("4+3", "4+0-3");
        esp.sweep().unwrap();
        assert_eq!(order(), [2, 4], "given up");
        rename("4+0-3", "4");
        esp.sweep().unwrap();
        assert_eq!(order(), [4], "proven");
    }

    #[test]
    fn an_entry_without_tries_comes_last() {
        let temp = tempfile::tempdir().unwrap();
        let esp = esp(temp.path());
        stage(&esp, &request("aa", 1), "kernel").publish(&Silent).unwrap();
        let new = stage(&esp, &EntryRequest { tries: Some(Tries::new(3)), ..request("bb", 2) }, "kernel").publish(&Silent).unwrap();
        let order = || esp.entries().unwrap().iter().map(|e| e.serial).collect::<Vec<_>>();
        assert_eq!(order(), [2, 1]);
        let entries = temp.path().join(ENTRIES);
        std::fs::rename(entries.join(&new.file), entries.join(new.file.replace("+3", "+0-3"))).unwrap();
        assert_eq!(order(), [1, 2]);
    }

    #[test]
    fn a_damaged_kernel_is_written_again() {
        let temp = tempfile::tempdir().unwrap();
        let esp = esp(temp.path());
        stage(&esp, &request("aa", 1), "kernel").publish(&Silent).unwrap();
        let path = temp.path().join(files("kernel").iter().last().unwrap().path());
        std::fs::write(&path, "ker").unwrap();
        stage(&esp, &request("bb", 2), "kernel").publish(&Silent).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"kernel");
    }

    #[test]
    fn entries_of_others_and_their_files_stay_and_garbage_keeps_all_kernels() {
        let temp = tempfile::tempdir().unwrap();
        let entries = temp.path().join(ENTRIES);
        std::fs::create_dir_all(&entries).unwrap();
        std::fs::write(entries.join("debian.conf"), "title Debian\nlinux /debian/vmlinuz\n").unwrap();
        let esp = esp(temp.path());
        let ours = stage(&esp, &request("aa", 1), "kernel").publish(&Silent).unwrap();
        std::fs::write(entries.join("garbage.conf"), b"\xff\x00").unwrap();
        // What a power cut left of an entry of ours, and a file of somebody else.
        std::fs::write(entries.join("selkie-aa-7.conf"), "").unwrap();
        std::fs::write(entries.join("empty.conf"), "").unwrap();
        assert_eq!(esp.entries().unwrap(), std::slice::from_ref(&ours));
        assert_eq!(esp.found().unwrap().len(), 5);
        esp.remove(&ours).unwrap();
        assert_eq!(file_names(&entries), ["debian.conf", "empty.conf", "garbage.conf"]);
        assert_eq!(file_names(&temp.path().join(FILES)).len(), 2, "an unreadable entry may need them");
        std::fs::remove_file(entries.join("garbage.conf")).unwrap();
        esp.sweep().unwrap();
        assert_eq!(file_names(&temp.path().join(FILES)).len(), 0);
    }

    #[test]
    fn what_is_missing_is_told_by_its_entry_and_only_the_kernel_hides_it() {
        for (place, offered) in [(1, false), (0, true)] {
            let temp = tempfile::tempdir().unwrap();
            let esp = esp(temp.path());
            stage(&esp, &request("aa", 1), "kernel").publish(&Silent).unwrap();
            let path = files("kernel").iter().nth(place).unwrap().path();
            std::fs::remove_file(temp.path().join(&path)).unwrap();
            let entry = esp.entries().unwrap().remove(0);
            assert_eq!((entry.missing, entry.offered), (vec![format!("/{path}")], offered));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let temp = tempfile::tempdir().unwrap();
        let error = esp(temp.path()).check_space(1 << 60).unwrap_err();
        assert_eq!(crate::error::Failure::find(&error).unwrap().kind, crate::error::FailureKind::NoSpace);
        assert!(error.to_string().contains("expected at least"), "{error}");
    }
}
