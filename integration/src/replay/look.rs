//! Looking at a disk after a power cut, without booting it: the journal is replayed, both file systems are checked, and the machine's state is
//! copied out, where `machine` (see `src/bin/machine.rs`) reads it with selkie's own library.
//!
//! Neither file system is mounted: this kernel may know no FAT, and one without fs-verity opens no sealed file. Of the repository's objects, which
//! never change, those stay in the copy that were found to be right, and are not read again. What the disk has of others may be more the next time.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::disk::Disk;
use crate::{command::Argv, lab::Lab};

/// The directory of the repository.
const REPOSITORY: &str = "composefs";
/// The flag of an ext4 inode that says fs-verity, see the kernel's fs/ext4/ext4.h.
const VERITY: u32 = 0x0010_0000;

/// What is on the disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Found {
    /// The root that boots next.
    pub(crate) next: String,
    /// Every root with an entry of ours.
    pub(crate) entries: Vec<String>,
    /// What is wrong, one sentence each.
    pub(crate) problems: Vec<String>,
    /// Objects that these roots need.
    pub(crate) objects: Vec<String>,
}

/// A copy of the state of a machine, brought up to date with each look.
#[derive(Debug)]
pub(crate) struct Look {
    machine: PathBuf,
    directory: PathBuf,
    /// Inode and size of the objects that are in the copy, by path below `objects`.
    objects: BTreeMap<String, Object>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    inode: u64,
    size: u64,
    sealed: bool,
    /// Whether its bytes were compared with its name.
    right: bool,
}

impl Look {
    /// An empty copy in `directory`.
    pub(crate) fn new(lab: &Lab, directory: &Path) -> Result<Self> {
        let machine = crate::build::machine(lab)?;
        let look = Self { machine, directory: directory.to_owned(), objects: BTreeMap::new() };
        fs::create_dir_all(look.path(&format!("sysroot/{REPOSITORY}/objects"))).context("making a directory for a machine's state")?;
        fs::create_dir_all(look.path("run")).context("making a directory for a machine's lock")?;
        Ok(look)
    }

    /// Looks at the disk of a machine that ran `booted` when the power went. What the look changes on the disk is taken back.
    pub(crate) fn at(&mut self, disk: &Disk, booted: &str) -> Result<Found> {
        let undo = self.path("undo");
        let _ = fs::remove_file(&undo);
        let replayed = self.replay_journal(disk.root(), &undo);
        let found = replayed.and_then(|()| self.read(disk, booted));
        if undo.exists() {
            Argv::new(["/sbin/e2undo"]).with([&undo]).with([disk.root()]).read().context("taking back the journal")?;
        }
        found
    }

