//! `selkie delta`

use anyhow::Result;
use clap::Args;
use selkie::ops::delta::{self, Options, Report};
use selkie::reference::ImageReference;

use crate::output::{Answer, Output, bytes, table};
use crate::progress::renderer;
use crate::scratch::ScratchArguments;
use crate::source::SourceArguments;

/// Make a delta: what hosts that have one image need to get another, proven before it is published.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The image that hosts have: quay.io/acme/os:v1, oci:DIR[:TAG], oci-archive:FILE, containers-storage:NAME or docker-archive:FILE.
    from: ImageReference,
    /// The image that they are to get.
    to: ImageReference,
    /// Where the delta goes: quay.io/acme/os:delta-v1-v2, oci:DIR[:TAG] or oci-archive:FILE. Hosts find it in the repository or layout of TO, so in a
    /// registry it has to be that repository, under a tag of its own.
    #[arg(long, value_name = "REF")]
    output: ImageReference,
    #[command(flatten)]
    scratch: ScratchArguments,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let options = Options {
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        source: arguments.source.options(),
        output: arguments.output.clone(),
        destination: arguments.source.output_options(),
        scratch: arguments.scratch.directory(),
    };
    output.print(&delta::run(&options, &renderer(output))?, human)?;
    Ok(Answer::Done)
}

fn human(report: &Report) -> String {
    let origins = &report.origins;
    let mut rows = vec![
        ("Output", report.output.clone()),
        ("Delta digest", report.delta_digest.clone()),
        ("From", report.from_digest.clone()),
        ("To", format!("{} (proven)", report.to_digest)),
        ("Size", format!("{} (layers: {})", bytes(report.size), bytes(report.size_whole))),
        ("Files copied", bytes(origins.copied)),
        ("Files patched", bytes(origins.patched)),
        ("New", bytes(origins.new)),
        ("Layers", format!("{} ({} are the same)", report.layers.len(), report.layers_same)),
        ("Written", bytes(report.bytes_written)),
    ];
    rows.extend(report.layers.iter().map(|layer| {
        let what = if layer.patch { "patch" } else { "whole" };
        ("Layer", format!("{:>10}  {what} for {} of {}", bytes(layer.delta_size), bytes(layer.size), layer.digest))
    }));
    table(&rows)
}
