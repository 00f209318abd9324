//! What is known of the machine: its state directory, its place to boot from, and the images that its roots need. Read at once, so that what
//! follows from it is decided without input or output.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use anyhow::{Result, anyhow};

use crate::boot::{self, Choice, EntryName, Reading, Tries};
use crate::config::Config;
use crate::deploy::check as deploy;
use crate::error::Failure;
use crate::image_id::ImageId;
use crate::ops::fsck::machine::Inspected;
use crate::ops::fsck::target::Target;
use crate::ops::prune;
use crate::ops::stage::{BootKind, Bootable};
use crate::store::fsck::pool;
use crate::store::{self, Store, StoredImage, Tree};

/// Everything that a decision is made on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Facts {
    /// The root that runs; `None` from outside.
    pub(super) booted: Option<ImageId>,
    /// The state directory, where it can be read.
    pub(super) state: Option<deploy::Inspection>,
    /// The place that it boots from, where that can be read.
    pub(super) place: Option<boot::Inspection>,
    /// The image of every root that has a deployment, an entry or a tag of a deployment. `None` where the repository cannot be opened.
    pub(super) images: Option<BTreeMap<ImageId, Image>>,
    /// What the firmware is told to boot.
    pub(super) choices: Vec<Choice>,
    /// How often the boot loader tries a root that has not proven itself, as the machine is configured.
    pub(super) tries: u32,
    /// What cannot be read, and why.
    pub(super) unchecked: Vec<String>,
}

/// What the repository has for a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// Whether its file system is there.
    pub(super) there: bool,
    /// Whether the tag of a deployment keeps it.
    pub(super) tagged: bool,
    /// The image that it is the root of, where the repository has all of that.
    pub(super) stored: Option<StoredImage>,
    /// The files that its entry needs on the ESP, or why they cannot be read.
    pub(super) files: Result<Vec<BootFile>, String>,
    /// How often the boot loader may try a root of this image that has not proven itself.
    pub(super) tries: Option<Tries>,
}

/// A file that an entry needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootFile {
    /// Where it lies, from the root of the ESP.
    pub(super) path: String,
    /// Its bytes.
    pub(super) size: u64,
}

impl Facts {
    /// Reads the machine. What cannot be read is told, and decides nothing.
    pub(super) fn read(target: &Target, repository: Option<Inspected<'_>>) -> Self {
        let mut unchecked = Vec::new();
        let state = known(target.deployments().and_then(|deployments| deployments.inspect()), &mut unchecked);
        let place = known(target.boot().and_then(|boot| boot.place().inspect()), &mut unchecked);
        let mut choices = Vec::new();
        if let Some(host) = target.host() {
            let (read, unreadable) = host.choices();
            choices = read;
            unchecked.extend(unreadable);
        }
        let tries = target.host().map_or_else(Config::default, |host| host.config().clone()).tries;
        let booted = target.booted().cloned();
        let mut facts = Self { booted, state, place, images: None, choices, tries, unchecked: Vec::new() };
        if let Some(repository) = repository {
            facts.images = known(facts.read_images(repository), &mut unchecked);
        }
        facts.unchecked = unchecked;
        facts
    }

    fn read_images(&self, repository: Inspected<'_>) -> Result<BTreeMap<ImageId, Image>> {
        let tags = repository.store.tags()?;
        let tagged: BTreeSet<ImageId> = tags.iter().filter_map(|(tag, _)| tag.strip_prefix(prune::TAG)?.parse().ok()).collect();
        let mut roots: BTreeSet<ImageId> = tagged.iter().chain(&self.booted).cloned().collect();
        roots.extend(self.live().map(|entry| entry.image.clone()));
        for deployment in self.state.iter().flat_map(|state| &state.deployments) {
            roots.insert(deployment.id.clone());
            roots.extend(deployment.request.iter().flatten().cloned());
        }
        let roots: Vec<ImageId> = roots.into_iter().collect();
        let kernels = Kernels::default();
        let read = |root: &ImageId| self.read_image(repository, &kernels, root, &tags, tagged.contains(root));
        let images = pool::each(&roots, || (), |(), root| Ok(read(root)))?;
        Ok(roots.into_iter().zip(images).collect())
    }

    fn read_image(&self, repository: Inspected<'_>, kernels: &Kernels, root: &ImageId, tags: &[(String, String)], tagged: bool) -> Image {
        let there = repository.store.image_size(root).is_ok_and(|size| size.is_some());
        if !there {
            return Image { there, tagged, stored: None, files: Err("the repository has no such image".to_owned()), tries: None };
        }
        let stored = self.stored(repository, root, tags);
        let (files, tries) = match kernels.files_of(repository.store, root, stored.as_ref(), self.tries) {
            Ok((files, tries)) => (Ok(files), tries),
            Err(error) => (Err(format!("{error:#}")), None),
        };
        Image { there, tagged, stored, files, tries }
    }

    /// The image with this root: by the tag of its deployment, by its origin, or by any other tag.
    fn stored(&self, Inspected { store, inspection }: Inspected<'_>, root: &ImageId, tags: &[(String, String)]) -> Option<StoredImage> {
        let own = prune::tag(root);
        let tagged = tags.iter().filter(|(tag, _)| *tag == own).chain(tags).map(|(_, manifest)| manifest.as_str());
        let origin = self.deployment(root).and_then(|deployment| deployment.origin.as_ref().ok());
        let mut manifests: Vec<&str> = tagged.collect();
        manifests.insert(manifests.len().min(1), origin.map_or("", |origin| origin.manifest_digest.as_str()));
        let find = |manifest: &&str| store.find_inspected(manifest, inspection).ok().flatten().filter(|stored| stored.boot_image == *root);
        manifests.iter().find_map(find)
    }

