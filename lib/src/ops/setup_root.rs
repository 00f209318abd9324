//! The verb of the initramfs: from the physical root at /sysroot and the kernel arguments to the root that the machine runs.
//!
//! ```text
//! /sysroot           overlay: EROFS image + objects, read-only, source composefs:<image id>
//! /sysroot/sysroot   the physical root, read-only
//! /sysroot/etc       overlay: the image's /etc + objects + the upper directory of this deployment
//! /sysroot/var       state/os/default/var of the physical root
//! ```
//!
//! /etc is not stacked on the root overlay: the kernel allows two levels, and containers and extensions want the second.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::cmdline::{Cmdline, RootImage};
use crate::deploy::etc::{EtcState, Sources};
use crate::deploy::{DEPLOY, Deployment, Deployments, VAR};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::store::{self, BootImage, open_boot_image};
use crate::sys::dir;
use crate::sys::mount::{self, Held, Mount, Overlay, Verity};

/// Where things are; [`Options::new`] says where they are in an initramfs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The physical root, and where the new root will be.
    pub sysroot: PathBuf,
    /// The directory /run, which the booted system inherits.
    pub run: PathBuf,
    /// The kernel arguments.
    pub cmdline: Cmdline,
}

impl Options {
    /// The usual places.
    pub fn new(cmdline: Cmdline) -> Self {
        Self { sysroot: "/sysroot".into(), run: "/run".into(), cmdline }
    }
}

/// Builds the new root over `options.sysroot` and tells which image it is. On an error the physical root is back there, as it was.
pub fn setup_root(options: &Options, progress: &dyn Progress) -> Result<RootImage> {
    let named = options.cmdline.root_images()?;
    let sysroot = &options.sysroot;
    if mount::make_filesystem_writable(sysroot)? {
        progress.note(format!("the root file system was mounted read-only; {} is writable now", sysroot.display()));
    }
    let physical = dir::open_path(sysroot).with_context(|| format!("opening the physical root {}", sysroot.display()))?;
    let (wanted, boot_image) = choose(&physical, named, progress)?;
    let machine = Machine { physical, scratch: options.run.join("selkie"), verity_required: wanted.verity_required };
    let image = machine.mount_image(&wanted.id, boot_image, "image")?;
    let deployment = machine.deployment(&wanted.id)?;
    machine.prepare_etc(&deployment, &image, progress)?;
    machine.assemble(sysroot, &deployment, &image)?;
    link_physical_root(&machine.physical, &options.run)?;
    let verity = if wanted.verity_required { "required" } else { "not required" };
    progress.note(format!("root is composefs:{} (fs-verity {verity})", wanted.id.short()));
    Ok(wanted)
}

/// The first image of the kernel arguments that the repository has.
fn choose(physical: &OwnedFd, named: Vec<RootImage>, progress: &dyn Progress) -> Result<(RootImage, BootImage)> {
    let mut missing = Vec::new();
    for wanted in named {
        if let Some(found) = open_boot_image(physical, &wanted)? {
            return Ok((wanted, found));
        }
        progress.note(format!("image {} is not in the repository", wanted.id));
        missing.push(wanted.id.to_string());
    }
    Err(if missing.is_empty() {
        Failure::new(
            FailureKind::Usage,
            "reading kernel arguments: none names a root image \
             (expected composefs.digest=[?]v1-sha256-12:<64 hex digits>, composefs.digest=[?]v1-sha512-12:<128 hex digits> or composefs=[?]<hex>)",
        )
        .into()
    } else {
        let tried = missing.join(", ");
        Failure::new(FailureKind::NotFound, format!("looking for the root image: {}/images has none of {tried}", store::DIRECTORY))
            .hint("boot another entry; the image of this one was removed, or never written")
            .into()
    })
}

/// The physical root of the machine that boots.
struct Machine {
    physical: OwnedFd,
    scratch: PathBuf,
    verity_required: bool,
}

/// An image that is mounted, with what its files are made of.
struct MountedImage {
    id: ImageId,
    erofs: Held,
    etc: OwnedFd,
    objects: OwnedFd,
}

