//! Opening a repository, and making one. The only place that knows `meta.json`.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use composefs::erofs::format::{FormatConfig, FormatVersion};
use composefs::fsverity::{EnableVerityError, FsVerityHashValue};
use composefs::repository::{REPO_FORMAT_VERSION, REPO_METADATA_FILENAME, RepoMetadata, Repository, RepositoryConfig, RepositoryOpenError};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::{Handle, Store, corrupt, damaged, with_repository};
use crate::error::{Failure, FailureKind};
use crate::image_id::Algorithm;
use crate::sys::dir;

/// What to do about a repository that has lost what says how it is to be read, and has nothing in it.
pub(super) const NOTHING_LOST: &str = "there are no objects in it, so nothing is lost: remove its directory, and pull again";

/// Whether a repository has to be sealed with fs-verity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verity {
    /// Refuse a file system or a repository without fs-verity.
    Required,
    /// Seal where the file system can, and do without elsewhere.
    IfPossible,
    /// Do not seal, even where the file system could: for objects that are going to be changed, such as those of a disk image.
    Never,
}

impl Store {
    /// Opens the repository at `path`, relative to the directory `parent`. The algorithm is the repository's own.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where there is none; [`FailureKind::StoreMismatch`] where its format is not ours; [`FailureKind::Corrupt`] where it is damaged.
    pub fn open(parent: impl AsFd, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match metadata(&parent, path)? {
            Some(metadata) => open_as(parent, path, &metadata),
            None if has_objects(&parent, path) => Err(without_metadata(path).into()),
            None => Err(Failure::new(FailureKind::NotFound, format!("opening repository {}: there is none", path.display()))
                .hint("pull an image first, or name the directory of an existing repository")
                .into()),
        }
    }

    /// Opens the repository at `path`, relative to the directory `parent`, or makes it: with `algorithm` (by default
    /// SHA-256), EROFS format V1, mode 0700. An initialisation that was cut short is completed.
    ///
    /// # Errors
    ///
    /// [`FailureKind::StoreMismatch`] where the repository is of another algorithm or format than asked for, is not sealed
    /// though `verity` requires it, or where `path` is a directory with something else in it.
    pub fn open_or_init(parent: impl AsFd, path: impl AsRef<Path>, algorithm: Option<Algorithm>, verity: Verity) -> Result<Self> {
        let path = path.as_ref();
        let store = match metadata(&parent, path)? {
            Some(metadata) => open_as(&parent, path, &metadata)?,
            None if has_objects(&parent, path) => return Err(without_metadata(path).into()),
            None => init(&parent, path, algorithm.unwrap_or(Algorithm::Sha256), verity)?,
        };
        if let Some(wanted) = algorithm.filter(|wanted| *wanted != store.algorithm()) {
            let message = format!("opening repository {}: its algorithm is {} (expected {wanted})", path.display(), store.algorithm());
            return Err(mismatch(message, "the algorithm of a repository never changes: use another directory").into());
        }
        if verity == Verity::Required && !store.is_sealed() {
            let message = format!("opening repository {}: it is not sealed (expected fs-verity on all objects)", path.display());
            return Err(mismatch(message, "a repository cannot be sealed later: make a new one on a file system with fs-verity").into());
        }
        Ok(store)
    }
}

impl Store {
    /// Looks whether the repository can be written at all, for whoever has much to do before that.
    ///
    /// # Errors
    ///
    /// Its file system is read-only, or its directory is closed to this user: [`FailureKind::NotPermitted`](crate::error::FailureKind::NotPermitted).
    pub fn require_writable(&self) -> Result<()> {
        // The library's look says so in words alone.
        let status = rustix::fs::fstatvfs(self.dir()).context("looking at the file system")?;
        if status.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Err(Errno::ROFS.into());
        }
        with_repository!(self, repository => repository.ensure_writable())
    }
}

