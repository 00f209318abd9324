//! `selkie disk`

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use selkie::disk::Format;
use selkie::image_id::Algorithm;
use selkie::ops::disk::{self, Options, Report, SecureBoot};
use selkie::reference::ImageReference;

use crate::output::{Answer, Output, bytes, table};
use crate::progress::renderer;
use crate::source::SourceArguments;

/// Make a bootable disk image of an image: no root, no loop device, no mount, no VM, no container.
#[derive(Debug, Args)]
pub struct Arguments {
    /// quay.io/acme/os:stable, oci:DIR[:TAG], oci-archive:FILE, containers-storage:NAME or docker-archive:FILE.
    image: ImageReference,
    /// The file to make. It must not exist.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// File format.
    #[arg(long, value_enum, default_value = "raw")]
    format: DiskFormat,
    /// The reference that the machine follows, where it is not IMAGE (needed for references that only this machine knows).
    #[arg(long, value_name = "IMAGE")]
    target_image: Option<ImageReference>,
    /// Size of the disk, e.g. 20G (powers of 1024). Default: what the partitions need.
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,
    /// Size of the root partition. Default: what --size leaves, else room for the content twice and 512 MiB.
    #[arg(long, value_parser = parse_size)]
    root_size: Option<u64>,
    /// Size of the EFI system partition. Default: 512 MiB.
    #[arg(long, value_parser = parse_size)]
    esp_size: Option<u64>,
    /// A kernel argument; may be repeated.
    #[arg(long = "karg", value_name = "ARG")]
    arguments: Vec<String>,
    /// fs-verity algorithm: sha256 or sha512 (default: the one of a sealed image, else sha256).
    #[arg(long)]
    algorithm: Option<Algorithm>,
    /// Directory of Secure Boot keys (PK.auth, KEK.auth, db.auth) that the machine enrols at its first boot. The image must be sealed.
    #[arg(long, value_name = "DIR")]
    secure_boot_keys: Option<PathBuf>,
    /// When to enrol: if-safe (in virtual machines; elsewhere the boot menu offers it) or force.
    #[arg(long, value_enum, default_value = "if-safe", requires = "secure_boot_keys")]
    secure_boot_enroll: Enroll,
    /// The time that everything made here bears.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", default_value = "0")]
    mtime: u64,
    #[command(flatten)]
    source: SourceArguments,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DiskFormat {
    /// The disk as it is, sparse.
    Raw,
    /// QEMU's format.
    Qcow2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Enroll {
    /// In virtual machines.
    IfSafe,
    /// On every machine that is in setup mode.
    Force,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let options = Options {
        image: arguments.image.clone(),
        target_image: arguments.target_image.clone(),
        source: arguments.source.options(),
        algorithm: arguments.algorithm,
        output: arguments.output.clone(),
        format: match arguments.format {
            DiskFormat::Raw => Format::Raw,
            DiskFormat::Qcow2 => Format::Qcow2,
        },
        size: arguments.size,
        root_size: arguments.root_size,
        esp_size: arguments.esp_size,
        arguments: arguments.arguments.clone(),
        secure_boot: arguments
            .secure_boot_keys
            .clone()
            .map(|keys| SecureBoot { keys, force: arguments.secure_boot_enroll == Enroll::Force }),
        mtime: arguments.mtime,
    };
    output.print(&disk::run(&options, &renderer(output))?, human)?;
    Ok(Answer::Done)
}

fn human(report: &Report) -> String {
    table(&[
        ("Disk image", report.output.display().to_string()),
        ("Size", bytes(report.size)),
        ("Manifest digest", report.pulled.manifest_digest.clone()),
        ("Boot image", report.pulled.boot_image.to_string()),
        ("Follows", report.target_image.clone()),
        ("Took", format!("{:.1} s to pull, {:.1} s to make the disk", report.seconds_pull, report.seconds_disk)),
    ])
}

/// `512M`, `20G`, `20GiB`, `1048576`: units are powers of 1024, as for qemu-img and truncate.
fn parse_size(text: &str) -> Result<u64> {
    parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .with_context(|| format!("reading size {text:?} (expected a number of bytes, or one with K, M, G or T)"))
}
