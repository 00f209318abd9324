//! Writes that replace something: an object takes its place, a name leads to it, a leftover goes. Each durable before it returns.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use composefs::fsverity::{EnableVerityError, FsVerityHashValue, enable_verity_with_retry, measure_verity};
use composefs::repository::Repository;
use rustix::fs::AtFlags;

use super::merkle::{PIECE, measure};
use crate::sys::{dir, nameless, random};

/// Puts what `from` has in the place of object `id`, whatever is there.
pub(super) fn place<H: FsVerityHashValue>(repository: &Repository<H>, id: &H, mut from: impl Read) -> Result<()> {
    let mut placing = Placing::begin(repository, id)?;
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => placing.write(&piece[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("reading what object {} is to have", id.to_hex())),
        }
    }
    ensure!(placing.end()?, "writing object {}: the bytes have another digest (expected its name)", id.to_hex());
    Ok(())
}

/// An object on its way to its place: without a name, verified, sealed where the repository is, then renamed there. What is there stays
/// until then. Dropped before, it leaves nothing. Of several that bring the same object at once, each succeeds, and the last one stays.
pub(super) struct Placing<H: FsVerityHashValue> {
    id: H,
    sealed: bool,
    repository: OwnedFd,
    directory: OwnedFd,
    prefix: String,
    name: String,
    file: Option<File>,
}

/// A [`Placing`] of either algorithm.
pub trait ObjectWriter: Send {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// That was all: durable in its place, or `false` where the bytes are not those of its name. Nothing was changed then.
    fn end(&mut self) -> Result<bool>;
}

impl<H: FsVerityHashValue> Placing<H> {
    pub(super) fn begin(repository: &Repository<H>, id: &H) -> Result<Self> {
        let path = id.to_object_pathname();
        let (prefix, name) = path.split_once('/').with_context(|| format!("object {} has no directory", id.to_hex()))?;
        let directory = dir::ensure(repository.repo_fd(), format!("objects/{prefix}"), 0o755)?;
        let file = nameless::create(&directory, 0o644).with_context(|| format!("making a temporary file in objects/{prefix}"))?;
        Ok(Self {
            id: id.clone(),
            sealed: !repository.is_insecure(),
            // Not a copy of the handle, which would keep the repository's lock.
            repository: dir::open(repository.repo_fd(), ".").context("opening the repository's directory")?,
            directory,
            prefix: prefix.to_owned(),
            name: name.to_owned(),
            file: Some(file),
        })
    }
}

impl<H: FsVerityHashValue> ObjectWriter for Placing<H> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { bail!("the object was ended") };
        file.write_all(bytes).with_context(|| format!("writing object {}", self.id.to_hex()))
    }

    fn end(&mut self) -> Result<bool> {
        let Some(file) = self.file.take() else { bail!("the object was ended") };
        file.sync_all().with_context(|| format!("syncing object {}", self.id.to_hex()))?;
        let written = File::from(nameless::reopen(file).context("opening it again")?);
        let (found, _): (H, _) =
            measure(&written, &mut vec![0; PIECE]).with_context(|| format!("reading object {} back", self.id.to_hex()))?;
        if found != self.id {
            return Ok(false);
        }
        if self.sealed {
            seal(&written, &self.id)?;
        }
        self.name(&written).with_context(|| format!("putting object {} in place", self.id.to_hex()))?;
        dir::sync(&self.directory).with_context(|| format!("syncing objects/{}", self.prefix))?;
        Ok(true)
    }
}

impl<H: FsVerityHashValue> Placing<H> {
    /// Gives the file its name, whatever has it. Only a file with a name can take that of another: it has one of its own for a moment, which is none of those in `objects`, as
    /// garbage collection would stop at it there.
    fn name(&self, file: &File) -> Result<()> {
        let temporary = format!("{}{}{}-{:08x}", dir::TEMPORARY, self.prefix, self.name, random::number()?);
        nameless::link(file, &self.repository, &temporary).with_context(|| format!("making {temporary}"))?;
        let renamed = rustix::fs::renameat(&self.repository, &temporary, &self.directory, &self.name);
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(&self.repository, &temporary, AtFlags::empty());
        }
        Ok(renamed?)
    }
}

/// Gives a file fs-verity, and lets the kernel say that it is the right one.
fn seal<H: FsVerityHashValue>(file: &File, id: &H) -> Result<()> {
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
