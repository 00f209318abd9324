//! A close look at a place to boot from: every entry of ours, readable or not, and the bytes of every file that it needs.
//!
//! Nothing here judges by a deployment or an image: that is for who knows them. Entries and files of other systems are seen only where they
//! matter to ours: what they name is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use anyhow::{Context, Result};

use super::files::{ADDONS, brought_by};
use super::volume::Volume;
use super::{BootEntry, BootFiles, ENTRIES, Entry, FILES, FoundEntry, Place, Tries};
use crate::error::{Failure, FailureKind};
use crate::sys::dir;

/// How a path on the extended boot loader partition begins, before people and here.
pub(super) const XBOOTLDR: &str = "XBOOTLDR:";

/// What a place holds. Paths are from the root of the ESP; those on the XBOOTLDR partition of its disk begin with `XBOOTLDR:`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// Entries of ours, by file name, and those that were ours by their names.
    pub entries: Vec<EntryLook>,
    /// Entry files of ours that a newer entry of the same root replaces.
    pub superseded: Vec<String>,
    /// The names of all entry files, of everybody.
    pub names: Vec<String>,
    /// The state of each file that an entry of ours names.
    pub files: BTreeMap<String, FileState>,
    /// Kernels of ours that no entry names. Empty while an entry of others cannot be read: it may need them.
    pub unused: Vec<String>,
    /// Temporaries that a stopped call left.
    pub leftovers: Vec<String>,
}

/// One entry of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryLook {
    /// Its file in `loader/entries`.
    pub file: String,
    /// What our names say, where it has one of them.
    pub name: Option<EntryName>,
    /// Boot counting, as its name says.
    pub tries: Option<Tries>,
    /// What can be read of it.
    pub reading: Reading,
    /// The files that it names, as far as it can be read.
    pub files: Vec<String>,
}

/// What can be read of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// It names a root.
    Live(Box<BootEntry>),
    /// It starts a unified kernel image, which is not there or cannot be read, and so names no root.
    Dead,
    /// It names no root.
    Garbage {
        /// Why.
        reason: String,
        /// Whether a boot loader may start something by it all the same.
        starts: bool,
    },
}

/// The parts of a file name that [`EntryRequest::file`](super::EntryRequest::file) gives. For an entry that cannot be read it is all that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName {
    /// The first digits of the root ([`ImageId::short`](crate::image_id::ImageId::short)).
    pub short: String,
    /// The activation serial.
    pub serial: u64,
    /// Whether what stands where the boot counter has its place is none.
    pub odd_counter: bool,
}

/// The state of a file, by the digest that its name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// It is what its name says; or, for a file of others, it is there.
    Whole,
    /// It is not there.
    Missing,
    /// It has other bytes.
    Changed {
        /// So many.
        size: u64,
    },
    /// It is there and cannot be read.
    Unreadable(String),
}

impl EntryName {
    /// Reads the name of an entry file; `None` for one that we never gave.
    pub fn parse(file: &str) -> Option<Self> {
        let stem = file.strip_suffix(".conf")?;
        let id = stem.split('+').next()?;
        let (short, serial) = id.strip_prefix("selkie-")?.split_once('-')?;
        let hex = short.len() == 12 && short.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let digits = !serial.is_empty() && serial.bytes().all(|b| b.is_ascii_digit());
        let odd_counter = stem.contains('+') && Tries::split(file).1.is_none();
        (hex && digits).then(|| Some(Self { short: short.to_owned(), serial: serial.parse().ok()?, odd_counter }))?
    }
}

impl EntryLook {
    /// The entry, where it names a root.
    pub fn live(&self) -> Option<&BootEntry> {
        match &self.reading {
            Reading::Live(entry) => Some(entry),
            Reading::Dead | Reading::Garbage { .. } => None,
        }
    }
}

impl Place {
    /// Looks at everything; reads every kernel of ours to its end.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotAHost`] where this is no ESP at all; or a directory cannot be read: what is not seen is not absent.
    pub fn inspect(&self) -> Result<Inspection> {
        self.require_esp()?;
        let mut inspection = Inspection::default();
        for volume in self.volumes() {
            look_at(volume, self.label(volume), &mut inspection)?;
        }
        inspection.entries.sort_by(|a, b| a.file.cmp(&b.file));
        let (_, superseded) = self.current_and_superseded()?;
        inspection.superseded = superseded.into_iter().map(|(_, entry)| entry.file).collect();
        Ok(inspection)
    }

