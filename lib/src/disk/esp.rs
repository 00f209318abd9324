//! The EFI system partition: a FAT32 file system, the same bytes for the same files.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};

use anyhow::{Context, Result};
use fatfs::{Date, DateTime, Dir, FatType, FileSystem, FormatVolumeOptions, FsOptions, ReadWriteSeek, Time, TimeProvider};

use super::dots::Dots;
use super::size::MIB;
use super::tree::{Content, EspTree};
use super::window::Window;
use crate::calendar::Moment;
use crate::error::{Failure, FailureKind};

/// FAT32 is what has at least 65525 clusters, and a cluster has at least one sector: with its tables that is a little less than this.
const SMALLEST: u64 = 34 * MIB;
/// From here on clusters of 4 KiB are enough of them.
const LARGE: u64 = 264 * MIB;

/// Writes the file system with all files of `tree` into `range` of `image`, which has only zeros there.
pub(super) fn write(image: &File, range: &std::ops::Range<u64>, tree: &EspTree, volume_id: u32, mtime: u64) -> Result<()> {
    let size = range.end - range.start;
    if size < SMALLEST {
        return Err(too_small(SMALLEST, size).into());
    }
    NOW.set(fat_time(mtime));
    let cluster: u32 = if size < LARGE { 512 } else { 4096 };
    let options =
        FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(cluster).volume_id(volume_id).volume_label(*b"ESP        ");
    let window = || Window::new(image, range.start, size);
    fatfs::format_volume(window(), options).context("formatting the ESP")?;
    let options = FsOptions::new().time_provider(&Clock).update_accessed_date(false);
    let volume = FileSystem::new(window(), options).context("opening the formatted ESP")?;
    let free = u64::from(volume.stats().context("measuring the formatted ESP")?.free_clusters());
    let needed = clusters(tree, cluster.into())?;
    if needed > free {
        let overhead = size - free * u64::from(cluster);
        return Err(too_small(overhead + needed * u64::from(cluster), size).into());
    }
    let mut dots = Dots::new(image, range.start)?;
    for directory in directories(tree) {
        volume.root_dir().create_dir(directory).with_context(|| format!("making {directory} on the ESP"))?;
        dots.correct()?;
    }
    for (path, content) in &tree.files {
        add(&volume.root_dir(), path, content).with_context(|| format!("writing {path} to the ESP"))?;
    }
    volume.unmount().context("finishing the ESP")
}

fn too_small(needed: u64, size: u64) -> Failure {
    // In tenths, because a kernel more or less is less than what rounding hides.
    let mib = |bytes: u64| (bytes * 10).div_ceil(MIB) as f64 / 10.0;
    let message = format!("laying out the EFI system partition: too small (need {:.1} MiB, size {:.1} MiB)", mib(needed), mib(size));
    Failure::new(FailureKind::NoSpace, message).hint("give a larger size for the EFI system partition")
}

/// How many clusters files and directories need.
fn clusters(tree: &EspTree, cluster: u64) -> Result<u64> {
    let mut clusters = 0;
    let mut entries = BTreeMap::from([("", 1)]);
    let mut known = BTreeSet::new();
    for (path, content) in &tree.files {
        let size = content.size()?;
        if size > u64::from(u32::MAX) {
            let message = format!("writing {path} to the ESP: {size} bytes (FAT32 has files of at most {})", u32::MAX);
            return Err(Failure::new(FailureKind::Unsuitable, message).into());
        }
        clusters += size.div_ceil(cluster);
        for end in path.match_indices('/').map(|(at, _)| at).chain([path.len()]) {
            let (name, parent) = (&path[..end], path[..end].rfind('/').map_or("", |at| &path[..at]));
            if known.insert(name) {
                // A directory begins with four slots; a name has a short one, and one for each 13 UTF-16 units of the name.
                *entries.entry(parent).or_insert(4) += 1 + (name.len() - parent.len()).div_ceil(13);
            }
        }
    }
    Ok(clusters + entries.values().map(|&count| (count as u64 * 32).div_ceil(cluster)).sum::<u64>())
}

