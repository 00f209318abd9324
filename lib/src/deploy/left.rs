//! Releases that somebody went back from by hand, by the digest of their manifests: empty files, of which nothing can be damaged. A mark outlives the deployment, so that
//! automatic updates do not take the release again; whoever takes it by hand removes it.

use anyhow::{Context, Result};

use super::Deployments;
use crate::sys::dir;

/// Below `state`.
const LEFT: &str = "left";

impl Deployments {
    /// Marks a release as one that somebody went back from, durably.
    pub fn leave_alone(&self, manifest_digest: &str) -> Result<()> {
        let new = dir::open_optional(&self.state, LEFT).context("opening state/left")?.is_none();
        let dir = dir::ensure(&self.state, LEFT, 0o755)?;
        if new {
            dir::sync(&self.state).context("syncing the state directory")?;
        }
        dir::write_durably(&dir, manifest_digest, 0o644, b"")
    }

    /// Whether somebody went back from a release.
    pub fn is_left_alone(&self, manifest_digest: &str) -> Result<bool> {
        let Some(dir) = dir::open_optional(&self.state, LEFT).context("opening state/left")? else { return Ok(false) };
        Ok(dir::open_file_optional(&dir, manifest_digest).context("looking into state/left")?.is_some())
    }

    /// Takes the mark of a release away; whether there was one.
    pub fn take_again(&self, manifest_digest: &str) -> Result<bool> {
        match dir::open_optional(&self.state, LEFT).context("opening state/left")? {
            Some(dir) => dir::remove_file(&dir, manifest_digest),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_left_until_it_is_taken_again() {
        let temp = tempfile::tempdir().unwrap();
        let deployments = Deployments::open_or_create(dir::open_path(temp.path()).unwrap()).unwrap();
        let is_left = |digest: &str| deployments.is_left_alone(digest).unwrap();
        assert!(!is_left("sha256:aa") && !deployments.take_again("sha256:aa").unwrap());
        deployments.leave_alone("sha256:aa").unwrap();
        deployments.leave_alone("sha256:aa").unwrap();
        assert!(is_left("sha256:aa") && !is_left("sha256:bb"));
        assert!(deployments.take_again("sha256:aa").unwrap() && !is_left("sha256:aa"));
    }
}
