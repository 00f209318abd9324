//! The images that are measured: a server, v1, and its update, v2, whose base was built anew, so that no layer is the same; v2s is v2 without
//! a new kernel. Of each update there is a delta.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Stage, layouts};
use crate::{
    command::Argv,
    images::{self, Images},
    registry::Registry,
    story::Teller,
};

/// How layers are compressed, and cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Form {
    Gzip,
    Zstd,
    /// With a table of contents and a list of tar headers, by a current skopeo.
    Chunked,
    /// The same images, with the deltas from v1 beside them.
    Delta,
    /// With a table of contents, by package, by selkie.
    Rechunked,
}

impl Form {
    /// Those that have layers of their own.
    const ALL: [Self; 4] = [Self::Gzip, Self::Zstd, Self::Chunked, Self::Rechunked];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Chunked => "zstd:chunked",
            Self::Delta => "zstd:chunked with a delta",
            Self::Rechunked => "rechunked",
        }
    }

    /// The form that the layers have.
    pub(super) fn layers(self) -> Self {
        if self == Self::Delta { Self::Chunked } else { self }
    }

    /// Its name, for files and tags.
    fn word(self) -> String {
        self.layers().name().replace(':', "-")
    }
}

/// The repository of the images that have deltas.
const DELTAS: &str = "bench-delta";

/// All versions in all forms, in a registry and as layouts.
#[derive(Debug)]
pub(super) struct Pair {
    dir: PathBuf,
    /// The forms that there are and have layers of their own.
    pub(super) forms: Vec<Form>,
    /// What is special about it.
    pub(super) note: &'static str,
    /// The updates of v1 that there are.
    pub(super) updates: Vec<&'static str>,
    /// Layers and their bytes; for [`Form::Delta`], those of the delta.
    pub(super) sizes: BTreeMap<(Form, &'static str), (usize, u64)>,
    /// The bytes that an update to this version needs at least, where layers have tables.
    pub(super) missing: BTreeMap<(Form, &'static str), u64>,
}

impl Pair {
    /// The layout of a form; versions are its tags.
    pub(super) fn layout(&self, form: Form) -> PathBuf {
        self.dir.join(form.word())
    }

    /// The layout of the deltas; the versions that they make are its tags.
    fn deltas(&self) -> PathBuf {
        self.dir.join("delta")
    }

    /// The name of a version in the registry. A delta is found by the digest of its image, so only a repository of its own keeps it from the same image without one.
    pub(super) fn name(form: Form, version: &str) -> String {
        let repository = if form == Form::Delta { DELTAS } else { "bench" };
        format!("{repository}:{version}-{}", form.word())
    }

    fn reference(&self, form: Form, version: &str) -> String {
        format!("oci:{}:{version}", self.layout(form).display())
    }
}

/// Whether the pair is the real one, or one that is made in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Real,
    Small,
}

impl Size {
    /// Where the pair is, below the lab's directory: a small one never takes the place of the real one.
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Real => "bench-pair",
            Self::Small => "bench-pair-small",
        }
    }
}

/// Makes the pair, or publishes the one that is here; `selkie` is the program that rechunks, and makes deltas.
pub(super) fn make(stage: &Stage<'_>, selkie: &Path, size: Size, reuse: bool, tell: &Teller) -> Result<Pair> {
    let Stage { lab, images, registry, base, .. } = stage;
    let (mut versions, server, note) = match size {
        Size::Real => {
            images.servers(tell)?;
            images.skopeo(None, tell)?;
            (
                vec!["v1", "v2", "v2s"],
                images::SERVER,
                "v1 is Debian's last point release, v2 has its updates of today; v2s, where it is there, is v2 with the kernel of v1",
            )
        }
        Size::Small => {
            images.small_servers(*base, tell)?;
            images.skopeo(Some(base.unwrap_or(images::OWN_BASE)), tell)?;
            (vec!["v1", "v2"], images::SMALL_SERVER, "a small image and one with a few other files: only shows that measuring works")
        }
    };
    let mut pair = Pair {
        dir: if reuse { lab.subdir(size.directory())? } else { lab.fresh_subdir(size.directory())? },
        // gzip takes most of the time, and shows nothing that zstd does not.
        forms: Form::ALL.into_iter().filter(|form| size == Size::Real || *form != Form::Gzip).collect(),
        note,
        updates: Vec::new(),
        sizes: BTreeMap::new(),
        missing: BTreeMap::new(),
    };
    if reuse {
        versions.retain(|version| pair.forms.iter().all(|form| layouts::digest(&pair.layout(*form), version).is_ok()));
    }
    pair.updates = versions.get(1..).unwrap_or_default().to_vec();
    for version in &versions {
        for form in pair.forms.clone() {
            if !reuse {
                write(&pair, stage, selkie, form, version, &format!("{server}:{version}"))?;
            }
            publish(&pair, registry, form, version)?;
            pair.sizes.insert((form, version), layouts::size(&pair.layout(form), version)?);
        }
        let (layers, bytes) = pair.sizes[&(Form::Zstd, *version)];
        tell.say(format!("{version}: {layers} layers, {} MB as zstd", bytes / 1_000_000));
    }
    for form in [Form::Chunked, Form::Rechunked] {
        for version in pair.updates.clone() {
            pair.missing.insert((form, version), layouts::missing_bytes(&pair.layout(form), "v1", version)?);
        }
    }
    publish(&pair, registry, Form::Delta, "v1")?;
    for version in pair.updates.clone() {
        publish(&pair, registry, Form::Delta, version)?;
        if layouts::digest(&pair.deltas(), version).is_err() {
            tell.say(format!("making the delta from v1 to {version}"));
            write_delta(&pair, selkie, version)?;
        }
        publish_delta(&pair, registry, version)?;
        pair.sizes.insert((Form::Delta, version), layouts::size(&pair.deltas(), version)?);
    }
    Ok(pair)
}