impl Machine {
    fn mount_image(&self, id: &ImageId, opened: BootImage, name: &str) -> Result<MountedImage> {
        let mounting = || format!("mounting image {id}");
        let erofs = mount::erofs(&opened.image).and_then(|m| m.hold(&self.scratch, name)).with_context(mounting)?;
        let etc = mount::open_path(&erofs, "etc").context("opening /etc in it (expected a directory)").with_context(mounting)?;
        Ok(MountedImage { id: id.clone(), erofs, etc, objects: opened.objects })
    }

    fn deployment(&self, id: &ImageId) -> Result<Deployment> {
        Deployments::open(&self.physical)?.get(id)?.ok_or_else(|| {
            let message =
                format!("opening deployment: {DEPLOY}/{id} is missing on the root file system (expected it for the image to boot)");
            Failure::new(FailureKind::NotFound, message)
                .hint("boot another entry; if only state/ was lost, deploy the image again from there")
                .into()
        })
    }

    fn prepare_etc(&self, deployment: &Deployment, image: &MountedImage, progress: &dyn Progress) -> Result<()> {
        match deployment.prepare_etc()? {
            EtcState::Ready => Ok(()),
            EtcState::Missing => deployment.make_etc(self.read_only_etc(image)?),
            EtcState::Requested(from) => {
                let carried = self.carry_etc(deployment, image, &from, progress).map_err(advise);
                carried.with_context(|| format!("carrying /etc from deployment {from}"))
            }
        }
    }

    fn carry_etc(&self, deployment: &Deployment, image: &MountedImage, from: &ImageId, progress: &dyn Progress) -> Result<()> {
        let old = self.deployment(from)?;
        let wanted = RootImage::new(from.clone(), self.verity_required);
        let opened = open_boot_image(&self.physical, &wanted)?.ok_or_else(|| {
            let message = format!("looking for the image that /etc was changed in: {}/images has no {from}", store::DIRECTORY);
            Error::from(Failure::new(FailureKind::NotFound, message).hint("boot the previous entry, which is as it was"))
        })?;
        let old_image = self.mount_image(from, opened, "image-before")?;
        let dirs = old.etc_dirs()?;
        let (base, new) = (self.read_only_etc(&old_image)?, self.read_only_etc(image)?);
        let upper = dirs.as_ref().map(|d| d.upper.as_fd());
        let local = self.seen_etc(&old_image, upper)?;
        let sources = Sources { base: base.as_fd(), local: local.as_fd(), upper, new: new.as_fd() };
        let conflicts = deployment.carry_etc(&sources, progress)?;
        progress.note(format!("local changes of /etc were carried from {}", from.short()));
        for conflict in conflicts {
            progress.note(conflict.to_string());
        }
        Ok(())
    }

    /// /etc of an image as it was shipped.
    fn read_only_etc(&self, image: &MountedImage) -> Result<Mount> {
        let overlay = Overlay {
            source: format!("selkie-etc:{}", image.id.short()),
            lower: vec![image.etc.as_fd()],
            data: Some(image.objects.as_fd()),
            upper: None,
            verity: self.verity(),
        };
        overlay.mount().context("mounting the image's /etc")
    }

    /// /etc as a deployment had it, without a way to write to it: its upper directory is a lower layer here.
    fn seen_etc(&self, image: &MountedImage, upper: Option<std::os::fd::BorrowedFd<'_>>) -> Result<Mount> {
        let overlay = Overlay {
            source: format!("selkie-etc:{}", image.id.short()),
            lower: upper.into_iter().chain([image.etc.as_fd()]).collect(),
            data: Some(image.objects.as_fd()),
            upper: None,
            // Files whose metadata alone was changed have a digest only if the machine ran with fs-verity required.
            verity: if self.verity_required { Verity::IfKnown } else { Verity::Off },
        };
        overlay.mount().context("mounting /etc of the deployment before, read-only")
    }

