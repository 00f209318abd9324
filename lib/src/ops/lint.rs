//! `selkie lint`: what is wrong with an image, before a machine finds out.
//!
//! The image is pulled into a scratch repository, which goes away at the end. Nothing on the machine changes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use oci_spec::image::{History, ImageConfiguration};
use rustix::io::Errno;
use serde::Serialize;

use super::pull;
use super::runtime::block_on;
use crate::error::{Failure, FailureKind};
use crate::image::{Resolved, Source, SourceOptions};
use crate::image_id::ImageId;
use crate::lint::{self, CHECKS, Finding, Image, Layer, Severity, Subject};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::{self, Store, Verity};
use crate::sys::dir;

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
    let scratch = tempfile::Builder::new().prefix(".selkie-lint-").tempdir_in(&options.scratch);
    let scratch = scratch.with_context(|| format!("making a scratch directory in {}", options.scratch.display()))?;
    let store = Store::open_or_init(dir::open_path(scratch.path())?, store::DIRECTORY, None, Verity::Never)?;
    match &options.target {
        Target::Image { image, source } => look_at_image(&store, image, source, &options.skip, progress),
        Target::Rootfs(path) => look_at_directory(&store, path, &options.skip, progress),
    }
}

fn check_ids(skip: &[String]) -> Result<()> {
    let Some(unknown) = skip.iter().find(|id| !CHECKS.iter().any(|check| check.id == **id)) else { return Ok(()) };
    let ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    let message = format!("skipping {unknown}: there is no such check (expected one of {})", ids.join(", "));
    Err(Failure::new(FailureKind::Usage, message).hint("selkie lint --list tells what they are").into())
}

fn look_at_directory(store: &Store, path: &PathBuf, skip: &[String], progress: &Arc<dyn Progress>) -> Result<Report> {
    progress.phase(format!("reading {}", path.display()));
    let opened = dir::open_path(path).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR => {
            Failure::new(FailureKind::NotFound, format!("reading {}: there is no such directory", path.display())).into()
        }
        other => anyhow::Error::new(other).context(format!("reading {}", path.display())),
    })?;
    let read = store.read_directory(&opened)?;
    for mount in &read.mounts {
        progress.note(format!("passing over {}: something else is mounted there", mount.display()));
    }
    let findings = lint::run(&Subject::new(&read.tree, None), skip)?;
    let counts = Counts::of(&findings);
    Ok(Report { target: path.display().to_string(), findings, counts, complete: true, layers: Vec::new() })
}

fn look_at_image(
    store: &Store,
    image: &ImageReference,
    options: &SourceOptions,
    skip: &[String],
    progress: &Arc<dyn Progress>,
) -> Result<Report> {
    let (resolved, fetched) = block_on(async {
        let source = Source::open(image, options).await?;
        let fetched = pull::fetch_layers(store, &source, progress).await;
        let resolved = source.resolved().clone();
        if fetched.is_ok() {
            source.close().await?;
        }
        Ok((resolved, fetched))
    })?;
    let mut findings = Vec::new();
    let mut explain = |error: anyhow::Error| {
        let finding = lint::of_import(&error).ok_or(error)?;
        // A skipped check is no reason to hide that there is nothing to look at.
        findings.push(finding);
        anyhow::Ok(())
    };
    let tree = match fetched.and_then(|_| store.layers_tree(&resolved.config)) {
        Ok(tree) => Some(tree),
        Err(error) => explain(error).map(|()| None)?,
    };
    let boot_image = match tree.is_some().then(|| pull::commit(store, &resolved, progress)) {
        Some(Ok(stored)) => Some(stored.boot_image),
        Some(Err(error)) => explain(error).map(|()| None)?,
        None => None,
    };
    let image = facts(store, &resolved, boot_image)?;
    progress.phase("looking at the image".to_owned());
    if let Some(tree) = &tree {
        findings.extend(lint::run(&Subject::new(tree, Some(&image)), skip)?);
    }
    let counts = Counts::of(&findings);
    Ok(Report { target: resolved.reference.to_string(), findings, counts, complete: tree.is_some(), layers: image.layers })
}

/// What the configuration and the store know besides the files.
fn facts(store: &Store, resolved: &Resolved, boot_image: Option<ImageId>) -> Result<Image> {
    let config = ImageConfiguration::from_reader(resolved.config.as_slice()).context("reading the image configuration")?;
    let created = config.created().as_deref().and_then(|time| chrono::DateTime::parse_from_rfc3339(time).ok());
    let history = config.history().clone().unwrap_or_default();
    let mut steps = history.iter().filter(|step| step.empty_layer() != Some(true)).map(History::created_by);
    let mut layers = Vec::new();
    for layer in &resolved.layers {
        let created_by = steps.next().and_then(Clone::clone);
        let uncompressed = store.layer_size(&layer.diff_id)?;
        layers.push(Layer { digest: layer.digest.clone(), size: layer.size, uncompressed, created_by });
    }
    Ok(Image { architecture: resolved.architecture()?, boot_image, created: created.map(|time| time.timestamp()), labels: Vec::new(), layers })
}
