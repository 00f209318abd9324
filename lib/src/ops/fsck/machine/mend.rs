//! Mending one finding: from leaf to root, each step durable before the next.

use anyhow::{Context, Result};

use super::decide::{Action, Standing};
use super::deployments::etc_source;
use super::facts::{Facts, boot_files};
use crate::cmdline::Cmdline;
use crate::deploy::Deployment;
use crate::deploy::check::Etc;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::ops::fsck::Options;
use crate::ops::fsck::target::Target;
use crate::ops::stage::{self, Bootable};
use crate::ops::{arguments, firmware, lasting, prune};
use crate::origin::Origin;
use crate::progress::Progress;
use crate::store::{Store, StoredImage};
use crate::sys::dir;

/// What mending needs.
pub(super) struct Mend<'a> {
    pub(super) target: &'a Target,
    pub(super) store: &'a Store,
    pub(super) options: &'a Options,
    pub(super) facts: &'a Facts,
    pub(super) progress: &'a dyn Progress,
}

impl Mend<'_> {
    /// Does what was decided.
    pub(super) fn apply(&self, action: &Action) -> Result<()> {
        match action {
            Action::MakeDeployment { id, etc_from } => self.make_deployment(id, etc_from.as_ref()),
            Action::WriteOrigin { id } => self.write_origin(id),
            Action::MakeUpper { id } => self.make_upper(id),
            Action::RequestEtc { id, from } => self.request_etc(&self.deployment(id)?, from),
            Action::SweepState => {
                self.target.deployments()?.sweep_all()?;
                self.progress.step("sweep state");
                Ok(())
            }
            Action::RestoreFile { path, root } => self.restore_file(path, root),
            Action::RestoreEntry(standing) => self.restore_entry(standing),
            Action::SetCounter { file, id, tries } => self.target.boot()?.place().set_counter(file, id, *tries, self.progress),
            Action::RemoveEntry { file } => self.target.boot()?.place().remove_entry(file, self.progress),
            Action::RemoveFile { path } => self.target.boot()?.place().remove_unneeded(path, self.progress),
            Action::ForgetOnce => self.forget_once(),
        }
    }

    fn make_deployment(&self, id: &ImageId, etc_from: Option<&ImageId>) -> Result<()> {
        let stored = self.stored(id)?;
        let origin = Origin { made_under: etc_from.cloned(), ..self.origin(id, &stored)? };
        self.tag(id, &stored.manifest_digest)?;
        let deployments = self.target.deployments()?;
        match etc_from {
            Some(from) => deployments.create_asking(id, &origin, from)?,
            None => deployments.create(id, &origin)?,
        };
        self.progress.step("create deployment");
        self.progress.note(format!("deployment {} was made again: the local changes of /etc that were made in it are lost", id.short()));
        self.sync()
    }

    fn write_origin(&self, id: &ImageId) -> Result<()> {
        let look = self.facts.deployment(id).with_context(|| format!("looking for deployment {id}"))?;
        let requested = look.request.clone().ok().flatten();
        let made_under = requested.or_else(|| (look.etc == Etc::None).then(|| etc_source(self.facts, id)).flatten());
        let origin = Origin { made_under, ..self.origin(id, &self.stored(id)?)? };
        self.target.deployments()?.create(id, &origin)?;
        self.progress.step("write origin");
        self.sync()
    }

    fn make_upper(&self, id: &ImageId) -> Result<()> {
        let tree = self.store.tree(id)?;
        let etc = tree.get("/etc")?.with_context(|| format!("looking for /etc in image {id}: there is none"))?;
        self.deployment(id)?.make_upper(etc.mode, (etc.uid, etc.gid))?;
        self.progress.step("make etc/upper");
        Ok(())
    }

    fn request_etc(&self, deployment: &Deployment, from: &ImageId) -> Result<()> {
        deployment.request_etc(from)?;
        self.progress.step("request etc");
        Ok(())
    }

    fn tag(&self, id: &ImageId, manifest: &str) -> Result<()> {
        if self.facts.image(id).is_some_and(|image| image.tagged) {
            return Ok(());
        }
        self.store.tag(manifest, &prune::tag(id))?;
        self.store.sync()?;
        self.progress.step("tag image");
        Ok(())
    }

    fn restore_file(&self, path: &str, root: &ImageId) -> Result<()> {
        let stored = self.facts.image(root).and_then(|image| image.stored.as_ref());
        let (files, _) =
            boot_files(self.store, root, stored, self.facts.tries).with_context(|| format!("reading what {path} is made of"))?;
        self.target.boot()?.place().restore_file(path, &files, self.progress)
    }

    fn restore_entry(&self, standing: &Standing) -> Result<()> {
        let root = &standing.root;
        let making = || format!("making the boot entry of {}", root.short());
        let bootable = Bootable::open(self.store, &self.stored(root)?).with_context(making)?;
        if let Some(host) = self.target.host() {
            firmware::check_starts(host, &bootable)?;
        }
        let origin = self.deployment(root)?.origin().with_context(making)?;
        let before = self.facts.live().find(|entry| entry.image == *root && entry.uki.is_none());
        let verity_required = match before {
            Some(entry) if bootable.seal().is_none() => entry.verity_required,
            _ => bootable.verity_required(self.store)?,
        };
        let mut request = stage::entry(root, verity_required, &origin, standing.serial, standing.tries);
        // An entry may have been given other arguments than the deployment was made with.
        if let Some(entry) = before {
            request.arguments = entry.arguments.clone();
        }
        self.sync()?;
        let staged = self.target.boot()?.place().stage(&request, &bootable.boot_files()?, self.progress).with_context(making)?;
        let live = staged.publish(self.progress)?;
        match &standing.instead_of {
            Some(file) if *file != live.file => self.target.boot()?.place().remove_entry(file, self.progress),
            _ => Ok(()),
        }
    }

    fn forget_once(&self) -> Result<()> {
        let host = self.target.host().context("removing the choice of one boot: this machine does not run")?;
        host.boot_once(None)?;
        self.progress.step("forget one boot");
        Ok(())
    }

    /// The origin of a root, from all that is left that knows of it.
    fn origin(&self, id: &ImageId, stored: &StoredImage) -> Result<Origin> {
        let bootable = Bootable::open(self.store, stored)?;
        let neighbour = self.neighbour(id);
        let image = self.reference(id, neighbour)?;
        let entry = self.facts.place.iter().flat_map(|place| &place.entries).find(|entry| self.facts.root_of(entry) == Some(id));
        let live = entry.and_then(|entry| entry.live());
        let arguments = match live.filter(|entry| entry.uki.is_none()) {
            Some(entry) => entry.arguments.clone(),
            None => match neighbour {
                Some(origin) => Cmdline::parse(&origin.kernel_arguments),
                None => arguments::of_machine(&[])?,
            },
        };
        let of_images = neighbour.map(|origin| origin.image_arguments.clone()).unwrap_or_default();
        Ok(Origin {
            version: Origin::VERSION,
            image,
            manifest_digest: stored.manifest_digest.clone(),
            index_digest: None,
            config_digest: stored.config_digest.clone(),
            image_arguments: of_images.into_iter().filter(|argument| arguments.args().any(|known| known == argument)).collect(),
            kernel_arguments: arguments.to_string(),
            os_version: bootable.os.image_version.clone().or_else(|| bootable.os.version_id.clone()),
            os_name: Some(bootable.os.title().to_owned()),
            made_under: None,
            number: live.map(|entry| entry.serial).or(entry.and_then(|entry| entry.name.as_ref()).map(|name| name.serial)),
            staged: None,
        })
    }

    /// The reference that a root followed: as the call says, as a record of its failure says, or as its neighbour does.
    fn reference(&self, id: &ImageId, neighbour: Option<&Origin>) -> Result<String> {
        if let Some(image) = &self.options.image {
            return Ok(lasting::from_root(image)?.to_string());
        }
        let failed = self.facts.state.iter().flat_map(|state| &state.failed).find(|failed| failed.id == *id);
        if let Some(image) = failed.and_then(|failed| failed.image.clone()) {
            return Ok(image);
        }
        let Some(neighbour) = neighbour else {
            let message = format!("making the origin of deployment {}: which image it followed is not known", id.short());
            return Err(Failure::new(FailureKind::NotFound, message).hint("name it with --image").into());
        };
        let image = neighbour.image.clone();
        self.progress
            .note(format!("deployment {} is taken to follow {image}, as another does; `selkie switch IMAGE` changes that", id.short()));
        Ok(image)
    }

    /// An origin to learn from: that of the root that runs, else of the one that was activated last, else any.
    fn neighbour(&self, id: &ImageId) -> Option<&Origin> {
        let mut entries: Vec<_> = self.facts.live().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.serial));
        let deployed = self.facts.state.iter().flat_map(|state| &state.deployments).map(|deployment| &deployment.id);
        let roots = self.facts.booted.iter().chain(entries.into_iter().map(|entry| &entry.image)).chain(deployed);
        roots.filter(|root| *root != id).find_map(|root| self.facts.deployment(root)?.origin.as_ref().ok())
    }

    fn stored(&self, id: &ImageId) -> Result<StoredImage> {
        match self.facts.image(id).and_then(|image| image.stored.clone()) {
            Some(stored) => Ok(stored),
            None => prune::stored(self.store, id),
        }
    }

    fn deployment(&self, id: &ImageId) -> Result<Deployment> {
        self.target.deployments()?.get(id)?.with_context(|| format!("looking for deployment {id}: there is none"))
    }

    fn sync(&self) -> Result<()> {
        dir::sync_filesystem(self.target.sysroot()?).context("syncing the physical root")?;
        self.progress.step("sync root");
        Ok(())
    }
}
