//! [`Delta`]: the artifact, put together in a layout of a scratch directory, and from there written to where it goes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use oci_delta::MEDIA_TYPE_DELTA;
use oci_spec::image::{ImageManifest, MediaType};
use serde_json::{Map, Value, json};

use super::{CONTENT, EMPTY, EMPTY_CONFIG, REUSED, REUSED_DIFF_ID, SOURCE, SOURCE_CONFIG, TARGET, TO, patch, referrers};
use crate::image::derive::{Image, descriptor};
use crate::image::layout::Layout;
use crate::image::layout_writer::LayoutWriter;
use crate::image::manifest::{Layer, Resolved};
use crate::image::output::{self, OutputOptions, STAGED, Written};
use crate::image::{From, Source, SourceOptions, digest};
use crate::progress::{Progress, Silent};
use crate::reference::{ImageReference, Transport};

/// A blob of a delta that stands for a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaBlob {
    /// What it is: a patch, or a layer.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
}

impl DeltaBlob {
    /// The blob of `layer` itself, which `reader` reads, for a delta that is put together in `directory`.
    ///
    /// # Errors
    ///
    /// Those of the reader, and where there is no room.
    pub fn whole(directory: &Path, layer: &Layer, reader: &mut impl Read) -> Result<Self> {
        let (algorithm, hex) = parts(&layer.digest)?;
        let blobs = patch::blobs(directory, algorithm)?;
        let mut file = tempfile::NamedTempFile::new_in(&blobs).context("making a scratch file")?;
        output::pour(reader, file.as_file_mut())?;
        file.persist(blobs.join(hex)).context("writing a blob")?;
        Ok(Self { media_type: layer.media_type.to_string(), digest: layer.digest.clone(), size: layer.size })
    }

    /// Opens the blob in the directory in which its delta is put together.
    ///
    /// # Errors
    ///
    /// Where it is not there.
    pub fn open(&self, directory: &Path) -> Result<File> {
        blob_file(directory, &self.digest)
    }
}

/// A layer of the image that is to be made, and what stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaLayer {
    /// The layer.
    pub layer: Layer,
    /// What stands for it.
    pub blob: DeltaBlob,
}

/// A delta that is put together and published nowhere yet.
#[derive(Debug, Clone)]
pub struct Delta {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub manifest_digest: String,
    annotations: Value,
    /// The diff_ids of the layers that are not in it, because the image to start from has them.
    pub(super) reused: Vec<String>,
    pub(super) directory: PathBuf,
    target: Resolved,
    layers: Vec<DeltaLayer>,
}

impl Delta {
    /// Puts together what makes `to` of `from`. `layers`, lowest first, are those that `from` has not; their blobs were written to `directory`.
    /// The same input gives the same bytes.
    ///
    /// # Errors
    ///
    /// Where there is no room.
    pub fn new(from: &Resolved, to: &Resolved, layers: Vec<DeltaLayer>, directory: &Path) -> Result<Self> {
        let reused: Vec<&Layer> = to.layers.iter().filter(|layer| layers.iter().all(|new| new.layer.diff_id != layer.diff_id)).collect();
        let annotations = annotations(from, to, &reused).context("writing the delta's manifest")?;
        let manifest = manifest(to, &layers, &annotations).context("writing the delta's manifest")?;
        let manifest_digest = digest::sha256(&manifest)?;
        let reused = reused.iter().map(|layer| layer.diff_id.clone()).collect();
        let delta = Self { manifest, manifest_digest, annotations, reused, directory: directory.to_owned(), target: to.clone(), layers };
        delta.stage()?;
        Ok(delta)
    }

    /// Bytes of all that is in it, its manifest included.
    pub fn size(&self) -> u64 {
        let json = [self.manifest.len(), self.target.manifest.len(), self.target.config.len(), EMPTY_CONFIG.len()];
        json.iter().map(|length| *length as u64).sum::<u64>() + self.blobs().iter().map(|blob| blob.size).sum::<u64>()
    }

    /// Writes it to `output`, like [`write`](crate::image::write()) an image: it is there when all of it is there. In a registry that cannot be
    /// asked what refers to a manifest, the tag that stands in for that is written, too, after it.
    ///
    /// # Errors
    ///
    /// Those of [`check_delta_output`](super::check_delta_output) and of [`write`](crate::image::write()).
    pub async fn write(&self, output: &ImageReference, options: &OutputOptions, progress: &Arc<dyn Progress>) -> Result<Written> {
        super::check_delta_output(output)?;
        let from = From::Layout(Layout::open_directory(&self.directory.join(STAGED))?);
        let source = Source::new(self.resolved(output), from, &SourceOptions::default(), None);
        let written = output::write_image(&source, &self.image(), output, options, &self.directory, progress).await?;
        if output.transport() == Transport::Registry {
            let entry = self.image().entry(None);
            referrers::publish(output, &self.target.manifest_digest, entry, options, progress).await?;
        }
        Ok(written)
    }

