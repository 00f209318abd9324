//! `selkie esp`

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use selkie::ops::esp::{self, Changed, Listed, Role};
use selkie::ops::host::{Access, Host};

use crate::output::{Answer, Output, bytes, columns};
use crate::progress::renderer;

/// Keep EFI system partitions on several disks in step, so that the machine boots when one disk is gone.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show each ESP, what it is for, and whether it is in step.
    List,
    /// Take in an ESP: it gets kernels, boot entries and a boot loader, and follows from now on. Nothing is formatted.
    Add {
        /// Its device, such as /dev/sdb1: an EFI system partition with a FAT file system.
        partition: PathBuf,
    },
    /// Let an ESP go: it loses selkie's entries and kernels, where it is within reach, and keeps the boot loader.
    Remove {
        /// Its partition UUID, as `selkie esp list` shows it.
        partition: String,
    },
    /// Bring every ESP in step now: entries, kernels, and the boot loader of a root that has proven itself.
    Sync,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let access = if matches!(arguments.verb, Verb::List) { Access::Read } else { Access::Write };
    let host = Host::running(access)?;
    let progress = renderer(output);
    match &arguments.verb {
        Verb::List => output.print(&esp::list(&host)?, |list| human(&list.places))?,
        Verb::Add { partition } => {
            let place = host.place_at(partition)?;
            output.print(&esp::add(&host, &place, progress.as_ref())?, added)?;
        }
        Verb::Remove { partition } => {
            let removed = esp::remove(&host, partition, progress.as_ref())?;
            output.print(&removed, |r| format!("ESP {} is not kept in step any more.\n", r.partition))?;
        }
        Verb::Sync => {
            let synced = esp::sync(&host, progress.as_ref())?;
            output.print(&synced, |s| human(&s.places) + &s.loaders.as_ref().map(crate::loader::human).unwrap_or_default())?;
            if synced.places.iter().any(|place| place.in_step == Some(false)) {
                return Ok(Answer::No);
            }
        }
    }
    Ok(Answer::Done)
}

fn added(changed: &Changed) -> String {
    let in_the_way = changed.in_the_way.as_ref().map(|path| {
        format!("{path} there belongs to another system and stays: the firmware needs an entry of its own for EFI/systemd (efibootmgr).\n")
    });
    format!("ESP {} is in step from now on.\n{}", changed.partition, in_the_way.unwrap_or_default())
}

fn human(places: &[Listed]) -> String {
    let unknown = || "unknown".to_owned();
    let row = |place: &Listed| {
        let role = match (place.role, place.kept) {
            (Role::Booted, true) => "booted",
            (Role::Booted, false) => "booted, alone",
            (Role::Mirror, _) => "mirror",
        };
        let state = match (place.role, place.in_step, &place.why) {
            (Role::Booted, _, None) => String::new(),
            (_, Some(true), _) => "in step".to_owned(),
            (_, Some(false), Some(why)) => format!("not in step: {why}"),
            (_, _, Some(why)) => format!("out of reach: {why}"),
            (_, _, None) => unknown(),
        };
        let xbootldr = if place.xbootldr == Some(true) { " + XBOOTLDR" } else { "" };
        let loader = place.loader.clone().unwrap_or_else(unknown);
        [place.partition.clone(), format!("{role}{xbootldr}"), place.free_bytes.map_or_else(unknown, bytes), loader, state]
    };
    let head = ["PARTITION", "ROLE", "FREE", "LOADER", "STATE"].map(str::to_owned);
    columns(std::iter::once(head).chain(places.iter().map(row)))
}
