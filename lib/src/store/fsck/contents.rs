//! What streams and images consist of, and whether it is what their names say.

use std::fs::File;
use std::io::Read;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};
use composefs::erofs::reader::collect_objects;
use composefs::fsverity::FsVerityHashValue;
use composefs::repository::Repository;
use composefs_oci::{BLOB_CONTENT_TYPE, LAYER_CONTENT_TYPE};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256, Sha512};

use super::ids::Ids;
use super::objects::{Health, Scan};
use super::stream::Stream;
use crate::finding::Damage;
use crate::store::commit::{CONFIG_CONTENT_TYPE, MANIFEST_CONTENT_TYPE};

/// Names of streams in `streams/`, each before the digest of what it is a stream of.
pub(super) const LAYER: &str = "oci-layer-";
pub(super) const CONFIG: &str = "oci-config-";
pub(super) const MANIFEST: &str = "oci-manifest-";
pub(super) const BLOB: &str = "oci-blob-";
/// The most bytes of an EROFS image: its files are not in it.
const MAX_IMAGE: u64 = 2 << 30;

/// What is wrong with a stream or an image.
pub(super) type Fault = (Damage, String);

/// What was found out about a stream or an image.
#[derive(Debug, Clone)]
pub(super) struct Facts<H> {
    /// What is wrong with itself.
    pub(super) fault: Option<Fault>,
    /// The objects that it consists of or has files in, by number. None where they are those of layers that are well.
    pub(super) objects: Vec<u32>,
    /// The streams and images that it names.
    pub(super) named: Vec<(String, H)>,
    /// Whether its content was hashed and is that of its name.
    pub(super) hashed: bool,
}

impl<H> Facts<H> {
    fn faulty(damage: Damage, message: impl Into<String>) -> Self {
        Self { fault: Some((damage, message.into())), objects: Vec::new(), named: Vec::new(), hashed: false }
    }
}

/// Looks at a stream. Its content is hashed only where all its objects are well: else they are
/// what is wrong. Where it is `known`, it was hashed before.
pub(super) fn stream<H: FsVerityHashValue>(
    repository: &Repository<H>,
    scan: &Scan<H>,
    ids: &Mutex<Ids<H>>,
    (name, id): (&str, &H),
    known: bool,
) -> Result<Facts<H>> {
    if let Some(faulty) = of_object(scan, id) {
        return Ok(faulty);
    }
    let read = match Stream::<H>::read(open(repository, id)?) {
        Ok(read) => read,
        Err(error) => return Ok(Facts::faulty(Damage::Unreadable, format!("{error:#}"))),
    };
    // A layer that is no tar, such as a signature, is a blob by another name where `cfsctl` has pulled it.
    let kinds: [(&str, &[u64]); 3] =
        [(LAYER, &[LAYER_CONTENT_TYPE, BLOB_CONTENT_TYPE]), (CONFIG, &[CONFIG_CONTENT_TYPE]), (MANIFEST, &[MANIFEST_CONTENT_TYPE])];
    if kinds.iter().any(|(kind, content_types)| name.starts_with(kind) && !content_types.contains(&read.content_type)) {
        return Ok(Facts::faulty(Damage::Changed, "it is a stream of another kind than its name says"));
    }
    let whole = read.objects.iter().all(|object| scan.is_good(object));
    let promised = [LAYER, CONFIG, MANIFEST, BLOB].iter().find_map(|kind| name.strip_prefix(kind)).filter(|_| whole);
    let fault = promised.filter(|_| !known).and_then(|digest| content(repository, &read, digest));
    Ok(Facts { hashed: promised.is_some() && fault.is_none(), fault, objects: numbers(ids, &read.objects)?, named: read.named })
}

