//! Mounting the EFI system partition beside whoever else has it mounted.
//!
//! A block device has one superblock, read-only or read-write for all its mounts, and the kernel answers EBUSY to whoever asks for the other
//! kind. The automount of /efi, an `upgrade` and a `status` are to go together, so everybody asks for the read-write one, and who only
//! reads gets a mount of it that is read-only.

use std::path::Path;

use anyhow::{Context, Error, Result};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::Mount;
use super::context::FsContext;
use crate::error::{Failure, FailureKind};

/// Mounts the FAT file system on `device` at `target`: for root only, nothing on it executable, no device nodes. Where it is mounted already, the
/// file modes are those of the first mount: keep `target` where nobody else can come.
///
/// With `writable` unset nothing can be written through this mount, and it works however else the file system is mounted. If it is not
/// mounted at all, the kernel marks it as in use and as clean again afterwards, as with every writable mount.
///
/// # Errors
///
/// [`FailureKind::Busy`] when the file system is to be written and is mounted read-only elsewhere, or something uses the device for itself alone;
/// [`FailureKind::NotPermitted`] when it is to be written and the device is write-protected; [`FailureKind::NotAHost`] when there is no such device.
pub fn vfat(device: &Path, target: &Path, writable: bool) -> Result<()> {
    if !device.exists() {
        let message = format!("mounting {} at {}: there is no such device", device.display(), target.display());
        let hint = "the partition that this machine was started from is gone: look for it with `lsblk -o NAME,PARTUUID,PARTTYPENAME`";
        return Err(Failure::new(FailureKind::NotAHost, message).hint(hint).into());
    }
    let filesystem = FileSystem { kind: "vfat", options: &[("umask", "0077")], device };
    let mount = if writable { filesystem.writable() } else { filesystem.readable() };
    mount.and_then(|m| m.attach(rustix::fs::CWD, target)).with_context(|| format!("mounting {} at {}", device.display(), target.display()))
}

/// A file system on a block device.
struct FileSystem<'a> {
    kind: &'static str,
    options: &'a [(&'a str, &'a str)],
    device: &'a Path,
}

/// Between two questions the answer may change, when another process mounts or unmounts it the other way; hardly this often.
const ATTEMPTS: usize = 5;

impl FileSystem<'_> {
    fn writable(&self) -> Result<Mount> {
        self.mount(false, MountAttrFlags::empty()).map_err(|error| match errno(&error) {
            Some(Errno::BUSY) => self.busy(&error),
            Some(Errno::ROFS | Errno::ACCESS) => self.write_protected(&error),
            _ => error,
        })
    }

    fn readable(&self) -> Result<Mount> {
        for _ in 1..ATTEMPTS {
            match self.mount(false, MountAttrFlags::MOUNT_ATTR_RDONLY) {
                // It is mounted read-only already, or the device is write-protected.
                Err(error) if matches!(errno(&error), Some(Errno::BUSY | Errno::ROFS | Errno::ACCESS)) => {}
                other => return other,
            }
            match self.mount(true, MountAttrFlags::MOUNT_ATTR_RDONLY) {
                Err(error) if errno(&error) == Some(Errno::BUSY) => {}
                other => return other,
            }
        }
        self.mount(true, MountAttrFlags::MOUNT_ATTR_RDONLY).map_err(|error| self.busy(&error))
    }

    fn mount(&self, read_only_superblock: bool, access: MountAttrFlags) -> Result<Mount> {
        let context = FsContext::open(self.kind)?;
        if read_only_superblock {
            context.flag("ro")?;
        }
        let device = self.device.to_str().with_context(|| format!("naming device {}: not UTF-8", self.device.display()))?;
        context.string("source", device)?;
        self.options.iter().try_for_each(|(key, value)| context.string(key, value))?;
        context.create()?;
        let safe = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        context.mount(safe | access)
    }

    fn write_protected(&self, error: &Error) -> Error {
        let device = self.device.display();
        let hint = format!("see why with `blockdev --getro {device}` and `dmesg`, and make it writable with `blockdev --setrw {device}`");
        let message = format!("{error:#}: the device is write-protected (expected {device} writable)");
        Failure::new(FailureKind::NotPermitted, message).hint(hint).into()
    }

    fn busy(&self, error: &Error) -> Error {
        let device = self.device.display();
        let hint = format!(
            "it may be mounted read-only, at /efi or /boot for example (`findmnt --source {device}` tells where), or be checked by fsck; \
             unmount it there or mount it writable, then run the command again"
        );
        Failure::new(FailureKind::Busy, format!("{error:#} (expected {device} free, or mounted writable)")).hint(hint).into()
    }
}

