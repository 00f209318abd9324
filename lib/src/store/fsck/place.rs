//! The only writes of a repair: an object takes its place, a name leads to it, a leftover goes. Each durable before it returns.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use composefs::fsverity::{EnableVerityError, FsVerityHashValue, FsVerityHasher, enable_verity_with_retry, measure_verity};
use composefs::repository::Repository;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::sys::dir;

/// Whole blocks of fs-verity.
const PIECE: usize = 64 << 10;
const BLOCK: usize = 4096;

/// Puts what `from` has in the place of object `id`, whatever is there: under a temporary name, verified, sealed where the repository
/// is, then renamed. What was there stays until then.
pub(super) fn place<H: FsVerityHashValue>(repository: &Repository<H>, id: &H, from: impl Read) -> Result<()> {
    let path = id.to_object_pathname();
    let (prefix, name) = path.split_once('/').with_context(|| format!("object {} has no directory", id.to_hex()))?;
    let directory = dir::ensure(repository.repo_fd(), format!("objects/{prefix}"), 0o755)?;
    let temporary = format!("{}{name}", dir::TEMPORARY);
    let placed = fill(repository, &directory, &temporary, id, from).and_then(|()| {
        rustix::fs::renameat(&directory, &temporary, &directory, name).with_context(|| format!("putting object {} in place", id.to_hex()))
    });
    if placed.is_err() {
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    }
    placed?;
    dir::sync(&directory).with_context(|| format!("syncing objects/{prefix}"))
}

fn fill<H: FsVerityHashValue>(repository: &Repository<H>, directory: &OwnedFd, temporary: &str, id: &H, from: impl Read) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    dir::optional(rustix::fs::unlinkat(directory, temporary, AtFlags::empty())).with_context(|| format!("removing {temporary}"))?;
    let file =
        rustix::fs::openat(directory, temporary, flags, Mode::from_raw_mode(0o644)).with_context(|| format!("creating {temporary}"))?;
    let found: H = copy(from, File::from(file)).with_context(|| format!("writing object {}", id.to_hex()))?;
    ensure!(found == *id, "writing object {}: the bytes have the digest {} (expected its name)", id.to_hex(), found.to_hex());
    if repository.is_insecure() {
        return Ok(());
    }
    let written = rustix::fs::openat(directory, temporary, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context("opening it again")?;
    seal(&written, id)
}

/// Copies, syncs, closes, and says what the digest is.
fn copy<H: FsVerityHashValue>(mut from: impl Read, mut to: File) -> io::Result<H> {
    let (mut hasher, mut piece) = (FsVerityHasher::<H>::new(), Vec::with_capacity(PIECE));
    loop {
        piece.clear();
        if from.by_ref().take(PIECE as u64).read_to_end(&mut piece)? == 0 {
            break;
        }
        piece.chunks(BLOCK).for_each(|block| hasher.add_block(block));
        to.write_all(&piece)?;
    }
    to.sync_all()?;
    Ok(hasher.digest())
}

/// Gives a file fs-verity, and lets the kernel say that it is the right one.
fn seal<H: FsVerityHashValue>(file: &OwnedFd, id: &H) -> Result<()> {
    match enable_verity_with_retry::<H>(file) {
        Ok(()) | Err(EnableVerityError::AlreadyEnabled) => {}
        Err(other) => return Err(other).with_context(|| format!("sealing object {}", id.to_hex())),
    }
    let found: H = measure_verity(file).context("measuring it")?;
    ensure!(found == *id, "sealing object {}: the kernel measures {}", id.to_hex(), found.to_hex());
    rustix::fs::fsync(file).context("syncing it")
}

/// Makes the name at `path`, in `streams` or `images`, lead to `id`.
pub(super) fn link<H: FsVerityHashValue>(repository: &Repository<H>, path: &str, id: &H) -> Result<()> {
    let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path} is no name in a directory"))?;
    let directory = dir::ensure(repository.repo_fd(), directory, 0o755)?;
    let temporary = format!("{}{name}", dir::TEMPORARY);
    dir::optional(rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty())).with_context(|| format!("removing {temporary}"))?;
    let target = format!("../objects/{}", id.to_object_pathname());
    rustix::fs::symlinkat(&target, &directory, &temporary).with_context(|| format!("making {path}"))?;
    rustix::fs::renameat(&directory, &temporary, &directory, name).with_context(|| format!("making {path}"))?;
    dir::sync(&directory).with_context(|| format!("syncing the directory of {path}"))
}

/// Removes the file or link at `path`, and syncs its directory.
pub(super) fn remove(repository: BorrowedFd<'_>, path: &str) -> Result<()> {
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    let directory = dir::open(repository.as_fd(), directory).with_context(|| format!("opening the directory of {path}"))?;
    dir::optional(rustix::fs::unlinkat(&directory, name, AtFlags::empty())).with_context(|| format!("removing {path}"))?;
    dir::sync(&directory).with_context(|| format!("syncing the directory of {path}"))
}
