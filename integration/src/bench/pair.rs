//! The images that are measured: a server, v1, and its update, v2, whose base was built anew, so that no layer is the same; v2s is v2 without
//! a new kernel.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

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
    /// With a table of contents, by package, by selkie.
    Rechunked,
}

impl Form {
    pub(super) const ALL: [Self; 4] = [Self::Gzip, Self::Zstd, Self::Chunked, Self::Rechunked];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Chunked => "zstd:chunked",
            Self::Rechunked => "rechunked",
        }
    }
}

/// All versions in all forms, in a registry and as layouts.
#[derive(Debug)]
pub(super) struct Pair {
    dir: PathBuf,
    /// The forms that there are.
    pub(super) forms: Vec<Form>,
    /// What is special about it.
    pub(super) note: &'static str,
    /// The updates of v1 that there are.
    pub(super) updates: Vec<&'static str>,
    /// Layers and their bytes.
    pub(super) sizes: BTreeMap<(Form, &'static str), (usize, u64)>,
    /// The bytes that an update to this version needs at least, where layers have tables.
    pub(super) missing: BTreeMap<(Form, &'static str), u64>,
}

impl Pair {
    /// The layout of a form; versions are its tags.
    pub(super) fn layout(&self, form: Form) -> PathBuf {
        self.dir.join(form.name().replace(':', "-"))
    }

    /// The name of a version in the registry.
    pub(super) fn name(form: Form, version: &str) -> String {
        format!("bench:{version}-{}", form.name().replace(':', "-"))
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

/// Makes the pair, or publishes the one that is here; `selkie` is the program that rechunks.
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
        dir: if reuse { lab.subdir("bench-pair")? } else { lab.fresh_subdir("bench-pair")? },
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
    Ok(pair)
}

fn write(pair: &Pair, Stage { images, .. }: &Stage<'_>, selkie: &Path, form: Form, version: &str, image: &str) -> Result<()> {
    let (from, to) = (pair.reference(Form::Zstd, version), pair.reference(form, version));
    match form {
        Form::Gzip | Form::Zstd => copy(&["--dest-compress-format", form.name()], &images.reference(image), &to),
        Form::Chunked => chunk(pair, images, &from, &to),
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

fn publish(pair: &Pair, registry: &Registry, form: Form, version: &str) -> Result<()> {
    let remote = format!("docker://{}", registry.here(&Pair::name(form, version)));
    copy(&["--dest-tls-verify=false", "--preserve-digests"], &pair.reference(form, version), &remote)
}

fn copy(options: &[&str], from: &str, to: &str) -> Result<()> {
    let argv = Argv::new(["skopeo", "copy", "--quiet"]).with(options).with([from, to]).by_root();
    argv.read().map(drop).context("making the pair")
}
