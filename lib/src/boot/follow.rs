//! Keeping places in step: what one has, and making another the same.
//!
//! A mirror gets only entries without a counter: roots that have proven themselves, or that nobody counts. Only the boot loader that started the machine
//! counts down, and only there systemd-bless-boot takes a counter away; a second counter elsewhere would be tries that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Context, Result, bail};

use super::volume::Volume;
use super::{BootEntry, BootFiles, ENTRIES, Entry, FILES, Place};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::sys::dir::{self, Pending};

/// What a place may boot of ours, whatever the state of its entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// The highest serial of its entries.
    pub last_serial: u64,
    /// The roots that they name.
    pub roots: Vec<ImageId>,
}

/// What has to be done to a place so that it is in step with another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps {
    /// Entries that it gets, by file name, in order of activation: the one that boots next first.
    pub copy: Vec<String>,
    /// Entries that it loses.
    pub remove: Vec<String>,
}

impl Steps {
    /// Why the place is not in step; `None` where it is.
    pub fn reason(&self) -> Option<String> {
        let part = |what: &str, names: &[String]| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
        let parts: Vec<String> = [part("it lacks", &self.copy), part("it still has", &self.remove)].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// An entry of another place, ready to be copied.
struct Copied<'a> {
    volume: &'a Volume,
    entry: BootEntry,
    text: Vec<u8>,
}

impl Place {
    /// What this place may boot.
    pub fn content(&self) -> Result<Content> {
        let last_serial = self.found()?.iter().filter_map(|found| found.entry.as_ref().ok()?.serial()).max().unwrap_or(0);
        let mut roots = Vec::new();
        for volume in self.volumes() {
            roots.extend(volume.entries()?.into_iter().map(|entry| entry.image));
        }
        roots.sort();
        roots.dedup();
        Ok(Content { last_serial, roots })
    }

    /// What this place has to do to be in step with `leader`. Nothing where the leader has no root that is known to boot: what is here may be
    /// better.
    pub fn steps_after(&self, leader: &Self) -> Result<Steps> {
        let wanted = leader.copies(|entry| entry.tries.is_none())?;
        if wanted.is_empty() {
            return Ok(Steps::default());
        }
        let copy = wanted.iter().filter(|copied| !self.has_copy(copied)).map(|copied| copied.entry.file.clone()).collect();
        let names: BTreeSet<&str> = wanted.iter().map(|copied| copied.entry.file.as_str()).collect();
        let ours = |found: &super::FoundEntry| found.entry.as_ref().is_ok_and(|entry| entry.serial().is_some());
        let remove = self.found()?.into_iter().filter(|found| ours(found) && !names.contains(found.file.as_str()));
        Ok(Steps { copy, remove: remove.map(|found| found.file).collect() })
    }

    /// Makes this place the same as `leader`, as far as that is to be followed; whether anything had to be done. New kernels come before new entries, and
    /// these before the removal of what is stale, so that this place boots at any moment. Only where there is no room beside what is stale, that goes
    /// as soon as something else here is known to boot.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NoSpace`] with numbers, [`FailureKind::Corrupt`] for a kernel of the leader that is damaged, and whatever keeps this place from
    /// being written. It boots then what it booted before, or what the leader boots.
    pub fn follow(&self, leader: &Self, progress: &dyn Progress) -> Result<bool> {
        let steps = self.steps_after(leader)?;
        if steps == Steps::default() {
            return Ok(false);
        }
        self.sweep_temporaries()?;
        let wanted = leader.copies(|entry| entry.tries.is_none())?;
        let mut new: Vec<&Copied<'_>> = wanted.iter().filter(|copied| steps.copy.contains(&copied.entry.file)).collect();
        if self.check_space(self.bytes_of(&new)?).is_err() {
            // Nothing that is to stay is here yet: what the leader boots next comes first.
            if wanted.len() == new.len() {
                let first = new.remove(0);
                self.check_space(self.bytes_of(&[first])?)?;
                self.copy(first, progress)?;
            }
            self.remove_entries(&steps.remove, progress)?;
            self.sweep()?;
        }
        self.check_space(self.bytes_of(&new)?)?;
        for copied in new {
            self.copy(copied, progress)?;
        }
        self.remove_entries(&steps.remove, progress)?;
        self.sweep()?;
        Ok(true)
    }

    /// Takes over what `newer` has of the roots that `exists` knows and this place lacks, counters and all, and removes nothing: for a place that was away while the machine went on. Whether
    /// there was anything.
    ///
    /// # Errors
    ///
    /// As those of [`Self::follow`].
    pub fn adopt(&self, newer: &Self, exists: impl Fn(&ImageId) -> bool, progress: &dyn Progress) -> Result<bool> {
        let copies = newer.copies(|entry| exists(&entry.image))?;
        let serials: BTreeSet<u64> = self.found()?.iter().filter_map(|found| found.entry.as_ref().ok()?.serial()).collect();
        let new: Vec<&Copied<'_>> = copies.iter().filter(|copied| !serials.contains(&copied.entry.serial)).collect();
        self.check_space(self.bytes_of(&new)?)?;
        // The one that boots next comes last: until then the other place still counts as the newer one.
        for copied in new.iter().rev() {
            self.copy(copied, progress)?;
        }
        Ok(!new.is_empty())
    }

    /// Bytes that a new place needs to follow this one: what it boots, and the largest kernel once more for the next release.
    pub fn bytes_for_mirror(&self) -> Result<u64> {
        let (mut largest, mut files) = (0, BTreeMap::new());
        for copied in self.copies(|_| true)? {
            largest = largest.max(copied.volume.size_of(&copied.entry)?);
            for path in Entry::parse(&copied.text)?.files() {
                files.insert(path.to_owned(), copied.volume.file_size(path)?);
            }
        }
        Ok(files.values().sum::<u64>() + largest)
    }