fn write(pair: &Pair, Stage { images, .. }: &Stage<'_>, selkie: &Path, form: Form, version: &str, image: &str) -> Result<()> {
    let (from, to) = (pair.reference(Form::Zstd, version), pair.reference(form, version));
    match form {
        Form::Gzip | Form::Zstd => copy(&["--dest-compress-format", form.name()], &images.reference(image), &to),
        Form::Chunked | Form::Delta => chunk(pair, images, &from, &to),
        Form::Rechunked => {
            let rechunk = Argv::new([selkie]).with(["rechunk", "--progress=none", "--output", &to, &from, "--scratch"]);
            rechunk.with([&pair.dir]).by_root().read().map(drop).context("making the pair")
        }
    }
}

/// skopeo compresses nothing anew that is compressed in the same way, tables or not, so it is undone before.
fn chunk(pair: &Pair, images: &Images<'_>, from: &str, to: &str) -> Result<()> {
    let plain = pair.dir.join("plain");
    let between = format!("dir:{}", plain.display());
    let copy = ["copy", "--quiet", "--insecure-policy"];
    let chunked = ["--dest-compress-format", Form::Chunked.name()];
    for words in [[&copy[..], &["--dest-decompress", from, &between]], [&copy[..], &[chunked[0], chunked[1], &between, to]]] {
        images.run_skopeo(&pair.dir, &words.concat()).context("making the pair")?;
    }
    Argv::new(["rm", "-r"]).with([plain]).by_root().read().map(drop).context("making the pair")
}

/// Between layouts, so that it stays when the registry goes.
fn write_delta(pair: &Pair, selkie: &Path, version: &str) -> Result<()> {
    let [from, to] = ["v1", version].map(|version| pair.reference(Form::Delta, version));
    let output = format!("oci:{}:{version}", pair.deltas().display());
    let delta = Argv::new([selkie]).with(["delta", "--progress=none", "--output", &output, &from, &to, "--scratch"]);
    delta.with([&pair.dir]).by_root().read().map(drop).context("making the pair")
}

fn publish(pair: &Pair, registry: &Registry, form: Form, version: &str) -> Result<()> {
    let remote = format!("docker://{}", registry.here(&Pair::name(form, version)));
    copy(&["--dest-tls-verify=false", "--preserve-digests"], &pair.reference(form, version), &remote)
}

/// The delta goes beside its image, and into the list by which it is found. skopeo leaves out of a list what says that it is one of deltas.
fn publish_delta(pair: &Pair, registry: &Registry, version: &str) -> Result<()> {
    let from = format!("oci:{}:{version}", pair.deltas().display());
    let remote = format!("docker://{}", registry.here(&format!("{DELTAS}:delta-{version}")));
    copy(&["--dest-tls-verify=false", "--preserve-digests"], &from, &remote)?;
    let subject = layouts::digest(&pair.layout(Form::Delta), version)?;
    let list = referrers(&layouts::entry(&pair.deltas(), version)?);
    registry.put(DELTAS, &subject.replace(':', "-"), INDEX, &list).context("making the pair")
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The list of what refers to an image, with one entry of a layout in it, by what it is and not by its tag.
fn referrers(entry: &Value) -> String {
    let mut entry = entry.clone();
    if let Some(annotations) = entry["annotations"].as_object_mut() {
        annotations.remove(layouts::TAG);
    }
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string()
}

fn copy(options: &[&str], from: &str, to: &str) -> Result<()> {
    let argv = Argv::new(["skopeo", "copy", "--quiet"]).with(options).with([from, to]).by_root();
    argv.read().map(drop).context("making the pair")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_is_not_found_by_images_of_another_form() {
        let repository = |form| Pair::name(form, "v2").split(':').next().unwrap().to_owned();
        assert_eq!(Pair::name(Form::Delta, "v2"), "bench-delta:v2-zstd-chunked");
        assert!(Form::ALL.iter().all(|form| repository(*form) != repository(Form::Delta)));
    }

    #[test]
    fn a_small_pair_is_elsewhere() {
        assert_ne!(Size::Small.directory(), Size::Real.directory());
    }

    #[test]
    fn a_delta_is_listed_by_what_it_is() {
        let entry = json!({ "digest": "sha256:a", "artifactType": "b", "annotations": { layouts::TAG: "v2", "c": "d" } });
        let list: Value = serde_json::from_str(&referrers(&entry)).unwrap();
        assert_eq!(list["manifests"], json!([{ "digest": "sha256:a", "artifactType": "b", "annotations": { "c": "d" } }]));
    }
}
