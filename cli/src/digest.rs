//! `selkie digest`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use selkie::image_id::Algorithm;
use selkie::ops::digest::{self, Digests, Options};
use selkie::reference::ImageReference;

use crate::output::{Answer, Output, table};
use crate::progress::renderer;
use crate::source::SourceArguments;

/// Print the digests of an image as a host would compute them, without storing it.
#[derive(Debug, Args)]
pub struct Arguments {
    /// quay.io/acme/os:stable, oci:DIR[:TAG], oci-archive:FILE, containers-storage:NAME or docker-archive:FILE.
    image: ImageReference,
    /// fs-verity algorithm: sha256 or sha512 (default: the one that a sealed image was sealed with, else sha256).
    #[arg(long)]
    algorithm: Option<Algorithm>,
    /// Where a scratch directory is made, for names and headers of files; it is removed at the end.
    #[arg(long, env = "TMPDIR", value_name = "DIR", default_value = "/tmp")]
    scratch: PathBuf,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let options = Options {
        image: arguments.image.clone(),
        source: arguments.source.options(),
        algorithm: arguments.algorithm,
        scratch: arguments.scratch.clone(),
    };
    output.print(&digest::run(&options, &renderer(output))?, human)?;
    Ok(Answer::Done)
}

fn human(digests: &Digests) -> String {
    table(&[
        ("Reference", digests.reference.clone()),
        ("Index digest", digests.index_digest.clone().unwrap_or_else(|| "none".into())),
        ("Manifest digest", digests.manifest_digest.clone()),
        ("Config digest", digests.config_digest.clone()),
        ("Image", digests.image.to_string()),
        ("Boot image", digests.boot_image.to_string()),
        ("fs-verity", digests.algorithm.to_string()),
    ])
}
