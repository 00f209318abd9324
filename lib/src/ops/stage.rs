//! From a pulled image to the root that boots next. Shared by `upgrade` and `switch`.
//!
//! Order (invariant I2): image and tag, deployment, one sync of the physical root, kernel files, and last the entry.

use std::io::Cursor;

use anyhow::{Context, Result};

use super::host::Host;
use super::prune;
use super::pull::Pulled;
use crate::boot::{BootEntry, EntryRequest};
use crate::cmdline::{Cmdline, RootImage};
use crate::image::Resolved;
use crate::image_id::ImageId;
use crate::origin::Origin;
use crate::os_release::OsRelease;
use crate::progress::Progress;
use crate::store::{self, Kernel, Store, Tree};

/// What the image itself says, once it is in the store and was found fit to boot.
pub(super) struct Bootable {
    pub(super) tree: Tree,
    pub(super) kernel: Kernel,
    pub(super) os: OsRelease,
}

impl Bootable {
    /// Reads the root file system back and looks for what booting needs.
    pub(super) fn open(store: &Store, image: &ImageId) -> Result<Self> {
        let tree = store.tree(image)?;
        let kernel = store::kernel(&tree)?;
        store::require_bootable_layout(&tree)?;
        let os = store::os_release(&tree)?;
        Ok(Self { tree, kernel, os })
    }
}

/// Everything that [`origin`] and [`entry`] need to know besides the image.
pub(super) struct Provenance<'a> {
    pub(super) reference: &'a str,
    pub(super) arguments: &'a Cmdline,
    pub(super) made_under: Option<&'a ImageId>,
}

/// The origin of a deployment of `pulled`.
pub(super) fn origin(resolved: &Resolved, pulled: &Pulled, os: &OsRelease, context: &Provenance<'_>) -> Origin {
    Origin {
        version: Origin::VERSION,
        image: context.reference.to_owned(),
        manifest_digest: pulled.manifest_digest.clone(),
        index_digest: pulled.index_digest.clone(),
        config_digest: pulled.config_digest.clone(),
        kernel_arguments: context.arguments.to_string(),
        os_version: resolved
            .label("org.opencontainers.image.version")
            .or_else(|| os.image_version.clone().or_else(|| os.version_id.clone())),
        os_name: Some(os.title().to_owned()),
        made_under: context.made_under.cloned(),
    }
}

/// The entry that boots `image`.
pub(super) fn entry(image: &ImageId, verity_required: bool, origin: &Origin, serial: u64) -> EntryRequest {
    let digest = origin.manifest_digest.strip_prefix("sha256:").unwrap_or(&origin.manifest_digest);
    let short = &digest[..digest.len().min(12)];
    EntryRequest {
        root: RootImage::new(image.clone(), verity_required),
        title: origin.os_name.clone().unwrap_or_else(|| "selkie".to_owned()),
        version: format!("{} ({short})", origin.os_version.as_deref().unwrap_or("unknown")),
        arguments: Cmdline::parse(&origin.kernel_arguments),
        serial,
    }
}

/// Makes `pulled` the root that boots next.
pub(super) fn stage(
    host: &Host,
    store: &Store,
    pulled: &Pulled,
    bootable: &Bootable,
    origin: &Origin,
    progress: &dyn Progress,
) -> Result<BootEntry> {
    let id = &pulled.boot_image;
    progress.phase(format!("staging {}", id.short()));
    store.tag(&pulled.stored_manifest, &prune::tag(id))?;
    progress.step("tag image");
    let deployment = host.deployments()?.create(id, origin)?;
    progress.step("create deployment");
    if let Some(from) = origin.made_under.as_ref().filter(|from| *from != id) {
        deployment.request_etc(from)?;
        progress.step("request etc");
    }
    host.sync()?;
    progress.step("sync root");
    activate(host, bootable, &entry(id, store.is_sealed(), origin, host.system()?.next_serial()), progress)
}

/// Writes kernel and entry; when this returns, the request's root boots next.
pub(super) fn activate(host: &Host, bootable: &Bootable, request: &EntryRequest, progress: &dyn Progress) -> Result<BootEntry> {
    // Read whole, because that checks the digests: an unsealed repository has no kernel to do it, and the ESP never has.
    let mut linux = Cursor::new(bootable.tree.read(&bootable.kernel.kernel)?);
    let mut initrd = Cursor::new(bootable.tree.read(&bootable.kernel.initrd)?);
    let staged = host.esp()?.stage(request, &mut linux, &mut initrd, progress);
    staged.with_context(|| format!("staging boot entry for {}", request.root.id.short()))?.publish(progress)
}
