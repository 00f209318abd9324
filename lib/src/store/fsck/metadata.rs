//! `meta.json`: what says how a repository is to be read. It is looked at before the repository is opened, and can be made again from what
//! the objects say: their names have the length of the algorithm, and where they have fs-verity, so has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Error, Result, bail, ensure};
use composefs::erofs::format::{FormatConfig, FormatVersion};
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue, compute_verity, enable_verity_with_retry, measure_verity};
use composefs::repository::{REPO_METADATA_FILENAME as NAME, RepoMetadata};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{cannot_check, finding};
use crate::error::{Failure, FailureKind};
use crate::finding::{Damage, Finding, Kind, Remedy};
use crate::image_id::Algorithm;
use crate::store::merkle::{PIECE, measure};
use crate::store::open::{NOTHING_LOST, Unreadable, read_metadata};
use crate::sys::{dir, nameless};

/// The most that anybody reads of it.
const MAX: u64 = 1 << 20;
/// Objects that are asked what the repository is like.
const SAMPLE: usize = 64;
/// What a probe writes.
const PROBE: &[u8] = b"fsck-probe";

/// What a look at `meta.json` gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metadata {
    /// It can be read.
    Readable(Vec<Finding>),
    /// It cannot, so the repository cannot be opened.
    Damaged(Finding),
}

/// Looks at `meta.json` of the repository in a directory.
///
/// # Errors
///
/// [`FailureKind::StoreMismatch`] where the kernel cannot read files with fs-verity at all, and for the repository of a newer tool.
pub fn check_metadata(directory: impl AsFd) -> Result<Metadata> {
    let damaged = |damage, message: String| Metadata::Damaged(finding(Kind::Repository, NAME, damage, message, Remedy::Rebuild));
    let file = match open(&directory, NAME) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(damaged(Damage::Missing, "it is not there".to_owned())),
        Err(Errno::OPNOTSUPP) => return Err(cannot_check(format!("opening {NAME}: {}", Errno::OPNOTSUPP))),
        Err(Errno::IO) => return Ok(damaged(Damage::Changed, "the kernel refuses to open it".to_owned())),
        Err(errno) => return Err(errno).with_context(|| format!("opening {NAME}")),
    };
    let mut bytes = Vec::new();
    if let Err(error) = (&file).take(MAX).read_to_end(&mut bytes) {
        return match Errno::from_io_error(&error) {
            Some(Errno::IO) => Ok(damaged(Damage::Changed, "the kernel refuses to read it".to_owned())),
            Some(Errno::ISDIR) => Ok(Metadata::Damaged(finding(
                Kind::Repository,
                NAME,
                Damage::Unreadable,
                "it is a directory; move it away by hand",
                Remedy::None,
            ))),
            _ => Err(error).with_context(|| format!("reading {NAME}")),
        };
    }
    let metadata = match read_metadata(&bytes) {
        Ok(metadata) => metadata,
        Err(Unreadable::Newer(failure)) => {
            return Err(Failure { message: format!("checking the repository: {failure}"), ..failure }.into());
        }
        Err(Unreadable::Damaged(found)) => return Ok(damaged(Damage::Unreadable, found)),
    };
    let evidence = Evidence::gather(&directory)?;
    if evidence.algorithm.is_some_and(|found| found != of(metadata.algorithm)) {
        let message = format!("it says {} (expected the algorithm that the names of the objects have)", metadata.algorithm);
        return Ok(damaged(Damage::Changed, message));
    }
    let mut findings = Vec::new();
    if evidence.sealed && !evidence.metadata_sealed {
        let message = "it has no fs-verity, and the objects do (expected it on both)";
        findings.push(finding(Kind::Repository, NAME, Damage::Unsealed, message, Remedy::Rebuild));
    }
    Ok(Metadata::Readable(findings))
}

