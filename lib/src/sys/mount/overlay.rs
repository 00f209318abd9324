//! [`Overlay`]: overlays as composefs needs them, with data-only layers and metadata-only files.

use std::os::fd::BorrowedFd;

use anyhow::Result;
use rustix::mount::MountAttrFlags;

use super::context::FsContext;
use super::{Mount, fd_path};
use crate::image_id::ImageId;

/// What an overlay does about the fs-verity digests in its metadata-only files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verity {
    /// Nothing.
    Off,
    /// A file that has a digest must match it; one without is taken as it is.
    IfKnown,
    /// Every metadata-only file must have a digest and match it.
    Required,
}

/// An overlay to be mounted. Layers must be attached mounts of this mount namespace, or directories on such.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// What the mount table shows as its source.
    pub source: String,
    /// Lower layers, topmost first.
    pub lower: Vec<BorrowedFd<'a>>,
    /// The layer that only redirected files lead to.
    pub data: Option<BorrowedFd<'a>>,
    /// Upper and work directory; without them the mount is read-only.
    pub upper: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// What to do about fs-verity.
    pub verity: Verity,
}

impl Overlay<'_> {
    /// Mounts it, detached.
    pub fn mount(&self) -> Result<Mount> {
        let context = FsContext::open("overlay")?;
        for (key, value) in self.options() {
            context.string(key, value)?;
        }
        context.create()?;
        context.mount(if self.upper.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY })
    }

    /// The options in order. `lowerdir+` and `datadir+` take one layer each, so that no character of a path needs an escape.
    fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = vec![
            ("source", self.source.clone()),
            ("metacopy", "on".to_owned()),
            // `follow` is refused together with metacopy.
            ("redirect_dir", "on".to_owned()),
            // A new kernel may have it on by default; it would tie an upper directory to the very mount that it was made with.
            ("index", "off".to_owned()),
        ];
        match self.verity {
            Verity::Off => {}
            Verity::IfKnown => options.push(("verity", "on".to_owned())),
            Verity::Required => options.push(("verity", "require".to_owned())),
        }
        options.extend(self.lower.iter().map(|fd| ("lowerdir+", fd_path(fd))));
        options.extend(self.data.iter().map(|fd| ("datadir+", fd_path(fd))));
        if let Some((upper, work)) = &self.upper {
            options.push(("upperdir", fd_path(upper)));
            options.push(("workdir", fd_path(work)));
        }
        options
    }
}

const SOURCE_PREFIX: &str = "composefs:";

/// The mount source of a root that is the image `id`: `composefs:<hex>`, as all composefs tools write it.
pub fn composefs_source(id: &ImageId) -> String {
    format!("{SOURCE_PREFIX}{id}")
}

/// The image that a mount source names; `None` for a mount that is not a composefs root.
pub fn root_image_of_source(source: &str) -> Option<ImageId> {
    source.strip_prefix(SOURCE_PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;

    #[test]
    fn sources_round_trip() {
        let id: ImageId = "ab".repeat(32).parse().unwrap();
        assert_eq!(root_image_of_source(&composefs_source(&id)), Some(id));
        for other in ["/dev/vda2", "composefs:", "composefs:xyz", "overlay"] {
            assert_eq!(root_image_of_source(other), None, "{other}");
        }
    }

    #[test]
    fn options_come_in_the_order_of_the_layers() {
        let dir = crate::sys::dir::open_path("/").unwrap();
        let (fd, path) = (dir.as_fd(), format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let overlay =
            Overlay { source: "etc".into(), lower: vec![fd, fd], data: Some(fd), upper: Some((fd, fd)), verity: Verity::Required };
        let options: Vec<String> = overlay.options().into_iter().map(|(k, v)| format!("{k}={}", v.replace(&path, "DIR"))).collect();
        let expected = "source=etc metacopy=on redirect_dir=on index=off verity=require \
                        lowerdir+=DIR lowerdir+=DIR datadir+=DIR upperdir=DIR workdir=DIR";
        assert_eq!(options.join(" "), expected);
    }
}
