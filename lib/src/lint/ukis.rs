//! The unified kernel images in an image, and their addons, as sealing puts them there.

use anyhow::Result;

use super::subject::Subject;
use crate::cmdline::{RootImage, RootImageError};
use crate::store::{ADDON, ADDONS, File, NodeKind, UKIS};
use crate::uki::Uki;

/// An EFI binary.
#[derive(Debug)]
pub(super) struct Binary {
    pub(super) path: String,
    /// Whether it is an addon of the one before it.
    pub(super) is_addon: bool,
    /// What it says, or why it cannot be read.
    pub(super) read: Result<Uki, String>,
}

impl Binary {
    /// The roots that it names; none where it cannot be read.
    pub(super) fn roots(&self) -> Result<Vec<RootImage>, RootImageError> {
        self.read.as_ref().map_or(Ok(Vec::new()), Uki::root_images)
    }
}

/// Every EFI binary where unified kernel images are, and each one's addons after it.
pub(super) fn read(subject: &Subject<'_>) -> Result<Vec<Binary>> {
    let mut found = Vec::new();
    for (path, file) in files(subject, UKIS, ".efi")? {
        let addons = files(subject, &format!("{path}{ADDONS}"), ADDON)?;
        found.push(binary(subject, path, &file, false)?);
        for (path, file) in addons {
            found.push(binary(subject, path, &file, true)?);
        }
    }
    Ok(found)
}

fn binary(subject: &Subject<'_>, path: String, file: &File, is_addon: bool) -> Result<Binary> {
    let read = Uki::read(&mut subject.tree.open(file)?).map_err(|e| format!("{:#}", anyhow::Error::new(e)));
    Ok(Binary { path, is_addon, read })
}

fn files(subject: &Subject<'_>, directory: &str, suffix: &str) -> Result<Vec<(String, File)>> {
    let mut files = Vec::new();
    for (name, node) in subject.tree.children(directory)? {
        if let (Some(name), NodeKind::File(file)) = (name.to_str(), node.kind)
            && name.to_lowercase().ends_with(suffix)
        {
            files.push((format!("{directory}/{name}"), file));
        }
    }
    Ok(files)
}
