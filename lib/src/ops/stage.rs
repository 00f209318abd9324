//! From a pulled image to the root that boots next. Shared by `upgrade` and `switch`.
//!
//! Order (invariant I2): image and tag, deployment, one sync of the physical root, kernel files, and last the entry.

use anyhow::{Context, Result};

use super::catch_up;
use super::firmware;
use super::host::Host;
use super::prune;
use super::pull::Pulled;
use crate::boot::{BootEntry, BootFiles, EntryRequest, Tries};
use crate::calendar;
use crate::cmdline::{Cmdline, RootImage};
use crate::error::{Failure, FailureKind};
use crate::image::Resolved;
use crate::image_id::ImageId;
use crate::origin::Origin;
use crate::os_release::OsRelease;
use crate::progress::Progress;
use crate::store::{self, Kernel, Seal, Store, StoredImage, Tree};
use crate::sys::clock;

/// What the image itself says, once it is in the store and was found fit to boot.
pub(super) struct Bootable {
    pub(super) tree: Tree,
    pub(super) kind: BootKind,
    pub(super) os: OsRelease,
    /// For a sealed image, the kernel arguments that it boots with.
    arguments: Option<Cmdline>,
}

/// How an image boots.
pub(super) enum BootKind {
    /// By a kernel and an initramfs that get their arguments from the entry.
    Plain(Kernel),
    /// By the unified kernel image in the tree of the image as its layers give it.
    Sealed(Box<Seal>, Tree),
}

impl Bootable {
    /// Reads the root file system back and looks for what booting needs. A seal that is not this image's is refused here, before
    /// anything becomes bootable.
    pub(super) fn open(store: &Store, stored: &StoredImage) -> Result<Self> {
        let tree = store.tree(&stored.boot_image)?;
        let (kind, arguments) = match sealed(store, stored)? {
            Some((seal, whole)) => {
                seal.check(&stored.boot_image)?;
                let arguments = seal.arguments(&whole)?;
                (BootKind::Sealed(Box::new(seal), whole), Some(arguments))
            }
            None => (BootKind::Plain(store::kernel(&tree)?), None),
        };
        store::require_bootable_layout(&tree)?;
        let os = store::os_release(&tree)?;
        Ok(Self { tree, kind, os, arguments })
    }

    /// Kernel arguments that the image brings for entries that have arguments.
    pub(super) fn kargs(&self, resolved: &Resolved) -> Result<Vec<String>> {
        store::kargs(&self.tree, &resolved.architecture()?)
    }

    /// How often the boot loader may try a root of this image that has not proven itself, `most` times. For ever where the image has nothing that would take the
    /// counter away after a good boot.
    pub(super) fn tries(&self, most: u32) -> Result<Option<Tries>> {
        const BLESSING: &str = "/usr/lib/systemd/systemd-bless-boot";
        Ok(self.tree.file(BLESSING)?.map(|_| Tries::new(most)))
    }

    /// The seal, for a sealed image.
    pub(super) fn seal(&self) -> Option<&Seal> {
        match &self.kind {
            BootKind::Sealed(seal, _) => Some(seal),
            BootKind::Plain(_) => None,
        }
    }

    /// The files that its entry needs. They are read whole, because that checks the digests: an unsealed repository has no kernel to do it, and
    /// the ESP never has.
    pub(super) fn boot_files(&self) -> Result<BootFiles> {
        match &self.kind {
            BootKind::Plain(kernel) => Ok(BootFiles::kernel(self.tree.read(&kernel.kernel)?, self.tree.read(&kernel.initrd)?)),
            BootKind::Sealed(seal, tree) => sealed_files(seal, tree),
        }
    }

    /// What the firmware checks of a sealed image before it starts: the unified kernel image and the addons, each with its name. Nothing of a
    /// plain one.
    pub(super) fn checked_files(&self) -> Result<Vec<(&str, Vec<u8>)>> {
        let BootKind::Sealed(seal, tree) = &self.kind else { return Ok(Vec::new()) };
        let addons = seal.addons.iter().map(|(name, file)| (name.as_str(), file));
        let files = std::iter::once((seal.path.as_str(), &seal.file)).chain(addons);
        files.map(|(name, file)| Ok((name, tree.read(file).with_context(|| format!("reading {name}"))?))).collect()
    }

    /// The boot loader that the image brings for `architecture` (as OCI names it): what UEFI calls that, and the bytes.
    pub(super) fn loader(&self, architecture: &str) -> Result<(String, Vec<u8>)> {
        let tree = match &self.kind {
            BootKind::Plain(_) => &self.tree,
            BootKind::Sealed(_, tree) => tree,
        };
        let loader = store::systemd_boot(tree, architecture)?;
        Ok((loader.architecture, tree.read(&loader.file)?))
    }

    /// Whether a root of this image has to have fs-verity. An unsealed repository can boot only what does not insist.
    ///
    /// # Errors
    ///
    /// [`FailureKind::StoreMismatch`] for a sealed image in a repository without fs-verity: it would not boot.
    pub(super) fn verity_required(&self, store: &Store) -> Result<bool> {
        let Some(seal) = self.seal() else { return Ok(store.is_sealed()) };
        if seal.root.verity_required && !store.is_sealed() {
            let message = "staging a sealed image: the repository has no fs-verity (expected it, as the image boots only with it)";
            return Err(Failure::new(FailureKind::StoreMismatch, message)
                .hint("install the machine anew on a file system with fs-verity, or use an image that is not sealed")
                .into());
        }
        Ok(seal.root.verity_required)
    }