/// Refuses a repair that this kernel or this file system cannot make, before anything is looked at. `sealed` says that something else requires
/// fs-verity: a boot entry.
///
/// # Errors
///
/// [`FailureKind::StoreMismatch`] where the repository requires fs-verity and a new file cannot have it; any other where it cannot be written to.
pub fn require_repairable(directory: impl AsFd, sealed: bool) -> Result<()> {
    let evidence = Evidence::gather(&directory)?;
    probe(&directory, evidence.sealed || evidence.metadata_sealed || sealed)
}

/// Writes a file without a name, so that nobody else's can be in its place and nobody can take it away.
fn probe(directory: impl AsFd, sealed: bool) -> Result<()> {
    let mut file = nameless::create(directory, 0o600).context("writing to the repository")?;
    file.write_all(PROBE).and_then(|()| file.sync_all()).context("writing to the repository")?;
    if !sealed {
        return Ok(());
    }
    nameless::reopen(file).context("opening it again").and_then(|file| seal_open::<Sha256HashValue>(&file, PROBE)).map_err(|error| {
        let message = format!(
            "repairing the repository: it requires fs-verity, which this kernel or file system does not give a new file: {error:#}"
        );
        let hint = "boot a kernel with CONFIG_FS_VERITY, such as that of the machine itself, and repair there; nothing was changed";
        Failure::new(FailureKind::StoreMismatch, message).hint(hint).into()
    })
}

/// Makes `meta.json` again.
///
/// # Errors
///
/// The objects do not say what it has to be: there are none, their names are of several algorithms, or none has the bytes of its name, so that it may be no repository.
pub fn restore_metadata(directory: impl AsFd) -> Result<()> {
    let evidence = Evidence::gather(&directory)?;
    let Some(algorithm) = evidence.algorithm else {
        ensure!(!sample(&directory)?.is_empty(), "{NOTHING_LOST}");
        bail!("the objects do not say which algorithm the repository is of (expected names of one length)");
    };
    match algorithm {
        Algorithm::Sha256 => restore::<Sha256HashValue>(&directory, evidence.sealed || evidence.metadata_sealed),
        Algorithm::Sha512 => restore::<Sha512HashValue>(&directory, evidence.sealed || evidence.metadata_sealed),
    }
}

