//! `selkie disk`: a bootable disk image of an OCI image, made wholly in user space.
//!
//! The image is pulled into a scratch repository; its objects move into the root file system, already sealed with fs-verity, beside
//! the first deployment and a `/var` seeded from the image. Same image, same options: same bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::arguments;
use super::firmware;
use super::prune;
use super::pull::{self, Pulled};
use super::runtime::block_on;
use super::seal;
use super::stage::{self, Bootable, Provenance};
use crate::boot;
use crate::cmdline::Cmdline;
use crate::disk::{self, Content, EspTree, Format, Layout, RootTree};
use crate::error::{Failure, FailureKind};
use crate::image::{Resolved, Source, SourceOptions};
use crate::image_id::Algorithm;
use crate::kargs;
use crate::origin::Origin;
use crate::progress::Progress;
use crate::reference::{ImageReference, Transport};
use crate::store::{self, Store, Verity};
use crate::sys::dir;
use crate::sys::scratch::Scratch;

mod enrolment;
mod root;

use enrolment::Keys;

/// What to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// The image.
    pub image: ImageReference,
    /// The reference that the installed machine follows, where it is another than `image`.
    pub target_image: Option<ImageReference>,
    /// How to reach the image.
    pub source: SourceOptions,
    /// fs-verity algorithm of the machine's repository; SHA-256 by default.
    pub algorithm: Option<Algorithm>,
    /// Where to write. Must not exist.
    pub output: PathBuf,
    /// File format.
    pub format: Format,
    /// Size of the whole disk in bytes; by default as large as the parts need.
    pub size: Option<u64>,
    /// Size of the root partition in bytes.
    pub root_size: Option<u64>,
    /// Size of the EFI system partition in bytes.
    pub esp_size: Option<u64>,
    /// Kernel arguments besides those that booting needs.
    pub arguments: Vec<String>,
    /// Secure Boot keys that the machine enrols at its first boot.
    pub secure_boot: Option<SecureBoot>,
    /// The time that everything made here bears, in seconds since 1970.
    pub mtime: u64,
}

/// Enrolment of Secure Boot keys by systemd-boot.
#[derive(Debug, Clone)]
pub struct SecureBoot {
    /// Directory with `PK.auth`, `KEK.auth`, `db.auth` and possibly `dbx.auth`.
    pub keys: PathBuf,
    /// Whether to enrol on real machines, too, where keys that lack those of the vendor can make the firmware refuse its own parts; in a
    /// virtual machine that cannot happen, and nobody is asked.
    pub force: bool,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// The file.
    pub output: PathBuf,
    /// Its size as a disk, in bytes.
    pub size: u64,
    /// What was pulled; `boot-image` is the root that the machine will report. Its repository is sealed on the disk.
    pub pulled: Pulled,
    /// The reference that the machine follows.
    pub target_image: String,
    /// Seconds that pulling the image took.
    pub seconds_pull: f64,
    /// Seconds that everything else took: the overhead over a plain pull.
    pub seconds_disk: f64,
}

/// Runs the verb.
pub fn run(options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    disk::check_output(&options.output)?;
    let arguments = arguments::of_machine(&options.arguments)?;
    let keys = options.secure_boot.as_ref().map(Keys::read).transpose()?;
    check_target(options, progress.as_ref())?;
    let beside = options.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = Scratch::make(beside)?;
    let started = Instant::now();
    let (store, resolved, pulled) = block_on(async {
        let source = Source::open(&options.image, &options.source, progress.as_ref()).await?;
        let resolved = source.resolved().clone();
        let algorithm = seal::algorithm(&resolved, options.algorithm)?;
        // Never sealed: the objects get their seals as they move into the image, and a sealed file cannot be changed any more.
        let store = Store::open_or_init(dir::open_path(scratch.path())?, store::DIRECTORY, algorithm, Verity::Never)?;
        let pulled = pull::fetch_to_scratch(&store, &source, progress).await?;
        source.close().await?;
        anyhow::Ok((store, resolved, pulled))
    })?;
    store.tag(&pulled.stored_manifest, &prune::tag(&pulled.boot_image))?;
    let seconds_pull = started.elapsed().as_secs_f64();
    let bootable = Bootable::open(&store, &pulled.stored())?;
    if bootable.seal().is_some() && !options.arguments.is_empty() {
        let message = "making a disk: the image is sealed and boots with its own kernel arguments (expected no --karg)";
        return Err(Failure::new(FailureKind::Usage, message)
            .hint("bring them by `selkie seal --karg` or `--addon`, where they get signed")
            .into());
    }
    let architecture = resolved.architecture()?;
    if let Some(keys) = &keys {
        require_signatures(keys, &bootable, &architecture)?;
    }
    let image_arguments = bootable.kargs(&resolved)?;
    let machine = Machine {
        arguments: kargs::carry(&arguments, &[], &image_arguments),
        image_arguments,
        options,
        store: &store,
        resolved: &resolved,
        pulled: &pulled,
        bootable: &bootable,
        architecture,
    };
    let size = machine.write(scratch.path(), keys, progress.as_ref())?;
    let seconds_disk = started.elapsed().as_secs_f64() - seconds_pull;
    let target_image = machine.target();
    let pulled = Pulled { verity: true, ..pulled };
    Ok(Report { output: options.output.clone(), size, target_image, pulled, seconds_pull, seconds_disk })
}

