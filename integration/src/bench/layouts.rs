//! Looking into OCI layouts: manifests, blobs, and the tables of zstd:chunked layers.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::Argv;

/// The annotation that is a tag.
pub(super) const TAG: &str = "org.opencontainers.image.ref.name";

/// The entry of a tag in the index of a layout.
pub(super) fn entry(layout: &Path, tag: &str) -> Result<Value> {
    let index = document(&layout.join("index.json"))?;
    let entry = index["manifests"].as_array().into_iter().flatten().find(|entry| entry["annotations"][TAG] == tag);
    entry.cloned().with_context(|| format!("looking for {tag} in {}", layout.display()))
}

/// The digest that a tag has in a layout.
pub(super) fn digest(layout: &Path, tag: &str) -> Result<String> {
    let entry = entry(layout, tag)?;
    entry["digest"].as_str().map(str::to_owned).with_context(|| format!("looking for the digest of {tag} in {}", layout.display()))
}

/// The manifest of a tag.
pub(super) fn manifest(layout: &Path, tag: &str) -> Result<Value> {
    document(&blob(layout, &digest(layout, tag)?))
}

/// The files of the layers of a tag, lowest first.
pub(super) fn layers(layout: &Path, tag: &str) -> Result<Vec<PathBuf>> {
    let manifest = manifest(layout, tag)?;
    let layers = manifest["layers"].as_array().context("looking for layers")?.iter();
    layers.map(|layer| Ok(blob(layout, layer["digest"].as_str().context("looking for a layer's digest")?))).collect()
}

/// Layers of a tag, and their bytes.
pub(super) fn size(layout: &Path, tag: &str) -> Result<(usize, u64)> {
    let manifest = manifest(layout, tag)?;
    let layers = manifest["layers"].as_array().context("looking for layers")?;
    Ok((layers.len(), layers.iter().filter_map(|layer| layer["size"].as_u64()).sum()))
}

/// The bytes that whoever has the files of `old` cannot do without to get `new`: of the layers that `old` has not, the tables, and the compressed
/// bytes of each file of another content, once. Both are zstd:chunked.
pub(super) fn missing_bytes(layout: &Path, old: &str, new: &str) -> Result<u64> {
    let (mut known, mut whole) = (HashSet::new(), HashSet::new());
    for layer in layers_of(&manifest(layout, old)?) {
        whole.insert(layer["digest"].clone());
        files(&table(layout, layer)?.0, |digest, _| {
            known.insert(digest.to_owned());
        });
    }
    let mut missing = 0;
    for layer in layers_of(&manifest(layout, new)?).filter(|layer| !whole.contains(&layer["digest"])) {
        let (toc, tables) = table(layout, layer)?;
        missing += tables;
        files(&toc, |digest, bytes| {
            if known.insert(digest.to_owned()) {
                missing += bytes;
            }
        });
    }
    Ok(missing)
}

fn layers_of(manifest: &Value) -> impl Iterator<Item = &Value> {
    manifest["layers"].as_array().into_iter().flatten()
}

/// Calls `each` with the digest and the compressed size of every file. The entry of a file says where all of its chunks end.
fn files(toc: &Value, mut each: impl FnMut(&str, u64)) {
    for entry in toc["entries"].as_array().into_iter().flatten().filter(|entry| entry["type"] == "reg") {
        if let (Some(digest), Some(start), Some(end)) = (entry["digest"].as_str(), entry["offset"].as_u64(), entry["endOffset"].as_u64()) {
            each(digest, end.saturating_sub(start));
        }
    }
}

/// The table of contents of a layer, and the compressed bytes of all its tables.
fn table(layout: &Path, layer: &Value) -> Result<(Value, u64)> {
    let path = blob(layout, layer["digest"].as_str().context("looking for a layer's digest")?);
    let position = |name: &str| {
        let prefixes = ["io.github.containers.zstd-chunked.", "io.containers.zstd-chunked."];
        prefixes.iter().find_map(|prefix| layer["annotations"][format!("{prefix}{name}")].as_str())
    };
    let numbers = |text: &str| text.split(':').map(str::parse).collect::<Result<Vec<u64>, _>>().context("reading a position");
    let toc = numbers(position("manifest-position").context("looking for a table of contents")?)?;
    let [offset, length, ..] = toc.as_slice() else { bail!("reading the position of a table: {toc:?}") };
    let more = position("tarsplit-position").map(numbers).transpose()?.and_then(|numbers| numbers.get(1).copied());
    let mut bytes = vec![0; usize::try_from(*length)?];
    let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    file.seek(SeekFrom::Start(*offset)).and_then(|_| file.read_exact(&mut bytes)).with_context(|| format!("reading {}", path.display()))?;
    let compressed = tempfile::NamedTempFile::new().context("making a temporary file")?;
    fs::write(compressed.path(), &bytes).context("writing a temporary file")?;
    let text = Argv::new(["zstd", "--decompress", "--stdout", "--quiet"]).with([compressed.path()]).read()?;
    Ok((serde_json::from_str(&text).context("reading a table of contents")?, length + more.unwrap_or(0)))
}

fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn document(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_file_is_told_once_with_its_compressed_size() {
        let toc = json!({ "entries": [
            { "type": "dir" },
            { "type": "reg", "digest": "sha256:a", "offset": 10, "endOffset": 30 },
            { "type": "chunk", "offset": 20 },
            { "type": "reg" },
            { "type": "reg", "digest": "sha256:b", "offset": 30, "endOffset": 31 },
        ] });
        let mut found = Vec::new();
        files(&toc, |digest, bytes| found.push((digest.to_owned(), bytes)));
        assert_eq!(found, [("sha256:a".to_owned(), 20), ("sha256:b".to_owned(), 1)]);
    }
}
