//! Mounting the EFI system partition.

use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::MountFlags;

/// Mounts the FAT file system on `device` at `target`: for root only, nothing on it executable, no device nodes.
pub fn vfat(device: &Path, target: &Path, writable: bool) -> Result<()> {
    let access = if writable { MountFlags::empty() } else { MountFlags::RDONLY };
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | access;
    rustix::mount::mount(device, target, "vfat", flags, c"umask=0077")
        .with_context(|| format!("mounting {} at {}", device.display(), target.display()))
}
