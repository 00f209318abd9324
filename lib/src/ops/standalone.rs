//! A repository in a directory that is no machine's, as `selkie pull --repo DIR` makes it: opening it, and refusing what a machine boots from.
//!
//! In a machine's repository tags are the machine's books: what they lead to boots. Whoever takes something from there without its deployments, its boot entries and its lock
//! takes away a root. So the repository of the machine that runs is refused, by whatever path it is reached, and every other that has a deployment's tag in it, or deployments beside it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{prune, upgrade};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::store::{Store, tag_names, wait_for_others};
use crate::sys::dir;

/// Where the repository of the machine that runs is.
const OF_THIS_MACHINE: &str = "/sysroot/composefs";
/// Where its deployments are, seen from it.
const DEPLOYMENTS: &str = "../state/deploy";
/// What says that a directory is a repository: each of these, where the first is lost.
const PARTS: [&str; 2] = ["objects", "streams"];

/// What is to be done with a repository. A machine has other verbs for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Check or repair it.
    Fsck,
    /// Remove what no tag leads to.
    Gc,
    /// Remove a tag.
    Untag,
}

/// A repository of no machine.
#[derive(Debug)]
pub struct Standalone {
    path: PathBuf,
    directory: OwnedFd,
}

impl Standalone {
    /// Opens the directory, if `verb` may be used on what is in it.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where there is no repository, [`FailureKind::Usage`] for one of a machine, with the verb to use instead.
    pub fn open(path: &Path, verb: Verb) -> Result<Self> {
        Self::open_on(Path::new(OF_THIS_MACHINE), path, verb)
    }

    /// The same on a machine whose repository is at `machine`, where there is one.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn open_on(machine: &Path, path: &Path, verb: Verb) -> Result<Self> {
        let doing = format!("opening repository {}", path.display());
        let directory = dir::open_path(path).map_err(|errno| dir::unusable(doing.clone(), errno))?;
        if let Some((found, machine)) = owner(machine, &directory).with_context(|| doing.clone())? {
            let message = format!("{doing}: {found} (expected one that no machine boots from, as `selkie pull --repo DIR` makes it)");
            return Err(Failure::new(FailureKind::Usage, message).hint(instead(verb, machine)).into());
        }
        let names = dir::names(&directory).with_context(|| doing.clone())?;
        let has = |part: &str| names.iter().any(|name| name == part);
        if !has("meta.json") && !PARTS.into_iter().all(has) {
            let failure = Failure::new(FailureKind::NotFound, format!("{doing}: there is none"));
            return Err(failure.hint("name the directory of a repository; `selkie pull IMAGE --repo DIR` makes one").into());
        }
        Ok(Self { path: path.to_owned(), directory })
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on its directory.
    ///
    /// # Errors
    ///
    /// It cannot be opened once more.
    pub fn directory(&self) -> Result<OwnedFd> {
        dir::open(&self.directory, ".").with_context(|| format!("opening {}", self.path.display()))
    }

    /// The repository. Waits for who has it to himself, and says so. Open it once: a second handle would make garbage collection wait for the first.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Corrupt`] where its `meta.json` is damaged, [`FailureKind::StoreMismatch`] where its format is not ours.
    pub fn store(&self, progress: &dyn Progress) -> Result<Store> {
        wait_for_others(&self.directory, ".", progress)?;
        Store::open(dir::open_path(".").context("opening the working directory")?, &self.path)
    }

    /// A failure by damage, with what mends it.
    pub(super) fn repairable(&self, failure: Failure) -> Failure {
        failure.hint(format!(
            "`selkie fsck --repair --repo {}` repairs it; what cannot come back can be given up with `selkie untag`",
            self.path.display()
        ))
    }

    /// What there is not: a machine.
    pub(super) fn no_machine(&self) -> Failure {
        Failure::new(FailureKind::NotAHost, format!("looking for the machine of repository {}: it is no machine's", self.path.display()))
    }
}

/// Whose repository it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Machine {
    /// That of the machine that runs.
    This,
    /// That of another one.
    Other,
}

/// The machine whose repository this is, and what says so.
fn owner(machine: &Path, directory: &OwnedFd) -> Result<Option<(String, Machine)>> {
    let stat = rustix::fs::fstat(directory).context("looking at its directory")?;
    // By whatever path or mount: it is the same directory. One that this user may not even look for is not what he has opened.
    if rustix::fs::stat(machine).is_ok_and(|own| (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino)) {
        return Ok(Some(("it is the repository of this machine".to_owned(), Machine::This)));
    }
    let tags = tag_names(directory)?;
    if let Some(tag) = tags.iter().find(|tag| tag.starts_with(prune::TAG) || *tag == upgrade::DOWNLOADED) {
        return Ok(Some((format!("its tag {tag} says that it is the repository of a machine"), Machine::Other)));
    }
    // A machine that has lost its tags.
    let deployments = dir::open(directory, DEPLOYMENTS).and_then(dir::names).unwrap_or_default();
    let deployed = deployments.iter().filter_map(|name| name.to_str()).any(|name| name.parse::<ImageId>().is_ok());
    Ok(deployed.then(|| ("state/deploy beside it says that it is the repository of a machine".to_owned(), Machine::Other)))
}

/// What to use instead.
fn instead(verb: Verb, machine: Machine) -> &'static str {
    match (verb, machine) {
        (Verb::Fsck, Machine::This) => "use `selkie fsck` without --repo: it checks the deployments and what boots, too",
        (Verb::Fsck, Machine::Other) => {
            "on that machine use `selkie fsck` without --repo; from outside, `selkie fsck --sysroot DIR` with the directory where its root file system is mounted"
        }
        (Verb::Gc, Machine::This) => "use `selkie gc` without --repo: it knows what boots",
        (Verb::Gc, Machine::Other) => "on that machine use `selkie gc` without --repo: it knows what boots",
        (Verb::Untag, Machine::This) => {
            "use `selkie gc` without --repo, after `selkie unpin` where a root is pinned: tags of deployments go with them"
        }
        (Verb::Untag, Machine::Other) => {
            "on that machine use `selkie gc` without --repo, after `selkie unpin` where a root is pinned: tags of deployments go with them"
        }
    }
}
