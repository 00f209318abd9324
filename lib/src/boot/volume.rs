//! One file system that a boot loader reads: entries, ours and others', and the files that they need. Which file systems those are: [`super::Place`].

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};

use super::files::{ADDONS, brought_by};
use super::{BootFiles, ENTRIES, Entry, FILES, Tries};
use crate::cmdline::Cmdline;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::sys::{dir, tree};
use crate::uki::{Uki, UkiError};

/// A mounted EFI system partition, or an extended boot loader partition.
#[derive(Debug)]
pub(super) struct Volume {
    root: OwnedFd,
}

/// One file in `loader/entries`, whatever its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundEntry {
    /// Its name there.
    pub file: String,
    /// What it says, or why it cannot be read.
    pub entry: Result<Entry, String>,
}

impl FoundEntry {
    /// A power cut while an entry is published can leave its name without its content. The boot loader passes over it.
    fn is_empty_one_of_ours(&self) -> bool {
        self.file.starts_with("selkie-") && self.entry.as_ref().is_ok_and(|entry| *entry == Entry::default())
    }
}

/// A live entry of ours: the machine can boot `image` by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// File name in `loader/entries`.
    pub file: String,
    /// The root image.
    pub image: ImageId,
    /// Whether it boots only with fs-verity.
    pub verity_required: bool,
    /// Order of activation; the highest is what boots next.
    pub serial: u64,
    /// Boot counting, while the entry has not proven itself.
    pub tries: Option<Tries>,
    /// What the menu shows.
    pub title: String,
    /// Kernel arguments, without the one that names the root.
    pub arguments: Cmdline,
    /// The unified kernel image that it starts, for the entry of a sealed image.
    pub uki: Option<EntryUki>,
    /// Whether the boot loader offers it: systemd-boot passes over an entry whose kernel is not there, and looks at nothing else.
    pub offered: bool,
    /// Files of the ESP that it needs and that are not there: such an entry does not boot.
    pub missing: Vec<String>,
}

/// The unified kernel image of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryUki {
    /// Its path on the ESP, as the entry names it.
    pub path: String,
    /// Whether it bears a signature. Whose that is, the firmware finds out.
    pub signed: bool,
}

impl BootEntry {
    /// What the boot loader calls it: the name of its file in lower case, without the counter.
    pub fn id(&self) -> String {
        Tries::split(&self.file.to_lowercase()).0
    }
}

impl Volume {
    /// Takes the root directory of a mounted ESP.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// Every entry file, sorted by name. Unreadable ones are reported in place.
    pub(super) fn found(&self) -> Result<Vec<FoundEntry>> {
        let Some(entries) = dir::open_optional(&self.root, ENTRIES).context("opening loader/entries on the ESP")? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for name in dir::names(&entries).context("listing loader/entries on the ESP")? {
            let Some(file) = name.to_str().filter(|n| n.ends_with(".conf") && !n.starts_with('.')) else { continue };
            let read = dir::read_optional(&entries, file);
            let entry = match read {
                Ok(Some(bytes)) => Entry::parse(&bytes).map_err(|e| e.to_string()),
                Ok(None) => continue,
                Err(e) => Err(format!("{e:#}")),
            };
            found.push(FoundEntry { file: file.to_owned(), entry });
        }
        Ok(found)
    }

    /// Our entries, in no order.
    pub(super) fn entries(&self) -> Result<Vec<BootEntry>> {
        let found = self.found()?.into_iter();
        Ok(found.filter_map(|found| self.boot_entry(found.file, found.entry.as_ref().ok()?)).collect())
    }

    /// Removes the entry file; whether there was one.
    pub(super) fn remove_file(&self, file: &str) -> Result<bool> {
        let Some(entries) = dir::open_optional(&self.root, ENTRIES).context("opening loader/entries on the ESP")? else { return Ok(false) };
        dir::remove_file(&entries, file)
    }

    /// What `entry` boots, if it is one of ours. A unified kernel image is asked itself, so that one that is not there leaves an entry
    /// that boots nothing.
    pub(super) fn boot_entry(&self, file: String, entry: &Entry) -> Option<BootEntry> {
        let serial = entry.serial()?;
        let (root, arguments, uki) = match entry.get("efi") {
            // Whatever the entry itself says: the image has its own arguments.
            Some(path) => {
                let uki = self.uki(path).ok()??;
                let root = uki.root_images().ok()?.into_iter().next()?;
                let arguments = Cmdline::parse(uki.cmdline.as_deref().unwrap_or_default());
                (root, arguments, Some(EntryUki { path: path.to_owned(), signed: uki.signed }))
            }
            None => (entry.root_image()?, entry.options(), None),
        };
        Some(BootEntry {
            image: root.id,
            verity_required: root.verity_required,
            serial,
            tries: Tries::split(&file).1,
            title: entry.get("title").unwrap_or_default().to_owned(),
            arguments: arguments.without_root_image(),
            uki,
            offered: self.offered(entry),
            missing: self.missing(entry),
            file,
        })
    }

    /// Whether `entry` starts exactly `files`, and they are here as they should be.
    pub(super) fn holds(&self, entry: &BootEntry, files: &BootFiles) -> Result<bool> {
        let directory = dir::open(&self.root, FILES).context("opening EFI/selkie on the ESP")?;
        for file in files.iter() {
            if !file.is_in(&directory)? {
                return Ok(false);
            }
        }
        let named = entry.uki.as_ref().map(|uki| uki.path.trim_start_matches('/').to_owned());
        Ok(named.is_some_and(|path| files.iter().any(|file| file.path() == path)))
    }

