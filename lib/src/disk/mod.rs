//! Disk images: a GPT with an EFI system partition and an ext4 root partition, written without privileges, loop devices or mounts.
//!
//! Knows nothing of images and stores: it is told which files go where, and which of them are sealed with fs-verity. The same input
//! gives the same bytes (with the same version of e2fsprogs). `docs/formats.md` tells what is in an image.

mod blocks;
mod dots;
mod e2fs;
mod esp;
mod fill;
mod identifiers;
mod line;
mod qcow2;
mod root;
mod script;
mod size;
mod table;
mod tree;
mod verity;
mod window;

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use uuid::Uuid;

pub use self::identifiers::{Identifiers, root_partition_type};
use self::root::{Place, Plan};
use self::size::MIB;
use self::table::Geometry;
pub use self::tree::{Attributes, Content, Device, EspTree, RootTree};
pub use self::verity::{Sealed, Sealer};
use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::sys::dir;

/// The ESP's size where none is given: several kernels and initrds.
const ESP_SIZE: u64 = 512 * MIB;
/// The image while it is being written, in a directory of its own.
const RAW: &str = "disk.raw";
const QCOW2: &str = "disk.qcow2";

/// The format of an image's file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk; holes where there is nothing.
    #[default]
    Raw,
    /// QEMU's format, which holds no more than what is there. Needs `qemu-img`.
    Qcow2,
}

/// What an image looks like, apart from its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All identifiers follow from it, see [`Identifiers`].
    pub seed: [u8; 32],
    /// The size of the disk in bytes; otherwise what the partitions need. The root partition takes what there is.
    pub size: Option<u64>,
    /// The size of the ESP in bytes; otherwise 512 MiB.
    pub esp_size: Option<u64>,
    /// The size of the root partition in bytes; otherwise room for its content twice and 512 MiB, or what is left of `size`.
    pub root_size: Option<u64>,
    /// The time of everything that has no time of its own, in seconds since 1970.
    pub mtime: u64,
    /// The format of the file.
    pub format: Format,
    /// The type of the root partition, see [`root_partition_type`].
    pub root_type: Uuid,
}

impl Layout {
    fn geometry(&self, plan: &Plan<'_>) -> Result<Geometry> {
        let esp = self.esp_size.unwrap_or(ESP_SIZE);
        let root = match (self.root_size, self.size) {
            (Some(root), _) => root,
            (None, Some(size)) => Geometry::room_for_root(esp, size),
            (None, None) => plan.need.comfortable(),
        };
        if let (None, Some(size)) = (self.root_size, self.size) {
            check_disk(size, esp, plan.need.least(root), root)?;
        }
        plan.need.check(root)?;
        Geometry::new(esp, root, self.size)
    }
}

/// An image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The size of the disk in bytes, which is not the size of the file.
    pub size: u64,
    /// The size of the root partition in bytes.
    pub root_size: u64,
    /// Bytes of files in the root file system.
    pub content: u64,
    /// The identifiers of its parts.
    pub identifiers: Identifiers,
}

/// Writes an image to `output`, which is there whole at the end, or not at all. `scratch` is a directory for temporaries, on the
/// same file system as `output`.
///
/// # Errors
///
/// - [`FailureKind::Usage`]: there is something at `output`.
/// - [`FailureKind::NoSpace`]: a given size is too small; nothing was written.
/// - [`FailureKind::Corrupt`]: an object does not have its digest.
/// - [`FailureKind::NotFound`]: e2fsprogs (or for qcow2, qemu-img) is not installed.
pub fn write(layout: &Layout, esp: &EspTree, root: &RootTree, scratch: &Path, output: &Path, progress: &dyn Progress) -> Result<Written> {
    check_output(output)?;
    let plan = Plan::new(root)?;
    let geometry = layout.geometry(&plan)?;
    let identifiers = Identifiers::from_seed(&layout.seed);
    let work = tempfile::Builder::new().prefix(".selkie-disk-").tempdir_in(scratch);
    let work = work.with_context(|| format!("making a directory for temporaries in {}", scratch.display()))?;
    let path = work.path().join(RAW);
    let image = File::options().read(true).write(true).create_new(true).open(&path);
    let image = image.with_context(|| format!("creating {}", path.display()))?;
    image.set_len(geometry.size).with_context(|| format!("sizing {}", path.display()))?;

    table::write(&image, &geometry, &identifiers, layout.root_type)?;
    progress.phase("writing the EFI system partition".to_owned());
    esp::write(&image, &geometry.esp, esp, identifiers.esp_volume, layout.mtime)?;
    progress.phase("writing the root file system".to_owned());
    let place = Place { directory: work.path(), image: &image, range: &geometry.root };
    plan.write(&place, &identifiers, layout.mtime, progress)?;
    drop(image);
    let finished = match layout.format {
        Format::Raw => RAW,
        Format::Qcow2 => {
            progress.phase("converting the disk image to qcow2".to_owned());
            qcow2::convert(work.path(), RAW, QCOW2)?;
            QCOW2
        }
    };
    publish(&work.path().join(finished), output)?;
    progress.step("publish disk image");
    let root_size = geometry.root.end - geometry.root.start;
    Ok(Written { size: geometry.size, root_size, content: plan.bytes(), identifiers })
}

/// Refuses a disk that cannot hold both partitions, in the terms in which its size was given.
fn check_disk(size: u64, esp: u64, least_root: u64, root: u64) -> Result<()> {
    if root >= least_root {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(MIB);
    // A mebibyte before the first partition and one behind the last hold the partition tables.
    let least = mib(esp) + mib(least_root) + 2;
    let message =
        format!("laying out the disk: size {} MiB (expected at least {least} MiB: ESP {}, root {})", size / MIB, mib(esp), mib(least_root));
    Err(Failure::new(FailureKind::NoSpace, message).hint("give a larger size, or leave it out to get room for the next upgrade too").into())
}

/// Whether an image can be written to `output`: for a caller who wants to know before a long preparation.
///
/// # Errors
///
/// [`FailureKind::Usage`]: there is something. [`FailureKind::NotFound`]: there is no directory for it.
pub fn check_output(output: &Path) -> Result<()> {
    if std::fs::symlink_metadata(output).is_ok() {
        return Err(exists(output).into());
    }
    let directory = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if directory.is_dir() {
        return Ok(());
    }
    let message = format!("writing {}: there is no directory {}", output.display(), directory.display());
    Err(Failure::new(FailureKind::NotFound, message).hint("make it, or give another name").into())
}

/// Gives the finished image its name, unless there is something of that name by now. A power cut does not leave half an image.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let synced = File::open(from).and_then(|image| image.sync_all());
    synced.with_context(|| format!("syncing {}", from.display()))?;
    let renamed = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can tell; then the check at the beginning has to do.
        Err(Errno::INVAL | Errno::NOSYS) => rustix::fs::rename(from, to),
        renamed => renamed,
    };
    match renamed {
        Err(Errno::EXIST) => return Err(exists(to).into()),
        renamed => renamed.with_context(|| format!("renaming the finished disk image to {}", to.display()))?,
    }
    let directory = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    dir::open_path(directory).and_then(dir::sync).with_context(|| format!("syncing the directory of {}", to.display()))
}

fn exists(output: &Path) -> Failure {
    Failure::new(FailureKind::Usage, format!("writing {}: it exists", output.display())).hint("remove it, or give another name")
}
