//! Every object against its name, on all processors.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use composefs::fsverity::{FsVerityHashValue, MeasureVerityError, measure_verity};
use composefs::repository::Repository;
use rustix::fs::{Advice, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::leftovers::is_temporary;
use super::{cannot_check, finding, pool};
use crate::finding::{Damage, Finding, Kind, Remedy};
use crate::store::merkle::{PIECE, measure};
use crate::sys::{dir, interrupt};

/// How an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// It is what its name says.
    Good,
    /// It is not.
    Bad(Damage, String),
}

/// All objects.
#[derive(Debug)]
pub(super) struct Scan<H> {
    pub(super) health: HashMap<H, Health>,
    /// What is no object.
    pub(super) findings: Vec<Finding>,
    /// How many were read, and their bytes.
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

impl<H: FsVerityHashValue> Scan<H> {
    pub(super) fn is_there(&self, id: &H) -> bool {
        self.health.contains_key(id)
    }

    pub(super) fn is_good(&self, id: &H) -> bool {
        self.health.get(id) == Some(&Health::Good)
    }
}

/// An object to read.
struct Item<H> {
    id: H,
    path: String,
}

/// Reads all objects but those that are `known`, which count as good.
///
/// # Errors
///
/// A directory cannot be listed; the kernel cannot read files with fs-verity at all.
pub(super) fn scan<H: FsVerityHashValue>(
    repository: &Repository<H>,
    known: &dyn Fn(&H) -> bool,
    seen: &(dyn Fn(u64, u64) + Sync),
) -> Result<Scan<H>> {
    let mut scan = Scan { health: HashMap::new(), findings: Vec::new(), objects: 0, bytes: 0 };
    let Some(objects) = dir::open_optional(repository.repo_fd(), "objects").context("opening objects")? else { return Ok(scan) };
    let items = list(&objects, known, &mut scan)?;
    let (total, done) = (items.len() as u64, AtomicU64::new(0));
    let results = pool::each(
        &items,
        || vec![0; PIECE],
        |piece, item| {
            interrupt::called_off().map_or(Ok(()), |signal| Err(signal.failure()))?;
            let result = check(&objects, item, !repository.is_insecure(), piece);
            seen(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            result
        },
    )?;
    for (item, (health, size)) in items.into_iter().zip(results) {
        scan.objects += 1;
        scan.bytes += size;
        scan.health.insert(item.id, health);
    }
    Ok(scan)
}

/// The objects that have to be read, by their names. What has no name of an object is a finding.
fn list<H: FsVerityHashValue>(objects: &OwnedFd, known: &dyn Fn(&H) -> bool, scan: &mut Scan<H>) -> Result<Vec<Item<H>>> {
    let (mut items, findings) = (Vec::new(), &mut scan.findings);
    for prefix in dir::names(objects).context("listing objects")? {
        let shown = prefix.to_string_lossy().into_owned();
        if is_temporary(&prefix) {
            findings.push(left(format!("objects/{shown}")));
            continue;
        }
        let below = match dir::open(objects, &prefix) {
            Ok(below) => below,
            Err(errno) => {
                findings.push(foreign(format!("objects/{shown}"), &format!("it cannot be listed: {errno}")));
                continue;
            }
        };
        for name in dir::names(&below).with_context(|| format!("listing objects/{shown}"))? {
            let path = format!("{shown}/{}", name.to_string_lossy());
            match H::from_object_pathname(path.as_bytes()) {
                Ok(id) if id.to_object_pathname() == path => match known(&id) {
                    true => _ = scan.health.insert(id, Health::Good),
                    false => items.push(Item { id, path }),
                },
                _ if is_temporary(&name) => findings.push(left(format!("objects/{path}"))),
                _ => findings.push(foreign(format!("objects/{path}"), "its name is no digest of this repository's algorithm")),
            }
        }
    }
    Ok(items)
}

fn left(path: String) -> Finding {
    finding(Kind::Leftover, path, Damage::Leftover, "a write that was stopped has left it", Remedy::Remove)
}

fn foreign(path: String, found: &str) -> Finding {
    finding(
        Kind::Repository,
        path,
        Damage::Unreadable,
        format!("{found} (expected an object); remove it by hand if nothing needs it"),
        Remedy::None,
    )
}

/// One object, and how many bytes of it were read.
fn check<H: FsVerityHashValue>(objects: &OwnedFd, item: &Item<H>, sealed: bool, piece: &mut [u8]) -> Result<(Health, u64)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd = match rustix::fs::openat(objects, &item.path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(errno) => return refused(&item.path, errno).map(|health| (health, 0)),
    };
    let stat = rustix::fs::fstat(&fd).with_context(|| format!("looking at objects/{}", item.path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok((Health::Bad(Damage::Unreadable, "it is no regular file".to_owned()), 0));
    }
    if !sealed {
        // From the disk: of what could not be written there, memory may still have the right bytes. It is a wish, which some file systems have no use for, and what runs stays in memory.
        let _ = rustix::fs::fadvise(&fd, 0, None, Advice::DontNeed);
    }
    let seal = if sealed { seal(&fd, &item.id) } else { None };
    match measure(File::from(fd), piece) {
        Ok((found, _)) if found != item.id && stat.st_size == 0 => Ok((Health::Bad(Damage::Truncated, "it is empty".to_owned()), 0)),
        Ok((found, size)) if found != item.id => {
            let hex: H = found;
            let message = format!("its {size} bytes have the digest {} (expected its name)", hex.to_hex());
            Ok((Health::Bad(Damage::Changed, message), size))
        }
        Ok((_, size)) => Ok((seal.unwrap_or(Health::Good), size)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(errno) => refused(&item.path, errno).map(|health| (health, 0)),
            None => Err(error).with_context(|| format!("reading objects/{}", item.path)),
        },
    }
}

/// What it means that the kernel refuses a file. That it knows no fs-verity says nothing about the file.
fn refused(path: &str, errno: Errno) -> Result<Health> {
    match errno {
        Errno::OPNOTSUPP => Err(cannot_check(format!("opening objects/{path}: {errno}"))),
        Errno::IO => Ok(Health::Bad(
            Damage::Changed,
            "the kernel refuses to read it: its bytes are not those that were sealed, or the disk fails".to_owned(),
        )),
        Errno::LOOP => Ok(Health::Bad(Damage::Unreadable, "it is a symbolic link".to_owned())),
        Errno::UCLEAN | Errno::BADMSG | Errno::NXIO | Errno::NODATA | Errno::REMOTEIO | Errno::ILSEQ | Errno::TIMEDOUT => {
            Ok(Health::Bad(Damage::Unreadable, format!("the kernel refuses to read it: {errno}")))
        }
        other => Err(other).with_context(|| format!("reading objects/{path}")),
    }
}

/// What is wrong with its fs-verity, which the repository requires.
fn seal<H: FsVerityHashValue>(fd: impl AsFd, id: &H) -> Option<Health> {
    match measure_verity::<H>(fd) {
        Ok(found) if found == *id => None,
        Ok(found) => Some(Health::Bad(Damage::Changed, format!("its fs-verity digest is {} (expected its name)", found.to_hex()))),
        Err(MeasureVerityError::VerityMissing) => {
            Some(Health::Bad(Damage::Unsealed, "it has no fs-verity (expected it, as meta.json has it)".to_owned()))
        }
        Err(other) => Some(Health::Bad(Damage::Unsealed, format!("its fs-verity digest cannot be read: {other}"))),
    }
}
