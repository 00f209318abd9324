//! `selkie switch`

use anyhow::Result;
use clap::Args;
use selkie::ops::upgrade::{Options, Until};
use selkie::reference::ImageReference;

use crate::output::{Answer, Output};
use crate::source::SourceArguments;
use crate::upgrade::{self, KeepArguments};

/// Follow another image from now on, and make it the root that boots next.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The image, e.g. quay.io/acme/os:stable.
    image: ImageReference,
    /// Reboot into it at once.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    keep: KeepArguments,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let config = crate::config::load()?;
    let options = Options {
        image: Some(arguments.image.clone()),
        source: arguments.source.options(),
        until: Until::Stage,
        keep: arguments.keep.keep(&config),
        retry: true,
    };
    upgrade::carry_out(&options, config, arguments.apply, output)?;
    Ok(Answer::Done)
}
