//! `selkie lint`: what is wrong with an image, before a machine finds out.
//!
//! The image is pulled into a scratch repository, which goes away at the end. Nothing on the machine changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use oci_spec::image::{History, ImageConfiguration};
use rustix::io::Errno;
use serde::Serialize;

use super::runtime::block_on;
use super::{pull, seal};
use crate::error::{Failure, FailureKind};
use crate::image::{Resolved, Source, SourceOptions};
use crate::image_id::{Algorithm, ImageId};
use crate::lint::{self, CHECKS, DIRECTORIES, Finding, Image, Layer, Severity, Subject};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::{self, Store, Tree, Verity};
use crate::sys::dir;
use crate::sys::scratch::Scratch;

/// What to look at.
#[derive(Debug, Clone)]
pub enum Target {
    /// An image.
    Image {
        /// The image.
        image: ImageReference,
        /// How to reach it.
        source: SourceOptions,
    },
    /// A directory that has the root file system of an image. What is mounted below it is passed over.
    Rootfs(PathBuf),
}

/// What to look at, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// What to look at.
    pub target: Target,
    /// An existing directory with room for the unpacked image; what is put there goes away.
    pub scratch: PathBuf,
    /// The ids of checks that are not to be made.
    pub skip: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// What was looked at: the reference, or the directory.
    pub target: String,
    /// What is wrong, in the order of [`CHECKS`].
    pub findings: Vec<Finding>,
    /// How many findings there are of each severity.
    pub counts: Counts,
    /// Whether all checks were made but those that were skipped. Where layers cannot be taken in, there is no tree to look at.
    pub complete: bool,
    /// The layers of the image, lowest first.
    pub layers: Vec<Layer>,
}

/// How many findings there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Counts {
    /// Of severity error.
    pub errors: usize,
    /// Of severity warning.
    pub warnings: usize,
    /// Of severity info.
    pub infos: usize,
}

impl Counts {
    fn of(findings: &[Finding]) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self { errors: count(Severity::Error), warnings: count(Severity::Warning), infos: count(Severity::Info) }
    }

    /// Whether the image passes: no errors, and no warnings where those count as errors.
    pub fn pass(&self, fatal_warnings: bool) -> bool {
        self.errors == 0 && !(fatal_warnings && self.warnings > 0)
    }
}

/// Runs the verb.
///
/// # Errors
///
/// [`FailureKind::Usage`] where `skip` names a check that there is not; where the image or the directory cannot be read at all.
pub fn run(options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    check_ids(&options.skip)?;
    let scratch = Scratch::make(&options.scratch)?;
    match &options.target {
        Target::Image { image, source } => look_at_image(scratch.path(), image, source, &options.skip, progress),
        Target::Rootfs(path) => look_at_directory(scratch.path(), path, &options.skip, progress),
    }
}

fn repository(scratch: &Path, algorithm: Option<Algorithm>) -> Result<Store> {
    Store::open_or_init(dir::open_path(scratch)?, store::DIRECTORY, algorithm, Verity::Never)
}

fn check_ids(skip: &[String]) -> Result<()> {
    let Some(unknown) = skip.iter().find(|id| !CHECKS.iter().any(|check| check.id == **id)) else { return Ok(()) };
    let ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    let message = format!("skipping {unknown}: there is no such check (expected one of {})", ids.join(", "));
    Err(Failure::new(FailureKind::Usage, message).hint("selkie lint --list tells what they are").into())
}

fn look_at_directory(scratch: &Path, path: &Path, skip: &[String], progress: &Arc<dyn Progress>) -> Result<Report> {
    progress.phase(format!("reading {}", path.display()));
    let opened = dir::open_path(path).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => {
            Failure::new(FailureKind::NotFound, format!("reading {}: there is no such directory", path.display())).into()
        }
        other => anyhow::Error::new(other).context(format!("reading {}", path.display())),
    })?;
    let read = repository(scratch, None)?.read_directory(&opened)?;
    for mount in &read.mounts {
        progress.note(format!("passing over {}: something else is mounted there", mount.display()));
    }
    let findings = lint::run(&Subject::new(&read.tree, None), skip)?;
    let counts = Counts::of(&findings);
    Ok(Report { target: path.display().to_string(), findings, counts, complete: true, layers: Vec::new() })
}