/// Reads `meta.json`; `None` where there is no directory or no such file in it.
fn metadata(parent: impl AsFd, path: &Path) -> Result<Option<RepoMetadata>> {
    let opened =
        dir::open_optional(&parent, path).map_err(|errno| dir::unusable(format!("opening repository {}", path.display()), errno))?;
    let Some(directory) = opened else { return Ok(None) };
    let doing = || format!("opening repository {}", path.display());
    let read = dir::read_optional(directory, REPO_METADATA_FILENAME).with_context(doing);
    let Some(bytes) = read.map_err(damaged)? else { return Ok(None) };
    match read_metadata(&bytes) {
        Ok(metadata) if has_only_others(&parent, path, digits_of(&metadata)) => {
            let message = format!("{}: its {REPO_METADATA_FILENAME} is damaged: it says {}", doing(), metadata.algorithm);
            Err(corrupt(format!("{message} (expected the algorithm that the names of the objects have)")).into())
        }
        Ok(metadata) => Ok(Some(metadata)),
        Err(Unreadable::Newer(failure)) => Err(Failure { message: format!("{}: {failure}", doing()), ..failure }.into()),
        Err(Unreadable::Damaged(found)) => {
            Err(gone(&parent, path, format!("{}: its {REPO_METADATA_FILENAME} is damaged: {found}", doing())).into())
        }
    }
}

/// Why a `meta.json` cannot be used.
pub(super) enum Unreadable {
    /// It is that of a newer tool.
    Newer(Failure),
    /// It is damaged: what was found.
    Damaged(String),
}

/// Reads the bytes of `meta.json`. A newer tool may write anything, but for the number that says so.
pub(super) fn read_metadata(bytes: &[u8]) -> Result<RepoMetadata, Unreadable> {
    RepoMetadata::from_json(bytes).map_err(|error| {
        let version = serde_json::from_slice::<serde_json::Value>(bytes).ok().and_then(|metadata| metadata["version"].as_u64());
        match version.filter(|version| *version > REPO_FORMAT_VERSION.into()) {
            Some(version) => Unreadable::Newer(mismatch(
                format!("its format has version {version} (expected at most {REPO_FORMAT_VERSION})"),
                "another tool made it: use another directory, or a newer selkie",
            )),
            None => Unreadable::Damaged(format!("{} (expected what says how the repository is to be read)", error.root_cause())),
        }
    })
}

/// How many digits the names of its objects must have.
fn digits_of(metadata: &RepoMetadata) -> usize {
    match metadata.algorithm {
        composefs::fsverity::Algorithm::Sha256 { .. } => 64,
        composefs::fsverity::Algorithm::Sha512 { .. } => 128,
    }
}

/// Whether there are objects with names of the other algorithm, and none whose name has so many digits. The first of those ends the search.
fn has_only_others(parent: impl AsFd, path: &Path, digits: usize) -> bool {
    let mut others = false;
    let Some(objects) = dir::open_optional(parent, path.join("objects")).ok().flatten() else { return false };
    for prefix in dir::names(&objects).unwrap_or_default() {
        for name in dir::open(&objects, &prefix).and_then(dir::names).unwrap_or_default() {
            match prefix.len() + name.len() {
                found if found == digits => return false,
                64 | 128 => others = true,
                _ => {}
            }
        }
    }
    others
}

/// Whether it was a repository once.
fn has_objects(parent: impl AsFd, path: &Path) -> bool {
    let names = dir::open_optional(parent, path.join("objects")).ok().flatten().and_then(|objects| dir::names(objects).ok());
    names.is_some_and(|names| !names.is_empty())
}

/// The failure of a `meta.json` that is of no use: the objects say what it has to be, where there are any.
fn gone(parent: impl AsFd, path: &Path, message: String) -> Failure {
    if has_objects(parent, path) {
        return corrupt(message);
    }
    Failure::new(FailureKind::Corrupt, message).hint(NOTHING_LOST)
}

fn without_metadata(path: &Path) -> Failure {
    corrupt(format!("opening repository {}: it has objects, and its {REPO_METADATA_FILENAME} is gone", path.display()))
}

fn open_as(parent: impl AsFd, path: &Path, metadata: &RepoMetadata) -> Result<Store> {
    if !metadata.format_config().versions().any(|version| version == FormatVersion::V1) {
        let message = format!("opening repository {}: it has no EROFS format V1", path.display());
        return Err(mismatch(message, "another tool made it: use another directory").into());
    }
    match metadata.algorithm {
        composefs::fsverity::Algorithm::Sha256 { .. } => open_typed(parent, path).map(|r| Store(Handle::Sha256(Arc::new(r)))),
        composefs::fsverity::Algorithm::Sha512 { .. } => open_typed(parent, path).map(|r| Store(Handle::Sha512(Arc::new(r)))),
    }
}

