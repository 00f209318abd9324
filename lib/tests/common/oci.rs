//! Builds OCI layouts blob by blob in temporary directories, so that each blob can be damaged.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ocidir::OciDir;
use ocidir::cap_std::{ambient_authority, fs::Dir};
use ocidir::oci_spec::image::{
    Arch, Config, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifest, ImageManifestBuilder, MediaType, Os,
    PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
};
use selkie::error::Failure;
use selkie::image::{Retries, Source, SourceOptions};
use selkie::progress::Progress;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A layout that is being built, and goes away with this value.
pub(crate) struct Layout {
    dir: tempfile::TempDir,
    oci: OciDir,
    entries: Vec<Descriptor>,
}

impl Layout {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let oci = OciDir::ensure(Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap()).unwrap();
        Self { dir, oci, entries: Vec::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `oci:DIR[:TAG]`
    pub(crate) fn reference(&self, tag: Option<&str>) -> String {
        let tag = tag.map(|t| format!(":{t}")).unwrap_or_default();
        format!("oci:{}{tag}", self.dir.path().display())
    }

    /// An image of these layers, each a tar.
    pub(crate) fn image(&self, architecture: &str, layers: &[(Compression, Vec<u8>)]) -> Descriptor {
        let written: Vec<_> = layers.iter().map(|(compression, tar)| self.layer(*compression, tar)).collect();
        let diff_ids: Vec<String> = written.iter().map(|(_, diff_id)| diff_id.clone()).collect();
        let descriptors: Vec<Descriptor> = written.into_iter().map(|(descriptor, _)| descriptor).collect();
        self.image_of(architecture, descriptors, diff_ids)
    }

    /// An image of layers that were written before, with any diff_ids.
    pub(crate) fn image_of(&self, architecture: &str, layers: Vec<Descriptor>, diff_ids: Vec<String>) -> Descriptor {
        let rootfs = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build().unwrap();
        let mut inner = Config::default();
        inner.set_labels(Some([("org.opencontainers.image.version".to_owned(), "1".to_owned())].into()));
        let config = ImageConfigurationBuilder::default().architecture(Arch::from(architecture)).os(Os::Linux).rootfs(rootfs).config(inner);
        let config = self.oci.write_config(config.build().unwrap()).unwrap();
        let manifest = ImageManifestBuilder::default().schema_version(SCHEMA_VERSION).media_type(MediaType::ImageManifest);
        let manifest = manifest.config(config).layers(layers).build().unwrap();
        let platform = PlatformBuilder::default().architecture(Arch::from(architecture)).os(Os::Linux).build().unwrap();
        self.oci.write_json_blob(&manifest, MediaType::ImageManifest).unwrap().platform(platform).build().unwrap()
    }

    /// The same image with annotations in its manifest.
    pub(crate) fn annotated(&self, image: &Descriptor, annotations: &[(&str, &str)]) -> Descriptor {
        let mut manifest = ImageManifest::from_file(self.blob(image.digest().as_ref())).unwrap();
        manifest.set_annotations(Some(annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()));
        let written = self.oci.write_json_blob(&manifest, MediaType::ImageManifest).unwrap();
        written.platform(image.platform().clone().unwrap()).build().unwrap()
    }

    /// Writes the blob of a layer: its descriptor and its diff_id.
    pub(crate) fn layer(&self, compression: Compression, tar: &[u8]) -> (Descriptor, String) {
        let layer = match compression {
            Compression::None => {
                let mut writer = self.oci.create_uncompressed_layer().unwrap();
                writer.write_all(tar).unwrap();
                writer.complete().unwrap()
            }
            Compression::Gzip => {
                let mut writer = self.oci.create_gzip_layer(None).unwrap();
                writer.write_all(tar).unwrap();
                writer.complete().unwrap()
            }
            Compression::Zstd => {
                let mut writer = self.oci.create_layer_zstd(None).unwrap();
                writer.write_all(tar).unwrap();
                writer.complete().unwrap()
            }
        };
        (layer.descriptor().build().unwrap(), layer.uncompressed_sha256_as_digest().to_string())
    }

    /// An index blob that lists these.
    pub(crate) fn index(&self, of: &[&Descriptor]) -> Descriptor {
        let of: Vec<Descriptor> = of.iter().map(|d| (*d).clone()).collect();
        let index = ImageIndexBuilder::default().schema_version(SCHEMA_VERSION).media_type(MediaType::ImageIndex);
        self.oci.write_json_blob(&index.manifests(of).build().unwrap(), MediaType::ImageIndex).unwrap().build().unwrap()
    }

    /// Lists a manifest or index in `index.json`.
    pub(crate) fn publish(&mut self, tag: Option<&str>, what: &Descriptor) {
        let mut entry = what.clone();
        entry.set_annotations(tag.map(|t| [("org.opencontainers.image.ref.name".to_owned(), t.to_owned())].into()));
        self.entries.push(entry);
        let index = ImageIndexBuilder::default().schema_version(SCHEMA_VERSION).manifests(self.entries.clone()).build().unwrap();
        index.to_file(self.dir.path().join("index.json")).unwrap();
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        self.dir.path().join("blobs").join(digest.replace(':', "/"))
    }
}

/// How the tests reach a registry on loopback, and which of its images they want.
pub(crate) fn plain_http() -> SourceOptions {
    let retries = Retries { most: 2, first: std::time::Duration::from_millis(1) };
    SourceOptions { tls_verify: Some(false), architecture: Some("amd64".into()), retries, ..Default::default() }
}

/// The header of an entry that everybody may read and execute.
pub(crate) fn header(kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(size as u64);
    header
}

/// A tar with one file of this content.
pub(crate) fn tar(content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = header(tar::EntryType::Regular, content.len());
    header.set_mode(0o644);
    builder.append_data(&mut header, "usr/file", content).unwrap();
    builder.into_inner().unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// What damages a file.
pub(crate) type Damage<'a> = &'a dyn Fn(&Path);

/// Removes a file.
pub(crate) fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

/// Changes one bit in the middle of a file.
pub(crate) fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Shortens a file by half.
pub(crate) fn halve(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Reads to the end, in a thread that may wait.
pub(crate) async fn read_all(mut reader: selkie::image::LayerReader) -> anyhow::Result<Vec<u8>> {
    let read = move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).map(|_| bytes)
    };
    Ok(tokio::task::spawn_blocking(read).await??)
}

/// Reads a layer to its end.
pub(crate) async fn read(source: &Source, index: usize, progress: Arc<dyn Progress>) -> Result<Vec<u8>, Failure> {
    let read = async { read_all(source.open_layer(index, progress).await?).await };
    read.await.map_err(|e| Failure::find(&e).unwrap_or_else(|| panic!("not a failure: {e:?}")))
}
