//! Whether the file system of the clone has the room that a verb takes, asked before anything is built: a full disk is found late, and everything that was
//! done until then is lost.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;

/// In bytes.
pub(crate) const GB: u64 = 1_000_000_000;
/// What is taken off at most for what an earlier build has left. Some of that may be of no use any more, and nobody can tell from outside: so it is no more
/// than what [`test::NEEDED`](crate::test::NEEDED) asks for beyond what a run takes.
const REUSED: u64 = 5 * GB;

/// Fails where less than `needed` bytes are free below `target/lab`.
pub(crate) fn check(lab: &Lab, doing: &str, needed: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(&lab.dir).with_context(|| format!("looking for room in {}", lab.dir.display()))?;
    enough(&lab.dir, doing, needed, stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Like [`check`], for a verb that builds `target/debug` and has that counted in what it needs.
pub(crate) fn check_beside_build(lab: &Lab, doing: &str, needed: u64) -> Result<()> {
    check(lab, doing, needed.saturating_sub(allocated(&lab.file("target/debug")).min(REUSED)))
}

fn enough(dir: &Path, doing: &str, needed: u64, free: u64) -> Result<()> {
    if free >= needed {
        return Ok(());
    }
    let (needed, free) = (needed.div_ceil(GB), free / GB);
    bail!(
        "{doing}: needs about {needed} GB below {}, {free} GB are free: free some space, or make `target` a link to a directory on a file system that has it",
        dir.display()
    );
}

/// Bytes that a directory takes on its disk; what cannot be looked at takes none.
fn allocated(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: fs::DirEntry| {
        let Ok(metadata) = entry.metadata() else { return 0 };
        // A file with several names, as cargo makes them, counts for each of them a part.
        let own = metadata.blocks() * 512 / metadata.nlink().max(1);
        if metadata.is_dir() { allocated(&entry.path()) } else { own }
    };
    entries.flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_told_with_both_numbers() {
        let check = |free| enough(Path::new("/srv/clone/target/lab"), "testing selkie", 30 * GB, free);
        assert!(check(30 * GB).is_ok());
        let error = check(12 * GB + 1).unwrap_err().to_string();
        assert!(error.starts_with("testing selkie: needs about 30 GB below /srv/clone/target/lab, 12 GB are free: "), "{error}");
        assert!(check(30 * GB - 1).unwrap_err().to_string().contains(", 29 GB are free"));
    }

    #[test]
    fn what_is_built_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deps/program");
        fs::create_dir(dir.path().join("deps")).unwrap();
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        // Some file systems give room late.
        fs::File::open(&file).unwrap().sync_all().unwrap();
        fs::hard_link(&file, dir.path().join("program")).unwrap();
        let found = allocated(dir.path());
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&found), "{found}");
        assert_eq!(allocated(&dir.path().join("none")), 0);
    }
}
