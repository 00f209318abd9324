//! Objects: files named by their fs-verity digest, below `objects/`.

use std::fmt;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use fs_verity::{FsVerityDigest, InnerHash};
use rustix::fs::AtFlags;
use serde::Serialize;
use sha2::{Digest, Sha256, Sha512};

use super::{Store, corrupt, damaged, hash, with_repository};
use crate::error::Failure;
use crate::image_id::{Algorithm, ImageId};
use crate::sys::dir;

/// The name of an object: its fs-verity digest in lowercase hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ObjectId(String);

impl ObjectId {
    /// All digits.
    pub fn hex(&self) -> &str {
        &self.0
    }

    /// The path of the object below `objects/`: `ab/cdef…`.
    pub fn path(&self) -> String {
        format!("{}/{}", &self.0[..2], &self.0[2..])
    }

    /// The object of this name, whether it exists or not.
    pub(super) fn named(hex: String) -> Self {
        Self(hex)
    }

    pub(super) fn of<H: FsVerityHashValue>(id: &H) -> Self {
        Self(id.to_hex())
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What [`Store::check_objects`] has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An object in the repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Object {
    /// Its name.
    pub id: ObjectId,
    /// Its size in bytes.
    pub size: u64,
}

impl Store {
    /// All that is needed to mount `image`: its EROFS file and the objects of its files, sorted.
    pub fn objects_of(&self, image: &ImageId) -> Result<Vec<Object>> {
        with_repository!(self, repository => objects_of(repository, image)).with_context(|| format!("listing the objects of image {image}"))
    }

    /// Reads the EROFS file of `image` and the objects of its files, and compares each with its name.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Corrupt`] for the first that is not what its name says, or that the kernel does not let through.
    pub fn check_objects(&self, image: &ImageId) -> Result<Checked> {
        let mut checked = Checked::default();
        for object in self.objects_of(image)? {
            self.check_object(&object.id).with_context(|| format!("reading object {}", object.id))?;
            checked.objects += 1;
            checked.bytes += object.size;
        }
        Ok(checked)
    }

    /// Whether there is any object.
    pub(super) fn has_objects(&self) -> Result<bool> {
        let Some(objects) = dir::open_optional(self.dir(), "objects").context("opening objects")? else { return Ok(false) };
        Ok(!dir::names(&objects).context("listing objects")?.is_empty())
    }

    /// Hashes an object again, in bounded memory, by another implementation of fs-verity than the one that named it.
    fn check_object(&self, id: &ObjectId) -> Result<()> {
        let file = with_repository!(self, repository => repository.open_object(&hash(id.hex())?)).map_err(damaged)?.into();
        let found = match self.algorithm() {
            Algorithm::Sha256 => rehash::<Sha256>(file),
            Algorithm::Sha512 => rehash::<Sha512>(file),
        };
        let found = found.map_err(damaged)?;
        if found == id.hex() {
            return Ok(());
        }
        Err(corrupt(format!("its digest is {found} (expected its name)")).into())
    }

    /// Bytes of the EROFS file of `image`; `None` where it is not here.
    pub fn image_size(&self, image: &ImageId) -> Result<Option<u64>> {
        with_repository!(self, repository => size(repository, &hash(image.hex())?))
    }

    /// All objects in the repository, sorted.
    pub fn objects(&self) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        let Some(objects) = dir::open_optional(self.dir(), "objects").context("opening objects")? else { return Ok(found) };
        for prefix in dir::names(&objects).context("listing objects")? {
            let below = dir::open(&objects, &prefix).with_context(|| format!("opening objects/{}", prefix.display()))?;
            for name in dir::names(&below).with_context(|| format!("listing objects/{}", prefix.display()))? {
                let stat = rustix::fs::statat(&below, &name, AtFlags::SYMLINK_NOFOLLOW).context("reading an object's size")?;
                let id = ObjectId(format!("{}{}", prefix.display(), name.display()));
                found.push(Object { id, size: stat.st_size as u64 });
            }
        }
        Ok(found)
    }
}

fn objects_of<H: FsVerityHashValue>(repository: &Repository<H>, image: &ImageId) -> Result<Vec<Object>> {
    let mut ids: Vec<H> = repository.objects_for_image(image.hex())?.into_iter().collect();
    ids.push(hash(image.hex())?);
    let mut objects = Vec::with_capacity(ids.len());
    for id in ids {
        let size = size(repository, &id)?.ok_or_else(|| missing(&id))?;
        objects.push(Object { id: ObjectId::of(&id), size });
    }
    objects.sort();
    objects.dedup();
    Ok(objects)
}

fn rehash<D: InnerHash>(mut file: std::fs::File) -> Result<String> {
    let mut digest = FsVerityDigest::<D>::new();
    std::io::copy(&mut file, &mut digest)?;
    Ok(hex::encode(digest.finalize()))
}

fn missing<H: FsVerityHashValue>(id: &H) -> Failure {
    corrupt(format!("object {} is missing", id.to_hex()))
}

/// Whether the object is there.
pub(super) fn exists<H: FsVerityHashValue>(repository: &Repository<H>, id: &H) -> Result<bool> {
    Ok(size(repository, id)?.is_some())
}

/// Its size in bytes; `None` where it is not there.
pub(super) fn size<H: FsVerityHashValue>(repository: &Repository<H>, id: &H) -> Result<Option<u64>> {
    let path = format!("objects/{}", id.to_object_pathname());
    let stat =
        dir::optional(rustix::fs::statat(repository.repo_fd(), &path, AtFlags::empty())).with_context(|| format!("looking for {path}"))?;
    Ok(stat.map(|stat| stat.st_size as u64))
}