/// Other tools have directories of files whose names are as long (git, for one): whether one of the objects is what its name says.
fn has_genuine<H: FsVerityHashValue>(directory: impl AsFd) -> Result<bool> {
    let mut piece = vec![0; PIECE];
    for path in sample(&directory)? {
        let name = path.trim_start_matches("objects/").replace('/', "");
        let Ok(file) = open(&directory, &path) else { continue };
        if measure::<H>(file, &mut piece).is_ok_and(|(found, _)| found.to_hex() == name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn restore<H: FsVerityHashValue>(directory: impl AsFd, sealed: bool) -> Result<()> {
    ensure!(
        has_genuine::<H>(&directory)?,
        "no object that was looked at has the bytes of its name, so this may be no repository (expected one that has)"
    );
    let bytes = RepoMetadata::new_with_formats(H::ALGORITHM, &FormatConfig::single(FormatVersion::V1)).to_json()?;
    let temporary = format!("{}{NAME}", dir::TEMPORARY);
    write(&directory, &temporary, &bytes)?;
    if sealed {
        seal::<H>(&directory, &temporary, &bytes)?;
    }
    rustix::fs::renameat(&directory, &temporary, &directory, NAME).with_context(|| format!("putting {NAME} in place"))?;
    dir::sync(directory).context("syncing the repository's directory")
}

/// Writes a temporary file and syncs it. Not by `Pending`: a file gets fs-verity after its last byte and before its name.
fn write(directory: impl AsFd, temporary: &str, bytes: &[u8]) -> Result<()> {
    dir::optional(rustix::fs::unlinkat(&directory, temporary, AtFlags::empty())).with_context(|| format!("removing {temporary}"))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, temporary, flags, Mode::from_raw_mode(0o644));
    let mut file = File::from(file.with_context(|| format!("creating {temporary}"))?);
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(|| format!("writing {temporary}"))
}

fn seal<H: FsVerityHashValue>(directory: impl AsFd, name: &str, bytes: &[u8]) -> Result<()> {
    let file = rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context("opening it again")?;
    seal_open::<H>(&file, bytes)
}

fn seal_open<H: FsVerityHashValue>(file: &OwnedFd, bytes: &[u8]) -> Result<()> {
    enable_verity_with_retry::<H>(file).map_err(Error::new)?;
    let found: H = measure_verity(file).map_err(Error::new)?;
    ensure!(found == compute_verity::<H>(bytes), "the kernel measures {}", found.to_hex());
    rustix::fs::fsync(file).context("syncing it")
}

/// What the files of a repository say about it.
struct Evidence {
    /// The algorithm of the objects' names, where they are all of one.
    algorithm: Option<Algorithm>,
    /// Whether an object has fs-verity.
    sealed: bool,
    /// Whether `meta.json` has it, readable or not.
    metadata_sealed: bool,
}

impl Evidence {
    fn gather(directory: impl AsFd) -> Result<Self> {
        let metadata_sealed = match open(&directory, NAME) {
            Ok(file) => is_sealed(&file),
            Err(Errno::OPNOTSUPP) => return Err(cannot_check(format!("opening {NAME}: {}", Errno::OPNOTSUPP))),
            Err(_) => false,
        };
        let (mut lengths, mut sealed) = ([false; 2], false);
        for path in sample(&directory)? {
            let digits = path.len() - "objects//".len();
            lengths[0] |= digits == 64;
            lengths[1] |= digits == 128;
            match open(&directory, &path) {
                Ok(file) => sealed |= is_sealed(&file),
                Err(Errno::OPNOTSUPP) => return Err(cannot_check(format!("opening {path}: {}", Errno::OPNOTSUPP))),
                Err(_) => {}
            }
        }
        let algorithm = match lengths {
            [true, false] => Some(Algorithm::Sha256),
            [false, true] => Some(Algorithm::Sha512),
            _ => None,
        };
        Ok(Self { algorithm, sealed, metadata_sealed })
    }
}

/// Some objects, of as many directories.
fn sample(directory: impl AsFd) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    let Some(objects) = dir::open_optional(directory, "objects").context("opening objects")? else { return Ok(paths) };
    for prefix in dir::names(&objects).context("listing objects")? {
        let Ok(below) = dir::open(&objects, &prefix) else { continue };
        let names = dir::names(&below).context("listing objects")?;
        let hex = |name: &&std::ffi::OsString| matches!(name.len(), 62 | 126);
        paths.extend(names.iter().find(hex).map(|name| format!("objects/{}/{}", prefix.display(), name.display())));
        if paths.len() == SAMPLE {
            break;
        }
    }
    Ok(paths)
}

fn is_sealed(file: &File) -> bool {
    use composefs::fsverity::MeasureVerityError::{FilesystemNotSupported, VerityMissing};
    // A file with another algorithm than asked for is an error of another kind: it has fs-verity.
    !matches!(measure_verity::<Sha512HashValue>(file), Err(VerityMissing | FilesystemNotSupported))
}

fn open(directory: impl AsFd, path: &str) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    rustix::fs::openat(directory, path, flags, Mode::empty()).map(File::from)
}

fn of(algorithm: composefs::fsverity::Algorithm) -> Algorithm {
    match algorithm {
        composefs::fsverity::Algorithm::Sha256 { .. } => Algorithm::Sha256,
        composefs::fsverity::Algorithm::Sha512 { .. } => Algorithm::Sha512,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_touches_nothing_that_is_there() {
        let temp = tempfile::tempdir().unwrap();
        // What another check is just writing.
        std::fs::write(temp.path().join(".selkie-tmp-fsck-probe"), "another's").unwrap();
        let directory = dir::open_path(temp.path()).unwrap();
        require_repairable(&directory, false).unwrap();
        assert_eq!(dir::read_optional(&directory, ".selkie-tmp-fsck-probe").unwrap().as_deref(), Some(b"another's".as_slice()));
        assert_eq!(dir::names(&directory).unwrap(), [".selkie-tmp-fsck-probe"]);
    }
}
