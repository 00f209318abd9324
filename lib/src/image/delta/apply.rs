//! Applying a delta: the library `oci-delta` does it, with the files that it is given.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oci_delta::{DeltaBlobReader, DeltaDataSource, parse_delta_manifest, reconstruct_layer_to};
use oci_spec::image::{Descriptor, ImageManifest, MediaType};

use super::artifact::{Delta, blob_file};
use crate::sys::interrupt;

/// The largest file that is read into memory because a patch refers to all of it.
const MAX_WHOLE: u64 = 128 << 20;

/// The files of the image that a delta starts from.
pub trait SourceFiles: Send + Sync {
    /// Opens the regular file at a path in the root of that image. Nobody relies on its bytes being right.
    ///
    /// # Errors
    ///
    /// There is no such file, or it is damaged.
    fn open(&self, path: &str) -> Result<Box<dyn SourceFile>>;
}

/// An open file of the image that a delta starts from.
pub trait SourceFile: Read + Seek + Send {}

impl<T: Read + Seek + Send> SourceFile for T {}

/// Makes the tar of a layer of a blob of a delta, which is a patch or a layer as its media type says, and writes it to `out`.
///
/// # Errors
///
/// Everything that is wrong with the blob; and where what comes out has another digest than `diff_id`. What was written is of no use then.
pub fn apply_delta(
    blob: impl Read + Send + 'static,
    media_type: &str,
    files: &dyn SourceFiles,
    diff_id: &str,
    out: &mut dyn Write,
) -> Result<()> {
    let diff_id = diff_id.parse().with_context(|| format!("reading diff_id {diff_id:?}"))?;
    reconstruct_layer_to(blob, &MediaType::from(media_type), &mut Files { files, current: None }, &diff_id, out)
}

/// Applies all of a delta that was put together, as whoever gets it will, and throws the result away.
///
/// # Errors
///
/// Whatever keeps it from making the layers of the image that it is for.
pub async fn prove_delta(delta: &Delta, files: &dyn SourceFiles) -> Result<()> {
    let manifest = ImageManifest::from_reader(delta.manifest.as_slice()).context("reading the delta's manifest")?;
    let parsed = parse_delta_manifest(&manifest, &Staged(&delta.directory)).await.context("reading the delta")?;
    let diff_ids = parsed.target_config.rootfs().diff_ids();
    for (layer, diff_id) in parsed.target_manifest.layers().iter().zip(diff_ids) {
        let Some(blob) = parsed.delta_layer_by_to.get(layer.digest()) else {
            ensure!(delta.reused.contains(diff_id), "layer {diff_id} is neither in the delta nor in the image that it starts from");
            continue;
        };
        let file = blob_file(&delta.directory, blob.digest().as_ref())?;
        let applied = || apply_delta(file, blob.media_type().as_ref(), files, diff_id, &mut Away);
        tokio::task::block_in_place(applied).with_context(|| format!("making layer {} of blob {}", layer.digest(), blob.digest()))?;
    }
    Ok(())
}

/// Takes what nobody needs, until a signal calls off what is at work.
struct Away;

impl Write for Away {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match interrupt::called_off() {
            Some(signal) => Err(io::Error::other(signal.failure())),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The blobs of a delta that is put together.
struct Staged<'a>(&'a Path);

impl DeltaBlobReader for Staged<'_> {
    fn open_blob(&self, descriptor: &Descriptor) -> oci_delta::BlobStreamFuture<'_> {
        let file: Result<File> = blob_file(self.0, descriptor.digest().as_ref());
        Box::pin(async { Ok(Box::new(file?) as Box<dyn oci_delta::BlobStream>) })
    }
}

/// The files, as the library asks for them.
struct Files<'a> {
    files: &'a dyn SourceFiles,
    current: Option<Box<dyn SourceFile>>,
}

impl Files<'_> {
    fn current(&mut self) -> Result<&mut Box<dyn SourceFile>> {
        self.current.as_mut().context("the patch reads from a file and has opened none")
    }
}

impl DeltaDataSource for Files<'_> {
    fn set_current_file(&mut self, path: &str) -> Result<()> {
        self.current = None;
        self.current =
            Some(self.files.open(path).with_context(|| format!("opening file {path:?} of the image that the delta starts from"))?);
        Ok(())
    }

    fn read_exact_current(&mut self, buffer: &mut [u8]) -> Result<()> {
        Ok(self.current()?.read_exact(buffer)?)
    }

    fn seek_current(&mut self, offset: u64) -> Result<u64> {
        Ok(self.current()?.seek(SeekFrom::Start(offset))?)
    }

    fn read_current_to_end(&mut self, max_size: u64) -> Result<Vec<u8>> {
        let current = self.current()?;
        let size = current.seek(SeekFrom::End(0))?;
        let max_size = max_size.min(MAX_WHOLE);
        ensure!(size <= max_size, "the patch refers to a file of {size} bytes (expected at most {max_size})");
        current.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        current.take(size).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn copy_to(&mut self, out: &mut dyn Write, size: u64) -> Result<()> {
        let copied = io::copy(&mut self.current()?.take(size), out)?;
        ensure!(copied == size, "the patch copies {size} bytes of a file, of which there are {copied}");
        Ok(())
    }
}
