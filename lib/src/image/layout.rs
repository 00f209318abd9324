//! Reads an OCI image layout directory, without skopeo. Every blob is checked against its digest. Read-only.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, PlatformBuilder};
use ocidir::cap_std::{ambient_authority, fs::Dir};
use ocidir::{OciDir, prelude::OciRead};
use rustix::io::Errno;

use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::sys::dir;

use super::blob::{Expected, Reader};
use super::digest;
use super::layer::LayerReader;
use super::manifest::{self, Fetched, Layer, Resolved};
use super::platform::{self, Candidate, Leads};

/// The annotation that names a tag.
pub(super) const TAG: &str = "org.opencontainers.image.ref.name";

/// Indexes may hold indexes; more levels than this are nonsense.
const MAX_DEPTH: usize = 8;

/// Largest index, manifest or configuration in bytes; registries refuse manifests over 4 MiB.
pub(super) const MAX_JSON: u64 = 16 << 20;

/// An open layout.
pub(super) struct Layout {
    dir: OciDir,
    path: String,
}

impl Layout {
    /// Opens the directory `path` and resolves `tag`, which together are what `reference` names.
    pub(super) fn open(path: &Path, tag: Option<&str>, reference: &ImageReference, architecture: &str) -> Result<(Self, Resolved)> {
        let layout = Self::open_directory(path)?;
        let chosen = layout.choose(reference, tag, architecture)?;
        let manifest = layout.json("manifest", &chosen.manifest)?;
        let manifest_digest = chosen.manifest.digest().to_string();
        let config = layout.json("configuration", &manifest::config_descriptor(&manifest_digest, &manifest)?)?;
        let fetched = Fetched { index_digest: chosen.index_digest, manifest_digest, manifest, config };
        Ok((layout, manifest::resolve(reference, fetched, architecture)?))
    }

    /// Opens the directory `path` and resolves nothing.
    pub(super) fn open_directory(path: &Path) -> Result<Self> {
        let path = path.display().to_string();
        let dir = Dir::open_ambient_dir(&path, ambient_authority()).map_err(|e| absent(&path, e))?;
        let dir = OciDir::open(dir).map_err(|e| no_layout(&path, &e))?;
        Ok(Self { dir, path })
    }

    /// Opens the tar of `layer`.
    pub(super) fn open_layer(&self, layer: &Layer, progress: Arc<dyn Progress>) -> Result<LayerReader> {
        LayerReader::new(layer, Expected::of(layer), self.reader(layer)?, None, progress)
    }

    /// Opens the blob of `layer` as it is.
    pub(super) fn open_blob(&self, layer: &Layer, progress: Arc<dyn Progress>) -> Result<LayerReader> {
        LayerReader::raw(layer, self.reader(layer)?, None, progress)
    }

    /// Opens the file of the blob of `layer`, of which nothing is checked then.
    pub(super) fn file(&self, layer: &Layer) -> Result<std::fs::File> {
        Ok(self.blob("layer", &layer.digest)?.into_std())
    }

    fn reader(&self, layer: &Layer) -> Result<Reader> {
        Ok(Box::new(self.file(layer)?))
    }

    fn choose(&self, reference: &ImageReference, tag: Option<&str>, architecture: &str) -> Result<Candidate> {
        let index = self.index()?;
        let tagged = |d: &&Descriptor| tag.is_none_or(|tag| tag_of(d) == Some(tag));
        let entries: Vec<&Descriptor> = index.manifests().iter().filter(tagged).collect();
        if entries.is_empty() {
            return Err(self.no_such_tag(tag, &index).into());
        }
        let (mut all, mut fitting) = (Vec::new(), Vec::<Candidate>::new());
        for entry in entries {
            let found = self.candidates(entry, None, 0)?;
            all.extend(found.iter().cloned());
            let new = platform::choose(&self.path, found, architecture).ok();
            fitting.extend(new.filter(|new| fitting.iter().all(|old| old.manifest.digest() != new.manifest.digest())));
        }
        if fitting.len() > 1 && tag.is_none() {
            return Err(self.ambiguous(&index).into());
        }
        // Fails where nothing fits, with the list of what is there.
        let pool = if fitting.is_empty() { all } else { fitting };
        Ok(platform::choose(&reference.to_string(), pool, architecture)?)
    }