    /// Arguments of the machine that this image will not boot with, because it brings its own; for people.
    pub(super) fn unused_arguments(&self, machine: &Cmdline) -> Option<String> {
        let own = self.arguments.as_ref()?;
        let unused: Vec<&str> = machine.args().filter(|argument| !own.args().any(|a| a == *argument)).collect();
        (!unused.is_empty()).then(|| unused.join(" "))
    }
}

/// The seal of an image, with the tree of the image as its layers give it; `None` for one that is not sealed.
fn sealed(store: &Store, stored: &StoredImage) -> Result<Option<(Seal, Tree)>> {
    if !store.may_be_sealed(&stored.image)? {
        return Ok(None);
    }
    let whole = store.tree(&stored.image)?;
    Ok(store::seal(&whole)?.map(|seal| (seal, whole)))
}

/// The files that the entry of a sealed image needs, from the tree of the image as its layers give it.
pub(super) fn sealed_files(seal: &Seal, tree: &Tree) -> Result<BootFiles> {
    let addons = seal.addons.iter().map(|(name, file)| Ok((name.clone(), tree.read(file)?)));
    Ok(BootFiles::uki(tree.read(&seal.file)?, addons.collect::<Result<_>>()?))
}

/// Everything that [`origin`] and [`entry`] need to know besides the image.
pub(super) struct Provenance<'a> {
    pub(super) reference: &'a str,
    pub(super) arguments: &'a Cmdline,
    pub(super) image_arguments: &'a [String],
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
        image_arguments: context.image_arguments.to_vec(),
        os_version: resolved
            .label("org.opencontainers.image.version")
            .or_else(|| os.image_version.clone().or_else(|| os.version_id.clone())),
        os_name: Some(os.title().to_owned()),
        made_under: context.made_under.cloned(),
        number: None,
        staged: None,
    }
}

/// What the boot menu shows: number, name, version, date of staging, digest. systemd-boot shows nothing else where titles differ. A part that
/// is not known is left out.
fn title(image: &ImageId, origin: &Origin) -> String {
    let number = origin.number.map(|number| format!("{number}: ")).unwrap_or_default();
    let name = origin.os_name.clone().unwrap_or_else(|| "selkie".to_owned());
    let date = origin.staged.and_then(calendar::rfc3339).map(|moment| moment[..10].to_owned());
    let parts = [Some(name), origin.os_version.clone(), date, Some(image.short().to_owned())];
    format!("{number}{}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// The entry that boots `image`.
pub(super) fn entry(image: &ImageId, verity_required: bool, origin: &Origin, serial: u64, tries: Option<Tries>) -> EntryRequest {
    let digest = origin.manifest_digest.strip_prefix("sha256:").unwrap_or(&origin.manifest_digest);
    let short = &digest[..digest.len().min(12)];
    EntryRequest {
        root: RootImage::new(image.clone(), verity_required),
        title: title(image, origin),
        version: format!("{} ({short})", origin.os_version.as_deref().unwrap_or("unknown")),
        arguments: Cmdline::parse(&origin.kernel_arguments),
        serial,
        tries,
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
    firmware::check_starts(host, bootable)?;
    let verity_required = bootable.verity_required(store)?;
    progress.phase(format!("staging {}", id.short()));
    if let Some(unused) = bootable.unused_arguments(&Cmdline::parse(&origin.kernel_arguments)) {
        progress.note(format!(
            "the image is sealed and boots with its own kernel arguments; not used are: {unused} (a signed addon could bring them)"
        ));
    }
    let system = host.system()?;
    let serial = system.next_serial();
    // Of a root that is here already, /etc stays, and so does its number.
    let origin = &Origin { number: Some(system.number(id).unwrap_or(serial)), staged: clock::seconds(), ..origin.clone() };
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
    let tries = bootable.tries(host.config().tries)?;
    // Whoever stages a release that somebody went back from takes that back.
    if host.deployments()?.take_again(&origin.manifest_digest)? {
        progress.step("take release again");
    }
    publish(host, bootable, &entry(id, verity_required, origin, serial, tries), progress)
}

/// Makes a root that has a deployment the one that boots next, if the firmware would start it.
pub(super) fn activate(host: &Host, bootable: &Bootable, request: &EntryRequest, progress: &dyn Progress) -> Result<BootEntry> {
    firmware::check_starts(host, bootable)?;
    publish(host, bootable, request, progress)
}

/// Writes kernel and entry; when this returns, the request's root boots next.
fn publish(host: &Host, bootable: &Bootable, request: &EntryRequest, progress: &dyn Progress) -> Result<BootEntry> {
    let staged = host.boot()?.place().stage(request, &bootable.boot_files()?, progress);
    let staged = staged.with_context(|| format!("staging boot entry for {}", request.root.id.short()))?;
    // Whoever activates a root that failed here gives it a new start, with new tries.
    if host.deployments()?.forget_failed(&request.root.id)? {
        progress.step("forget failed boot");
    }
    catch_up::announce(host, request.serial, &request.root.id)?;
    let entry = staged.publish(progress)?;
    // The work is done by now: trouble with what follows does not undo it.
    if let Err(error) = catch_up::follow(host, progress) {
        progress.note(format!("bringing the other ESPs in step: {error:#}; the next verb that writes tries again"));
    }
    Ok(entry)
}
