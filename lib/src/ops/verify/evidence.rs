//! What the machine says about itself, gathered from where each thing is known. Nothing is judged here, and nothing that is missing is an error.

use anyhow::{Context, Result};

use crate::boot::BootEntry;
use crate::cmdline::{Cmdline, RootImage};
use crate::image_id::ImageId;
use crate::ops::host::Host;
use crate::ops::{prune, stage};
use crate::store::{self, Store};
use crate::sys::efi::SecureBoot;
use crate::sys::mount::mountinfo::{self, MountEntry};

/// What the kernel tells in `/proc`.
#[derive(Debug, Clone, Default)]
pub struct KernelState {
    /// `/proc/cmdline`.
    pub cmdline: String,
    /// `/proc/self/mountinfo`.
    pub mountinfo: String,
}

impl KernelState {
    /// Of the running kernel.
    pub fn running() -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
        Ok(Self { cmdline: read("/proc/cmdline")?, mountinfo: read("/proc/self/mountinfo")? })
    }
}

/// Something that was looked at, or why that was not possible.
pub(super) type Measured<T> = Result<T, String>;

/// The unified kernel image that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Started {
    /// The boot entry.
    pub(super) entry: BootEntry,
    /// The arguments inside the image and its addons.
    pub(super) arguments: Cmdline,
    /// Whether the files on the ESP are those of the deployment's image.
    pub(super) same_as_image: Measured<bool>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
    pub(super) booted: ImageId,
    pub(super) cmdline: Cmdline,
    pub(super) root: Option<MountEntry>,
    pub(super) secure_boot: Measured<SecureBoot>,
    /// `None` for an entry with a plain kernel.
    pub(super) started: Measured<Option<Started>>,
    /// Whether the kernel measured the fs-verity digest of the EROFS image to be its name, in a repository that has fs-verity.
    pub(super) image: Measured<()>,
    /// The digest of the origin's manifest, and the boot image that the repository has for it.
    pub(super) manifest: Measured<(String, ImageId)>,
}

impl Evidence {
    pub(super) fn gather(host: &Host, kernel: &KernelState, store: &Result<Store>) -> Self {
        let store = store.as_ref().map_err(|error| format!("{error:#}"));
        let booted = host.booted().clone();
        Self {
            cmdline: Cmdline::parse(&kernel.cmdline),
            root: mountinfo::parse(&kernel.mountinfo).into_iter().rfind(|entry| entry.target.as_os_str() == "/"),
            secure_boot: host.secure_boot().map_err(said),
            started: store.clone().and_then(|store| started(host, store).map_err(said)),
            image: image(host, &booted).map_err(said),
            manifest: store.and_then(|store| manifest(host, store).map_err(said)),
            booted,
        }
    }
}

fn said(error: anyhow::Error) -> String {
    format!("{error:#}")
}

fn image(host: &Host, booted: &ImageId) -> Result<()> {
    let wanted = RootImage::new(booted.clone(), true);
    store::open_boot_image(host.sysroot(), &wanted)?.map(drop).context("the repository has no such image")
}

fn manifest(host: &Host, store: &Store) -> Result<(String, ImageId)> {
    let system = host.system()?;
    let origin = system.origin(host.booted())?;
    let stored = prune::stored(store, host.booted())?;
    // An image in Docker's format has another manifest in the repository, and the same configuration.
    if stored.manifest_digest != origin.manifest_digest && stored.config_digest != origin.config_digest {
        anyhow::bail!("the origin names {} (expected {}, which the repository has)", origin.manifest_digest, stored.manifest_digest);
    }
    Ok((origin.manifest_digest.clone(), stored.boot_image))
}

/// The entry of the unified kernel image that was started.
fn started(host: &Host, store: &Store) -> Result<Option<Started>> {
    let Some(path) = host.started_image()? else { return Ok(None) };
    let started = |entry: &&BootEntry| entry.uki.as_ref().is_some_and(|uki| uki.path.eq_ignore_ascii_case(&path));
    let system = host.system()?;
    let entry = system.entries.iter().find(started).cloned();
    let entry = entry.with_context(|| format!("{path} was started (expected the unified kernel image of a boot entry)"))?;
    let stored = prune::stored(store, host.booted());
    let seal = stored.and_then(|stored| store.tree(&stored.image)).and_then(|tree| Ok(store::seal(&tree)?.map(|seal| (tree, seal))));
    let (mut arguments, mut same_as_image) = (entry.arguments.clone(), Err("the deployment's image is not sealed".to_owned()));
    match seal {
        Ok(Some((tree, seal))) => {
            arguments = seal.arguments(&tree)?.without_root_image();
            same_as_image = stage::sealed_files(&seal, &tree).and_then(|files| host.boot()?.place().holds(&entry, &files)).map_err(said);
        }
        Ok(None) => {}
        Err(error) => same_as_image = Err(said(error)),
    }
    Ok(Some(Started { entry, arguments, same_as_image }))
}
