//! The images that are measured: release v1 of the lab, and v2 as an update to it whose base was built anew, so that no layer is the same.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    command::Argv,
    images::{self, Images},
    lab::Lab,
    registry::Registry,
    story::Teller,
};

/// The compressions, as skopeo calls them.
pub(crate) const COMPRESSIONS: [&str; 2] = ["gzip", "zstd"];

/// The pair, in a registry and as a layout, in every compression.
#[derive(Debug)]
pub(crate) struct Pair {
    layout: PathBuf,
    /// Bytes of the layers of v1 and v2, in the order of [`COMPRESSIONS`].
    pub(crate) sizes: [[u64; 2]; 2],
}

impl Pair {
    /// A version in the layout.
    pub(crate) fn layout(&self, version: &str, compression: &str) -> String {
        format!("oci:{}:{version}-{compression}", self.layout.display())
    }

    /// The name of a version in the registry.
    pub(crate) fn name(version: &str, compression: &str) -> String {
        format!("bench:{version}-{compression}")
    }

    /// The one layer of a version in the layout, for programs that know nothing of images.
    pub(crate) fn layer(&self, version: &str, compression: &str) -> Result<PathBuf> {
        let manifest = manifest(&self.layout(version, compression))?;
        let digest = manifest["layers"][0]["digest"].as_str().context("looking for the layer of the manifest")?;
        Ok(self.layout.join("blobs").join(digest.replace(':', "/")))
    }
}

/// Makes the pair.
pub(crate) fn make(lab: &Lab, images: &Images<'_>, registry: &Registry, tell: &Teller) -> Result<Pair> {
    let layout = lab.fresh_subdir("bench-pair")?;
    let mut pair = Pair { layout, sizes: [[0; 2]; 2] };
    for (column, version) in ["v1", "v2"].into_iter().enumerate() {
        let squashed = format!("localhost/bench:{version}");
        images.squash(&images::release(version), &squashed)?;
        for (row, compression) in COMPRESSIONS.into_iter().enumerate() {
            let layout = pair.layout(version, compression);
            let to = format!("docker://{}", registry.here(&Pair::name(version, compression)));
            copy(&["--dest-compress-format", compression], &images.reference(&squashed), &layout)?;
            copy(&["--dest-tls-verify=false", "--preserve-digests"], &layout, &to)?;
            pair.sizes[row][column] = size(&layout)?;
        }
        tell.say(format!("{version}: {} MB as gzip, {} MB as zstd", pair.sizes[0][column] / 1_000_000, pair.sizes[1][column] / 1_000_000));
    }
    Ok(pair)
}

fn copy(options: &[&str], from: &str, to: &str) -> Result<()> {
    Argv::new(["skopeo", "copy", "--quiet"]).with(options).with([from, to]).by_root().read().map(drop)
}

fn manifest(reference: &str) -> Result<Value> {
    let argv = Argv::new(["skopeo", "inspect", "--raw", reference]).by_root();
    serde_json::from_str(&argv.read()?).with_context(|| format!("reading the output of {argv}"))
}

fn size(reference: &str) -> Result<u64> {
    let manifest = manifest(reference)?;
    let layers = manifest["layers"].as_array().context("looking for the layers of the manifest")?;
    layers.iter().map(|layer| layer["size"].as_u64().context("looking for the size of a layer")).sum()
}
