//! What is measured, and who takes part; the first of each contest is who the others are compared with.

use std::path::Path;

use anyhow::Result;

use super::{
    Sample,
    hosts::Hosts,
    pair::{Form, Pair},
    tools::{Bench, From, Task, Tool},
};

/// One thing to do, and those who do it.
#[derive(Debug)]
pub(super) struct Contest {
    pub(super) title: String,
    /// What the task is.
    pub(super) task: Task,
    pub(super) contestants: Vec<Contestant>,
}

/// A program at its task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contestant {
    pub(super) name: &'static str,
    pub(super) tool: Tool,
}

const SELKIE: Contestant = Contestant { name: "selkie", tool: Tool::Selkie };
const COMPOSEFS: Contestant = Contestant { name: "composefs-ctl", tool: Tool::Composefs };
const BOOTABLE: Contestant =
    Contestant { name: "composefs-ctl --bootable: with the image to boot from, as selkie", tool: Tool::ComposefsBootable };
const PODMAN: Contestant = Contestant { name: "podman", tool: Tool::Podman };
const SKOPEO: Contestant = Contestant { name: "skopeo copy: transport and blob digests only", tool: Tool::Skopeo };
const TAR: Contestant = Contestant { name: "tar -x: files only, unproven", tool: Tool::Tar };
const FLOOR: Contestant = Contestant { name: "floor, from layout: what cannot be left out", tool: Tool::Floor };

/// Every contest.
pub(super) fn all(pair: &Pair, hosts: &Hosts) -> Vec<Contest> {
    let mut contests = Vec::new();
    for form in pair.forms.iter().copied().filter(|form| *form != Form::Rechunked) {
        let task = Task::Pull { from: From::Registry, form, before: &[], version: "v1" };
        contests.push(contest(
            format!("cold pull, registry, {}", form.name()),
            task,
            &[SELKIE, COMPOSEFS, BOOTABLE, PODMAN, SKOPEO, FLOOR],
        ));
    }
    let task = Task::Pull { from: From::Layout, form: Form::Zstd, before: &[], version: "v1" };
    contests.push(contest("cold pull, OCI layout, zstd".into(), task, &[SELKIE, COMPOSEFS, BOOTABLE, TAR, FLOOR]));
    for version in &pair.updates {
        for form in [Form::Zstd, Form::Chunked, Form::Delta, Form::Rechunked] {
            let task = Task::Pull { from: From::Registry, form, before: &["v1"], version };
            let title = format!("update v1 to {version}, registry, {}", form.name());
            contests.push(contest(title, task, &[SELKIE, COMPOSEFS, BOOTABLE, PODMAN]));
        }
    }
    let task = Task::Pull { from: From::Registry, form: Form::Zstd, before: &["v1"], version: "v1" };
    contests.push(contest("pull of an image that is here, registry, zstd".into(), task, &[SELKIE, COMPOSEFS, PODMAN]));
    contests.push(contest("check for an update, none".into(), Task::Check, &[SELKIE, Contestant { name: "skopeo inspect", ..SKOPEO }]));
    let early_boot = Contestant { name: "selkie (root, /etc, /var, as in the initramfs)", ..SELKIE };
    contests.push(contest("mount a root".into(), Task::Mount, &[early_boot, COMPOSEFS]));
    for count in hosts.counts() {
        let list = Contestant { name: "composefs-ctl oci images", ..COMPOSEFS };
        contests.push(contest(format!("status, deployments: {count}"), Task::Status(count), &[SELKIE, list]));
        contests.push(contest(format!("gc, nothing to remove, images: {count}"), Task::Collect(count), &[SELKIE, COMPOSEFS]));
        contests.push(contest(format!("fsck, images: {count}"), Task::Fsck(count), &[SELKIE, COMPOSEFS]));
    }
    contests
}

fn contest(title: String, task: Task, contestants: &[Contestant]) -> Contest {
    Contest { title, task, contestants: contestants.to_vec() }
}

impl Contest {
    /// Lets one do the task in `dir`, which is empty, and tells its cost. What has to be there before is not counted.
    pub(super) fn measure(&self, contestant: &Contestant, bench: &Bench<'_>, dir: &Path) -> Result<Sample> {
        for argv in bench.before(contestant.tool, &self.task, dir)? {
            argv.by_root().read()?;
        }
        bench.meter.measure(&bench.act(contestant.tool, &self.task, dir)?.by_root(), dir)
    }
}
