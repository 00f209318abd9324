//! The store: one composefs repository, where images live by the fs-verity digest of their EROFS file.
//!
//! Owns everything below the repository directory, in the format of `cfsctl`, which must accept what is written here.
//! Knows nothing of registries, deployments or boot entries: layers come in as byte streams, ids go out. The generics of
//! the composefs crates end at [`Store`].

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};
use composefs::repository::Repository;
use rustix::io::Errno;

use crate::error::{Failure, FailureKind, REPAIR};
use crate::image_id::{Algorithm, ImageId};

mod alone;
mod boot_files;
mod boot_image;
mod bounds;
mod changeset;
mod commit;
mod compare;
mod content;
mod covered;
mod deposit;
mod directory;
mod erofs;
mod fitness;
mod foresee;
pub mod fsck;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod garbage;
mod gathered;
mod incoming;
mod layer_parts;
mod layers;
mod layers_tree;
mod measure;
mod merge;
mod merkle;
mod names;
mod objects;
mod open;
mod place;
mod policy;
mod sealed;
mod sha256;
mod split;
mod tags;
mod tree;
mod tree_image;
mod unsynced;

pub use alone::{Alone, wait_for_others};
pub use boot_files::{
    Kernel, Loader, SIGNED_LOADERS, SealingTools, efi_architecture, kargs, kernel, os_release, os_release_text, sealing_tools, systemd_boot,
};
pub use boot_image::{BootImage, open_boot_image};
pub use commit::StoredImage;
pub use compare::{Change, What};
pub use content::{CONTENT_INDEX, ContentDigest, Contents, Known, Taken};
pub use deposit::NoRoom;
pub use directory::DirectoryTree;
pub use fitness::{LayoutProblem, has_init, layout_problems, require_bootable_layout};
pub use foresee::{Foretold, ForetoldLayer};
pub use layer_parts::LayerPart;
pub use layers::{AllBytes, Arrival, ImportStats, LayerTar, NotOneFile, SparseEntries, Unnamed, Unproven};
pub use measure::{Commit, Keep, Measured, Scratch, Unread};
pub use objects::{Checked, Object, ObjectId};
pub use open::Verity;
pub use place::ObjectWriter;
pub use sealed::{ADDON, ADDONS, Seal, UKIS, seal, ukis};
pub use tags::{check_tag, tag_names};
pub use tree::{Bytes, Content, File, Node, NodeKind, Tree};
pub use unsynced::{UNSYNCED, Unsynced};

/// Where the repository of a machine is, seen from the physical root.
pub const DIRECTORY: &str = "composefs";

/// The recipe by which the boot image is made of the layers. It changes only together with digests: every sealed image names the recipe that
/// its digest was computed by. Images that are stored are not made again, so whoever changes it has them count as not stored.
pub const RECIPE: u32 = 1;

/// An open composefs repository. Clones share the one handle: a second handle in the same process would make garbage
/// collection wait for ever, because the handles' locks exclude each other.
#[derive(Debug, Clone)]
pub struct Store(Handle);

/// The repository, by its algorithm.
#[derive(Debug, Clone)]
enum Handle {
    Sha256(Arc<Repository<Sha256HashValue>>),
    Sha512(Arc<Repository<Sha512HashValue>>),
}

/// Runs an expression on the repository, whatever its algorithm.
macro_rules! with_repository {
    ($store:expr, $repository:ident => $body:expr) => {
        match &$store.0 {
            $crate::store::Handle::Sha256($repository) => $body,
            $crate::store::Handle::Sha512($repository) => $body,
        }
    };
}
use with_repository;

impl Store {
    /// The algorithm of all digests in this repository.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Handle::Sha256(_) => Algorithm::Sha256,
            Handle::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Whether `meta.json` has fs-verity, and with it every object: the kernel then checks what it reads.
    pub fn is_sealed(&self) -> bool {
        with_repository!(self, repository => !repository.is_insecure())
    }

