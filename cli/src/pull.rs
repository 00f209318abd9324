//! `selkie pull`

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::Algorithm;
use selkie::ops::host::{Access, Host};
use selkie::ops::pull::{self, FetchedLayer, Options, Pulled, Repository, Way};
use selkie::reference::ImageReference;
use selkie::store::{self, Verity};

use crate::output::{Answer, Output, bytes, table};
use crate::progress::renderer;
use crate::source::SourceArguments;

/// Pull an image into a composefs repository and print its digests.
#[derive(Debug, Args)]
pub struct Arguments {
    /// quay.io/acme/os:stable, oci:DIR[:TAG], oci-archive:FILE, containers-storage:NAME or docker-archive:FILE.
    image: ImageReference,
    /// The repository; it is made if it is not there. Without it, this machine's own.
    #[arg(long, value_name = "DIR")]
    repo: Option<PathBuf>,
    /// fs-verity algorithm of a new repository: sha256 or sha512 (default: the one of a sealed image, else sha256).
    #[arg(long, requires = "repo")]
    algorithm: Option<Algorithm>,
    /// Name to keep the image under (default: the reference); with --repo, `selkie untag` takes it away.
    #[arg(long, value_parser = parse_tag)]
    tag: Option<String>,
    /// Fail where the file system has no fs-verity, instead of keeping an unsealed repository.
    #[arg(long, requires = "repo")]
    require_verity: bool,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let options = Options { image: arguments.image.clone(), source: arguments.source.options(), tag: arguments.tag.clone() };
    let progress = renderer(output);
    let pulled = match &arguments.repo {
        Some(repo) => pull::run_into(&repository(repo, arguments), &options, &progress)?,
        None => pull::run_on_host(&Host::running(Access::Write).map_err(|e| no_repository(&e))?, &options, &progress)?,
    };
    output.print(&pulled, human)?;
    Ok(Answer::Done)
}

fn parse_tag(text: &str) -> Result<String, Failure> {
    store::check_tag(text).map(|()| text.to_owned())
}

/// Off a selkie host there is no repository to pull into unless one is named.
fn no_repository(error: &anyhow::Error) -> anyhow::Error {
    let kind = Failure::find(error).map_or(FailureKind::NotAHost, |f| f.kind);
    let message = format!("opening this machine's repository: {error:#}");
    Failure::new(kind, message).hint("on a selkie host run it as root; elsewhere name a directory with --repo DIR").into()
}

fn repository(repo: &Path, arguments: &Arguments) -> Repository {
    let verity = if arguments.require_verity { Verity::Required } else { Verity::IfPossible };
    Repository { path: repo.to_owned(), algorithm: arguments.algorithm, verity }
}

fn human(pulled: &Pulled) -> String {
    table(&[
        ("Reference", pulled.reference.clone()),
        ("Index digest", pulled.index_digest.clone().unwrap_or_else(|| "none".into())),
        ("Manifest digest", pulled.manifest_digest.clone()),
        ("Config digest", pulled.config_digest.clone()),
        ("Image", pulled.image.to_string()),
        ("Boot image", pulled.boot_image.to_string()),
        (
            "fs-verity",
            format!("{}, {}", pulled.algorithm, if pulled.verity { "checked by the kernel" } else { "not checked by the kernel" }),
        ),
        ("Layers", format!("{} ({} new)", pulled.layers, pulled.layers_new)),
        ("Objects", format!("{} new, {} reused", pulled.objects_new, pulled.objects_reused)),
        ("Bytes", format!("{} fetched, {} stored", bytes(pulled.bytes_fetched), bytes(pulled.bytes_stored))),
    ]) + &layers(&pulled.fetched)
}

/// How the layers came: a line for those that were here, and one for each other, lowest first.
pub fn layers(fetched: &[FetchedLayer]) -> String {
    let (here, fetched): (Vec<_>, Vec<_>) = fetched.iter().partition(|layer| layer.way == Way::Here);
    let here = match here.len() {
        0 => String::new(),
        1 => "1 layer: here\n".to_owned(),
        count => format!("{count} layers: here\n"),
    };
    here + &fetched.into_iter().map(layer).collect::<String>()
}

fn layer(layer: &FetchedLayer) -> String {
    let (fetched, size) = (bytes(layer.bytes), bytes(layer.size));
    let how = match layer.way {
        Way::Here => "here".to_owned(),
        Way::Delta => format!("delta, {fetched} for {size}"),
        Way::Partial => format!("partial, {fetched} of {size}"),
        Way::Whole => format!("whole, {fetched}"),
    };
    let why = layer.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("layer {}: {how}{why}\n", layer.digest)
}
