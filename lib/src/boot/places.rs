//! The places that machines boot from. A [`Place`] is what one boot loader reads: an EFI system partition, and the extended boot loader
//! partition (XBOOTLDR) of its disk, where there is one; new entries go there then (Boot Loader Specification, "$BOOT"). [`Boot`] is the place
//! that booted, and the mirrors: ESPs on other disks that follow it.

use std::os::fd::OwnedFd;

use anyhow::Result;

use super::volume::Volume;
use super::{BootEntry, BootFiles, FoundEntry, Tries};
use crate::error::Failure;

/// All places of a machine.
#[derive(Debug)]
pub struct Boot {
    place: Place,
    mirrors: Vec<Mirror>,
}

/// A place that follows the one that booted.
#[derive(Debug)]
pub struct Mirror {
    /// The partition UUID of its ESP.
    pub partition: String,
    /// The place, or why it is out of reach.
    pub place: Result<Place, Failure>,
}

impl Boot {
    /// The place that booted and those that follow it.
    pub fn new(place: Place, mirrors: Vec<Mirror>) -> Self {
        Self { place, mirrors }
    }

    /// $BOOT: what the boot loader reads that started this machine. Entries and kernels are decided on here.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The places that follow it.
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }
}

/// What one boot loader reads.
#[derive(Debug)]
pub struct Place {
    partition: String,
    esp: Volume,
    xbootldr: Option<Volume>,
}

impl Place {
    /// Takes the root directory of a mounted ESP; `partition` is its partition UUID.
    pub fn new(partition: &str, esp: OwnedFd) -> Self {
        Self { partition: partition.to_owned(), esp: Volume::new(esp), xbootldr: None }
    }

    /// The same with the mounted XBOOTLDR partition of its disk: new entries and kernels go there. Those that are on the ESP stay there
    /// until they lose their role; the boot loader shows both.
    #[must_use]
    pub fn with_xbootldr(self, xbootldr: OwnedFd) -> Self {
        Self { xbootldr: Some(Volume::new(xbootldr)), ..self }
    }

    /// The partition UUID of its ESP.
    pub fn partition(&self) -> &str {
        &self.partition
    }

    /// Whether entries and kernels go to an XBOOTLDR partition.
    pub fn has_xbootldr(&self) -> bool {
        self.xbootldr.is_some()
    }

    /// Every entry file, sorted by name. Unreadable ones are reported in place.
    pub fn found(&self) -> Result<Vec<FoundEntry>> {
        let mut found = Vec::new();
        for volume in self.volumes() {
            found.extend(volume.found()?);
        }
        found.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(found)
    }

    /// Our entries, the one that boots next first: by activation, and those last that the boot loader has given up.
    pub fn entries(&self) -> Result<Vec<BootEntry>> {
        let (current, _) = self.current_and_superseded()?;
        let mut ours: Vec<BootEntry> = current.into_iter().map(|(_, entry)| entry).collect();
        ours.sort_by_key(|entry| entry.tries.is_some_and(Tries::is_bad));
        Ok(ours)
    }

    /// Whether `entry` starts exactly `files`, and they are here as they should be.
    pub fn holds(&self, entry: &BootEntry, files: &BootFiles) -> Result<bool> {
        self.volume_of(&entry.file).holds(entry, files)
    }

    /// Whether an entry of ours can boot nothing, because its unified kernel image is missing or damaged.
    pub fn is_dead(&self, found: &FoundEntry) -> bool {
        found.entry.as_ref().is_ok_and(|entry| self.volume_of(&found.file).is_dead(entry))
    }

    /// Bytes of the files that `entry` needs and that are there, the addons of its unified kernel image among them.
    pub fn size_of(&self, entry: &BootEntry) -> Result<u64> {
        self.volume_of(&entry.file).size_of(entry)
    }

    /// Removes the entry, and after it the files that no entry of anyone needs any more.
    pub fn remove(&self, entry: &BootEntry) -> Result<()> {
        self.volume_of(&entry.file).remove_file(&entry.file)?;
        self.sweep()
    }

    /// Removes temporaries of ours, entries that are of no use any more, and kernels of ours that no entry names. An entry that cannot be read
    /// stops the removal of kernels: it may need one.
    pub fn sweep(&self) -> Result<()> {
        self.remove_superseded()?;
        self.volumes().try_for_each(Volume::sweep)
    }

    /// Checks that `need` more bytes fit where new kernels go.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NoSpace`](crate::error::FailureKind::NoSpace) with both numbers.
    pub fn check_space(&self, need: u64) -> Result<()> {
        self.home().check_space(need)
    }

    /// Removes entries of roots that have a newer one; whether there were any.
    pub(super) fn remove_superseded(&self) -> Result<bool> {
        let (_, superseded) = self.current_and_superseded()?;
        for (volume, entry) in &superseded {
            volume.remove_file(&entry.file)?;
        }
        Ok(!superseded.is_empty())
    }

    /// Our entries, newest first, and those that a newer one of the same root replaces: that of a root that has proven itself stays until the
    /// newer one has, too.
    pub(super) fn current_and_superseded(&self) -> Result<(Vec<Found<'_>>, Vec<Found<'_>>)> {
        let mut all = Vec::new();
        for volume in self.volumes() {
            all.extend(volume.entries()?.into_iter().map(|entry| (volume, entry)));
        }
        all.sort_by(|(_, a), (_, b)| b.serial.cmp(&a.serial).then_with(|| a.file.cmp(&b.file)));
        let (mut current, mut superseded) = (Vec::<Found<'_>>::new(), Vec::new());
        for (volume, entry) in all {
            let mut newer = current.iter().map(|(_, newer)| newer).filter(|newer| newer.image == entry.image).peekable();
            let replaced = newer.peek().is_some() && (entry.tries.is_some() || newer.any(|newer| newer.tries.is_none()));
            if replaced { superseded.push((volume, entry)) } else { current.push((volume, entry)) }
        }
        Ok((current, superseded))
    }

    /// Where new entries and kernels go.
    pub(super) fn home(&self) -> &Volume {
        self.xbootldr.as_ref().unwrap_or(&self.esp)
    }

    /// Everything that the boot loader reads.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.xbootldr.iter().chain([&self.esp])
    }

    fn volume_of(&self, file: &str) -> &Volume {
        self.volumes().find(|volume| volume.has(&format!("{}/{file}", super::ENTRIES))).unwrap_or_else(|| self.home())
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        let xbootldr = self.xbootldr.as_ref().map(Volume::try_clone).transpose()?;
        Ok(Self { partition: self.partition.clone(), esp: self.esp.try_clone()?, xbootldr })
    }
}

/// An entry of ours, and where it is.
type Found<'a> = (&'a Volume, BootEntry);