fn look_at_image(
    scratch: &Path,
    image: &ImageReference,
    options: &SourceOptions,
    skip: &[String],
    progress: &Arc<dyn Progress>,
) -> Result<Report> {
    let (store, resolved, fetched, refused_seal) = block_on(async {
        let source = Source::open(image, options, progress.as_ref()).await?;
        let resolved = source.resolved().clone();
        let (algorithm, refused) = sealed_with(&resolved)?;
        let store = repository(scratch, algorithm)?;
        let fetched = pull::fetch_layers(&store, &source, progress).await;
        if fetched.is_ok() {
            source.close().await?;
        }
        Ok((store, resolved, fetched, refused))
    })?;
    let target = resolved.reference.to_string();
    let tree = match fetched.and_then(|_| store.layers_tree(&resolved.config)) {
        Ok(tree) => tree,
        Err(error) => {
            // Nothing else can be looked at, so that skipping this check would hide everything.
            let findings = vec![lint::of_import(&error).ok_or(error)?];
            let (counts, layers) = (Counts::of(&findings), layers(&store, &resolved, None)?);
            return Ok(Report { target, findings, counts, complete: false, layers });
        }
    };
    let (boot_image, refused) = match pull::commit(&store, &resolved, progress) {
        Ok(stored) => (Some(stored.boot_image), None),
        Err(error) => (None, Some(lint::of_import(&error).ok_or(error)?)),
    };
    let image = Image { refused: refused_seal, ..facts(&store, &resolved, boot_image, &tree)? };
    progress.phase("looking at the image".to_owned());
    let mut findings = lint::run(&Subject::new(&tree, Some(&image)), skip)?;
    // Where a directory is wrong, its own check says it better.
    let explained = findings.iter().any(|finding| finding.id == DIRECTORIES);
    findings.splice(0..0, refused.filter(|finding| !explained && !skip.iter().any(|id| id == finding.id)));
    Ok(Report { target, counts: Counts::of(&findings), findings, complete: true, layers: image.layers })
}

/// The algorithm that the image was sealed with, and why machines refuse what its annotations say.
fn sealed_with(resolved: &Resolved) -> Result<(Option<Algorithm>, Option<Failure>)> {
    match seal::sealed_with(resolved) {
        Ok(algorithm) => Ok((algorithm, None)),
        Err(error) => match Failure::find(&error) {
            Some(failure) if failure.kind == FailureKind::Unsuitable => Ok((None, Some(failure))),
            _ => Err(error),
        },
    }
}

/// What the configuration and the store know besides the files.
fn facts(store: &Store, resolved: &Resolved, boot_image: Option<ImageId>, tree: &Tree) -> Result<Image> {
    let created = configuration(resolved)?.created().as_deref().and_then(|time| chrono::DateTime::parse_from_rfc3339(time).ok());
    Ok(Image {
        architecture: resolved.architecture()?,
        boot_image,
        created: created.map(|time| time.timestamp()),
        refused: None,
        layers: layers(store, resolved, Some(tree))?,
    })
}

fn layers(store: &Store, resolved: &Resolved, tree: Option<&Tree>) -> Result<Vec<Layer>> {
    let history = configuration(resolved)?.history().clone().unwrap_or_default();
    let mut steps = history.iter().filter(|step| step.empty_layer() != Some(true)).map(History::created_by);
    let mut layers = Vec::new();
    for layer in &resolved.layers {
        let created_by = steps.next().and_then(Clone::clone);
        let uncompressed = store.layer_size(&layer.diff_id)?;
        let hidden = tree.map(|tree| store.layer_hidden(&layer.diff_id, tree)).transpose()?.flatten();
        layers.push(Layer { digest: layer.digest.clone(), size: layer.size, uncompressed, hidden, created_by });
    }
    Ok(layers)
}

fn configuration(resolved: &Resolved) -> Result<ImageConfiguration> {
    ImageConfiguration::from_reader(resolved.config.as_slice()).context("reading the image configuration")
}
