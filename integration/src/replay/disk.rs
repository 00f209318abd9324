//! The disk of a machine as of a point in its write log: its two partitions as sparse files, brought forward from flush to flush, and taken back from
//! what a cut added to that.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cut::{self, Cut, Piece};
use super::log::{self, Log, Record};
use crate::{command::Argv, disk::partition};

/// A disk that follows a log.
#[derive(Debug)]
pub(crate) struct Disk {
    log: File,
    records: Vec<Record>,
    /// Requests that are on the medium.
    done: usize,
    parts: [Part; 2],
}

/// A partition as a file of its own.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
    /// Where it is on the disk.
    range: Range<u64>,
}

/// What takes back a cut: bytes of the partitions that were there before, the latest change first.
#[derive(Debug)]
pub(crate) struct Undo(Vec<(usize, u64, Vec<u8>)>);

impl Disk {
    /// The partitions of the disk image `base` as files in `directory`, and the log of what was written to it.
    pub(crate) fn new(base: &Path, log: &Path, directory: &Path) -> Result<Self> {
        let mut file = File::open(log).with_context(|| format!("opening {}", log.display()))?;
        let Log { records } = log::read(&mut file)?;
        let part = |number, name| Part::extract(base, number, directory.join(name));
        Ok(Self { log: file, records, done: 0, parts: [part(0, "esp.img")?, part(1, "root.img")?] })
    }

    /// Everything that was written.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The EFI system partition.
    pub(crate) fn esp(&self) -> &Path {
        &self.parts[0].path
    }

    /// Where that is on the disk.
    pub(crate) fn esp_range(&self) -> Range<u64> {
        self.parts[0].range.clone()
    }

    /// The root file system.
    pub(crate) fn root(&self) -> &Path {
        &self.parts[1].path
    }

    /// Brings the disk to where it is after `cut`, which must not be earlier than one before.
    pub(crate) fn cut(&mut self, cut: &Cut) -> Result<Undo> {
        let durable = cut::durable(&self.records, cut.at);
        for index in self.done..durable {
            if let Record::Write { to, length, at, .. } = self.records[index] {
                self.write(&Piece { at, to, length }, None)?;
            }
        }
        self.done = self.done.max(durable);
        let mut undo = Vec::new();
        for piece in cut::survivors(&self.records, cut) {
            self.write(&piece, Some(&mut undo))?;
        }
        undo.reverse();
        Ok(Undo(undo))
    }

    /// Takes back what a cut added.
    pub(crate) fn restore(&mut self, undo: Undo) -> Result<()> {
        for (part, at, bytes) in undo.0 {
            self.parts[part].file.write_all_at(&bytes, at).context("taking back what a power cut left")?;
        }
        Ok(())
    }

    /// Puts the partitions as they are into a whole disk image that has the same table.
    pub(crate) fn put_into(&self, disk: &Path) -> Result<()> {
        for part in &self.parts {
            let words = [format!("if={}", part.path.display()), format!("of={}", disk.display()), format!("seek={}", part.range.start)];
            Argv::new(["dd", "status=none", "bs=1M", "oflag=seek_bytes", "conv=notrunc,sparse"]).with(words).read()?;
        }
        Ok(())
    }

    fn write(&self, piece: &Piece, mut undo: Option<&mut Vec<(usize, u64, Vec<u8>)>>) -> Result<()> {
        let replaying = || format!("replaying {} bytes at {} of a write log", piece.length, piece.at);
        for (number, part) in self.parts.iter().enumerate() {
            let start = piece.to.max(part.range.start);
            let end = (piece.to + piece.length).min(part.range.end);
            if start >= end {
                continue;
            }
            let mut bytes = vec![0; usize::try_from(end - start).with_context(replaying)?];
            let at = start - part.range.start;
            if let Some(undo) = undo.as_deref_mut() {
                part.file.read_exact_at(&mut bytes, at).with_context(replaying)?;
                undo.push((number, at, bytes.clone()));
            }
            self.log.read_exact_at(&mut bytes, piece.at + (start - piece.to)).with_context(replaying)?;
            part.file.write_all_at(&bytes, at).with_context(replaying)?;
        }
        Ok(())
    }
}

impl Part {
    fn extract(disk: &Path, number: usize, path: PathBuf) -> Result<Self> {
        let (start, size) = partition(disk, number)?;
        let extent = [format!("skip={start}"), format!("count={size}")];
        let names = [format!("if={}", disk.display()), format!("of={}", path.display())];
        let _ = fs::remove_file(&path);
        Argv::new(["dd", "status=none", "bs=1M", "iflag=skip_bytes,count_bytes", "conv=sparse"]).with(extent).with(names).read()?;
        let file = File::options().read(true).write(true).open(&path).with_context(|| format!("opening {}", path.display()))?;
        file.set_len(size).with_context(|| format!("sizing {}", path.display()))?;
        Ok(Self { path, file, range: start..start + size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with two partitions of which the second begins behind a gap, and a log with it.
    fn disk(directory: &Path, requests: &[(u64, u64, &[u8])]) -> Disk {
        let log = directory.join("log");
        fs::write(&log, log::tests::log(requests)).unwrap();
        let part = |name: &str, range: Range<u64>| {
            let path = directory.join(name);
            fs::write(&path, vec![b'.'; (range.end - range.start) as usize]).unwrap();
            Part { file: File::options().read(true).write(true).open(&path).unwrap(), path, range }
        };
        let parts = [part("esp.img", 1024..9216), part("root.img", 16384..32768)];
        let mut log = File::open(log).unwrap();
        Disk { records: log::read(&mut log).unwrap().records, log, done: 0, parts }
    }

    fn bytes(part: &Path) -> String {
        String::from_utf8(fs::read(part).unwrap()).unwrap()
    }

    #[test]
    fn a_cut_adds_to_what_was_flushed_and_can_be_taken_back() {
        let temp = tempfile::tempdir().unwrap();
        // To the table, the first partition, both ends of the second; the last one is never flushed.
        let requests: [(u64, u64, &[u8]); 6] =
            [(0, 0, &[b'a'; 512]), (2, 0, &[b'b'; 512]), (0, 1, &[]), (31, 0, &[b'c'; 1024]), (63, 0, &[b'd'; 1024]), (2, 0, &[b'e'; 512])];
        // The last entry of the log is a flush, as in every log.
        let mut disk = disk(temp.path(), &[&requests[..], &[(0, 1, &[])]].concat());
        let before = disk.cut(&Cut { at: 2, lost: None }).unwrap();
        assert_eq!(bytes(disk.esp()), "b".repeat(512) + &".".repeat(7680));
        disk.restore(before).unwrap();
        assert_eq!(bytes(disk.esp()), ".".repeat(8192));
        let all = disk.cut(&Cut { at: 6, lost: None }).unwrap();
        assert_eq!(bytes(disk.esp()), "e".repeat(512) + &".".repeat(7680));
        assert_eq!(bytes(disk.root()), "c".repeat(512) + &".".repeat(15360) + &"d".repeat(512));
        disk.restore(all).unwrap();
        assert_eq!(bytes(disk.esp()), "b".repeat(512) + &".".repeat(7680), "what was flushed stays");
        assert_eq!(bytes(disk.root()), ".".repeat(16384));
        disk.cut(&Cut { at: 7, lost: Some(1) }).unwrap();
        assert_eq!(bytes(disk.esp()), "e".repeat(512) + &".".repeat(7680));
    }
}
