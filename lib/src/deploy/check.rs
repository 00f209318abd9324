//! A close look at the state directory: what each deployment has, and what stopped calls left. Changes nothing.

use std::ffi::OsStr;

use anyhow::{Context, Result};

use super::{DEPLOY, Deployment, Deployments, FailedBoot, is_temporary};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::origin::Origin;
use crate::record::RecordError;
use crate::sys::dir;

/// All that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inspection {
    /// Deployments, by image id.
    pub deployments: Vec<Look>,
    /// Deployments that cannot be looked at, with the reason.
    pub unreadable: Vec<(ImageId, String)>,
    /// Names in the directory of deployments that are no deployments.
    pub unknown: Vec<String>,
    /// Roots that failed on this machine.
    pub failed: Vec<FailedBoot>,
    /// Roots whose record of a failure cannot be read, with the reason.
    pub failed_unreadable: Vec<(ImageId, String)>,
    /// Temporaries that stopped calls left, from the physical root.
    pub leftovers: Vec<String>,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The image.
    pub id: ImageId,
    /// Where it came from, or why that cannot be read.
    pub origin: Result<Origin, Unread>,
    /// Its /etc.
    pub etc: Etc,
    /// The deployment that its first boot carries /etc from, or why the request cannot be read.
    pub request: Result<Option<ImageId>, String>,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// There is none.
    Missing,
    /// A newer selkie wrote it: nothing is wrong with it.
    Newer(String),
    /// It is damaged.
    Damaged(String),
}

/// What a deployment has of an /etc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Etc {
    /// Nothing yet: the first boot makes it.
    None,
    /// The directory of its local changes is there.
    Ready,
    /// There is a directory for them without them.
    NoUpper,
}

impl Deployments {
    /// Looks at everything below `state`.
    pub fn inspect(&self) -> Result<Inspection> {
        let listing = self.list()?;
        let mut inspection = Inspection { failed: listing.failed, failed_unreadable: listing.failed_unreadable, ..Inspection::default() };
        let shown = |name: &OsStr| name.display().to_string();
        inspection.unknown = listing.unknown.iter().map(|name| shown(name)).collect();
        for name in dir::names(&self.dir).context("listing deployments")? {
            if is_temporary(&name) {
                inspection.leftovers.push(format!("{DEPLOY}/{}", shown(&name)));
            }
        }
        for found in listing.found {
            let id = found.id;
            // A file with the name of a deployment is none.
            let Some(deployment) = self.get(&id).ok().flatten() else {
                inspection.unknown.push(id.to_string());
                continue;
            };
            for name in dir::names(&deployment.dir).with_context(|| format!("listing deployment {id}"))? {
                if is_temporary(&name) {
                    inspection.leftovers.push(format!("{DEPLOY}/{id}/{}", shown(&name)));
                }
            }
            match deployment.look() {
                Ok(look) => inspection.deployments.push(look),
                Err(error) => inspection.unreadable.push((id, format!("{error:#}"))),
            }
        }
        if let Some(failed) = dir::open_optional(&self.state, super::failed::FAILED).context("opening state/failed")? {
            let names = dir::names(&failed).context("listing state/failed")?;
            inspection.leftovers.extend(names.iter().filter(|name| is_temporary(name)).map(|name| format!("state/failed/{}", shown(name))));
        }
        Ok(inspection)
    }

    /// Removes all that [`Inspection::leftovers`] names; how many there were.
    pub fn sweep_all(&self) -> Result<usize> {
        let mut swept = self.sweep()?;
        for found in self.list()?.found {
            if let Some(deployment) = self.get(&found.id)? {
                swept += dir::sweep(&deployment.dir)?;
            }
        }
        if let Some(failed) = dir::open_optional(&self.state, super::failed::FAILED).context("opening state/failed")? {
            swept += dir::sweep(failed)?;
        }
        dir::sync(&self.dir).context("syncing the directory of deployments")?;
        Ok(swept)
    }
}

impl Deployment {
    fn look(&self) -> Result<Look> {
        let origin = match self.origin() {
            Ok(origin) => Ok(origin),
            Err(error) if dir::open_file_optional(&self.dir, super::ORIGIN).is_ok_and(|file| file.is_none()) => {
                drop(error);
                Err(Unread::Missing)
            }
            Err(error) => Err(match error.downcast_ref::<RecordError>() {
                Some(RecordError::Newer { .. }) => Unread::Newer(error.root_cause().to_string()),
                _ => Unread::Damaged(error.root_cause().to_string()),
            }),
        };
        let opening = || format!("opening etc of deployment {}", self.id);
        let etc = match dir::open_optional(&self.dir, "etc").with_context(opening)? {
            None => Etc::None,
            Some(etc) if dir::open_optional(&etc, "upper").with_context(opening)?.is_some() => Etc::Ready,
            Some(_) => Etc::NoUpper,
        };
        let request = self.requested_etc().map_err(|error| format!("{error:#}"));
        Ok(Look { id: self.id.clone(), origin, etc, request })
    }

    /// Makes the directory of local changes again where only that is gone, with the permission bits and the owner that the merged /etc shows.
    /// Durable.
    ///
    /// # Errors
    ///
    /// There is one, or no directory for it.
    pub fn make_upper(&self, mode: u32, owner: (u32, u32)) -> Result<()> {
        let making = || format!("making etc/upper of deployment {}", self.id);
        let etc = dir::open(&self.dir, "etc").with_context(making)?;
        // The work directory belongs to the upper directory that is gone.
        crate::sys::tree::remove(&etc, "work").with_context(making)?;
        let name = format!("{}upper", dir::TEMPORARY);
        crate::sys::tree::remove(&etc, &name).with_context(making)?;
        let upper = dir::ensure(&etc, &name, 0o755).with_context(making)?;
        rustix::fs::fchmod(&upper, rustix::fs::Mode::from_raw_mode(mode)).with_context(making)?;
        let (user, group) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
        rustix::fs::fchown(&upper, Some(user), Some(group)).with_context(making)?;
        rustix::fs::renameat_with(&etc, &name, &etc, "upper", rustix::fs::RenameFlags::NOREPLACE)
            .map_err(|errno| {
                if errno == rustix::io::Errno::EXIST {
                    Failure::new(FailureKind::Busy, "there is one by now").into()
                } else {
                    anyhow::Error::from(errno)
                }
            })
            .with_context(making)?;
        dir::sync(&etc).with_context(making)
    }
}
