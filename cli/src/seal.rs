//! `selkie seal`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::Algorithm;
use selkie::ops::seal::{self, Options, Report};
use selkie::reference::ImageReference;
use selkie::signing::{KeySource, Signer};

use crate::output::{Answer, Output, bytes, table};
use crate::progress::renderer;
use crate::scratch::ScratchArguments;
use crate::source::SourceArguments;

/// Seal a finished image: add one layer with a unified kernel image that boots exactly this root, signed for Secure Boot.
#[derive(Debug, Args)]
pub struct Arguments {
    /// quay.io/acme/os:build, oci:DIR[:TAG], oci-archive:FILE, containers-storage:NAME or docker-archive:FILE.
    image: ImageReference,
    /// Where the sealed image goes: quay.io/acme/os:stable, oci:DIR[:TAG], oci-archive:FILE or containers-storage:NAME.
    #[arg(long, value_name = "REF")]
    output: ImageReference,
    /// The private key: a PEM file, or a pkcs11: URI.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Its certificate, a PEM file. With --sign-command the one that its signatures must be by.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// A file whose first line is the passphrase of the key.
    #[arg(long, value_name = "FILE", requires = "key")]
    passphrase_file: Option<PathBuf>,
    /// A shell command that signs $SELKIE_INPUT as $SELKIE_OUTPUT, one EFI binary at a time.
    #[arg(long, value_name = "CMD", conflicts_with = "key")]
    sign_command: Option<String>,
    /// A kernel argument; may be repeated. Nothing can be added on the machine.
    #[arg(long = "karg", value_name = "ARG")]
    arguments: Vec<String>,
    /// A signed addon with more kernel arguments; may be repeated.
    #[arg(long = "addon", value_name = "NAME=ARGS", value_parser = parse_addon)]
    addons: Vec<(String, String)>,
    /// fs-verity algorithm of the machines' repositories: sha256 or sha512.
    #[arg(long, default_value = "sha256")]
    algorithm: Algorithm,
    /// The time that everything made here bears.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", default_value = "0")]
    mtime: u64,
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
        signer: signer(arguments)?,
        arguments: arguments.arguments.clone(),
        addons: arguments.addons.clone(),
        algorithm: arguments.algorithm,
        mtime: arguments.mtime,
        scratch: arguments.scratch.directory(),
    };
    output.print(&seal::run(&options, &renderer(output))?, human)?;
    Ok(Answer::Done)
}

fn signer(arguments: &Arguments) -> Result<Option<Signer>> {
    match (&arguments.key, &arguments.cert, &arguments.sign_command) {
        (Some(key), Some(certificate), _) => {
            let key = KeySource::new(key, arguments.passphrase_file.clone())?;
            Ok(Some(Signer::Key { key, certificate: certificate.clone() }))
        }
        (_, certificate, Some(command)) => Ok(Some(Signer::Command { command: command.clone(), certificate: certificate.clone() })),
        (_, Some(_), None) => Err(Failure::new(FailureKind::Usage, "reading the call: a certificate, and nothing that signs")
            .hint("name the key by --key, or a command by --sign-command")
            .into()),
        // Not left to clap, which would not say what kind of file.
        (Some(_), None, None) => Err(Failure::new(FailureKind::Usage, "reading the call: a key, and no certificate")
            .hint("name its certificate, a PEM file, by --cert")
            .into()),
        (None, None, None) => Ok(None),
    }
}

fn parse_addon(text: &str) -> Result<(String, String)> {
    let (name, arguments) = text.split_once('=').with_context(|| format!("reading addon {text:?} (expected NAME=ARGS)"))?;
    Ok((name.to_owned(), arguments.to_owned()))
}

fn human(report: &Report) -> String {
    table(&[
        ("Output", report.output.clone()),
        ("Manifest digest", report.manifest_digest.clone()),
        ("Boot image", report.boot_image.to_string()),
        (
            "Kernel image",
            format!("{} ({})", report.uki, if report.signed { "signed" } else { "not signed: for machines without Secure Boot" }),
        ),
        ("Unsigned SHA-256", report.unsigned_sha256.clone()),
        ("Kernel arguments", report.kernel_arguments.clone()),
        ("Layer", bytes(report.layer_size)),
    ])
}
