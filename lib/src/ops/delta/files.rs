//! The files of a stored image, as a delta asks for them.

use anyhow::{Context, Result, bail};

use crate::image::{SourceFile, SourceFiles};
use crate::store::{NodeKind, Tree};

/// The regular files of a root.
pub(in crate::ops) struct Files(pub(in crate::ops) Tree);

impl SourceFiles for Files {
    fn open(&self, path: &str) -> Result<Box<dyn SourceFile>> {
        match self.0.get_link(path)?.context("there is none")?.kind {
            NodeKind::File(file) => Ok(Box::new(self.0.open(&file)?)),
            _ => bail!("it is no regular file"),
        }
    }
}
