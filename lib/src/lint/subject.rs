//! What checks look at: the tree of an image, and what its configuration says. Parts that several checks need are read once.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::initramfs::{self, Initramfs};
use super::sysusers::Sysusers;
use super::tmpfiles::Tmpfiles;
use super::ukis::{self, Binary};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::store::{self, File, Kernel, Node, NodeKind, Tree};

/// Text files are read up to here; longer ones are cut.
const LONGEST_TEXT: u64 = 4 << 20;

/// What is known of an image besides its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The architecture that it is for, as OCI names it.
    pub architecture: String,
    /// The root that machines would boot; `None` where the layers make none.
    pub boot_image: Option<ImageId>,
    /// When it was made, in seconds since 1970, as its configuration says.
    pub created: Option<i64>,
    /// Why machines refuse it for what its annotations say of its seal.
    pub refused: Option<Failure>,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Layer {
    /// Digest of the blob.
    pub digest: String,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Size of the uncompressed tar in bytes.
    pub uncompressed: Option<u64>,
    /// Bytes of its files that the image does not have: later layers removed or replaced them.
    pub hidden: Option<u64>,
    /// The instruction that made it, as the history of the configuration has it.
    pub created_by: Option<String>,
}

/// What is looked at.
#[derive(Debug)]
pub struct Subject<'a> {
    /// The tree of the layers, nothing of it emptied.
    pub(super) tree: &'a Tree,
    /// What is known of the image; nothing where the subject is a directory.
    pub(super) image: Option<&'a Image>,
    kernel: OnceCell<Option<Kernel>>,
    initramfs: OnceCell<Option<Initramfs>>,
    tmpfiles: OnceCell<Tmpfiles>,
    sysusers: OnceCell<Sysusers>,
    ukis: OnceCell<Vec<Binary>>,
}

impl<'a> Subject<'a> {
    /// A tree as its layers make it ([`Store::layers_tree`](store::Store::layers_tree)), or as a directory has it.
    pub fn new(tree: &'a Tree, image: Option<&'a Image>) -> Self {
        Self {
            tree,
            image,
            kernel: OnceCell::new(),
            initramfs: OnceCell::new(),
            tmpfiles: OnceCell::new(),
            sysusers: OnceCell::new(),
            ukis: OnceCell::new(),
        }
    }

    /// The kernel with its initramfs, where there is exactly one.
    pub(super) fn kernel(&self) -> Result<Option<&Kernel>> {
        once(&self.kernel, || match store::kernel(self.tree) {
            Ok(kernel) => Ok(Some(kernel)),
            Err(error) if is_unsuitable(&error) => Ok(None),
            Err(error) => Err(error),
        })
        .map(Option::as_ref)
    }

    /// What is in the initramfs; `None` where there is no kernel with an initramfs.
    pub(super) fn initramfs(&self) -> Result<Option<&Initramfs>> {
        once(&self.initramfs, || {
            let Some(kernel) = self.kernel()? else { return Ok(None) };
            let file = self.tree.open(&kernel.initrd).context("opening the initramfs")?;
            Ok(Some(initramfs::read(file)))
        })
        .map(Option::as_ref)
    }

    /// What tmpfiles.d makes at boot.
    pub(super) fn tmpfiles(&self) -> Result<&Tmpfiles> {
        once(&self.tmpfiles, || Tmpfiles::read(self))
    }

    /// The users and groups that sysusers.d makes at boot.
    pub(super) fn sysusers(&self) -> Result<&Sysusers> {
        once(&self.sysusers, || Sysusers::read(self))
    }

    /// The unified kernel images and their addons.
    pub(super) fn ukis(&self) -> Result<&[Binary]> {
        once(&self.ukis, || ukis::read(self)).map(Vec::as_slice)
    }

    /// The root that machines would boot, where it is known.
    pub(super) fn boot_image(&self) -> Option<&ImageId> {
        self.image.and_then(|image| image.boot_image.as_ref())
    }

    /// The architecture of the image, where it is known.
    pub(super) fn architecture(&self) -> Option<&str> {
        self.image.map(|image| image.architecture.as_str())
    }

    /// The text of the regular file at `path`; bytes that are not UTF-8 are replaced. `None` where there is none.
    pub(super) fn text(&self, path: impl AsRef<OsStr>) -> Result<Option<String>> {
        Ok(self.bytes(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The bytes of the regular file at `path`, at most 4 MiB of them.
    pub(super) fn bytes(&self, path: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        let path = path.as_ref();
        let Some(file) = self.tree.file(path)? else { return Ok(None) };
        self.start(&file, LONGEST_TEXT).with_context(|| format!("reading {}", path.display())).map(Some)
    }

    /// The first `length` bytes of a file.
    pub(super) fn start(&self, file: &File, length: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.tree.open(file)?.take(length).read_to_end(&mut bytes).context("reading a file of the image")?;
        Ok(bytes)
    }

    /// Everything at and below `path` that `wanted` likes, as absolute paths. A link at `path` itself is not followed.
    pub(super) fn below(&self, path: &str, mut wanted: impl FnMut(&Path, &Node) -> bool) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        if matches!(self.tree.get_link(path)?.map(|node| node.kind), Some(NodeKind::Symlink(_))) {
            return Ok(paths);
        }
        self.tree.walk(path, |path, node| {
            if wanted(path, node) {
                paths.push(text_of(path));
            }
            Ok(())
        })?;
        Ok(paths)
    }
}

/// A path for people and for JSON.
pub(super) fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The size of a regular file; `None` for anything else.
pub(super) fn file_size(node: &Node) -> Option<u64> {
    match &node.kind {
        NodeKind::File(file) => Some(file.size),
        _ => None,
    }
}

fn is_unsuitable(error: &anyhow::Error) -> bool {
    Failure::is(error, FailureKind::Unsuitable)
}

/// `OnceCell::get_or_try_init`, which is not stable yet.
fn once<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if cell.get().is_none() {
        let made = make()?;
        // Nothing that `make` calls sets the same cell.
        let _ = cell.set(made);
    }
    cell.get().context("reading a part of the image")
}