    /// Every entry that names a root.
    pub(super) fn live(&self) -> impl Iterator<Item = &boot::BootEntry> {
        self.place.iter().flat_map(|place| &place.entries).filter_map(boot::EntryLook::live)
    }

    /// The deployment of a root.
    pub(super) fn deployment(&self, root: &ImageId) -> Option<&deploy::Look> {
        self.state.as_ref()?.deployments.iter().find(|deployment| deployment.id == *root)
    }

    /// What the repository has for a root.
    pub(super) fn image(&self, root: &ImageId) -> Option<&Image> {
        self.images.as_ref()?.get(root)
    }

    /// Whether a root has failed on this machine.
    pub(super) fn has_failed(&self, root: &ImageId) -> bool {
        let Some(state) = &self.state else { return false };
        state.failed.iter().any(|failed| failed.id == *root) || state.failed_unreadable.iter().any(|(id, _)| id == root)
    }

    /// The one root of this machine whose digits begin so.
    pub(super) fn root_named(&self, name: &EntryName) -> Option<&ImageId> {
        let deployed = self.state.iter().flat_map(|state| &state.deployments).map(|deployment| &deployment.id);
        let tagged = self.images.iter().flatten().filter(|(_, image)| image.tagged).map(|(root, _)| root);
        let roots: BTreeSet<&ImageId> = deployed.chain(tagged).chain(&self.booted).filter(|root| root.short() == name.short).collect();
        (roots.len() == 1).then(|| roots.first().copied())?
    }

    /// The root of an entry: the one that it names, else the one that its file name is for.
    pub(super) fn root_of<'f>(&'f self, entry: &'f boot::EntryLook) -> Option<&'f ImageId> {
        match &entry.reading {
            Reading::Live(live) => Some(&live.image),
            Reading::Dead | Reading::Garbage { .. } => self.root_named(entry.name.as_ref()?),
        }
    }

    /// Whether an entry of this root can be made from what is here, or may be once the repository is repaired.
    pub(super) fn can_make_entry(&self, root: &ImageId) -> bool {
        self.image(root).is_some_and(|image| image.stored.is_some() || image.tagged)
    }
}

/// The files of a root. Without the image around it, only a kernel can be found: what was sealed is not in the root itself.
pub(super) fn boot_files(
    store: &Store,
    root: &ImageId,
    stored: Option<&StoredImage>,
    most: u32,
) -> Result<(boot::BootFiles, Option<Tries>)> {
    if let Some(stored) = stored {
        let bootable = Bootable::open(store, stored)?;
        return Ok((bootable.boot_files()?, bootable.tries(most)?));
    }
    let tree = store.tree(root)?;
    let kernel = store::kernel(&tree)?;
    Ok((boot::BootFiles::kernel(tree.read(&kernel.kernel)?, tree.read(&kernel.initrd)?), None))
}

/// Kernels with the files that they are on the ESP: most roots of a machine share one.
#[derive(Default)]
struct Kernels(Mutex<Vec<(store::Kernel, Vec<BootFile>)>>);

impl Kernels {
    /// The files of a root as [`boot_files`] makes them, without their bytes, and how often it may be tried.
    fn files_of(&self, store: &Store, root: &ImageId, stored: Option<&StoredImage>, most: u32) -> Result<(Vec<BootFile>, Option<Tries>)> {
        let Some(stored) = stored else {
            let tree = store.tree(root)?;
            return Ok((self.files(&tree, &store::kernel(&tree)?)?, None));
        };
        let bootable = Bootable::open(store, stored)?;
        let files = match &bootable.kind {
            BootKind::Plain(kernel) => self.files(&bootable.tree, kernel)?,
            BootKind::Sealed(..) => {
                let files = bootable.boot_files()?;
                files.iter().map(|file| BootFile { path: file.path(), size: file.bytes().len() as u64 }).collect()
            }
        };
        Ok((files, bootable.tries(most)?))
    }

    /// The files of a kernel, which are read once.
    fn files(&self, tree: &Tree, kernel: &store::Kernel) -> Result<Vec<BootFile>> {
        let mut known = self.0.lock().map_err(|_| anyhow!("a thread of the check ended early"))?;
        if let Some((_, files)) = known.iter().find(|(other, _)| other == kernel) {
            return Ok(files.clone());
        }
        let [initrd, linux] = boot::BootFiles::kernel_paths(&tree.digest(&kernel.kernel)?, &tree.digest(&kernel.initrd)?);
        let files = vec![BootFile { path: initrd, size: kernel.initrd.size }, BootFile { path: linux, size: kernel.kernel.size }];
        known.push((kernel.clone(), files.clone()));
        Ok(files)
    }
}

fn known<T>(read: Result<T>, unchecked: &mut Vec<String>) -> Option<T> {
    read.map_err(|error| {
        let hint = Failure::find(&error).and_then(|failure| failure.hint).map(|hint| format!("; {hint}")).unwrap_or_default();
        unchecked.push(format!("{error:#}{hint}"));
    })
    .ok()
}