    /// The directory of the repository.
    pub fn dir(&self) -> BorrowedFd<'_> {
        with_repository!(self, repository => repository.repo_fd())
    }

    /// Makes everything that was written durable: one `syncfs` of the repository's file system.
    pub fn sync(&self) -> Result<()> {
        crate::sys::dir::sync_filesystem(self.dir()).context("syncing the repository")
    }

    /// The manifests that tags lead to; none where the tags cannot be read.
    fn manifests(&self) -> Vec<String> {
        self.tags().unwrap_or_default().into_iter().map(|(_, manifest)| manifest).collect()
    }
}

impl Alone {
    /// Removes what neither a tag nor `keep` leads to.
    ///
    /// # Errors
    ///
    /// What a tag leads to cannot be read; something cannot be removed.
    pub fn gc(&self, keep: &[&ImageId]) -> Result<GcStats> {
        let store = self.store();
        // What was to take the place of an object, and was stopped just before.
        let swept = crate::sys::dir::sweep(store.dir()).and_then(|_| {
            with_repository!(store, repository => {
                let roots = covered::uncovered(repository, &store.manifests(), keep);
                repository.gc(&roots.iter().map(|id| id.hex()).collect::<Vec<_>>())
            })
        });
        let swept = swept.context("collecting garbage")?;
        Ok(GcStats {
            objects: swept.objects_removed,
            bytes: swept.objects_bytes,
            images: swept.images_pruned,
            streams: swept.streams_pruned,
        })
    }
}

impl AsFd for Store {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir()
    }
}

/// What a garbage collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GcStats {
    /// Objects.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Names of EROFS images.
    pub images: u64,
    /// Names of layers, configurations and manifests, and tags that led nowhere.
    pub streams: u64,
}

/// The neutral form of a digest.
fn image_id<H: FsVerityHashValue>(id: &H) -> Result<ImageId> {
    Ok(id.to_hex().parse()?)
}

/// The library's form of an id.
fn hash<H: FsVerityHashValue>(hex: &str) -> Result<H> {
    H::from_hex(hex).with_context(|| format!("reading digest {hex} as {}", H::ALGORITHM))
}

/// The library's form of the bytes of a digest.
fn digest<H: FsVerityHashValue>(bytes: &[u8]) -> Result<H> {
    H::read_from_bytes(bytes).ok().with_context(|| format!("reading a digest of {} bytes as {}", bytes.len(), H::ALGORITHM))
}

/// Bytes of the repository that are others than they must be.
fn corrupt(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Corrupt, message).hint(REPAIR)
}

/// An error of reading what the repository must have: where it is not there, or where the kernel does not give it out, that is damage. A kernel that finds other
/// bytes than fs-verity says, and a disk that cannot read them, both say so in the same way.
fn damaged(error: anyhow::Error) -> anyhow::Error {
    let errno = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<Errno>().copied().or_else(|| Errno::from_io_error(cause.downcast_ref::<std::io::Error>()?))
    };
    match error.chain().find_map(errno) {
        Some(Errno::NOENT) => corrupt(format!("{error:#}")).into(),
        Some(Errno::IO) => corrupt(format!("{error:#}: the kernel does not let it through; see its messages (`dmesg`)")).into(),
        _ => error,
    }
}

fn unsuitable(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Unsuitable, message)
}

/// Whether an error came from the operating system rather than from what was read.
fn is_io(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<std::io::Error>() || cause.is::<rustix::io::Errno>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_or_not_let_through_is_damage_and_nothing_else_is() {
        for (errno, kind) in
            [(Errno::IO, FailureKind::Corrupt), (Errno::NOENT, FailureKind::Corrupt), (Errno::ACCESS, FailureKind::NotPermitted)]
        {
            for error in [anyhow::Error::new(errno), anyhow::Error::new(std::io::Error::from(errno))] {
                let failure = Failure::find(&damaged(error.context("opening object 12"))).unwrap();
                assert_eq!((failure.kind, failure.hint.as_deref()), (kind, (kind == FailureKind::Corrupt).then_some(REPAIR)), "{failure}");
                assert!(kind != FailureKind::Corrupt || failure.message.starts_with("opening object 12: "), "{failure}");
            }
        }
        assert_eq!(damaged(anyhow::anyhow!("the moon is full")).to_string(), "the moon is full");
    }
}