/// All directories, each once whatever its case, a directory before what is in it.
fn directories(tree: &EspTree) -> Vec<&str> {
    let mut known = BTreeSet::new();
    let all = tree.files.keys().flat_map(|path| path.match_indices('/').map(|(end, _)| &path[..end]));
    all.filter(|directory| known.insert(directory.to_lowercase())).collect()
}

fn add<T: ReadWriteSeek>(root: &Dir<'_, T>, path: &str, content: &Content) -> Result<()> {
    let mut file = root.create_file(path)?;
    file.truncate()?;
    // The crate writes at most one cluster at a time.
    let mut reader = BufReader::with_capacity(1 << 20, content.open()?);
    let mut writer = BufWriter::with_capacity(1 << 16, &mut file);
    let copied = std::io::copy(&mut reader, &mut writer)?;
    writer.flush()?;
    drop(writer);
    file.flush()?;
    let expected = content.size()?;
    anyhow::ensure!(copied == expected, "reading it: {copied} bytes (expected {expected})");
    Ok(())
}

thread_local! {
    /// What [`Clock`] shows: the crate wants a clock that lives for ever.
    static NOW: Cell<DateTime> = const { Cell::new(EPOCH) };
}

const EPOCH: DateTime = DateTime { date: Date { year: 1980, month: 1, day: 1 }, time: Time { hour: 0, min: 0, sec: 0, millis: 0 } };

/// A clock that stands still.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn get_current_date(&self) -> Date {
        NOW.get().date
    }

    fn get_current_date_time(&self) -> DateTime {
        NOW.get()
    }
}

/// Seconds since 1970 as FAT writes them, in UTC; FAT knows 1980 to 2107.
fn fat_time(seconds: u64) -> DateTime {
    const FIRST: u64 = 315_532_800;
    const LAST: u64 = 4_354_819_199;
    let seconds = seconds.clamp(FIRST, LAST);
    let Moment { year, month, day, hour, minute, second } = Moment::at(seconds);
    DateTime {
        date: Date { year: year as u16, month: month.into(), day: day.into() },
        time: Time { hour: hour.into(), min: minute.into(), sec: second.into(), millis: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let table = [
            (0, (1980, 1, 1), (0, 0, 0)),
            (951_782_399, (2000, 2, 28), (23, 59, 59)),
            (951_868_799, (2000, 2, 29), (23, 59, 59)),
            (1_700_000_000, (2023, 11, 14), (22, 13, 20)),
            (4_107_542_400, (2100, 3, 1), (0, 0, 0)),
            (u64::MAX, (2107, 12, 31), (23, 59, 59)),
        ];
        for (seconds, date, time) in table {
            let got = fat_time(seconds);
            let got = ((got.date.year, got.date.month, got.date.day), (got.time.hour, got.time.min, got.time.sec));
            assert_eq!(got, (date, time), "{seconds}");
        }
    }

    #[test]
    fn directories_are_made_once() {
        let mut tree = EspTree::new();
        for path in ["EFI/a/x", "efi/A/y", "efi/b/c/z", "w"] {
            tree.add_file(path, Content::Bytes(vec![])).unwrap();
        }
        assert_eq!(directories(&tree), ["EFI", "EFI/a", "efi/b", "efi/b/c"]);
    }

    #[test]
    fn clusters_of_files_and_directories_are_counted() {
        let mut tree = EspTree::new();
        tree.add_file("EFI/BOOT/BOOTX64.EFI", Content::Bytes(vec![1; 513])).unwrap();
        tree.add_file("empty", Content::Bytes(vec![])).unwrap();
        // Root, EFI and EFI/BOOT have a cluster each.
        assert_eq!(clusters(&tree, 512).unwrap(), 2 + 3);
        assert_eq!(clusters(&tree, 4096).unwrap(), 1 + 3);
    }
}
