//! Deployments: what selkie keeps beside the images under `state/` of the physical root. It alone writes there, and mounts nothing.
//!
//! ```text
//! state/deploy/<image id>/origin.json     where the image came from
//! state/deploy/<image id>/pinned          mark: it is never removed
//! state/deploy/<image id>/etc-from.json   request: at the first boot, carry local changes of /etc from that deployment
//! state/deploy/<image id>/etc/upper       the local changes of /etc: the upper directory of its overlay
//! state/deploy/<image id>/etc/work        what that overlay needs for itself
//! state/failed/<image id>.json            a root that failed here, and why
//! state/boot/<partition uuid>.json        an EFI system partition that is kept in step with the others
//! state/left/<manifest digest>            mark: somebody went back from that release by hand
//! state/auto-update.json                  how the last automatic update went
//! state/os/default/var                    /var, shared by all deployments
//! ```

mod auto_update;
pub mod check;
pub mod etc;
mod failed;
mod left;
mod pin;
mod places;
mod skeleton;

pub use auto_update::{AutoUpdate, Outcome, StagedByUs};
pub use failed::{Cause, FailedBoot, FailedCheck};
pub use places::BootPlace;
pub use skeleton::{origin_path, skeleton};

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};

use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::origin::Origin;
use crate::record;
use crate::sys::{dir, tree};

/// Where deployments are, seen from the physical root.
pub const DEPLOY: &str = "state/deploy";
/// The one /var, seen from the physical root.
pub const VAR: &str = "state/os/default/var";

/// All state, seen from the physical root.
const STATE: &str = "state";
/// The file in a deployment that says where it came from.
pub const ORIGIN: &str = "origin.json";

/// All deployments of a machine.
#[derive(Debug)]
pub struct Deployments {
    /// The directory `state/deploy`.
    dir: OwnedFd,
    /// The directory `state`.
    state: OwnedFd,
}

/// One deployment: the state of an image, with its /etc. Where the image came from is read only when somebody asks: a boot does not.
#[derive(Debug)]
pub struct Deployment {
    /// The image.
    pub id: ImageId,
    dir: OwnedFd,
}

/// A deployment as a listing sees it: also one that cannot be used is there, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The image.
    pub id: ImageId,
    /// Where it came from, or why that cannot be read.
    pub origin: Result<Origin, String>,
    /// The deployment whose local changes of /etc its first boot carries over, while that is still to come. It must not be removed.
    pub etc_from: Option<ImageId>,
    /// Whether somebody said that it has to stay.
    pub pinned: bool,
}

/// All that is in the directory of deployments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Deployments, by image id.
    pub found: Vec<Found>,
    /// Names that are no image id, by name. They are left alone.
    pub unknown: Vec<OsString>,
    /// Roots that failed on this machine, by image id; their deployments may be gone.
    pub failed: Vec<FailedBoot>,
    /// Roots whose record of a failure cannot be read, with the reason.
    pub failed_unreadable: Vec<(ImageId, String)>,
}

