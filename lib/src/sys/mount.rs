//! Mounting: EROFS images, overlays, binds, and a private mount namespace. It knows file systems, not deployments.
//!
//! A new mount is a [`Mount`]: detached, seen by nobody, gone when dropped. [`Mount::attach`] puts it into the tree, [`Mount::hold`] does so
//! under a scratch directory and takes it away again; before Linux 6.15 only an attached mount can be a layer of an overlay.
//! Nothing here can mount onto a detached tree, for the same reason.

mod context;
pub mod mountinfo;
mod namespace;
mod overlay;
mod vfat;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use self::context::FsContext;
pub use self::namespace::{enter_private_namespace, make_writable};
pub use self::overlay::{Overlay, Verity, composefs_source, root_image_of_source};
pub use self::vfat::vfat;

/// A detached mount.
#[derive(Debug)]
pub struct Mount(OwnedFd);

impl Mount {
    /// Attaches the mount at `path` below the directory `at`, on top of what is mounted there.
    pub fn attach(self, at: impl AsFd, path: impl AsRef<Path>) -> Result<()> {
        self.attach_ref(at, path)
    }

    /// Attaches the mount at `scratch`/`name`, a directory made for it, until the result is dropped.
    pub fn hold(self, scratch: &Path, name: &str) -> Result<Held> {
        let path = scratch.join(name);
        crate::sys::dir::ensure(rustix::fs::CWD, &path, 0o700)?;
        self.attach_ref(rustix::fs::CWD, &path)?;
        // From here on the mount has to be taken away again, also when opening it does not work.
        let mut held = Held { path, root: self.0 };
        held.root = open_path(rustix::fs::CWD, &held.path).with_context(|| format!("opening mount {}", held.path.display()))?;
        Ok(held)
    }

    fn attach_ref(&self, at: impl AsFd, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        rustix::mount::move_mount(&self.0, "", at, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .with_context(|| format!("attaching a mount at {}", path.display()))
    }
}

impl AsFd for Mount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A mount that is attached under a scratch directory for as long as this lives. What uses it as a layer keeps a clone of its own.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    root: OwnedFd,
}

impl Held {
    /// Where it is attached.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Held {
    /// The root of the mount, open as `O_PATH`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Best effort: it lies in a scratch directory, and a lazy unmount only fails for what is not mounted any more.
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// Mounts the EROFS image in the open file `image`, read-only, without a loop device.
///
/// # Errors
///
/// Says so when the kernel cannot mount a file (Linux before 6.12).
pub fn erofs(image: impl AsFd) -> Result<Mount> {
    let context = FsContext::open("erofs")?;
    context.flag("ro")?;
    context.string("source", fd_path(&image))?;
    match context.create() {
        Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::NOTBLK) => {
            Err(error.context("mounting an EROFS image from a file: this kernel wants a block device (expected Linux 6.12 or newer)"))
        }
        other => other,
    }?;
    context.mount(rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY)
}

/// A detached clone of the mount that the directory `path` below `at` lies on, rooted at that directory (a bind mount).
/// It has the read-only state of the mount that it was cloned from.
pub fn bind(at: impl AsFd, path: impl AsRef<Path>) -> Result<Mount> {
    let path = path.as_ref();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(at, path, flags).with_context(|| format!("cloning the mount of {}", path.display()))?;
    Ok(Mount(tree))
}

/// Makes the attached mount at `path` read-only; other mounts of the same file system stay as they are.
pub fn make_read_only(path: &Path) -> Result<()> {
    rustix::mount::mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, "")
        .with_context(|| format!("making mount {} read-only", path.display()))
}

/// Makes the file system mounted at `path` writable, where it is read-only: the superblock and this mount. Whether that was needed.
pub fn make_filesystem_writable(path: &Path) -> Result<bool> {
    let state = rustix::fs::statvfs(path).with_context(|| format!("reading the mount state of {}", path.display()))?;
    if !state.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(false);
    }
    // Without MS_BIND the flag is the superblock's and, for historical reasons, that of this one mount too.
    rustix::mount::mount_remount(path, MountFlags::empty(), "")
        .with_context(|| format!("making file system {} writable", path.display()))?;
    Ok(true)
}

/// Takes away the topmost mount at `path` with all that is mounted below it, also when it is in use.
pub fn unmount(path: &Path) -> Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH).with_context(|| format!("unmounting {}", path.display()))
}

/// Opens a directory as a place in the tree, without the right to read it.
pub fn open_path(at: impl AsFd, path: impl AsRef<Path>) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(at, path.as_ref(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A path that leads to what `fd` has open. Mount options take strings on every kernel, and file descriptors only on new ones.
fn fd_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