    /// An empty directory where the ESP should be mounted must not be taken for a machine without entries.
    fn require_esp(&self) -> Result<()> {
        if self.volumes().any(|volume| ["EFI", "loader"].iter().any(|name| volume.has(name))) {
            return Ok(());
        }
        let message = "looking at the ESP: it has neither EFI nor loader (expected what a machine boots from)";
        let hint =
            "see that the right partition is mounted there; if its file system was lost, make a new one and run `bootctl install` first";
        Err(Failure::new(FailureKind::NotAHost, message).hint(hint).into())
    }

    /// How paths on this volume begin.
    pub(super) fn label(&self, volume: &Volume) -> &'static str {
        let first = self.volumes().next().is_some_and(|home| std::ptr::eq(home, volume));
        if self.has_xbootldr() && first { XBOOTLDR } else { "" }
    }
}

fn look_at(volume: &Volume, label: &str, inspection: &mut Inspection) -> Result<()> {
    let (mut needed, mut blind) = (BTreeSet::new(), false);
    for found in volume.found()? {
        if let Ok(entry) = &found.entry {
            needed.extend(paths(entry));
        }
        inspection.names.push(found.file.clone());
        match entry_look(volume, &found) {
            Some(mut look) => {
                blind |= matches!(look.reading, Reading::Garbage { starts: true, .. });
                for path in &mut look.files {
                    let state = file_state(volume, path);
                    *path = format!("{label}{path}");
                    inspection.files.insert(path.clone(), state);
                }
                inspection.entries.push(look);
            }
            None => blind |= found.entry.is_err(),
        }
    }
    for place in [ENTRIES, FILES] {
        let temporary = |name: &OsString| name.to_str().is_some_and(|name| name.starts_with(dir::TEMPORARY));
        let left = names(volume, place)?.into_iter().filter(temporary);
        inspection.leftovers.extend(left.map(|name| format!("{label}{place}/{}", name.display())));
    }
    for name in names(volume, FILES)? {
        let Some(name) = name.to_str() else { continue };
        let Some(file) = brought_by(name) else { continue };
        if !blind && !needed.contains(&format!("{FILES}/{file}")) {
            inspection.unused.push(format!("{label}{FILES}/{name}"));
        }
        if name.ends_with(ADDONS) {
            let below = format!("{FILES}/{name}");
            // One that is no directory is found with its image.
            let left = names(volume, &below)
                .unwrap_or_default()
                .into_iter()
                .filter(|name| name.as_encoded_bytes().starts_with(dir::TEMPORARY.as_bytes()));
            inspection.leftovers.extend(left.map(|name| format!("{label}{below}/{}", name.display())));
        }
    }
    Ok(())
}

/// What is known of an entry file, if it is one of ours: by what it says, and by its name where it says nothing.
fn entry_look(volume: &Volume, found: &FoundEntry) -> Option<EntryLook> {
    let name = EntryName::parse(&found.file);
    let ours = match &found.entry {
        Ok(entry) => entry.serial().is_some() || name.is_some(),
        Err(_) => found.file.starts_with("selkie-"),
    };
    if !ours {
        return None;
    }
    let files = found.entry.as_ref().map(paths).unwrap_or_default();
    let tries = Tries::split(&found.file).1;
    Some(EntryLook { reading: reading(volume, found), file: found.file.clone(), name, tries, files })
}

fn reading(volume: &Volume, found: &FoundEntry) -> Reading {
    let entry = match &found.entry {
        Ok(entry) => entry,
        Err(reason) => return Reading::Garbage { reason: reason.clone(), starts: starts(volume, &found.file) },
    };
    let starts_something = entry.get("linux").or(entry.get("efi")).is_some();
    if volume.is_dead(entry) {
        return Reading::Dead;
    }
    let garbage = |reason: &str| Reading::Garbage { reason: reason.to_owned(), starts: starts_something };
    match volume.boot_entry(found.file.clone(), entry) {
        Some(_) if !starts_something => garbage("it names no kernel"),
        Some(live) => Reading::Live(Box::new(live)),
        None if entry.serial().is_none() => garbage("it has no sort-key of selkie"),
        None => garbage("it names no root"),
    }
}

/// Whether a line of a file that cannot be read as an entry looks like one that starts something.
fn starts(volume: &Volume, file: &str) -> bool {
    let Ok(Some(bytes)) = dir::read_optional(volume.root(), format!("{ENTRIES}/{file}")) else { return true };
    let key = |line: &[u8]| line.trim_ascii_start().split(u8::is_ascii_whitespace).next().map(<[u8]>::to_vec);
    bytes.split(|b| *b == b'\n').filter_map(key).any(|key| matches!(key.as_slice(), b"linux" | b"efi" | b"uki" | b"uki-url"))
}