impl Deployments {
    /// Opens the deployments below the physical root of a machine (`/sysroot` in a running one).
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotAHost`] when there is no `state/deploy`.
    pub fn open(physical_root: impl AsFd) -> Result<Self> {
        let found = dir::open_optional(&physical_root, DEPLOY).with_context(|| format!("opening {DEPLOY}"))?;
        let dir = found.ok_or_else(|| {
            Failure::new(FailureKind::NotAHost, format!("opening {DEPLOY}: no such directory (expected it on the root file system)"))
                .hint("this is not a machine that selkie installed, or its state directory is gone")
        })?;
        Ok(Self { dir, state: dir::open(physical_root, STATE).context("opening the state directory")? })
    }

    /// Opens the deployments below a physical root, making their directory and that of /var where they are missing.
    pub fn open_or_create(physical_root: impl AsFd) -> Result<Self> {
        dir::ensure(physical_root.as_fd(), VAR, 0o755)?;
        let dir = dir::ensure(physical_root.as_fd(), DEPLOY, 0o755)?;
        Ok(Self { dir, state: dir::open(physical_root, STATE).context("opening the state directory")? })
    }

    /// All deployments, and all else that lies there. One that cannot be read does not hide the others.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for name in dir::names(&self.dir).context("listing deployments")? {
            match name.to_str().map(str::parse::<ImageId>) {
                Some(Ok(id)) => {
                    listing.found.push(self.look_at(id));
                }
                _ if is_temporary(&name) => {}
                _ => listing.unknown.push(name),
            }
        }
        (listing.failed, listing.failed_unreadable) = self.failed_boots()?;
        Ok(listing)
    }

    fn look_at(&self, id: ImageId) -> Found {
        let opened = dir::open(&self.dir, id.hex()).context("opening its directory").map(|dir| Deployment { id: id.clone(), dir });
        // A mark that cannot be read may be there, and then nothing may be removed.
        let pinned = opened.as_ref().is_ok_and(|found| found.is_pinned().unwrap_or(true));
        // The request counts whatever the origin looks like: a boot fulfils it, and until then its source has to stay.
        let read = opened.and_then(|found| Ok((found.requested_etc()?, found.origin())));
        let (etc_from, origin) = read.unwrap_or_else(|error| (None, Err(error)));
        Found { id, origin: origin.map_err(|error| format!("{error:#}")), etc_from, pinned }
    }

    /// The deployment of an image; `None` where there is none. Nothing in it is read.
    pub fn get(&self, id: &ImageId) -> Result<Option<Deployment>> {
        let opened = dir::open_optional(&self.dir, id.hex()).with_context(|| format!("opening deployment {id}"))?;
        Ok(opened.map(|dir| Deployment { id: id.clone(), dir }))
    }

    /// Makes the deployment of an image, durably: whole, or not at all. One that exists gets the new origin and keeps its /etc.
    pub fn create(&self, id: &ImageId, origin: &Origin) -> Result<Deployment> {
        let json = record::write(origin)?;
        let existing = dir::open_optional(&self.dir, id.hex()).with_context(|| format!("opening deployment {id}"))?;
        let dir = match existing {
            Some(dir) => {
                dir::write_durably(&dir, ORIGIN, 0o644, &json)?;
                dir
            }
            None => self.create_new(id, &json, None)?,
        };
        Ok(Deployment { id: id.clone(), dir })
    }

    /// Makes a deployment that is not there, durably and whole, with the request that its first boot carries /etc from another one.
    pub fn create_asking(&self, id: &ImageId, origin: &Origin, etc_from: &ImageId) -> Result<Deployment> {
        let dir = self.create_new(id, &record::write(origin)?, Some(etc_from))?;
        Ok(Deployment { id: id.clone(), dir })
    }

    fn create_new(&self, id: &ImageId, json: &[u8], etc_from: Option<&ImageId>) -> Result<OwnedFd> {
        let temporary = temporary(id);
        tree::remove(&self.dir, &temporary)?;
        let dir = dir::ensure(&self.dir, &temporary, 0o755)?;
        dir::write_durably(&dir, ORIGIN, 0o644, json)?;
        let made = Deployment { id: id.clone(), dir };
        if let Some(from) = etc_from {
            made.request_etc(from)?;
        }
        rustix::fs::renameat(&self.dir, &temporary, &self.dir, id.hex()).with_context(|| format!("making deployment {id}"))?;
        dir::sync(&self.dir).context("syncing the directory of deployments")?;
        Ok(made.dir)
    }

    /// Removes a deployment with its /etc; whether there was one. Stopped halfway, there is no deployment any more, and [`Self::sweep`]
    /// removes what is left.
    pub fn remove(&self, id: &ImageId) -> Result<bool> {
        let temporary = temporary(id);
        tree::remove(&self.dir, &temporary)?;
        let renamed = dir::optional(rustix::fs::renameat(&self.dir, id.hex(), &self.dir, &temporary));
        if renamed.with_context(|| format!("removing deployment {id}"))?.is_none() {
            return Ok(false);
        }
        dir::sync(&self.dir).context("syncing the directory of deployments")?;
        tree::remove(&self.dir, &temporary)
    }

    /// Removes what stopped calls of [`Self::create`] and [`Self::remove`] left; how many there were.
    pub fn sweep(&self) -> Result<usize> {
        let left: Vec<_> = dir::names(&self.dir).context("listing deployments")?.into_iter().filter(|n| is_temporary(n)).collect();
        for name in &left {
            tree::remove(&self.dir, name)?;
        }
        Ok(left.len())
    }
}

impl Deployment {
    /// Where the image came from.
    ///
    /// # Errors
    ///
    /// There is no such file, it is damaged, or a newer selkie wrote it. Such a deployment boots all the same.
    pub fn origin(&self) -> Result<Origin> {
        let json = dir::read_optional(&self.dir, ORIGIN)?.with_context(|| format!("reading {ORIGIN}: no such file"))?;
        record::read(&json).with_context(|| format!("reading {ORIGIN}"))
    }
}

fn temporary(id: &ImageId) -> String {
    format!("{}{id}", dir::TEMPORARY)
}

fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(dir::TEMPORARY.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn id(byte: &str) -> ImageId {
        byte.repeat(32).parse().unwrap()
    }

    fn origin(image: &str) -> Origin {
        Origin {
            version: Origin::VERSION,
            image: image.into(),
            manifest_digest: "sha256:aa".into(),
            index_digest: None,
            config_digest: "sha256:bb".into(),
            kernel_arguments: "rw".into(),
            image_arguments: vec![],
            os_version: None,
            os_name: None,
            made_under: None,
            number: None,
            staged: None,
        }
    }

    fn open(root: &Path) -> Deployments {
        Deployments::open_or_create(dir::open_path(root).unwrap()).unwrap()
    }

    #[test]
    fn a_deployment_comes_and_goes() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = open(temp.path());
        assert_eq!(deployments.list().unwrap(), Listing::default());
        assert!(deployments.get(&id("ab")).unwrap().is_none());
        deployments.create(&id("ab"), &origin("one")).unwrap();
        assert_eq!(deployments.get(&id("ab")).unwrap().unwrap().origin().unwrap(), origin("one"));
        assert!(temp.path().join(VAR).is_dir());
        assert!(deployments.remove(&id("ab")).unwrap());
        assert!(!deployments.remove(&id("ab")).unwrap());
        assert_eq!(deployments.list().unwrap(), Listing::default());
    }

    #[test]
    fn making_it_again_keeps_its_etc() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = open(temp.path());
        deployments.create(&id("ab"), &origin("one")).unwrap();
        let upper = temp.path().join(DEPLOY).join(id("ab").hex()).join("etc/upper");
        std::fs::create_dir_all(&upper).unwrap();
        deployments.create(&id("ab"), &origin("two")).unwrap();
        assert_eq!(deployments.list().unwrap().found, [Found { id: id("ab"), origin: Ok(origin("two")), etc_from: None, pinned: false }]);
        assert!(upper.is_dir());
    }

    #[test]
    fn one_bad_entry_does_not_hide_the_others() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = open(temp.path());
        let at = temp.path().join(DEPLOY);
        deployments.create(&id("cc"), &origin("fine")).unwrap();
        std::fs::create_dir(at.join(id("aa").hex())).unwrap();
        std::fs::create_dir(at.join(id("bb").hex())).unwrap();
        std::fs::write(at.join(id("bb").hex()).join(ORIGIN), "{").unwrap();
        std::fs::write(at.join("README"), "hello").unwrap();
        std::fs::create_dir_all(at.join(temporary(&id("dd"))).join("etc")).unwrap();
        let listing = deployments.list().unwrap();
        let why: Vec<_> =
            listing.found.iter().map(|f| f.origin.as_ref().map(|o| o.image.clone()).map_err(|e| e[..14].to_owned())).collect();
        assert_eq!(why, [Err("reading origin".into()), Err("reading origin".into()), Ok("fine".into())]);
        assert_eq!(listing.unknown, ["README"]);
        assert_eq!(deployments.sweep().unwrap(), 1);
        assert_eq!(deployments.list().unwrap(), listing);
    }

    #[test]
    fn a_machine_without_state_is_no_host() {
        let temp = tempfile::tempdir().unwrap();
        let error = Deployments::open(dir::open_path(temp.path()).unwrap()).unwrap_err();
        assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::NotAHost);
    }
}
