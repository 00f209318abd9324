//! Putting back what was lost or damaged at a place to boot from: files first, an entry last, nothing removed that something needs.

use anyhow::{Context, Result, bail};

use super::check::XBOOTLDR;
use super::volume::Volume;
use super::{BootFiles, ENTRIES, FILES, Place, Tries};
use crate::progress::Progress;
use crate::sys::{dir, tree};

impl Place {
    /// Writes the file at `path` (as [`Inspection`](super::Inspection) has it) again from `boot`, and the addons that belong to it; what is there
    /// as it should be stays as it is.
    ///
    /// # Errors
    ///
    /// [`NoSpace`](crate::error::FailureKind::NoSpace), before anything is written, when it does not fit; `boot` has no such file.
    pub fn restore_file(&self, path: &str, boot: &BootFiles, progress: &dyn Progress) -> Result<()> {
        let (volume, path) = self.locate(path)?;
        let wanted = |file: &str| file == path || file.strip_prefix(path).is_some_and(|rest| rest.starts_with(super::files::ADDONS));
        let files = dir::ensure(volume.root(), FILES, 0o755)?;
        let mut missing = Vec::new();
        let mut known = false;
        for file in boot.iter().filter(|file| wanted(&file.path())) {
            known = true;
            if !file.is_in(&files).unwrap_or(false) {
                missing.push(file);
            }
        }
        if !known {
            bail!("restoring {path}: the image has no such file (expected one with this digest)");
        }
        volume.check_space(missing.iter().map(|file| file.bytes().len() as u64).sum())?;
        for file in missing {
            clear(volume, &file.path())?;
            file.write(&files)?;
            dir::sync_filesystem(volume.root()).context("syncing the ESP")?;
            progress.step(&format!("write {file}"));
        }
        Ok(())
    }

    /// Removes an entry file; nothing else changes.
    pub fn remove_entry(&self, file: &str, progress: &dyn Progress) -> Result<()> {
        for volume in self.volumes() {
            if volume.remove_file(file)? {
                progress.step("remove entry");
            }
        }
        Ok(())
    }

    /// Gives the counter in the name of an entry file another value.
    ///
    /// # Errors
    ///
    /// There is an entry of that name.
    pub fn set_counter(&self, file: &str, id: &str, tries: Option<Tries>, progress: &dyn Progress) -> Result<()> {
        let to = tries.map_or_else(|| id.to_owned(), |tries| tries.file(id));
        for volume in self.volumes().filter(|volume| volume.has(&format!("{ENTRIES}/{file}"))) {
            let entries = dir::open(volume.root(), ENTRIES).context("opening loader/entries on the ESP")?;
            if dir::open_file_optional(&entries, &to).with_context(|| format!("looking for {to}"))?.is_some() {
                bail!("renaming boot entry {file}: there is a {to} already");
            }
            rustix::fs::renameat(&entries, file, &entries, &to).with_context(|| format!("renaming boot entry {file} to {to}"))?;
            dir::sync(&entries).context("syncing loader/entries")?;
            progress.step("rename entry");
        }
        Ok(())
    }

    /// Removes a temporary, or a kernel that no entry names any more; one that is needed by now stays.
    pub fn remove_unneeded(&self, path: &str, progress: &dyn Progress) -> Result<()> {
        let inspection = self.inspect()?;
        if !inspection.unused.iter().chain(&inspection.leftovers).any(|unneeded| unneeded == path) {
            return Ok(());
        }
        let (volume, path) = self.locate(path)?;
        let Some((parent, name)) = path.rsplit_once('/') else { return Ok(()) };
        let parent = dir::open(volume.root(), parent).with_context(|| format!("opening {parent} on the ESP"))?;
        tree::remove(&parent, name)?;
        dir::sync(&parent).with_context(|| format!("syncing the directory of {path}"))?;
        progress.step("remove leftover");
        Ok(())
    }

    /// The volume that a path is on, and the path from its root.
    fn locate<'p>(&self, path: &'p str) -> Result<(&Volume, &'p str)> {
        let (label, rest) = path.strip_prefix(XBOOTLDR).map_or(("", path), |rest| (XBOOTLDR, rest));
        let volume = self.volumes().find(|volume| self.label(volume) == label);
        Ok((volume.with_context(|| format!("looking for {path}: this machine has no such partition"))?, rest))
    }
}

/// A directory where a file has to be, or a file where the directory of addons has to be, holds nothing that boots.
fn clear(volume: &Volume, path: &str) -> Result<()> {
    let below = path.strip_prefix(FILES).unwrap_or(path).trim_start_matches('/');
    let files = dir::open(volume.root(), FILES).context("opening EFI/selkie on the ESP")?;
    let is_directory = |name: &str| -> Result<Option<bool>> {
        let stat = dir::optional(rustix::fs::statat(&files, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW));
        let stat = stat.with_context(|| format!("looking at {name} on the ESP"))?;
        Ok(stat.map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()))
    };
    if let Some((parent, _)) = below.split_once('/')
        && is_directory(parent)? == Some(false)
    {
        tree::remove(&files, parent)?;
    }
    if is_directory(below)? == Some(true) {
        tree::remove(&files, below)?;
    }
    Ok(())
}