    /// Mounts everything over `sysroot`, or nothing.
    fn assemble(&self, sysroot: &Path, deployment: &Deployment, image: &MountedImage) -> Result<()> {
        let root = Overlay {
            source: mount::composefs_source(&image.id),
            lower: vec![image.erofs.as_fd()],
            data: Some(image.objects.as_fd()),
            upper: None,
            verity: self.verity(),
        };
        root.mount().and_then(|root| root.attach(rustix::fs::CWD, sysroot)).context("mounting the root")?;
        let filled = self.fill(sysroot, deployment, image);
        if filled.is_err() {
            // The error that led here is the one to tell; the emergency shell finds the physical root where it was.
            let _ = mount::unmount(sysroot);
        }
        filled
    }

    fn fill(&self, sysroot: &Path, deployment: &Deployment, image: &MountedImage) -> Result<()> {
        let root = mount::open_path(rustix::fs::CWD, sysroot).context("opening the new root")?;
        attach(mount::bind(&self.physical, "")?, &root, "sysroot")?;
        mount::make_read_only(&sysroot.join("sysroot"))?;
        let dirs = deployment.etc_dirs()?.with_context(|| format!("opening etc of deployment {}: it is missing", deployment.id))?;
        let etc = Overlay {
            source: "selkie-etc".to_owned(),
            lower: vec![image.etc.as_fd()],
            data: Some(image.objects.as_fd()),
            upper: Some((dirs.upper.as_fd(), dirs.work.as_fd())),
            verity: self.verity(),
        };
        attach(etc.mount().context("mounting /etc")?, &root, "etc")?;
        let var = mount::bind(&self.physical, VAR)
            .with_context(|| format!("mounting /var: {VAR} cannot be used (expected a directory on the root file system)"))?;
        attach(var, &root, "var")?;
        // systemd mounts the physical root `nodev`, which the clone has inherited, and a /var of one's own would not be.
        mount::make_writable(&sysroot.join("var"))
    }

    fn verity(&self) -> Verity {
        if self.verity_required { Verity::Required } else { Verity::Off }
    }
}

/// Says what to do about a carry that found the disk full, or something on it that cannot be read or written: "the same command again" is
/// no advice here. What comes with advice of its own keeps it.
fn advise(error: Error) -> Error {
    let (kind, remedy) = match Failure::find(&error) {
        Some(failure) if failure.kind == FailureKind::NoSpace => (FailureKind::NoSpace, "free some space in /var"),
        Some(_) => return error,
        None => (FailureKind::Corrupt, "look for errors of the disk in dmesg"),
    };
    let hint = format!("boot the previous entry, which is as it was, and {remedy}; the next boot of this entry tries again");
    Failure::new(kind, format!("{error:#}")).hint(hint).into()
}

fn attach(mount: Mount, root: &OwnedFd, name: &str) -> Result<()> {
    mount.attach(root, name).with_context(|| format!("mounting /{name} (expected that the image has this directory)"))
}

/// Tells systemd which block device the physical root is on, as `/run/systemd/volatile-root`: the device number of an overlay leads nowhere.
/// In the booted system, systemd-gpt-auto-generator(8) starts from that device to find the ESP, XBOOTLDR and swap of the same disk, and
/// systemd-repart and systemd-growfs the disk itself (systemd issue 35017). An existing link stays.
fn link_physical_root(physical: &OwnedFd, run: &Path) -> Result<()> {
    let Some(device) = physical_device(physical)? else { return Ok(()) };
    let systemd = dir::ensure(rustix::fs::CWD, run.join("systemd"), 0o755)?;
    let target = format!("/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    match rustix::fs::symlinkat(target, systemd, "volatile-root") {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e).context("linking /run/systemd/volatile-root"),
    }
}

/// The block device of a file system; `None` where there is none, as for a network or temporary file system. One that spans devices
/// (btrfs) has a number that is no device's; then it is the device that systemd found by partition type.
fn physical_device(physical: &OwnedFd) -> Result<Option<u64>> {
    let device = rustix::fs::fstat(physical).context("reading the device of the physical root")?.st_dev;
    if rustix::fs::major(device) != 0 {
        return Ok(Some(device));
    }
    let found = dir::optional(rustix::fs::statat(rustix::fs::CWD, "/dev/gpt-auto-root", AtFlags::empty()));
    let found = found.context("reading /dev/gpt-auto-root")?;
    Ok(found.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice).map(|stat| stat.st_rdev))
}
