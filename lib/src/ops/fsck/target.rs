//! What is checked: the machine that runs, one that is looked at from outside, or a repository of no machine.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::io::Errno;

use crate::boot::{Boot, Place};
use crate::deploy::Deployments;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::ops::host::Host;
use crate::ops::prune;
use crate::ops::standalone::Standalone;
use crate::progress::Progress;
use crate::store::fsck::Kept;
use crate::store::{self, Alone, Store};
use crate::sys::dir;
use crate::sys::lock::Lock;

/// Where an ESP is looked for below the physical root or beside it, when nobody names it.
const ESP_PLACES: [&str; 4] = ["efi", "boot/efi", "boot", "../esp"];

/// What to check.
#[derive(Debug)]
pub struct Target(Inner);

#[derive(Debug)]
enum Inner {
    Running(Box<Host>),
    Outside(Outside),
    Standalone(Standalone),
}

/// A machine whose file systems are mounted somewhere, from a rescue system. Nothing of it runs.
#[derive(Debug)]
struct Outside {
    sysroot: OwnedFd,
    deployments: Result<Deployments, Failure>,
    boot: Result<Boot, Failure>,
}

impl Target {
    /// The machine that runs.
    pub fn running(host: Host) -> Self {
        Self(Inner::Running(Box::new(host)))
    }

    /// A machine whose physical root is mounted at `sysroot` and its ESP at `esp`, or where it is found beside.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where `sysroot` or `esp` is no directory, [`FailureKind::NotAHost`] where `sysroot` has no repository's directory.
    pub fn outside(sysroot: &Path, esp: Option<&Path>) -> Result<Self> {
        let root = open(sysroot)?;
        if dir::open_optional(&root, store::DIRECTORY).with_context(|| opening(sysroot, store::DIRECTORY))?.is_none() {
            let message = format!(
                "checking {}: it has no directory {} (expected the physical root of a machine)",
                sysroot.display(),
                store::DIRECTORY
            );
            let hint = "name the directory where its root file system is mounted; on the running machine that is /sysroot, and --sysroot is not needed";
            return Err(Failure::new(FailureKind::NotAHost, message).hint(hint).into());
        }
        let deployments = Deployments::open(&root).map_err(|error| failure(&error));
        let esp = match esp {
            Some(path) => Ok(open(path)?),
            None => find_esp(&root, sysroot)?,
        };
        // Which partition it is, nobody knows from here, and nothing is decided by it.
        let boot = esp.map(|esp| Boot::new(Place::new("", esp), Vec::new()));
        Ok(Self(Inner::Outside(Outside { sysroot: root, deployments, boot })))
    }

    /// A repository in a directory, without anything around it.
    pub fn standalone(repository: Standalone) -> Self {
        Self(Inner::Standalone(repository))
    }

    /// Whether there is a machine: deployments, and places that it boots from.
    pub fn is_machine(&self) -> bool {
        !matches!(self.0, Inner::Standalone(_))
    }