fn errno(error: &Error) -> Option<Errno> {
    error.downcast_ref::<Errno>().copied()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::mount::UnmountFlags;

    use super::*;
    use crate::sys::mount::enter_private_namespace;

    fn output(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program} (expected it installed): {e}"));
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A file system on a loop device that goes with this.
    struct Disk {
        temp: tempfile::TempDir,
        device: String,
        kind: &'static str,
    }

    impl Disk {
        fn new(kind: &'static str, losetup: &[&str]) -> Self {
            let temp = tempfile::tempdir().unwrap();
            let image = temp.path().join("image").to_str().unwrap().to_owned();
            std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
            output(&format!("/usr/sbin/mkfs.{kind}"), &[&image]);
            let device = output("/usr/sbin/losetup", &[losetup, &["--find", "--show", &image]].concat());
            for place in ["a", "b"] {
                std::fs::create_dir(temp.path().join(place)).unwrap();
            }
            Self { temp, device, kind }
        }

        /// Mounts it in one of two places, and tells whether one can write there.
        fn mount(&self, place: &str, writable: bool) -> Result<bool> {
            let filesystem = FileSystem { kind: self.kind, options: &[], device: Path::new(&self.device) };
            let at = self.temp.path().join(place);
            if writable { filesystem.writable() } else { filesystem.readable() }?.attach(rustix::fs::CWD, &at)?;
            Ok(std::fs::write(at.join("file"), "x").is_ok())
        }

        fn mount_read_only_superblock(&self, place: &str) {
            output("/usr/bin/mount", &["-o", "ro", &self.device, self.temp.path().join(place).to_str().unwrap()]);
        }

        fn unmount(&self, place: &str) {
            rustix::mount::unmount(self.temp.path().join(place), UnmountFlags::empty()).unwrap();
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            for place in ["a", "b"] {
                let _ = rustix::mount::unmount(self.temp.path().join(place), UnmountFlags::DETACH);
            }
            output("/usr/sbin/losetup", &["--detach", &self.device]);
        }
    }

    /// The rules are those of every file system on a block device: ext4 shows them where the kernel of the build machine has no FAT.
    fn each_kind(losetup: &[&str], check: impl Fn(&Disk) + Sync) {
        assert!(rustix::process::geteuid().is_root(), "this test mounts file systems: run it as root");
        for kind in ["ext4", "vfat"] {
            if kind == "vfat" && FsContext::open(kind).is_err() {
                continue;
            }
            let run = || {
                enter_private_namespace().unwrap();
                check(&Disk::new(kind, losetup));
            };
            std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }

    #[test]
    fn readers_and_writers_go_together_in_any_order() {
        each_kind(&[], |disk| {
            for (first, second) in [(true, false), (false, true), (false, false), (true, true)] {
                assert_eq!(disk.mount("a", first).unwrap(), first, "{}: {first} then {second}", disk.kind);
                assert_eq!(disk.mount("b", second).unwrap(), second, "{}: {first} then {second}", disk.kind);
                disk.unmount("a");
                assert_eq!(std::fs::write(disk.temp.path().join("b/file"), "y").is_ok(), second);
                disk.unmount("b");
            }
        });
    }

    #[test]
    fn a_read_only_mount_of_others_is_read_and_makes_writers_busy() {
        each_kind(&[], |disk| {
            disk.mount_read_only_superblock("a");
            let failure = Failure::find(&disk.mount("b", true).unwrap_err()).unwrap();
            assert_eq!(failure.kind, FailureKind::Busy);
            assert!(failure.message.contains(&disk.device) && failure.hint.unwrap().contains(&disk.device), "{}", failure.message);
            assert!(!disk.mount("b", false).unwrap());
            disk.unmount("a");
            disk.unmount("b");
            assert!(disk.mount("b", true).unwrap());
        });
    }

    #[test]
    fn a_device_that_is_gone_is_told() {
        let failure = Failure::find(&vfat(Path::new("/dev/disk/by-partuuid/none"), Path::new("/nowhere"), true).unwrap_err()).unwrap();
        assert_eq!((failure.kind, failure.hint.is_some()), (FailureKind::NotAHost, true));
        assert_eq!(failure.message, "mounting /dev/disk/by-partuuid/none at /nowhere: there is no such device");
    }

    #[test]
    fn a_write_protected_disk_can_be_read() {
        each_kind(&["--read-only"], |disk| {
            assert!(!disk.mount("a", false).unwrap());
            disk.unmount("a");
            let failure = Failure::find(&disk.mount("a", true).unwrap_err()).unwrap();
            assert_eq!(failure.kind, FailureKind::NotPermitted);
            assert!(failure.message.contains("write-protected") && failure.hint.unwrap().contains(&disk.device), "{}", failure.message);
        });
    }
}
