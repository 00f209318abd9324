//! `selkie rechunk`

use anyhow::Result;
use clap::Args;
use selkie::ops::rechunk::{self, LAYERS, Options, Report};
use selkie::reference::ImageReference;

use crate::output::{Answer, Output, bytes, table};
use crate::progress::renderer;
use crate::scratch::ScratchArguments;
use crate::source::SourceArguments;

/// Arrange the layers of a finished image so that the next update moves little: the same root, by package, as zstd:chunked.
#[derive(Debug, Args)]
pub struct Arguments {
    /// quay.io/acme/os:build, oci:DIR[:TAG], oci-archive:FILE, containers-storage:NAME or docker-archive:FILE.
    image: ImageReference,
    /// Where the new image goes: quay.io/acme/os:stable, oci:DIR[:TAG], oci-archive:FILE or containers-storage:NAME.
    #[arg(long, value_name = "REF")]
    output: ImageReference,
    /// How many layers there may be, 16 to 110; keep it the same from release to release, or nothing is shared.
    #[arg(long, value_name = "N", default_value_t = LAYERS)]
    layers: usize,
    #[command(flatten)]
    scratch: ScratchArguments,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let options = Options {
        image: arguments.image.clone(),
        source: arguments.source.options(),
        output: arguments.output.clone(),
        destination: arguments.source.output_options(),
        layers: arguments.layers,
        scratch: arguments.scratch.directory(),
    };
    output.print(&rechunk::run(&options, &renderer(output))?, human)?;
    Ok(Answer::Done)
}

fn human(report: &Report) -> String {
    let mut rows = vec![
        ("Output", report.output.clone()),
        ("Manifest digest", report.manifest_digest.clone()),
        ("Image", format!("{} (proven: as before)", report.image)),
        ("Boot image", format!("{} (proven: as before)", report.boot_image)),
        ("Layers", format!("{} (before: {})", report.layers.len(), report.layers_before)),
        ("Size", format!("{} (before: {})", bytes(report.size), bytes(report.size_before))),
        ("Written", bytes(report.bytes_written)),
    ];
    rows.extend(report.layers.iter().map(|layer| ("Layer", format!("{:>10}  {}", bytes(layer.size), layer.group))));
    table(&rows)
}