/// Compares the content of a stream with the digest that its name has.
fn content<H: FsVerityHashValue>(repository: &Repository<H>, stream: &Stream<H>, digest: &str) -> Option<Fault> {
    let found = match digest.split_once(':') {
        Some((name @ "sha256", _)) => hashed::<H, Sha256>(repository, stream, name),
        Some((name @ "sha512", _)) => hashed::<H, Sha512>(repository, stream, name),
        _ => return Some((Damage::Unreadable, "its name has a digest of an unknown algorithm (expected sha256 or sha512)".to_owned())),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return Some((Damage::Unreadable, format!("{error:#}"))),
    };
    (found != digest).then(|| (Damage::Changed, format!("its content has the digest {found} (expected that of its name)")))
}

fn hashed<H: FsVerityHashValue, D: Digest + std::io::Write>(repository: &Repository<H>, stream: &Stream<H>, name: &str) -> Result<String> {
    let mut hasher = D::new();
    stream.write(&mut hasher, |object| open(repository, object))?;
    Ok(format!("{name}:{}", hex::encode(hasher.finalize())))
}

/// Looks at an image. Its bytes are those of its name when they are read. The objects of one that is `covered` are those of layers that are well, and are not
/// listed again.
pub(super) fn image<H: FsVerityHashValue>(
    repository: &Repository<H>,
    scan: &Scan<H>,
    ids: &Mutex<Ids<H>>,
    id: &H,
    covered: bool,
) -> Result<Facts<H>> {
    if let Some(faulty) = of_object(scan, id) {
        return Ok(faulty);
    }
    if covered {
        return Ok(Facts { fault: None, objects: Vec::new(), named: Vec::new(), hashed: true });
    }
    let read = read_whole(open(repository, id)?).and_then(|bytes| Ok(collect_objects::<H>(&bytes)?));
    Ok(match read {
        Ok(objects) => Facts { fault: None, objects: numbers(ids, &objects)?, named: Vec::new(), hashed: true },
        Err(error) => Facts::faulty(Damage::Unreadable, format!("{error:#}")),
    })
}

/// The content of a small stream, such as that of a manifest; `None` where it is not whole.
pub(super) fn document<H: FsVerityHashValue>(repository: &Repository<H>, id: &H) -> Result<Vec<u8>> {
    let stream = Stream::<H>::read(open(repository, id)?)?;
    let mut bytes = Vec::new();
    stream.write(Capped(&mut bytes), |object| open(repository, object))?;
    Ok(bytes)
}

/// The most bytes of a manifest or a configuration that anybody reads, as in registries.
const MAX_DOCUMENT: usize = 8 << 20;

struct Capped<'b>(&'b mut Vec<u8>);

impl std::io::Write for Capped<'_> {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + buf.len() > MAX_DOCUMENT {
            return Err(std::io::Error::other(format!("it has more than {MAX_DOCUMENT} bytes")));
        }
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is wrong with the object that a name leads to.
fn of_object<H: FsVerityHashValue>(scan: &Scan<H>, id: &H) -> Option<Facts<H>> {
    match scan.health.get(id) {
        Some(Health::Good) => None,
        Some(Health::Bad(damage, message)) => Some(Facts::faulty(*damage, format!("object {}: {message}", id.to_hex()))),
        None => Some(Facts::faulty(Damage::Missing, format!("object {} is missing", id.to_hex()))),
    }
}

pub(super) fn open<H: FsVerityHashValue>(repository: &Repository<H>, id: &H) -> Result<File> {
    let path = format!("objects/{}", id.to_object_pathname());
    let fd = rustix::fs::openat(repository.repo_fd(), &path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
    Ok(fd.with_context(|| format!("opening {path}"))?.into())
}

pub(super) fn read_whole(file: File) -> Result<Vec<u8>> {
    let size = file.metadata()?.len();
    ensure!(size <= MAX_IMAGE, "it has {size} bytes (expected at most {MAX_IMAGE})");
    let mut bytes = Vec::new();
    file.take(MAX_IMAGE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn numbers<'i, H: FsVerityHashValue>(ids: &Mutex<Ids<H>>, objects: impl IntoIterator<Item = &'i H>) -> Result<Vec<u32>> {
    let mut ids = ids.lock().map_err(|_| anyhow!("a thread of the check ended early"))?;
    objects.into_iter().map(|id| ids.number(id)).collect()
}
