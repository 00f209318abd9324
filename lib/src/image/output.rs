//! Where images go to: an image layout, an archive, a registry, or the storage of podman. Whatever fails, the output is what it was before.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;
use serde::Serialize;

use super::archive::{self, ArchiveWriter};
use super::blob::Expected;
use super::derive::{Derived, Image};
use super::layout_writer::{self, LayoutWriter};
use super::{Source, SourceOptions, digest, named, proxy, proxy_error, skopeo};
use crate::error::{Failure, FailureKind};
use crate::progress::Progress;
use crate::reference::{ImageReference, Transport};
use crate::sys::dir;

/// The layout in a scratch directory from which skopeo takes an image, and its tag there.
pub(super) const STAGED: &str = "image";

/// How to reach the place that an image is written to.
#[derive(Debug, Clone, Default)]
pub struct OutputOptions {
    /// A file of credentials, see containers-auth.json(5); the usual places where `None`.
    pub authfile: Option<PathBuf>,
    /// Whether HTTPS with a valid certificate is required; as registries.conf says where `None`.
    pub tls_verify: Option<bool>,
}

/// An image that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Written {
    /// The reference that it was written to.
    pub reference: String,
    /// Digest of its manifest.
    pub manifest_digest: String,
    /// Bytes of the blobs that were not there before; to a registry or a storage, of all blobs.
    pub bytes_written: u64,
}

/// Whether an image can be written to `output`: for a caller who wants to know before a long preparation. A registry is not asked, see
/// [`check_named`](super::check_named).
///
/// # Errors
///
/// [`FailureKind::Usage`] for `docker-archive:`, for a digest, for an `oci-archive:` that exists, for an `oci:` directory of something else,
/// and for one with other images where no tag is given. [`FailureKind::NotFound`]: there is no directory for it.
/// [`FailureKind::NotPermitted`]: it cannot be written to.
pub fn check_output(output: &ImageReference) -> Result<()> {
    check(output, OutputKind::Image)
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// An image.
    Image,
    /// A delta, which belongs to an image and is found by that.
    Delta,
}

/// [`check_output`] for anything that is written.
pub(super) fn check(output: &ImageReference, kind: OutputKind) -> Result<()> {
    let refused = |why: &str, hint: &str| Err(Failure::new(FailureKind::Usage, format!("writing {output}: {why}")).hint(hint).into());
    match output.transport() {
        Transport::DockerArchive => refused("Docker's format has no place for annotations", "write an oci-archive: instead"),
        _ if names_digest(output) => refused("a digest cannot be chosen, it is what writing results in", "name a tag"),
        Transport::Oci => layout_writer::check(output.name(), output.tag(), kind),
        Transport::OciArchive => archive::check(output.name()),
        Transport::Registry | Transport::ContainersStorage => Ok(()),
    }
}

/// A storage name is not taken apart elsewhere; in front of it there may be `[driver@root+run]`.
fn names_digest(output: &ImageReference) -> bool {
    let stored = output.transport() == Transport::ContainersStorage;
    output.digest().is_some() || stored && output.name().rsplit(']').next().is_some_and(|name| name.contains('@'))
}