/// The files that an entry names, from the root of its volume.
fn paths(entry: &Entry) -> Vec<String> {
    entry.files().map(|path| path.trim_start_matches('/').to_owned()).collect()
}

fn names(volume: &Volume, place: &str) -> Result<Vec<OsString>> {
    let Some(directory) = dir::open_optional(volume.root(), place).with_context(|| format!("opening {place} on the ESP"))? else {
        return Ok(Vec::new());
    };
    dir::names(&directory).with_context(|| format!("listing {place} on the ESP"))
}

fn file_state(volume: &Volume, path: &str) -> FileState {
    let bytes = match dir::read_optional(volume.root(), path) {
        Ok(None) => return FileState::Missing,
        Ok(Some(bytes)) => bytes,
        Err(error) => return FileState::Unreadable(format!("{error:#}")),
    };
    let ours = path.strip_prefix(FILES).and_then(|name| name.strip_prefix('/')).filter(|name| brought_by(name).is_some());
    let Some(name) = ours else { return FileState::Whole };
    let size = bytes.len() as u64;
    match addons(volume, path) {
        Err(error) => FileState::Unreadable(format!("{error:#}")),
        Ok(addons) => {
            let whole = named(name, bytes, addons) == path;
            if whole { FileState::Whole } else { FileState::Changed { size } }
        }
    }
}

/// The addons beside a unified kernel image: they are part of what its name says.
fn addons(volume: &Volume, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let below = format!("{path}{ADDONS}");
    let mut addons = Vec::new();
    for name in names(volume, &below)? {
        let Some(name) = name.to_str().filter(|name| name.to_lowercase().ends_with(".addon.efi") && !name.starts_with('.')) else {
            continue;
        };
        let bytes = dir::read_optional(volume.root(), format!("{below}/{name}"))?.unwrap_or_default();
        addons.push((name.to_owned(), bytes));
    }
    Ok(addons)
}

/// The path that these bytes would have as the same kind of file as `name`.
fn named(name: &str, bytes: Vec<u8>, addons: Vec<(String, Vec<u8>)>) -> String {
    let files = if name.ends_with(".linux") {
        BootFiles::kernel(bytes, Vec::new())
    } else if name.ends_with(".initrd") {
        let files = BootFiles::kernel(Vec::new(), bytes);
        return files.iter().next().map(super::BootFile::path).unwrap_or_default();
    } else {
        BootFiles::uki(bytes, addons)
    };
    files.iter().last().map(super::BootFile::path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_read() {
        let name = |serial, odd_counter| Some(EntryName { short: "abcdef012345".into(), serial, odd_counter });
        for (file, expected) in [
            ("selkie-abcdef012345-7.conf", name(7, false)),
            ("selkie-abcdef012345-7+3.conf", name(7, false)),
            ("selkie-abcdef012345-7+0-3.conf", name(7, false)),
            ("selkie-abcdef012345-7+x.conf", name(7, true)),
            ("selkie-abcdef012345-7+.conf", name(7, true)),
            ("selkie-abcdef012345-.conf", None),
            ("selkie-abcdef012345-99999999999999999999.conf", None),
            ("selkie-ABCDEF012345-7.conf", None),
            ("selkie-abcdef01234-7.conf", None),
            ("selkie-abcdef012345-7", None),
            ("debian-abcdef012345-7.conf", None),
        ] {
            assert_eq!(EntryName::parse(file), expected, "{file}");
        }
    }

    #[test]
    fn bytes_are_known_by_the_name_that_they_would_have() {
        let kernel = BootFiles::kernel(b"k".to_vec(), b"i".to_vec());
        let paths: Vec<String> = kernel.iter().map(super::super::BootFile::path).collect();
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        assert_eq!(named(&name(&paths[0]), b"i".to_vec(), vec![]), paths[0]);
        assert_eq!(named(&name(&paths[1]), b"k".to_vec(), vec![]), paths[1]);
        assert_ne!(named(&name(&paths[1]), b"K".to_vec(), vec![]), paths[1]);
        let addons = vec![("a.addon.efi".to_owned(), b"x".to_vec())];
        let uki = BootFiles::uki(b"u".to_vec(), addons.clone());
        let path = uki.iter().last().unwrap().path();
        assert_eq!(named(&name(&path), b"u".to_vec(), addons), path);
        assert_ne!(named(&name(&path), b"u".to_vec(), vec![]), path);
    }
}
