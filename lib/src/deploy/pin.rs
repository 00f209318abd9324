//! The mark of a deployment that has to stay: a file of its own, because an origin is replaced whenever the image is staged again.

use anyhow::{Context, Result};

use super::Deployment;
use crate::sys::dir;

const PINNED: &str = "pinned";

impl Deployment {
    /// Whether it has to stay until [`Self::unpin`].
    pub fn is_pinned(&self) -> Result<bool> {
        Ok(dir::open_file_optional(&self.dir, PINNED).context("looking for the mark of a pinned deployment")?.is_some())
    }

    /// Says so, durably.
    pub fn pin(&self) -> Result<()> {
        dir::write_durably(&self.dir, PINNED, 0o644, b"")
    }

    /// Takes that back, durably; whether it was pinned.
    pub fn unpin(&self) -> Result<bool> {
        dir::remove_file(&self.dir, PINNED)
    }
}

#[cfg(test)]
mod tests {
    use crate::deploy::Deployments;
    use crate::image_id::ImageId;
    use crate::sys::dir;

    #[test]
    fn a_pin_stays_until_it_is_taken_away() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = Deployments::open_or_create(dir::open_path(temp.path()).unwrap()).unwrap();
        let id: ImageId = "ab".repeat(32).parse().unwrap();
        let at = temp.path().join(crate::deploy::DEPLOY).join(id.hex());
        std::fs::create_dir(&at).unwrap();
        let pinned = || deployments.list().unwrap().found[0].pinned;
        let deployment = deployments.get(&id).unwrap().unwrap();
        assert!(!pinned() && !deployment.unpin().unwrap());
        deployment.pin().unwrap();
        deployment.pin().unwrap();
        // Without an origin, too.
        assert!(pinned() && deployment.is_pinned().unwrap());
        std::fs::write(at.join("origin.json"), "{").unwrap();
        assert!(pinned());
        assert!(deployment.unpin().unwrap() && !pinned());
    }
}