    /// The unified kernel image at `path`; `None` where there is none or what is there is none.
    fn uki(&self, path: &str) -> Result<Option<Uki>> {
        let file = dir::open_file_optional(&self.root, path.trim_start_matches('/')).with_context(|| format!("opening {path}"))?;
        let Some(file) = file else { return Ok(None) };
        match Uki::read(&mut std::fs::File::from(file)) {
            Ok(uki) => Ok(Some(uki)),
            Err(UkiError::Io(error)) => Err(error).with_context(|| format!("reading {path}")),
            Err(_) => Ok(None),
        }
    }

    /// Whether an entry of ours can boot nothing, because its unified kernel image is missing or damaged.
    pub(super) fn is_dead(&self, entry: &Entry) -> bool {
        let path = entry.get("efi").filter(|path| path.starts_with(&format!("/{FILES}/")));
        entry.serial().is_some() && path.is_some_and(|path| matches!(self.uki(path), Ok(None)))
    }

    /// Bytes of the files that `entry` needs and that are there, the addons of its unified kernel image among them.
    pub(super) fn size_of(&self, entry: &BootEntry) -> Result<u64> {
        let Some(text) = dir::read_optional(&self.root, format!("{ENTRIES}/{}", entry.file))? else { return Ok(0) };
        let parsed = Entry::parse(&text).with_context(|| format!("reading {}", entry.file))?;
        let mut bytes = 0;
        for path in parsed.files() {
            let path = path.trim_start_matches('/');
            bytes += dir::file_size(&self.root, path)?;
            let addons = format!("{path}{ADDONS}");
            let Some(directory) = dir::open_optional(&self.root, &addons).with_context(|| format!("opening {addons}"))? else { continue };
            for name in dir::names(&directory).with_context(|| format!("listing {addons}"))? {
                bytes += dir::file_size(&directory, name)?;
            }
        }
        Ok(bytes)
    }

    /// Removes temporaries of ours, entries that are of no use any more, and kernels of ours that no entry names. An entry that cannot be read stops the removal of
    /// kernels: it may need one.
    pub(super) fn sweep(&self) -> Result<()> {
        if let Some(entries) = dir::open_optional(&self.root, ENTRIES).context("opening loader/entries on the ESP")? {
            dir::sweep(&entries)?;
        }
        for found in self.found()? {
            if found.is_empty_one_of_ours() || found.entry.as_ref().is_ok_and(|entry| self.is_dead(entry)) {
                self.remove_file(&found.file)?;
            }
        }
        let Some(files) = dir::open_optional(&self.root, FILES).context("opening EFI/selkie on the ESP")? else { return Ok(()) };
        dir::sweep(&files)?;
        let found = self.found()?;
        if found.iter().any(|f| f.entry.is_err()) {
            return Ok(());
        }
        let needed: BTreeSet<String> =
            found.iter().filter_map(|f| f.entry.as_ref().ok()).flat_map(|e| e.files().map(str::to_owned).collect::<Vec<_>>()).collect();
        for name in dir::names(&files).context("listing EFI/selkie on the ESP")? {
            let Some(name) = name.to_str() else { continue };
            if brought_by(name).is_some_and(|file| !needed.contains(&format!("/{FILES}/{file}"))) {
                remove_boot_file(&files, name).context("removing a boot file from the ESP")?;
            }
        }
        dir::sync(&files).context("syncing EFI/selkie on the ESP")
    }

    /// Checks that `need` more bytes fit.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NoSpace`] with both numbers.
    pub(super) fn check_space(&self, need: u64) -> Result<()> {
        // Directory clusters and the entry itself; generous, because FAT cannot undo a half-written file by itself.
        const SLACK: u64 = 1 << 20;
        let free = dir::free_bytes(&self.root).context("measuring free space on the ESP")?;
        let wanted = if need == 0 { 0 } else { need + SLACK };
        if free >= wanted {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let message = format!("staging the kernel: the ESP has {} MiB free (expected at least {} MiB)", mib(free), mib(wanted));
        Err(Failure::new(FailureKind::NoSpace, message)
            .hint("remove old entries of other systems from the ESP, or install on a disk with a larger one (selkie disk --esp-size)")
            .into())
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(Self { root: self.root.try_clone().context("duplicating the handle of the ESP")? })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Of repeated keys, systemd-boot takes the last.
    fn offered(&self, entry: &Entry) -> bool {
        entry.all("linux").chain(entry.all("efi")).last().is_some_and(|path| self.has(path))
    }

    fn missing(&self, entry: &Entry) -> Vec<String> {
        entry.files().filter(|path| !self.has(path)).map(str::to_owned).collect()
    }

    pub(super) fn has(&self, path: &str) -> bool {
        dir::open_file_optional(&self.root, path.trim_start_matches('/')).is_ok_and(|f| f.is_some())
    }
}

/// Removes a kernel, or the directory of addons beside it, file by file: of each, the name goes before its room is free.
fn remove_boot_file(files: &OwnedFd, name: &str) -> Result<()> {
    if !name.ends_with(ADDONS) {
        return dir::remove_file(files, name).map(drop);
    }
    let addons = dir::open(files, name).with_context(|| format!("opening {name}"))?;
    for addon in dir::names(&addons).with_context(|| format!("listing {name}"))? {
        dir::remove_file(&addons, &addon.to_string_lossy())?;
    }
    tree::remove(files, name).map(drop)
}