    /// The artifact as if it were an image: its layers are what stands for the layers.
    fn resolved(&self, reference: &ImageReference) -> Resolved {
        let layer = |DeltaBlob { media_type, digest, size }: &DeltaBlob| Layer {
            digest: digest.clone(),
            diff_id: digest.clone(),
            size: *size,
            media_type: MediaType::from(media_type.as_str()),
        };
        let layers = self.blobs().into_iter().map(layer).collect();
        Resolved::artifact(reference, &self.manifest_digest, &self.manifest, layers)
    }

    /// What stands for layers, each once.
    fn blobs(&self) -> Vec<&DeltaBlob> {
        let mut blobs: Vec<&DeltaBlob> = Vec::new();
        for blob in self.layers.iter().map(|layer| &layer.blob) {
            blobs.extend((!blobs.contains(&blob)).then_some(blob));
        }
        blobs
    }

    fn image(&self) -> Image<'_> {
        let (target, digest) = (&self.target, self.manifest_digest.as_str());
        let blobs = vec![
            (EMPTY_DIGEST, EMPTY_CONFIG),
            (target.config_digest.as_str(), target.config.as_slice()),
            (target.manifest_digest.as_str(), target.manifest.as_slice()),
            (digest, self.manifest.as_slice()),
        ];
        Image {
            base: digest,
            blobs,
            manifest_digest: digest,
            platform: &Value::Null,
            artifact: Some((MEDIA_TYPE_DELTA, &self.annotations)),
            staged: Some(&self.directory),
        }
    }

    /// Lists the artifact in the layout in which its blobs are.
    fn stage(&self) -> Result<()> {
        let Some(path) = self.directory.join(STAGED).to_str().map(str::to_owned) else {
            bail!("putting the delta together: the scratch directory's name is not UTF-8");
        };
        patch::blobs(&self.directory, "sha256")?;
        let (mut layout, image) = (LayoutWriter::open(&path, Arc::new(Silent))?, self.image());
        output::put_blobs(&image, &mut layout)?;
        layout.publish(image.entry(Some(STAGED)), Some(STAGED))
    }
}

/// The digest of [`EMPTY_CONFIG`].
const EMPTY_DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

/// Opens a blob of the layout that is put together in `directory`.
pub(super) fn blob_file(directory: &Path, digest: &str) -> Result<File> {
    let (algorithm, hex) = parts(digest)?;
    File::open(directory.join(STAGED).join("blobs").join(algorithm).join(hex)).with_context(|| format!("opening blob {digest}"))
}

fn parts(digest: &str) -> Result<(&str, &str)> {
    digest.split_once(':').with_context(|| format!("reading digest {digest:?}: no algorithm"))
}

fn annotations(from: &Resolved, to: &Resolved, reused: &[&Layer]) -> Result<Value> {
    let mut annotations: Map<String, Value> = Map::new();
    annotations.insert(SOURCE.into(), from.manifest_digest.as_str().into());
    annotations.insert(SOURCE_CONFIG.into(), from.config_digest.as_str().into());
    annotations.insert(TARGET.into(), to.manifest_digest.as_str().into());
    if !reused.is_empty() {
        let list = |of: fn(&Layer) -> &str| serde_json::to_string(&reused.iter().map(|layer| of(layer)).collect::<Vec<_>>());
        annotations.insert(REUSED.into(), list(|layer| &layer.digest)?.into());
        annotations.insert(REUSED_DIFF_ID.into(), list(|layer| &layer.diff_id)?.into());
    }
    Ok(annotations.into())
}

fn manifest(to: &Resolved, layers: &[DeltaLayer], annotations: &Value) -> Result<Vec<u8>> {
    let target = ImageManifest::from_reader(to.manifest.as_slice())?;
    let manifest_type = target.media_type().clone().unwrap_or(MediaType::ImageManifest);
    let subject = descriptor(&manifest_type, &to.manifest_digest, to.manifest.len());
    let with = |mut described: Value, annotations: Value| {
        described["annotations"] = annotations;
        described
    };
    let config = descriptor(target.config().media_type(), &to.config_digest, to.config.len());
    let mut listed = vec![with(subject.clone(), json!({ CONTENT: "image-manifest" })), with(config, json!({ CONTENT: "image-config" }))];
    listed.extend(layers.iter().map(|DeltaLayer { layer, blob }| {
        let described = json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size});
        with(described, json!({ CONTENT: "image-layer", TO: layer.digest }))
    }));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::ImageManifest.to_string(),
        "artifactType": MEDIA_TYPE_DELTA,
        "config": descriptor(&MediaType::from(EMPTY), EMPTY_DIGEST, EMPTY_CONFIG.len()),
        "layers": listed,
        "subject": subject,
        "annotations": annotations,
    });
    Ok(serde_json::to_vec(&manifest)?)
}