    /// The images to which a descriptor leads, through any number of indexes.
    fn candidates(&self, from: &Descriptor, outermost: Option<&str>, depth: usize) -> Result<Vec<Candidate>> {
        match platform::leads(from.media_type()) {
            Leads::Elsewhere => Ok(Vec::new()),
            Leads::ToManifest => Ok(self.candidate(from, outermost)?.into_iter().collect()),
            Leads::ToIndex if depth == MAX_DEPTH => {
                let message = format!("reading image index {}: more than {MAX_DEPTH} indexes lie in each other", from.digest());
                Err(Failure::new(FailureKind::Unsuitable, message).into())
            }
            Leads::ToIndex => {
                let bytes = self.json("image index", from)?;
                let malformed = |e| manifest::malformed(&format!("image index {}", from.digest()), "image index", &e);
                let index = ImageIndex::from_reader(bytes.as_slice()).map_err(malformed)?;
                let outermost = outermost.unwrap_or(from.digest().as_ref());
                let each = index.manifests().iter().map(|d| self.candidates(d, Some(outermost), depth + 1));
                Ok(each.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
            }
        }
    }

    /// The platform is optional in an index; the image's configuration has it always. `None` for what is not an image.
    fn candidate(&self, from: &Descriptor, outermost: Option<&str>) -> Result<Option<Candidate>> {
        let platform = match from.platform() {
            Some(platform) => platform.clone(),
            None => {
                let manifest = self.json("manifest", from)?;
                let Ok(config) = manifest::config_descriptor(from.digest().as_ref(), &manifest) else { return Ok(None) };
                let Ok(config) = ImageConfiguration::from_reader(self.json("configuration", &config)?.as_slice()) else {
                    return Ok(None);
                };
                PlatformBuilder::default().os(config.os().clone()).architecture(config.architecture().clone()).build()?
            }
        };
        Ok(Some(Candidate { manifest: from.clone(), platform, index_digest: outermost.map(str::to_owned) }))
    }

    /// What the layout lists.
    pub(super) fn index(&self) -> Result<ImageIndex> {
        self.dir.read_index().map_err(|e| no_layout(&self.path, &e))
    }

    /// Reads a small blob, called `what` in errors, and checks size and digest.
    pub(super) fn json(&self, what: &str, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let what_digest = format!("{what} {}", descriptor.digest());
        if descriptor.size() > MAX_JSON {
            let message = format!("reading {what_digest}: size is {} bytes (expected at most {MAX_JSON})", descriptor.size());
            return Err(Failure::new(FailureKind::Unsuitable, message).into());
        }
        let mut bytes = Vec::new();
        let file = self.blob(what, descriptor.digest().as_ref())?;
        file.take(descriptor.size() + 1).read_to_end(&mut bytes).with_context(|| format!("reading {what_digest}"))?;
        digest::check(&what_digest, &bytes, descriptor.digest())?;
        if bytes.len() as u64 != descriptor.size() {
            let message = format!("reading {what_digest}: size is {} bytes (expected {})", bytes.len(), descriptor.size());
            return Err(Failure::new(FailureKind::Corrupt, message).into());
        }
        Ok(bytes)
    }

    fn blob(&self, what: &str, digest: &str) -> Result<ocidir::cap_std::fs::File> {
        let (algorithm, hex) = digest.split_once(':').with_context(|| format!("reading digest {digest:?}: no algorithm"))?;
        self.dir.dir().open(format!("blobs/{algorithm}/{hex}")).map_err(|e| {
            let doing = format!("reading {what} {digest} in {}", self.path);
            if e.kind() == std::io::ErrorKind::NotFound {
                return Failure::new(FailureKind::Corrupt, format!("{doing}: the blob is missing")).into();
            }
            anyhow::Error::from(e).context(doing)
        })
    }

    fn no_such_tag(&self, tag: Option<&str>, index: &ImageIndex) -> Failure {
        let found = match tag {
            Some(tag) => format!("there is no tag {tag}; {}", tags(index)),
            None => "it is empty (expected an image)".to_owned(),
        };
        Failure::new(FailureKind::NotFound, format!("reading OCI layout {}: {found}", self.path))
    }

    fn ambiguous(&self, index: &ImageIndex) -> Failure {
        let message = format!("reading OCI layout {}: there are several images and no tag was given; {}", self.path, tags(index));
        Failure::new(FailureKind::Usage, message).hint(format!("name one of them: oci:{}:TAG", self.path))
    }
}

fn tag_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(TAG).map(String::as_str)
}

fn tags(index: &ImageIndex) -> String {
    let mut tags: Vec<&str> = index.manifests().iter().filter_map(tag_of).collect();
    tags.sort();
    tags.dedup();
    if tags.is_empty() { "it has no tags".to_owned() } else { format!("it has {}", tags.join(", ")) }
}

fn absent(path: &str, error: std::io::Error) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Failure::new(FailureKind::NotFound, format!("opening OCI layout {path}: no such directory")).into();
    }
    let doing = format!("opening OCI layout {path}");
    match Errno::from_io_error(&error) {
        Some(errno) => dir::unusable(doing, errno),
        None => anyhow::Error::from(error).context(doing),
    }
}

fn no_layout(path: &str, error: &ocidir::Error) -> anyhow::Error {
    let found = match error {
        ocidir::Error::MissingImageIndex => "index.json is missing".to_owned(),
        ocidir::Error::Io(e) if e.kind() == std::io::ErrorKind::NotFound => "blobs/sha256 is missing".to_owned(),
        ocidir::Error::SerDe(_) | ocidir::Error::OciSpecError(_) => {
            return Failure::new(FailureKind::Corrupt, format!("reading {path}/index.json: not an image index")).into();
        }
        ocidir::Error::Io(e) => return anyhow::Error::new(std::io::Error::from(e.kind())).context(format!("opening OCI layout {path}")),
        other => return anyhow::anyhow!("opening OCI layout {path}: {other}"),
    };
    Failure::new(FailureKind::NotFound, format!("opening OCI layout {path}: {found} (expected an OCI image layout)")).into()
}
