//! [`FsContext`]: `fsopen` with the kernel's own words in every error. They can be read from the context only.

use std::os::fd::OwnedFd;

use anyhow::{Context, Error, Result};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::Mount;

/// A file system that is being configured.
pub(super) struct FsContext {
    fd: OwnedFd,
    kind: &'static str,
}

impl FsContext {
    pub(super) fn open(kind: &'static str) -> Result<Self> {
        let fd = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
            Errno::NODEV => {
                Error::new(errno).context(format!("mounting {kind}: this kernel has no {kind} file system (expected it, or its module)"))
            }
            _ => Error::new(errno).context(format!("opening a {kind} mount context")),
        })?;
        Ok(Self { fd, kind })
    }

    pub(super) fn flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(&self.fd, key).map_err(|e| self.error(e, &format!("setting {key}")))
    }

    pub(super) fn string(&self, key: &str, value: impl AsRef<str>) -> Result<()> {
        let value = value.as_ref();
        rustix::mount::fsconfig_set_string(&self.fd, key, value).map_err(|e| self.error(e, &format!("setting {key}={value}")))
    }

    /// Makes the superblock.
    pub(super) fn create(&self) -> Result<()> {
        rustix::mount::fsconfig_create(&self.fd).map_err(|e| self.error(e, "creating the file system"))
    }

    pub(super) fn mount(&self, attributes: MountAttrFlags) -> Result<Mount> {
        let fd = rustix::mount::fsmount(&self.fd, FsMountFlags::FSMOUNT_CLOEXEC, attributes).context("making a mount")?;
        Ok(Mount(fd))
    }

    fn error(&self, errno: Errno, doing: &str) -> Error {
        let said = self.messages();
        let said = if said.is_empty() { String::new() } else { format!(": the kernel says {said:?}") };
        Error::new(errno).context(format!("mounting {}: {doing}{said}", self.kind))
    }

    /// All that the kernel has to say, one read per message, each with a letter for its severity in front.
    fn messages(&self) -> String {
        let mut all = Vec::new();
        let mut buffer = [0; 1024];
        while let Ok(size @ 1..) = rustix::io::read(&self.fd, &mut buffer) {
            all.push(message(&buffer[..size]));
        }
        all.join("; ")
    }
}

fn message(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = ["e ", "w ", "i "].iter().find_map(|p| text.strip_prefix(p)).unwrap_or(&text);
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severity_is_taken_off() {
        for (raw, text) in [("e overlay: bad\n", "overlay: bad"), ("w x", "x"), ("plain", "plain")] {
            assert_eq!(message(raw.as_bytes()), text);
        }
    }

    #[test]
    fn the_kernels_words_are_in_the_error() {
        let context = FsContext::open("overlay").unwrap();
        let error = context.string("verity", "perhaps").unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("setting verity=perhaps: the kernel says \"overlay: Bad value for 'verity'\""), "{text}");
    }
}