    /// Removes every entry of ours, and then the kernels: this place boots nothing of ours any more.
    pub fn clear(&self, progress: &dyn Progress) -> Result<()> {
        let ours = self.found()?.into_iter().filter(|found| found.entry.as_ref().is_ok_and(|entry| entry.serial().is_some()));
        self.remove_entries(&ours.map(|found| found.file).collect::<Vec<_>>(), progress)?;
        self.sweep()
    }

    /// Entries that boot, and that `select` takes, the one that boots next first.
    fn copies(&self, select: impl Fn(&BootEntry) -> bool) -> Result<Vec<Copied<'_>>> {
        let (current, _) = self.current_and_superseded()?;
        let boots = current.into_iter().filter(|(_, entry)| entry.offered && entry.missing.is_empty() && select(entry));
        let copied = boots.map(|(volume, entry)| {
            let text = volume.entry_text(&entry.file)?.with_context(|| format!("reading {}: it went away", entry.file))?;
            Ok(Copied { volume, entry, text })
        });
        copied.collect()
    }

    fn has_copy(&self, copied: &Copied<'_>) -> bool {
        let has = |volume: &Volume| -> Result<bool> {
            if volume.entry_text(&copied.entry.file)?.as_deref() != Some(&copied.text) {
                return Ok(false);
            }
            // The names of files are their contents' digests: one of this name and size was written and read back.
            Ok(volume.size_of(&copied.entry)? == copied.volume.size_of(&copied.entry)?)
        };
        // What cannot be read is written anew, or fails there.
        self.volumes().any(|volume| has(volume).unwrap_or(false))
    }

    fn bytes_of(&self, new: &[&Copied<'_>]) -> Result<u64> {
        let mut paths = BTreeSet::new();
        let mut bytes = 0;
        for copied in new {
            for path in Entry::parse(&copied.text)?.files() {
                let size = copied.volume.file_size(path)?;
                if paths.insert(path.to_owned()) && self.home().file_size(path)? != size {
                    bytes += size;
                }
            }
        }
        Ok(bytes)
    }

    fn copy(&self, copied: &Copied<'_>, progress: &dyn Progress) -> Result<()> {
        let boot = copied.volume.boot_files(&copied.entry, &copied.text)?;
        let files = dir::ensure(self.home().root(), FILES, 0o755)?;
        let entries = dir::ensure(self.home().root(), ENTRIES, 0o755)?;
        for file in boot.iter() {
            if !file.is_in(&files)? {
                file.write(&files)?;
                progress.step(&format!("copy {file}"));
            }
        }
        let mut pending = Pending::create(&entries, &copied.entry.file, 0o644)?;
        pending.file().write_all(&copied.text).context("copying a boot entry")?;
        pending.sync()?;
        dir::sync_filesystem(self.home().root()).context("syncing the ESP")?;
        pending.publish().context("copying a boot entry")?;
        progress.step("copy entry");
        Ok(())
    }

    fn remove_entries(&self, files: &[String], progress: &dyn Progress) -> Result<()> {
        for file in files {
            for volume in self.volumes() {
                if volume.is_ours(file)? && volume.remove_file(file)? {
                    progress.step("remove stale entry");
                }
            }
        }
        Ok(())
    }

    fn sweep_temporaries(&self) -> Result<()> {
        for volume in self.volumes() {
            for path in [ENTRIES, FILES] {
                if let Some(directory) = dir::open_optional(volume.root(), path).with_context(|| format!("opening {path} on the ESP"))? {
                    dir::sweep(&directory)?;
                }
            }
        }
        Ok(())
    }
}

impl Volume {
    fn entry_text(&self, file: &str) -> Result<Option<Vec<u8>>> {
        dir::read_optional(self.root(), format!("{ENTRIES}/{file}"))
    }

    fn is_ours(&self, file: &str) -> Result<bool> {
        let text = self.entry_text(file)?;
        Ok(text.is_some_and(|text| Entry::parse(&text).is_ok_and(|entry| entry.serial().is_some())))
    }

    fn file_size(&self, path: &str) -> Result<u64> {
        dir::file_size(self.root(), path.trim_start_matches('/'))
    }

    /// The files that an entry of ours needs, which must be what their names say: damage is not spread.
    fn boot_files(&self, entry: &BootEntry, text: &[u8]) -> Result<BootFiles> {
        let parsed = Entry::parse(text).with_context(|| format!("reading {}", entry.file))?;
        let read = |path: &str| {
            let path = path.trim_start_matches('/');
            dir::read_optional(self.root(), path)?.with_context(|| format!("reading {path} on the ESP: it is not there"))
        };
        let files = match (parsed.get("efi"), parsed.get("linux"), parsed.get("initrd")) {
            (Some(uki), ..) => BootFiles::uki(read(uki)?, self.addons(uki)?),
            (None, Some(linux), Some(initrd)) => BootFiles::kernel(read(linux)?, read(initrd)?),
            _ => bail!("copying {}: it names neither a kernel and an initramfs nor a unified kernel image", entry.file),
        };
        let named: BTreeSet<&str> = parsed.files().map(|path| path.trim_start_matches('/')).collect();
        match named.iter().find(|path| !files.iter().any(|file| file.path() == **path)) {
            None => Ok(files),
            Some(path) => {
                let message =
                    format!("copying {}: {path} on the ESP that booted is not what its name says (expected its digest)", entry.file);
                Err(Failure::new(FailureKind::Corrupt, message).hint("`selkie switch IMAGE` writes it anew").into())
            }
        }
    }
}
