//! An image with all of its layers made anew: they are written into a layout of a scratch directory, where the image can be read like any
//! other, and from there to where it goes.

use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use oci_spec::image::MediaType;
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::chunked::Writer;
use super::derive::{Image, descriptor, platform};
use super::entry::Entry;
use super::layout::Layout;
use super::layout_writer::LayoutWriter;
use super::manifest::{Layer, Resolved};
use super::output::{self, BUFFER, OutputOptions, STAGED, Written};
use super::{From, Source, SourceOptions, digest};
use crate::progress::{Progress, Silent};
use crate::reference::ImageReference;

/// Where a layout keeps blobs.
const BLOBS: &str = "blobs/sha256";

/// A layer that is being written in the format zstd:chunked, see [`Rebuilt`].
pub struct LayerWriter {
    writer: Writer<BufWriter<NamedTempFile>>,
    blobs: PathBuf,
}

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenLayer {
    /// Its digests, its size and its type.
    pub layer: Layer,
    /// Bytes of its tar.
    pub tar_size: u64,
    /// Annotations of its descriptor, which say where its table of contents is. None where the layer has no such table, because it has a
    /// name that is not UTF-8.
    pub annotations: Vec<(String, String)>,
}

impl LayerWriter {
    /// Begins a layer of an image that is put together in `directory`, which may be empty.
    ///
    /// # Errors
    ///
    /// Where no file can be made there.
    pub fn create(directory: &Path) -> Result<Self> {
        let blobs = directory.join(STAGED).join(BLOBS);
        std::fs::create_dir_all(&blobs).context("making a scratch directory")?;
        let file = NamedTempFile::new_in(&blobs).context("making a scratch file")?;
        Ok(Self { writer: Writer::new(BufWriter::with_capacity(BUFFER, file))?, blobs })
    }

    /// Adds an entry, with the content of a file. The directories that lead to it have to stand before it.
    ///
    /// # Errors
    ///
    /// An entry that no layer can hold, content that is not as long as the entry says, and where there is no room.
    pub fn add(&mut self, entry: &Entry<'_>, content: impl Read) -> Result<()> {
        self.writer.add(entry, content).with_context(|| format!("writing {} into a layer", String::from_utf8_lossy(entry.path)))
    }

    /// Ends the layer.
    ///
    /// # Errors
    ///
    /// Where there is no room.
    pub fn finish(self) -> Result<WrittenLayer> {
        let (out, finished) = self.writer.finish().context("writing a layer")?;
        let file = out.into_inner().map_err(|e| e.into_error()).context("writing a layer")?;
        let name = finished.digest.trim_start_matches("sha256:");
        file.persist(self.blobs.join(name)).context("writing a layer")?;
        let (digest, diff_id, size) = (finished.digest, finished.diff_id, finished.size);
        let layer = Layer { digest, diff_id, size, media_type: MediaType::ImageLayerZstd };
        Ok(WrittenLayer { layer, tar_size: finished.tar_size, annotations: finished.annotations })
    }
}

/// An image with new layers, in a layout of a scratch directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub manifest_digest: String,
    /// The configuration.
    pub config: Vec<u8>,
    /// Its digest.
    pub config_digest: String,
    platform: Value,
    directory: PathBuf,
}

impl Rebuilt {
    /// Puts `layers`, lowest first and each with what its history says of it, in place of the layers of `base`. They were written to
    /// `directory` by [`LayerWriter`].
    ///
    /// Annotations, labels and everything else but layers and history is kept. A base in Docker's format comes out in OCI's. The same input
    /// gives the same bytes.
    ///
    /// # Errors
    ///
    /// A configuration that is not what the specification says; where there is no room.
    pub fn new(base: &Resolved, layers: &[(WrittenLayer, String)], created_by: &str, directory: &Path) -> Result<Self> {
        let (config, platform) = config(base, layers, created_by).context("writing the image configuration")?;
        let config_digest = digest::sha256(&config)?;
        let manifest = manifest(base, layers, &config_digest, config.len()).context("writing the manifest")?;
        let manifest_digest = digest::sha256(&manifest)?;
        let rebuilt = Self { manifest, manifest_digest, config, config_digest, platform, directory: directory.to_owned() };
        rebuilt.stage()?;
        Ok(rebuilt)
    }

