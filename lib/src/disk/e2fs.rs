//! The adapter of e2fsprogs: mke2fs, dumpe2fs, debugfs and e2fsck on a file system in a file.
//!
//! Works with 1.47.0 and later. All run in the directory of the file and know it by its bare name, because a path may have
//! characters that they give a meaning to. The file has nothing but the file system: not all of them take `file?offset=N`.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use uuid::Uuid;

use super::blocks::Group;
use super::size::{INODE, MIB};
use super::verity::BLOCK;
use crate::error::{Failure, FailureKind};
use crate::sys::process::{Call, Said, call};

/// All features, so that no host's configuration has a say: Debian 12's ext4, and fs-verity.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
                        huge_file,dir_nlink,extra_isize,metadata_csum,verity";
/// mke2fs wants to know its file-system type from a file.
const CONFIGURATION: &str = "[defaults]\n\tblocksize = 4096\n[fs_types]\n\text4 = {\n\t}\n";
const CONFIGURATION_FILE: &str = "mke2fs.conf";

/// What a new file system is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) uuid: Uuid,
    pub(super) hash_seed: Uuid,
    pub(super) size: u64,
    pub(super) inodes: u64,
    pub(super) journal: u64,
}

/// A file system in a file.
#[derive(Debug)]
pub(super) struct E2fs<'a> {
    /// The directory of the file, which is ours to put small files into.
    pub(super) directory: &'a Path,
    /// The file's name there: plain letters.
    pub(super) name: &'a str,
    /// The clock of the tools, in seconds since 1970.
    pub(super) clock: u32,
}

impl E2fs<'_> {
    /// Makes the file system.
    pub(super) fn format(&self, format: &Format) -> Result<()> {
        let path = self.directory.join(CONFIGURATION_FILE);
        std::fs::write(&path, CONFIGURATION).with_context(|| format!("writing {}", path.display()))?;
        self.run(&self.format_argv(format), b"").context("making the root file system")?;
        Ok(())
    }

    fn format_argv(&self, format: &Format) -> Vec<OsString> {
        let extended = format!("hash_seed={},root_owner=0:0,nodiscard,assume_storage_prezeroed=1,lazy_journal_init=1", format.hash_seed);
        let (uuid, inodes, journal) = (format.uuid.to_string(), format.inodes.to_string(), format!("size={}", format.journal / MIB));
        let (inode, block) = (INODE.to_string(), BLOCK.to_string());
        let blocks = (format.size / BLOCK as u64).to_string();
        let words = [
            ["mke2fs", "-q", "-F"].as_slice(),
            &["-t", "ext4", "-O", FEATURES, "-b", &block, "-I", &inode, "-N", &inodes, "-m", "1", "-e", "remount-ro"],
            &["-J", &journal, "-U", &uuid, "-L", "root", "-E", &extended, self.name, &blocks],
        ];
        words.concat().into_iter().map(OsString::from).collect()
    }

    /// The groups of blocks, in order, with what is free in them.
    pub(super) fn groups(&self) -> Result<Vec<Group>> {
        let said = self.run(&["dumpe2fs".into(), self.name.into()], b"").context("reading the free blocks of the root file system")?;
        parse_groups(&String::from_utf8_lossy(&said.stdout)).context("reading the free blocks of the root file system")
    }

    /// Runs the commands of a debugfs script.
    ///
    /// # Errors
    ///
    /// debugfs goes on after an error and ends well; here the first complaint is an error.
    pub(super) fn script(&self, script: &[u8]) -> Result<()> {
        let argv = ["debugfs".into(), "-w".into(), "-f".into(), "-".into(), self.name.into()];
        no_complaint(&self.run(&argv, script)?)
    }

    /// Runs one debugfs command, which may have newlines in it.
    pub(super) fn request(&self, request: OsString) -> Result<()> {
        let argv = ["debugfs".into(), "-w".into(), "-R".into(), request, self.name.into()];
        no_complaint(&self.run(&argv, b"")?)
    }

    /// Checks the file system without changing it.
    pub(super) fn check(&self) -> Result<()> {
        self.run(&["e2fsck".into(), "-f".into(), "-n".into(), self.name.into()], b"").context("checking the root file system")?;
        Ok(())
    }

    fn run(&self, argv: &[OsString], input: &[u8]) -> Result<Said> {
        let clock = OsString::from(self.clock.to_string());
        // 1.47.0 knows the first, later ones prefer the second.
        let env = [
            ("E2FSPROGS_FAKE_TIME", clock.clone()),
            ("SOURCE_DATE_EPOCH", clock),
            ("MKE2FS_CONFIG", CONFIGURATION_FILE.into()),
            ("TZ", "UTC".into()),
        ];
        call(Call { argv, input, env: &env, directory: Some(self.directory) }).map_err(|error| match Failure::find(&error) {
            Some(failure) if failure.kind == FailureKind::NotFound => {
                Failure { hint: Some("install the package e2fsprogs (1.47.0 or later)".to_owned()), ..failure }.into()
            }
            _ => error,
        })
    }
}