fn open_typed<H: FsVerityHashValue>(parent: impl AsFd, path: &Path) -> Result<Repository<H>> {
    Repository::open_path(parent, path).map_err(|error| match error {
        RepositoryOpenError::Io(error) => anyhow::Error::new(error).context(format!("opening repository {}", path.display())),
        other => mismatch(format!("opening repository {}: {other}", path.display()), "another tool made it: use another directory").into(),
    })
}

fn init(parent: impl AsFd, path: &Path, algorithm: Algorithm, verity: Verity) -> Result<Store> {
    let made = prepare(&parent, path)?;
    let initialised = match algorithm {
        Algorithm::Sha256 => init_typed(&parent, path, verity).map(|r| Store(Handle::Sha256(Arc::new(r)))),
        Algorithm::Sha512 => init_typed(&parent, path, verity).map(|r| Store(Handle::Sha512(Arc::new(r)))),
    };
    if initialised.is_err() && made {
        // Only succeeds while it is empty, which is when nothing is lost.
        let _ = rustix::fs::unlinkat(&parent, path, rustix::fs::AtFlags::REMOVEDIR);
    }
    initialised
}

/// Makes the directory, or checks that it holds nothing but the rest of an earlier attempt. Whether it was made.
fn prepare(parent: impl AsFd, path: &Path) -> Result<bool> {
    let made = match rustix::fs::mkdirat(&parent, path, Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        // It is the directory around it that is not there.
        Err(Errno::NOENT) => {
            let around = path.parent().unwrap_or(path).display();
            return Err(dir::unusable(format!("making repository {}: opening {around}", path.display()), Errno::NOENT));
        }
        Err(e) => return Err(dir::unusable(format!("making repository {}", path.display()), e)),
    };
    let directory = dir::open(&parent, path).with_context(|| format!("opening repository {}", path.display()))?;
    let names = dir::names(&directory).with_context(|| format!("listing repository {}", path.display()))?;
    // An empty `lost+found` is what a fresh file system has that is mounted here.
    if let Some(name) = names.iter().find(|name| *name != "lost+found") {
        let message =
            format!("making repository {}: it has {:?} and no {REPO_METADATA_FILENAME}", path.display(), name.display().to_string());
        return Err(mismatch(message, "name an empty directory, or one that does not exist").into());
    }
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o700))
        .with_context(|| format!("closing repository {} to others", path.display()))?;
    Ok(made)
}

fn init_typed<H: FsVerityHashValue>(parent: impl AsFd, path: &Path, verity: Verity) -> Result<Repository<H>> {
    let mut config = RepositoryConfig::new(H::ALGORITHM);
    config.erofs_formats = FormatConfig::single(FormatVersion::V1);
    if verity == Verity::Never {
        config = config.set_insecure();
    }
    let sealed = Repository::init_path(&parent, path, config.clone());
    let initialised = match (sealed, verity) {
        (Err(error), Verity::IfPossible) if lacks_verity(&error) => Repository::init_path(&parent, path, config.set_insecure()),
        (Err(error), Verity::Required) if lacks_verity(&error) => {
            let message = format!("making repository {}: the file system or the kernel has no fs-verity", path.display());
            return Err(mismatch(message, "use ext4 with the feature `verity`, btrfs or xfs, and a kernel with CONFIG_FS_VERITY").into());
        }
        (other, _) => other,
    };
    let (repository, _) = initialised.with_context(|| format!("making repository {}", path.display()))?;
    let directory = File::from(reopen(&repository)?);
    directory.sync_all().with_context(|| format!("syncing repository {}", path.display()))?;
    Ok(repository)
}

/// A descriptor of its own for `fsync`, without the lock of the repository's.
fn reopen<H: FsVerityHashValue>(repository: &Repository<H>) -> Result<OwnedFd> {
    rustix::fs::openat(repository.repo_fd(), ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context("opening the repository's directory")
}

fn lacks_verity(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(EnableVerityError::FilesystemNotSupported)))
}

fn mismatch(message: String, hint: &str) -> Failure {
    Failure::new(FailureKind::StoreMismatch, message).hint(hint)
}
