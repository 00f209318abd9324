//! The /etc of a deployment: an upper and a work directory, and how they come to be.
//!
//! A deployment that is staged gets a *request* to carry the local changes from the one that runs; the first boot of the new deployment
//! fulfils it, so that every edit made until shutdown is in it and nothing has to run at shutdown. A fresh directory is built aside
//! and put in place by one rename. Stopped anywhere, the next call goes on and ends with the same state:
//!
//! ```text
//! etc-from.json   the request, removed last
//! etc.new         the fresh directory while it is built; right after the exchange, the directory that it replaced
//! etc/carried     says that the fresh directory is in place
//! etc.replaced    what was there before (.2, .3 … where there are several)
//! ```

mod apply;
mod entry;
mod plan;
mod touched;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use self::apply::apply;
pub use self::entry::{Entry, Kind, Tree, View};
pub use self::plan::{Action, Clash, Conflict, Plan, plan};
pub use self::touched::{Below, Touched, walk};
use super::Deployment;
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::sys::{dir, tree};

const ETC: &str = "etc";
const REQUEST: &str = "etc-from.json";
const FRESH: &str = "etc.new";
const CARRIED: &str = "carried";
const REPLACED: &str = "etc.replaced";

/// What has to be done before the /etc of a deployment can be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcState {
    /// Nothing.
    Ready,
    /// It has none yet: [`Deployment::make_etc`].
    Missing,
    /// Local changes of that deployment have to be carried: [`Deployment::carry_etc`].
    Requested(ImageId),
}

/// Upper and work directory of an overlay.
#[derive(Debug)]
pub struct EtcDirs {
    /// The local changes.
    pub upper: OwnedFd,
    /// For the overlay's own use.
    pub work: OwnedFd,
}

/// The directories that a carry looks at.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// /etc of the image that ran before, as it was shipped.
    pub base: BorrowedFd<'a>,
    /// /etc of the deployment that ran before, as it was last seen: image and upper, merged.
    pub local: BorrowedFd<'a>,
    /// The upper directory of that deployment, as it lies on disk; `None` when it never had one.
    pub upper: Option<BorrowedFd<'a>>,
    /// /etc of the new image, as it is shipped.
    pub new: BorrowedFd<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    from: ImageId,
}

impl Deployment {
    /// Asks the first boot of this deployment to carry the local changes of /etc from deployment `from`. Durable.
    ///
    /// # Errors
    ///
    /// `from` is this deployment itself: its local changes are where they belong.
    pub fn request_etc(&self, from: &ImageId) -> Result<()> {
        if *from == self.id {
            bail!("requesting /etc of {} for itself (expected another deployment)", self.id.short());
        }
        self.settle_etc()?;
        if let Some(etc) = dir::open_optional(&self.dir, ETC).context("opening etc")? {
            dir::remove_file(etc, CARRIED)?;
        }
        let request = serde_json::to_vec(&Request { from: from.clone() })?;
        dir::write_durably(&self.dir, REQUEST, 0o644, &request)
    }

    /// Which deployment this one is asked to carry /etc from; `None` where there is no request.
    pub fn requested_etc(&self) -> Result<Option<ImageId>> {
        let Some(bytes) = dir::read_optional(&self.dir, REQUEST)? else { return Ok(None) };
        let request: Request = serde_json::from_slice(&bytes).with_context(|| format!("reading {REQUEST}"))?;
        Ok(Some(request.from))
    }

    /// Ends a carry that was stopped after its exchange, and tells what is left to do.
    pub fn prepare_etc(&self) -> Result<EtcState> {
        let preparing = || format!("preparing /etc of deployment {}", self.id);
        self.settle_etc().with_context(preparing)?;
        if let Some(from) = self.requested_etc().with_context(preparing)? {
            return Ok(EtcState::Requested(from));
        }
        let etc = dir::open_optional(&self.dir, ETC).with_context(preparing)?;
        Ok(if etc.is_some() { EtcState::Ready } else { EtcState::Missing })
    }

    /// The directories to mount, once there are any; `None` for a deployment that never had an /etc.
    pub fn etc_dirs(&self) -> Result<Option<EtcDirs>> {
        let opening = |name| move || format!("opening etc/{name} of a deployment");
        let Some(etc) = dir::open_optional(&self.dir, ETC).with_context(opening(""))? else { return Ok(None) };
        let upper = dir::open(&etc, "upper").with_context(opening("upper"))?;
        Ok(Some(EtcDirs { upper, work: dir::ensure(&etc, "work", 0o700)? }))
    }