/// debugfs says its version on standard error, and nothing else unless something is wrong.
fn no_complaint(said: &Said) -> Result<()> {
    let stderr = String::from_utf8_lossy(&said.stderr);
    let complaint = stderr.lines().find(|line| !line.is_empty() && !line.starts_with("debugfs 1."));
    match complaint {
        None => Ok(()),
        Some(full) if full.contains("Could not allocate") || full.contains("No space left") => {
            let message = format!("writing the root file system: {full}");
            Err(Failure::new(FailureKind::NoSpace, message).hint("give a larger size").into())
        }
        Some(complaint) => bail!("running debugfs: {complaint}"),
    }
}

/// From the output of dumpe2fs, for each group the lines `Group 0: (Blocks 0-32767) csum 0x9b30 [ITABLE_ZEROED]` and
/// `  Free blocks: 9265-32767, 40000`.
fn parse_groups(text: &str) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for line in text.lines() {
        if let Some((number, rest)) = line.strip_prefix("Group ").and_then(|line| line.split_once(": (Blocks ")) {
            groups.push(Group { number: parse(number)?, flags: parse_flags(rest)?, free: Vec::new() });
        } else if let Some(list) = line.strip_prefix("  Free blocks: ") {
            let group = groups.last_mut().context("reading the output of dumpe2fs: free blocks of no group")?;
            for item in list.split(", ").filter(|item| !item.trim().is_empty()) {
                let (first, last) = item.split_once('-').unwrap_or((item, item));
                group.free.push(parse(first)?..parse(last)? + 1);
            }
        }
    }
    ensure!(!groups.is_empty(), "reading the output of dumpe2fs: no groups in it");
    Ok(groups)
}

fn parse_flags(rest: &str) -> Result<u16> {
    let Some((_, names)) = rest.split_once('[') else { return Ok(0) };
    let flag = |name: &str| match name {
        "INODE_UNINIT" => Ok(Group::NO_INODES),
        "BLOCK_UNINIT" => Ok(Group::NO_BLOCKS),
        "ITABLE_ZEROED" => Ok(Group::INITIALIZED),
        _ => bail!("reading the output of dumpe2fs: flag {name:?} of a group is not known"),
    };
    names.trim_end().trim_end_matches(']').split(", ").try_fold(0, |flags, name| Ok(flags | flag(name)?))
}

fn parse(number: &str) -> Result<u64> {
    number.trim().parse().with_context(|| format!("reading the output of dumpe2fs: {number:?} (expected a number)"))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    #[test]
    fn argv_names_everything_that_a_host_could_choose() {
        let e2fs = E2fs { directory: Path::new("/tmp"), name: "root.ext4", clock: 7 };
        let format = Format { uuid: Uuid::nil(), hash_seed: Uuid::max(), size: 100 * MIB, inodes: 1000, journal: 4 * MIB };
        let argv = e2fs.format_argv(&format);
        let argv: Vec<&str> = argv.iter().map(|word| word.to_str().unwrap()).collect();
        let uuid = "00000000-0000-0000-0000-000000000000";
        let extended = "hash_seed=ffffffff-ffff-ffff-ffff-ffffffffffff,root_owner=0:0,nodiscard,\
                        assume_storage_prezeroed=1,lazy_journal_init=1";
        #[rustfmt::skip]
        let expected = [
            "mke2fs", "-q", "-F", "-t", "ext4", "-O", FEATURES, "-b", "4096", "-I", "256", "-N", "1000", "-m", "1", "-e", "remount-ro",
            "-J", "size=4", "-U", uuid, "-L", "root", "-E", extended, "root.ext4", "25600",
        ];
        assert_eq!(argv, expected);
    }

    #[test]
    fn groups_are_read() {
        let text = "Free blocks:              755396\n\nGroup 0: (Blocks 0-32767) csum 0x9b30\n  Primary superblock at 0\n\
                    \u{20} Free blocks: 8615-8620, 8630\n  Free inodes: 12-8192\n\
                    Group 1: (Blocks 32768-65535) csum 0xe310 [INODE_UNINIT, BLOCK_UNINIT, ITABLE_ZEROED]\n  Free blocks: 32768-65535\n\
                    Group 2: (Blocks 65536-98303) csum 0xe310 [ITABLE_ZEROED] \n  Free blocks: \n";
        let group = |number, flags, free: &[Range<u64>]| Group { number, flags, free: free.to_vec() };
        let expected = [group(0, 0, &[8615..8621, 8630..8631]), group(1, 7, std::slice::from_ref(&(32768..65536))), group(2, 4, &[])];
        assert_eq!(parse_groups(text).unwrap(), expected);
        for bad in ["", "  Free blocks: 3", "Group 0: (Blocks 0-1) [NEW]", "Group 0: (Blocks 0-1)\n  Free blocks: x-3"] {
            assert!(parse_groups(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_complaint_is_an_error() {
        let said = |stderr: &str| Said { stdout: vec![], stderr: stderr.as_bytes().to_vec() };
        no_complaint(&said("debugfs 1.47.0 (5-Feb-2023)\n\n")).unwrap();
        let error = no_complaint(&said("debugfs 1.47.0 (5-Feb-2023)\n/a: File not found by ext2_lookup \n")).unwrap_err();
        assert_eq!(error.to_string(), "running debugfs: /a: File not found by ext2_lookup ");
        let error = no_complaint(&said("mkdir: Could not allocate block in ext2 filesystem\n")).unwrap_err();
        assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::NoSpace);
    }
}