/// What the machine follows has to be something that it can follow.
fn check_target(options: &Options, progress: &dyn Progress) -> Result<()> {
    let refused = |found: String| {
        let failure = Failure::new(FailureKind::Usage, format!("making a disk: {found}, and the new machine could not follow it"));
        Err(failure.hint("name what it follows: --target-image quay.io/acme/os:stable").into())
    };
    let Some(target) = &options.target_image else {
        return match options.image.transport() {
            Transport::Registry => Ok(()),
            _ => refused(format!("{} is a place on this machine", options.image)),
        };
    };
    match target.transport() {
        Transport::Registry => return Ok(()),
        Transport::ContainersStorage => {}
        Transport::Oci | Transport::OciArchive | Transport::DockerArchive if Path::new(target.name()).is_absolute() => {}
        _ => return refused(format!("{target} is a path from a working directory (expected one from the root)")),
    }
    progress.note(format!("the machine follows {target}, a place of its own: it finds updates where somebody puts them there"));
    Ok(())
}

/// With keys enrolled, the firmware starts nothing that is not signed by one of them.
fn require_signatures(keys: &Keys, bootable: &Bootable, architecture: &str) -> Result<()> {
    let (_, loader) = bootable.loader(architecture)?;
    let Some(found) = firmware::objection(&keys.trust()?, bootable, &[("the boot loader", &loader)])? else { return Ok(()) };
    let message = format!(
        "making a disk with Secure Boot keys: {found}, and the machine would not boot (expected an image sealed with a key that db.auth has)"
    );
    Err(Failure::new(FailureKind::Unsuitable, message)
        .hint(
            "seal the image with such a key: selkie seal --key FILE --cert FILE; or put the certificate of the one that signed it into db",
        )
        .into())
}

/// Everything that the machine on the disk is made of.
struct Machine<'a> {
    options: &'a Options,
    store: &'a Store,
    resolved: &'a Resolved,
    pulled: &'a Pulled,
    bootable: &'a Bootable,
    arguments: Cmdline,
    image_arguments: Vec<String>,
    /// As OCI names it.
    architecture: String,
}

impl Machine<'_> {
    fn write(&self, scratch: &Path, keys: Option<Keys>, progress: &dyn Progress) -> Result<u64> {
        let target = self.target();
        let provenance =
            Provenance { reference: &target, arguments: &self.arguments, image_arguments: &self.image_arguments, made_under: None };
        let origin = Origin { number: Some(1), ..stage::origin(self.resolved, self.pulled, &self.bootable.os, &provenance) };
        let esp = self.esp(&origin, keys)?;
        let root = self.root(&scratch.join(store::DIRECTORY), &origin)?;
        let written = disk::write(&self.layout()?, &esp, &root, scratch, &self.options.output, progress)?;
        Ok(written.size)
    }

    fn target(&self) -> String {
        self.options.target_image.as_ref().unwrap_or(&self.options.image).to_string()
    }

    fn layout(&self) -> Result<Layout> {
        let mut seed = openssl::sha::Sha256::new();
        for part in [self.pulled.boot_image.hex(), &self.pulled.manifest_digest, &self.target(), &self.arguments.to_string()] {
            seed.update(part.as_bytes());
            seed.update(b"\0");
        }
        let Options { size, esp_size, root_size, mtime, format, .. } = *self.options;
        let root_type = disk::root_partition_type(&self.architecture).ok_or_else(|| {
            let message =
                format!("making a disk: the image is for architecture {} (expected one with a root partition type)", self.architecture);
            Failure::new(FailureKind::Unsuitable, message)
        })?;
        Ok(Layout { seed: seed.finish(), size, esp_size, root_size, mtime, format, root_type })
    }

    fn esp(&self, origin: &Origin, keys: Option<Keys>) -> Result<EspTree> {
        let (loader, loader_bytes) = self.bootable.loader(&self.architecture)?;
        let mut esp = EspTree::new();
        esp.add_file(&format!("EFI/BOOT/BOOT{}.EFI", loader.to_uppercase()), Content::Bytes(loader_bytes.clone()))?;
        esp.add_file(&format!("EFI/systemd/systemd-boot{loader}.efi"), Content::Bytes(loader_bytes))?;
        let mut configuration = boot::LOADER_CONF.to_owned();
        if let Some(keys) = keys {
            configuration.push_str(&keys.configuration());
            keys.add_to(&mut esp)?;
        }
        esp.add_file("loader/loader.conf", Content::Bytes(configuration.into_bytes()))?;
        let files = self.bootable.boot_files()?;
        for file in files.iter() {
            esp.add_file(&file.path(), Content::Bytes(file.bytes().to_vec()))?;
        }
        let request = stage::entry(&self.pulled.boot_image, true, origin, 1, None);
        let entry = request.entry(&files).to_string();
        esp.add_file(&format!("{}/{}", boot::ENTRIES, request.file()), Content::Bytes(entry.into_bytes()))?;
        Ok(esp)
    }

    fn root(&self, repository: &Path, origin: &Origin) -> Result<RootTree> {
        root::tree(self.store, &self.bootable.tree, &self.pulled.boot_image, origin, repository, self.options.mtime)
    }
}
