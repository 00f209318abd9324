//! Opening the image to boot from: the whole of what the initramfs needs from a repository. Read-only.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Error, Result};
use composefs::fsverity::{FsVerityHashValue, MeasureVerityError, Sha256HashValue, Sha512HashValue, measure_verity};
use composefs::repository::Repository;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::DIRECTORY;
use crate::cmdline::RootImage;
use crate::error::{Failure, FailureKind};
use crate::image_id::{Algorithm, ImageId};
use crate::sys::dir;

/// An image that is what its name says, and where the contents of its files are.
#[derive(Debug)]
pub struct BootImage {
    /// The EROFS image.
    pub image: OwnedFd,
    /// The directory of objects.
    pub objects: OwnedFd,
}

/// Opens the image that a kernel argument names, below the physical root; `None` where the repository has no such image.
///
/// # Errors
///
/// The repository cannot be opened or is of another algorithm; fs-verity is required and the repository or the image has none;
/// the image is not the one that its name promises ([`FailureKind::Corrupt`]), whether fs-verity is required or not.
pub fn open_boot_image(physical_root: impl AsFd, wanted: &RootImage) -> Result<Option<BootImage>> {
    match wanted.id.algorithm() {
        Algorithm::Sha256 => open::<Sha256HashValue>(physical_root, wanted),
        Algorithm::Sha512 => open::<Sha512HashValue>(physical_root, wanted),
    }
    .with_context(|| format!("opening image {} in {DIRECTORY}", wanted.id))
}

fn open<H: FsVerityHashValue>(physical_root: impl AsFd, wanted: &RootImage) -> Result<Option<BootImage>> {
    let repository = Repository::<H>::open_path(physical_root, DIRECTORY)
        .with_context(|| format!("opening the {} repository {DIRECTORY} on the root file system", wanted.id.algorithm()))?;
    if wanted.verity_required {
        repository
            .require_verity()
            .context("looking for fs-verity on meta.json of the repository (expected it, as the kernel argument has no '?')")?;
    }
    // Not by the library's `open_image`: that falls back to a named reference, whose contents nothing verifies.
    let directory = repository.repo_fd();
    let image = match rustix::fs::openat(directory, format!("images/{}", wanted.id), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(image) => image,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e).context("opening the image"),
    };
    verify::<H>(&image, &wanted.id, wanted.verity_required)?;
    Ok(Some(BootImage { image, objects: dir::open(directory, "objects").context("opening objects")? }))
}

/// Compares what the kernel measured with the name. A file without fs-verity passes only where that is optional.
fn verify<H: FsVerityHashValue>(image: impl AsFd, id: &ImageId, required: bool) -> Result<()> {
    match measure_verity::<H>(image) {
        Ok(found) if found.to_hex() == id.hex() => Ok(()),
        Ok(found) => Err(corrupt(format!("its fs-verity digest is {} (expected that of its name)", found.to_hex()))),
        Err(MeasureVerityError::VerityMissing | MeasureVerityError::FilesystemNotSupported) if !required => Ok(()),
        Err(MeasureVerityError::VerityMissing) => {
            Err(corrupt("it has no fs-verity (expected it, as the kernel argument has no '?')".to_owned()))
        }
        Err(other) => Err(other).context("measuring its fs-verity digest"),
    }
}

fn corrupt(message: String) -> Error {
    Failure::new(FailureKind::Corrupt, message).hint("boot another entry, then repair or pull the image again").into()
}