/// Writes `derived` to `output`. Layers of the base are copied from `source` as they are, and checked on the way.
///
/// The output shows the new image only when all of it is there. `oci:DIR` is made where there is none; other images in it stay, and blobs that
/// it has are not written again. For a registry and `containers-storage:` the image is first put together below `scratch`, which needs as
/// much room as the image, and then copied by skopeo.
///
/// # Errors
///
/// Those of [`check_output`] and [`check_named`](super::check_named). Where a layer of the base is not what its digest says, where there is no room, and where the registry refuses
/// or cannot be reached: a [`Failure`] as in reading. A `source` that is not the base of `derived`, or that was not opened by
/// [`Source::open_to_copy`] although it has to. [`FailureKind::Busy`] while another process writes to the same directory or file.
pub async fn write(
    source: &Source,
    derived: &Derived,
    output: &ImageReference,
    options: &OutputOptions,
    scratch: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<Written> {
    write_image(source, &derived.image(), output, options, scratch, progress).await
}

/// Writes any image, see [`write`].
pub(super) async fn write_image(
    source: &Source,
    image: &Image<'_>,
    output: &ImageReference,
    options: &OutputOptions,
    scratch: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<Written> {
    let kind = if image.artifact.is_some() { OutputKind::Delta } else { OutputKind::Image };
    check(output, kind)?;
    // Once more for whoever asked before a long preparation: somebody may have written there meanwhile.
    named::check_named(output, kind, options).await?;
    if source.resolved().manifest_digest != image.base {
        bail!("writing {output}: the image was derived from {} (expected {})", image.base, source.resolved().manifest_digest);
    }
    progress.phase(format!("writing {output}"));
    let (name, tag, entry) = (output.name(), output.tag(), image.entry(output.tag()));
    let bytes_written = match output.transport() {
        Transport::Oci => {
            let mut layout = LayoutWriter::open(name, Arc::clone(progress))?;
            let written = copy(source, image, &mut layout, progress).await?;
            layout.publish(entry, tag)?;
            written
        }
        Transport::OciArchive => {
            let mut archive = ArchiveWriter::create(name, Arc::clone(progress))?;
            let written = copy(source, image, &mut archive, progress).await?;
            archive.publish(entry, tag)?;
            written
        }
        Transport::Registry | Transport::ContainersStorage | Transport::DockerArchive => {
            push(source, image, output, options, scratch, progress).await?
        }
    };
    Ok(Written { reference: output.to_string(), manifest_digest: image.manifest_digest.to_owned(), bytes_written })
}

/// Puts the image together in a layout, where it is not in one yet, and has skopeo copy it: blobs first and the manifest last, as registries
/// demand.
async fn push(
    source: &Source,
    image: &Image<'_>,
    output: &ImageReference,
    options: &OutputOptions,
    scratch: &Path,
    progress: &Arc<dyn Progress>,
) -> Result<u64> {
    if let Some(staged) = image.staged {
        copy_staged(staged, image, output, options, progress).await?;
        let blobs: u64 = image.blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        return Ok(blobs + source.resolved().layers.iter().map(|layer| layer.size).sum::<u64>());
    }
    let scratch = tempfile::Builder::new().prefix(".selkie-push-").tempdir_in(scratch);
    let scratch = scratch.context("making a scratch directory")?;
    let Some(path) = scratch.path().join(STAGED).to_str().map(str::to_owned) else {
        bail!("writing {output}: the scratch directory's name is not UTF-8");
    };
    let mut layout = LayoutWriter::open(&path, Arc::clone(progress))?;
    let written = copy(source, image, &mut layout, progress).await?;
    layout.publish(image.entry(Some(STAGED)), Some(STAGED))?;
    copy_staged(scratch.path(), image, output, options, progress).await?;
    Ok(written)
}

/// Has skopeo copy the image out of the layout in `directory`.
async fn copy_staged(
    directory: &Path,
    image: &Image<'_>,
    output: &ImageReference,
    options: &OutputOptions,
    progress: &Arc<dyn Progress>,
) -> Result<()> {
    let doing = format!("writing {output}");
    let argv = skopeo::copy_to(&format!("oci:{STAGED}:{STAGED}"), &output.skopeo(), options)?;
    skopeo::run_in(directory, argv).await.map_err(|e| proxy_error::explain_command(&doing, output.transport(), e))?;
    progress.step("push image");
    check_pushed(image, output, options).await
}

/// Looks whether the output leads to what was written.
async fn check_pushed(image: &Image<'_>, output: &ImageReference, options: &OutputOptions) -> Result<()> {
    let OutputOptions { authfile, tls_verify } = options.clone();
    let manifest =
        proxy::raw(&format!("writing {output}"), output, &SourceOptions { authfile, tls_verify, ..SourceOptions::default() }).await?;
    let found = digest::sha256(&manifest)?;
    if found == image.manifest_digest {
        return Ok(());
    }
    let message = format!("writing {output}: afterwards it led to {found} (expected {}, which was written)", image.manifest_digest);
    let hint = "somebody else may have written it at the same time, or registries.conf names a mirror that is behind";
    Err(Failure::new(FailureKind::Unreachable, message).hint(hint).into())
}

/// What is read of a blob at a time.
pub(super) const BUFFER: usize = 256 << 10;

/// What blobs are written to.
pub(super) trait Sink {
    /// Whether the blob is there already, whole.
    fn has(&mut self, expected: &Expected) -> Result<bool>;

    /// Writes a blob; how many bytes it has. The reader's end says that they are the right ones.
    fn put(&mut self, expected: &Expected, reader: &mut impl Read) -> Result<u64>;
}

/// Writes all blobs that are not there; how many bytes those have.
async fn copy(source: &Source, image: &Image<'_>, sink: &mut impl Sink, progress: &Arc<dyn Progress>) -> Result<u64> {
    let mut written = 0;
    for (index, layer) in source.resolved().layers.iter().enumerate() {
        let expected = Expected::of(layer);
        if !sink.has(&expected)? {
            let mut reader = source.open_blob(index, Arc::clone(progress)).await?;
            let put = tokio::task::block_in_place(|| sink.put(&expected, &mut reader));
            written += put.with_context(|| format!("copying layer {}", layer.digest))?;
        }
    }
    Ok(written + put_blobs(image, sink)?)
}

/// Writes those blobs that are no layers of the source and not there; how many bytes those have.
pub(super) fn put_blobs(image: &Image<'_>, sink: &mut impl Sink) -> Result<u64> {
    let mut written = 0;
    for (digest, mut bytes) in image.blobs.iter().copied() {
        let expected = Expected { digest: digest.to_owned(), size: Some(bytes.len() as u64) };
        if !sink.has(&expected)? {
            written += sink.put(&expected, &mut bytes)?;
        }
    }
    Ok(written)
}

/// Writes all that a reader has to a file; how many bytes it was.
pub(super) fn pour(reader: &mut impl Read, file: &mut File) -> Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut written = 0;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(written);
        }
        file.write_all(&buffer[..read]).context("writing a blob")?;
        written += read as u64;
    }
}

/// Checks that files can be made in `directory`, where `path` is to be written.
pub(super) fn check_writable(directory: &OwnedFd, path: &str) -> Result<()> {
    match rustix::fs::accessat(directory, ".", Access::WRITE_OK, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(e @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
            Err(Failure::new(FailureKind::NotPermitted, format!("writing {path}: the directory cannot be written to: {e}")).into())
        }
        Err(e) => Err(e).with_context(|| format!("writing {path}")),
    }
}

/// The directory in which `path` is.
pub(super) fn parent(path: &str) -> Result<OwnedFd> {
    let parent = Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    dir::open_path(parent).map_err(|e| match e {
        Errno::NOENT | Errno::NOTDIR => {
            let message = format!("writing {path}: there is no directory {}", parent.display());
            Failure::new(FailureKind::NotFound, message).hint("make it, or give another name").into()
        }
        e => anyhow::Error::from(e).context(format!("opening directory {}", parent.display())),
    })
}

/// What `path` is called in its directory.
pub(super) fn name(path: &str) -> Result<&str> {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    Ok(name.ok_or_else(|| Failure::new(FailureKind::Usage, format!("writing {path}: it names no file (expected a name)")))?)
}
