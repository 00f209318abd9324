//! What sealing added to an image: a unified kernel image that names the very root that the image's layers give.

use std::io::Cursor;

use anyhow::{Context, Result};

use super::tree::{File, NodeKind, Tree};
use super::unsuitable;
use crate::cmdline::{Cmdline, RootImage};
use crate::image_id::ImageId;
use crate::uki::{Kind, Uki};

/// Where unified kernel images lie in an image, as on an ESP that is mounted on `/boot` (UAPI.1).
pub const UKIS: &str = "/boot/EFI/Linux";
/// What systemd-stub appends to the name of an image to find its addons.
pub const ADDONS: &str = ".extra.d";
/// How the names of addons end.
pub const ADDON: &str = ".addon.efi";

/// The unified kernel image of a sealed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// Its path in the image.
    pub path: String,
    /// The file.
    pub file: File,
    /// What it says.
    pub uki: Uki,
    /// The root that it boots.
    pub root: RootImage,
    /// Its addons: name and file, by name.
    pub addons: Vec<(String, File)>,
}

impl Seal {
    /// Checks that this is the seal of the image with this boot image.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where it names another root: the layers were changed after sealing.
    pub fn check(&self, boot_image: &ImageId) -> Result<()> {
        if self.root.id == *boot_image {
            return Ok(());
        }
        let message = format!("checking the seal: {} names root {} (expected {boot_image}, as the layers give it)", self.path, self.root);
        let hint = "the image was changed after it was sealed: seal it again with `selkie seal`, as the last step of its build";
        Err(unsuitable(message).hint(hint).into())
    }
}

impl Seal {
    /// The kernel arguments that a boot of this image has: those inside the unified kernel image, then those of its addons by name, as
    /// systemd-stub puts them together.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) for an addon that cannot be read.
    pub fn arguments(&self, tree: &Tree) -> Result<Cmdline> {
        let mut line = self.uki.cmdline.clone().unwrap_or_default();
        for (name, file) in &self.addons {
            let bytes = tree.read(file).with_context(|| format!("reading {name}"))?;
            let addon = Uki::read(&mut Cursor::new(bytes)).map_err(|e| unsuitable(format!("reading {name}: {e}")))?;
            if addon.kind != Kind::Addon || !addon.root_images().is_ok_and(|roots| roots.is_empty()) {
                return Err(unsuitable(format!("reading {name}: it is no addon, or names a root (expected more kernel arguments)")).into());
            }
            line.push(' ');
            line.push_str(addon.cmdline.as_deref().unwrap_or_default());
        }
        Ok(Cmdline::parse(&line))
    }
}

/// The seal in the tree of an image as its layers give it (the boot image has an empty `/boot`); `None` for an image that is not sealed.
/// Unified kernel images that name no composefs root are no seals.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where there are several seals, or one cannot be read.
pub fn seal(tree: &Tree) -> Result<Option<Seal>> {
    let mut seals = Vec::new();
    for (path, file, uki) in ukis(tree)? {
        let roots = uki.root_images().map_err(|e| unsuitable(format!("reading {path}: {e}")))?;
        match <[RootImage; 1]>::try_from(roots) {
            Ok([root]) => {
                let addons = addons(tree, &path)?;
                seals.push(Seal { path, file, uki, root, addons });
            }
            Err(roots) if roots.is_empty() => {}
            // A machine would go on to the second where the first is missing.
            Err(roots) => return Err(unsuitable(format!("reading {path}: it names {} roots (expected one)", roots.len())).into()),
        }
    }
    let only = seals.pop();
    if let (Some(only), Some(other)) = (&only, seals.last()) {
        let message = format!("looking for the seal: {} and {} both name a root (expected one of them)", other.path, only.path);
        return Err(unsuitable(message).hint("remove the one that is not for this image, or seal the image again").into());
    }
    Ok(only)
}

/// Every unified kernel image in the tree, with its path.
///
/// # Errors
///
/// A file that is called `.efi` and cannot be read as an EFI binary.
pub fn ukis(tree: &Tree) -> Result<Vec<(String, File, Uki)>> {
    let mut found = Vec::new();
    for (name, node) in tree.children(UKIS)? {
        let (Some(name), NodeKind::File(file)) = (name.to_str(), node.kind) else { continue };
        if !name.to_lowercase().ends_with(".efi") {
            continue;
        }
        let path = format!("{UKIS}/{name}");
        let bytes = tree.read(&file).with_context(|| format!("reading {path}"))?;
        let uki = Uki::read(&mut Cursor::new(bytes)).map_err(|e| unsuitable(format!("reading {path}: {e}")))?;
        if uki.kind == Kind::Image {
            found.push((path, file, uki));
        }
    }
    Ok(found)
}

fn addons(tree: &Tree, uki: &str) -> Result<Vec<(String, File)>> {
    let named = |(name, node): (std::ffi::OsString, super::Node)| match (name.into_string(), node.kind) {
        (Ok(name), NodeKind::File(file)) if name.to_lowercase().ends_with(ADDON) => Some((name, file)),
        _ => None,
    };
    Ok(tree.children(format!("{uki}{ADDONS}"))?.into_iter().filter_map(named).collect())
}