    /// As the kernel does when it mounts; then nothing may be wrong any more.
    fn replay_journal(&self, root: &Path, undo: &Path) -> Result<()> {
        let replay = Argv::new(["/sbin/e2fsck", "-p", "-E", "journal_only", "-z"]).with([undo, root]);
        let output = replay.output()?;
        if !matches!(output.status.code(), Some(0 | 1)) {
            bail!("running {replay}: {}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
        }
        let check = Argv::new(["/sbin/e2fsck", "-fn"]).with([root]);
        let output = check.output()?;
        if !output.status.success() {
            bail!("running {check}: {}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
        }
        Ok(())
    }

    fn read(&mut self, disk: &Disk, booted: &str) -> Result<Found> {
        self.copy_esp(disk.esp())?;
        let mut problems = self.copy_state(disk.root())?;
        let known: String = self.objects.iter().filter(|(_, object)| object.right).map(|(path, _)| format!("{path}\n")).collect();
        fs::write(self.path("known"), known).context("writing what is known to be right")?;
        let directories = [self.path("sysroot"), self.path("esp"), self.path("run")];
        let argv = Argv::new([&self.machine]).with(directories).with([booted]).with([self.path("known")]);
        let text = argv.read()?;
        let mut found: Found = serde_json::from_str(&text).with_context(|| format!("reading the output of {argv}: {text}"))?;
        let unsealed = |path: &&String| self.objects.get(*path).is_some_and(|object| !object.sealed);
        problems.extend(found.objects.iter().filter(unsealed).map(|path| format!("object {path} has no fs-verity")));
        if found.problems.is_empty() {
            self.keep(&found.objects);
        }
        found.problems.append(&mut problems);
        Ok(found)
    }

    /// Keeps these objects, which were found to be right, and no others.
    fn keep(&mut self, right: &[String]) {
        for path in right {
            self.objects.entry(path.clone()).and_modify(|object| object.right = true);
        }
        let objects = self.path(&format!("sysroot/{REPOSITORY}/objects"));
        self.objects.retain(|path, object| {
            if !object.right {
                let _ = fs::remove_file(objects.join(path));
            }
            object.right
        });
    }

    fn copy_esp(&self, esp: &Path) -> Result<()> {
        let copy = self.fresh("esp")?;
        for part in ["EFI", "loader"] {
            let argv = Argv::new(["mcopy", "-s", "-n", "-Q", "-i"]).with([esp]).with([format!("::/{part}")]).with([&copy]);
            argv.read().context("copying the ESP")?;
        }
        Ok(())
    }

    /// Copies what is small, and those objects that the copy has not. What is wrong with the seal of the repository is told.
    fn copy_state(&mut self, root: &Path) -> Result<Vec<String>> {
        let repository = self.path(&format!("sysroot/{REPOSITORY}"));
        let mut script = String::new();
        for (from, to) in [("state", "sysroot"), ("composefs/images", "sysroot/composefs"), ("composefs/streams", "sysroot/composefs")] {
            let _ = fs::remove_dir_all(self.path(&format!("{to}/{}", from.rsplit('/').next().unwrap_or(from))));
            writeln!(script, "rdump /{from} {}", self.path(to).display())?;
        }
        writeln!(script, "dump -p /{REPOSITORY}/meta.json {}", repository.join("meta.json").display())?;
        let prefixes: Vec<String> = (0..=0xff).map(|byte| format!("{byte:02x}")).collect();
        for prefix in &prefixes {
            writeln!(script, "ls -p /{REPOSITORY}/objects/{prefix}")?;
        }
        let listing = self.debugfs(root, &script)?;
        let found = listed(&listing);
        self.objects.retain(|path, known| {
            let same = found.get(path).is_some_and(|(inode, size)| (known.inode, known.size) == (*inode, *size));
            if !same {
                let _ = fs::remove_file(repository.join("objects").join(path));
            }
            same
        });
        let new: Vec<_> = found.into_iter().filter(|(path, _)| !self.objects.contains_key(path)).collect();
        self.copy_objects(root, &repository, new)?;
        let meta = self.debugfs(root, &format!("stat /{REPOSITORY}/meta.json\n"))?;
        let sealed = flags(&meta).next().is_some_and(|flags| flags & VERITY != 0);
        Ok(if sealed { vec![] } else { vec!["meta.json has no fs-verity".to_owned()] })
    }

    fn copy_objects(&mut self, root: &Path, repository: &Path, new: Vec<(String, (u64, u64))>) -> Result<()> {
        if self.objects.is_empty() {
            let dump = format!("rdump /{REPOSITORY}/objects {}\n", repository.display());
            self.debugfs(root, &dump)?;
        }
        let mut script = String::new();
        for (path, _) in &new {
            let copy = repository.join("objects").join(path);
            if !self.objects.is_empty() {
                fs::create_dir_all(copy.parent().context("naming an object's directory")?).context("making an object's directory")?;
                writeln!(script, "dump /{REPOSITORY}/objects/{path} {}", copy.display())?;
            }
            writeln!(script, "stat /{REPOSITORY}/objects/{path}")?;
        }
        let text = self.debugfs(root, &script)?;
        let flags: Vec<u32> = flags(&text).collect();
        if flags.len() != new.len() {
            bail!("looking at {} objects: {} have flags", new.len(), flags.len());
        }
        for ((path, (inode, size)), flags) in new.into_iter().zip(flags) {
            self.objects.insert(path, Object { inode, size, sealed: flags & VERITY != 0, right: false });
        }
        Ok(())
    }

    fn debugfs(&self, root: &Path, script: &str) -> Result<String> {
        let file = self.path("requests");
        fs::write(&file, script).with_context(|| format!("writing {}", file.display()))?;
        Argv::new(["/sbin/debugfs", "-f"]).with([&file]).with([root]).read()
    }

    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The objects that debugfs lists, with inode and size. It repeats each request; names in a listing do not say which directory they are in.
fn listed(text: &str) -> BTreeMap<String, (u64, u64)> {
    let mut prefix = "";
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(request) = line.strip_prefix("debugfs: ls -p ") {
            prefix = request.rsplit('/').next().unwrap_or_default();
        }
        // `/inode/mode/owner/group/name/size/`
        let fields: Vec<&str> = line.split('/').collect();
        if let ["", inode, mode, _, _, name, size, ""] = fields[..]
            && mode.starts_with("10")
            && let (Ok(inode), Ok(size)) = (inode.parse(), size.parse())
        {
            found.insert(format!("{prefix}/{name}"), (inode, size));
        }
    }
    found
}

/// The flags of the inodes that debugfs shows, in order.
fn flags(text: &str) -> impl Iterator<Item = u32> {
    text.lines().filter_map(|line| u32::from_str_radix(line.split("Flags: 0x").nth(1)?.trim(), 16).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_from_what_debugfs_prints() {
        let text = "debugfs: ls -p /composefs/objects/0a\n/12/040755/0/0/.//\n/2/040755/0/0/..//\n/77/100644/0/0/bcd/4097/\n\
                    debugfs: ls -p /composefs/objects/0b\n/78/100644/0/0/ef/1/\n/79/120777/0/0/link/3/\n\
                    debugfs: ls -p /composefs/objects/0c\n";
        let expected = [("0a/bcd".to_owned(), (77, 4097)), ("0b/ef".to_owned(), (78, 1))];
        assert_eq!(listed(text), expected.into());
    }

    #[test]
    fn fs_verity_is_a_flag_of_an_inode() {
        let text = "debugfs: stat /a\nInode: 12   Type: regular    Mode:  0644   Flags: 0x180000\nInode: 13   Type: regular    Mode:  0644   Flags: 0x80000\n";
        assert_eq!(flags(text).map(|flags| flags & VERITY != 0).collect::<Vec<_>>(), [true, false]);
    }
}
