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

/// How the layers came: a line for those that were here, one for those that came whole or otherwise than they could have for the same reason, and one for each
/// other, lowest first.
pub fn layers(fetched: &[FetchedLayer]) -> String {
    let here = match fetched.iter().filter(|layer| layer.way == Way::Here).count() {
        0 => String::new(),
        1 => "1 layer: here\n".to_owned(),
        count => format!("{count} layers: here\n"),
    };
    let mut lines: Vec<(Vec<usize>, FetchedLayer)> = Vec::new();
    for (number, layer) in (1..).zip(fetched).filter(|(_, layer)| layer.way != Way::Here) {
        let shares = |of: &FetchedLayer| of.way == layer.way && of.reason == layer.reason && (of.reason.is_some() || of.way == Way::Whole);
        match lines.iter_mut().find(|(_, of)| shares(of)) {
            Some((numbers, of)) => {
                numbers.push(number);
                (of.bytes, of.size) = (of.bytes + layer.bytes, of.size + layer.size);
            }
            None => lines.push((vec![number], layer.clone())),
        }
    }
    let line = |(numbers, layer): &(Vec<usize>, FetchedLayer)| match numbers[..] {
        [_] => line(&format!("layer {}", layer.digest), layer),
        _ => line(&format!("layers {} of {}", runs(numbers), fetched.len()), layer),
    };
    here + &lines.iter().map(line).collect::<String>()
}

/// Ascending numbers for people: `1-3, 5`.
fn runs(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let shown: Vec<String> =
        runs.map(|run| if run.len() == 1 { run[0].to_string() } else { format!("{}-{}", run[0], run[run.len() - 1]) }).collect();
    shown.join(", ")
}

fn line(name: &str, layer: &FetchedLayer) -> String {
    let (fetched, size) = (bytes(layer.bytes), bytes(layer.size));
    let how = match layer.way {
        Way::Here => "here".to_owned(),
        Way::Delta => format!("delta, {fetched} for {size}"),
        Way::Partial => format!("partial, {fetched} of {size}"),
        Way::Whole => format!("whole, {fetched}"),
    };
    let why = layer.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{name}: {how}{why}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_came_so_for_the_same_reason_share_a_line() {
        let layer = |number: u64, way, reason: Option<&str>| FetchedLayer {
            digest: format!("sha256:{number:02x}"),
            way,
            bytes: number << 20,
            size: 10 << 20,
            reason: reason.map(str::to_owned),
        };
        let (small, odd) = (Some("it is small"), Some("its table is odd"));
        let fetched = [
            layer(1, Way::Whole, small),
            layer(2, Way::Whole, small),
            layer(0, Way::Here, None),
            layer(4, Way::Whole, small),
            layer(5, Way::Whole, odd),
            layer(6, Way::Partial, None),
            layer(7, Way::Partial, None),
            layer(8, Way::Partial, odd),
            layer(9, Way::Partial, odd),
            layer(1, Way::Delta, None),
            layer(2, Way::Whole, None),
            layer(3, Way::Whole, None),
        ];
        let text = "\
1 layer: here
layers 1-2, 4 of 12: whole, 7.00 MiB: it is small
layer sha256:05: whole, 5.00 MiB: its table is odd
layer sha256:06: partial, 6.00 MiB of 10.00 MiB
layer sha256:07: partial, 7.00 MiB of 10.00 MiB
layers 8-9 of 12: partial, 17.00 MiB of 20.00 MiB: its table is odd
layer sha256:01: delta, 1.00 MiB for 10.00 MiB
layers 11-12 of 12: whole, 5.00 MiB
";
        assert_eq!(layers(&fetched), text);
        assert_eq!(layers(&fetched[..1]), "layer sha256:01: whole, 1.00 MiB: it is small\n");
        assert_eq!(layers(&[]), "");
    }
}