    /// The physical root.
    ///
    /// # Errors
    ///
    /// A repository of no machine has none around it.
    pub fn sysroot(&self) -> Result<BorrowedFd<'_>> {
        match &self.0 {
            Inner::Running(host) => Ok(host.sysroot()),
            Inner::Outside(outside) => Ok(outside.sysroot.as_fd()),
            Inner::Standalone(repository) => Err(repository.no_machine().into()),
        }
    }

    /// The directory of the repository; `None` where there is none.
    pub fn repository(&self) -> Result<Option<OwnedFd>> {
        match &self.0 {
            Inner::Standalone(repository) => repository.directory().map(Some),
            _ => dir::open_optional(self.sysroot()?, store::DIRECTORY).with_context(|| format!("opening {}", store::DIRECTORY)),
        }
    }

    /// Which tags a repair keeps, wherever they lead: what a person has given a name in a repository of no machine is all that there is.
    pub(super) fn kept(&self) -> Kept {
        if self.is_machine() { Kept::Prefix(prune::TAG) } else { Kept::Tags }
    }

    /// What can be done about what does not come back, behind other advice.
    pub(super) fn way_out(&self) -> String {
        match &self.0 {
            Inner::Standalone(repository) => {
                format!("; or give it up: `selkie untag NAME --repo {0}`, then `selkie gc --repo {0}`", repository.path().display())
            }
            _ => String::new(),
        }
    }

    /// The root that runs; `None` from outside.
    pub fn booted(&self) -> Option<&ImageId> {
        match &self.0 {
            Inner::Running(host) => Some(host.booted()),
            Inner::Outside(_) | Inner::Standalone(_) => None,
        }
    }

    /// Deployments and their state.
    ///
    /// # Errors
    ///
    /// Why they are out of reach.
    pub fn deployments(&self) -> Result<&Deployments> {
        match &self.0 {
            Inner::Running(host) => host.deployments(),
            Inner::Outside(outside) => outside.deployments.as_ref().map_err(|failure| failure.clone().into()),
            Inner::Standalone(repository) => Err(repository.no_machine().into()),
        }
    }

    /// The places that the machine boots from.
    ///
    /// # Errors
    ///
    /// Why the one that booted is out of reach.
    pub fn boot(&self) -> Result<&Boot> {
        match &self.0 {
            Inner::Running(host) => host.boot(),
            Inner::Outside(outside) => outside.boot.as_ref().map_err(|failure| failure.clone().into()),
            Inner::Standalone(repository) => Err(repository.no_machine().into()),
        }
    }

    /// The running machine, for what only that has.
    pub fn host(&self) -> Option<&Host> {
        match &self.0 {
            Inner::Running(host) => Some(host),
            Inner::Outside(_) | Inner::Standalone(_) => None,
        }
    }

    /// The repository. Open it once: a second handle would make garbage collection wait for the first.
    pub fn store(&self, progress: &dyn Progress) -> Result<Store> {
        match &self.0 {
            Inner::Standalone(repository) => repository.store(progress),
            _ => Store::open(self.sysroot()?, store::DIRECTORY),
        }
    }

    /// Takes the machine's lock. From outside that is the physical root itself: nothing of that machine runs. A repository of no machine has [`Self::alone`] instead.
    pub fn lock(&self) -> Result<Option<Lock>> {
        match &self.0 {
            Inner::Running(host) => host.lock().map(Some),
            Inner::Outside(outside) => {
                let root = dir::open(&outside.sysroot, ".").context("opening the physical root")?;
                Lock::on(root, "another selkie process is checking this machine").map(Some)
            }
            Inner::Standalone(_) => Ok(None),
        }
    }

    /// Has a repository of no machine to itself, after others are done with it. Whoever works on a machine's has its lock.
    pub(super) fn alone(&self, store: &Store, progress: &dyn Progress) -> Result<Option<Alone>> {
        if self.is_machine() { Ok(None) } else { store.alone(progress).map(Some) }
    }

    /// The same for one that cannot be opened as a repository. Does not wait: somebody who has it open has opened it before it was damaged.
    pub(super) fn lock_unreadable(&self) -> Result<Option<Lock>> {
        match &self.0 {
            Inner::Standalone(repository) => Lock::on(repository.directory()?, "another process has this repository open").map(Some),
            _ => Ok(None),
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    dir::open_path(path).map_err(|errno| {
        let found = match errno {
            Errno::NOENT => "there is no such directory",
            Errno::NOTDIR => "it is no directory",
            other => return anyhow::Error::new(other).context(format!("opening {}", path.display())),
        };
        Failure::new(FailureKind::NotFound, format!("opening {}: {found}", path.display()))
            .hint("name the directory where it is mounted")
            .into()
    })
}

fn opening(sysroot: &Path, name: &str) -> String {
    format!("opening {}", sysroot.join(name).display())
}

/// The first place that has the directory of a boot loader's entries.
fn find_esp(root: &OwnedFd, sysroot: &Path) -> Result<Result<OwnedFd, Failure>> {
    for place in ESP_PLACES {
        let entries = PathBuf::from(place).join("loader/entries");
        if dir::open_optional(root, &entries).with_context(|| opening(sysroot, place))?.is_some() {
            return Ok(Ok(dir::open(root, place).with_context(|| opening(sysroot, place))?));
        }
    }
    let message = format!("looking for the ESP of {}: none of {} has loader/entries", sysroot.display(), ESP_PLACES.join(", "));
    Ok(Err(Failure::new(FailureKind::NotAHost, message).hint("mount it and name its directory with --esp")))
}

/// The reason why a part cannot be used. It outlives the first who asks, so it is kept as a failure.
fn failure(error: &anyhow::Error) -> Failure {
    let found = Failure::find(error).unwrap_or_else(|| Failure::new(FailureKind::NotAHost, String::new()));
    Failure { message: format!("{error:#}"), ..found }
}
