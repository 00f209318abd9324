//! Where things are: the clone, and `target/lab/` in it, below which all work products go.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The places that the lab uses.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    /// The clone of the project.
    pub(crate) source: PathBuf,
    /// `target/lab` in it.
    pub(crate) dir: PathBuf,
}

impl Lab {
    /// Finds the clone that this program was built from and makes `target/lab`.
    pub(crate) fn open() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let source = manifest.parent().context("finding the clone: this crate has no parent directory")?.to_owned();
        let lab = Self { dir: source.join("target/lab"), source };
        lab.subdir("logs")?;
        Ok(lab)
    }

    /// A directory below `target/lab`, made when missing.
    pub(crate) fn subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(path)
    }

    /// An empty directory below `target/lab`; what was there before is gone.
    pub(crate) fn fresh_subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        self.subdir(name)
    }

    /// The file that takes the output of the foreign program `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// A file of the clone.
    pub(crate) fn file(&self, relative: &str) -> PathBuf {
        self.source.join(relative)
    }
}