    /// Opens the image where it lies, like any other image; `reference` is what it is called in events and errors.
    ///
    /// # Errors
    ///
    /// Those of [`Source::open`].
    pub fn open(&self, reference: &ImageReference, options: &SourceOptions) -> Result<Source> {
        let path = self.directory.join(STAGED);
        let (layout, resolved) = Layout::open(&path, Some(STAGED), reference, &options.architecture())?;
        Ok(Source::new(resolved, From::Layout(layout), options, None))
    }

    /// Writes the image, which `source` has open, to `output`. Otherwise like [`write`](super::write()), without a second copy for skopeo.
    ///
    /// # Errors
    ///
    /// Those of [`write`](super::write()).
    pub async fn write(
        &self,
        source: &Source,
        output: &ImageReference,
        options: &OutputOptions,
        progress: &Arc<dyn Progress>,
    ) -> Result<Written> {
        output::write_image(source, &self.image(), output, options, &self.directory, progress).await
    }

    fn image(&self) -> Image<'_> {
        let blobs = vec![(self.config_digest.as_str(), self.config.as_slice()), (self.manifest_digest.as_str(), self.manifest.as_slice())];
        let (digest, directory) = (self.manifest_digest.as_str(), self.directory.as_path());
        Image { base: digest, blobs, manifest_digest: digest, platform: &self.platform, artifact: None, staged: Some(directory) }
    }

    /// Lists the image in the layout in which its layers are. Nothing of that outlives the process, so nobody is told of durable steps.
    fn stage(&self) -> Result<()> {
        let Some(path) = self.directory.join(STAGED).to_str().map(str::to_owned) else {
            bail!("putting the image together: the scratch directory's name is not UTF-8");
        };
        let (mut layout, image) = (LayoutWriter::open(&path, Arc::new(Silent))?, self.image());
        output::put_blobs(&image, &mut layout)?;
        layout.publish(image.entry(Some(STAGED)), Some(STAGED))
    }
}

/// The configuration, and the platform that it names.
fn config(base: &Resolved, layers: &[(WrittenLayer, String)], created_by: &str) -> Result<(Vec<u8>, Value)> {
    let mut config: Map<String, Value> = serde_json::from_slice(&base.config)?;
    let created = config.get("created").filter(|created| created.is_string()).cloned();
    let entry = |comment: &String| {
        let mut entry = json!({"created_by": created_by, "comment": comment});
        if let Some(created) = &created {
            entry["created"] = created.clone();
        }
        entry
    };
    config.insert("history".into(), layers.iter().map(|(_, comment)| entry(comment)).collect());
    let diff_ids: Vec<&String> = layers.iter().map(|(written, _)| &written.layer.diff_id).collect();
    config.insert("rootfs".into(), json!({"type": "layers", "diff_ids": diff_ids}));
    Ok((serde_json::to_vec(&config)?, platform(&config)))
}

fn manifest(base: &Resolved, layers: &[(WrittenLayer, String)], config_digest: &str, config_len: usize) -> Result<Vec<u8>> {
    let (_, bytes) = base.oci_manifest()?;
    let mut manifest: Map<String, Value> = serde_json::from_slice(&bytes)?;
    manifest.insert("mediaType".into(), MediaType::ImageManifest.to_string().into());
    manifest.insert("config".into(), descriptor(&MediaType::ImageConfig, config_digest, config_len));
    let described = |(written, _): &(WrittenLayer, String)| {
        let layer = &written.layer;
        let mut described = descriptor(&layer.media_type, &layer.digest, layer.size as usize);
        if !written.annotations.is_empty() {
            described["annotations"] = written.annotations.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
        }
        described
    };
    manifest.insert("layers".into(), layers.iter().map(described).collect());
    Ok(serde_json::to_vec(&manifest)?)
}