    /// Makes an /etc without local changes. `image_etc` is that of the image; what is mounted shows its metadata.
    pub fn make_etc(&self, image_etc: impl AsFd) -> Result<()> {
        let making = || format!("making /etc of deployment {}", self.id);
        let fresh = self.fresh_etc().with_context(making)?;
        apply::copy_root_metadata(image_etc.as_fd(), fresh.upper.as_fd()).with_context(making)?;
        dir::sync_filesystem(&self.dir).with_context(making)?;
        self.rename(FRESH, ETC, RenameFlags::NOREPLACE).with_context(making)
    }

    /// Carries the local changes of `sources` into a fresh /etc and puts that in place of this deployment's own, which is kept
    /// as `etc.replaced`. Removes the request. Returns what the two sides did not agree on; the local state was kept there.
    pub fn carry_etc(&self, sources: &Sources<'_>, progress: &dyn Progress) -> Result<Vec<Conflict>> {
        let local = Tree(sources.local);
        let fresh = self.fresh_etc()?;
        let touched = sources.upper.map(touched::walk).transpose().context("reading the local changes of the old deployment")?;
        let plan = plan(&Tree(sources.base), &local, &Tree(sources.new), &touched.unwrap_or_default()).context("comparing /etc")?;
        apply(&plan.actions, &local, &fresh.upper)?;
        let fresh = dir::open(&self.dir, FRESH).context("opening the fresh /etc")?;
        dir::write_durably(&fresh, CARRIED, 0o644, b"")?;
        dir::sync_filesystem(&self.dir).context("syncing the fresh /etc")?;
        progress.step("build /etc");
        self.exchange_etc().context("putting the fresh /etc in place")?;
        progress.step("exchange /etc");
        self.keep_replaced_etc()?;
        progress.step("keep replaced /etc");
        dir::remove_file(&self.dir, REQUEST)?;
        progress.step("remove /etc request");
        Ok(plan.conflicts)
    }

    /// Ends what was stopped between the exchange and the removal of the request; does nothing else.
    fn settle_etc(&self) -> Result<()> {
        let Some(etc) = dir::open_optional(&self.dir, ETC).context("opening etc")? else { return Ok(()) };
        let exchanged = dir::read_optional(&etc, CARRIED)?.is_some() && dir::read_optional(&self.dir, REQUEST)?.is_some();
        if exchanged {
            self.keep_replaced_etc()?;
            dir::remove_file(&self.dir, REQUEST)?;
        }
        Ok(())
    }

    /// An empty directory with upper and work, aside. What an attempt before left there is removed: it was never in place.
    fn fresh_etc(&self) -> Result<EtcDirs> {
        tree::remove(&self.dir, FRESH)?;
        let fresh = dir::ensure(&self.dir, FRESH, 0o755)?;
        // 0755: an overlay shows the mode of its upper directory, and everyone must be able to enter /etc.
        Ok(EtcDirs { upper: dir::ensure(&fresh, "upper", 0o755)?, work: dir::ensure(&fresh, "work", 0o700)? })
    }

    fn exchange_etc(&self) -> Result<()> {
        let existing = dir::open_optional(&self.dir, ETC).context("opening etc")?;
        self.rename(FRESH, ETC, if existing.is_some() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE })
    }

    /// After an exchange, what lies aside is what was in place before.
    fn keep_replaced_etc(&self) -> Result<()> {
        if dir::open_optional(&self.dir, FRESH).context("opening etc.new")?.is_none() {
            return Ok(());
        }
        for number in 1.. {
            let name = if number == 1 { REPLACED.to_owned() } else { format!("{REPLACED}.{number}") };
            match self.rename(FRESH, &name, RenameFlags::NOREPLACE) {
                Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::EXIST) => {}
                other => return other,
            }
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
        rustix::fs::renameat_with(&self.dir, from, &self.dir, to, flags).with_context(|| format!("renaming {from} to {to}"))?;
        dir::sync(&self.dir).context("syncing the directory of a deployment")
    }
}
