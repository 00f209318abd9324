//! How each program is told to do what is measured.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{
    Meter,
    hosts::Hosts,
    layouts,
    pair::{Form, Pair},
};
use crate::command::Argv;

/// What all contestants use.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub(super) selkie: &'a Path,
    pub(super) cfsctl: &'a Path,
    pub(super) floor: &'a Path,
    /// The machine made of directories.
    pub(super) host: &'a Path,
    pub(super) pair: &'a Pair,
    pub(super) hosts: &'a Hosts,
    pub(super) meter: &'a Meter,
    /// podman takes no long path for what does not outlive it.
    pub(super) run: &'a Path,
    /// The kind of file system that is written to.
    pub(super) written_to: &'a str,
    /// Whether the file system has fs-verity: all seal, or nobody.
    pub(super) verity: bool,
}

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Selkie,
    Composefs,
    /// It makes the image to boot from, too, as selkie always does.
    ComposefsBootable,
    Podman,
    Skopeo,
    Tar,
    Floor,
}

/// Where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Registry,
    Layout,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Task {
    /// Pull `version`, where the versions `before` were pulled.
    Pull {
        from: From,
        form: Form,
        before: &'static [&'static str],
        version: &'static str,
    },
    /// Mount a root that is here.
    Mount,
    /// Ask whether there is an update, where there is none.
    Check,
    /// With so many deployments or images.
    Status(usize),
    Collect(usize),
    Fsck(usize),
}

impl Bench<'_> {
    /// What has to be done before, uncounted, in `dir`.
    pub(super) fn before(&self, tool: Tool, task: &Task, dir: &Path) -> Result<Vec<Argv>> {
        let mut argvs = Vec::new();
        if let Task::Pull { before, from, form, .. } = task {
            if matches!(tool, Tool::Composefs | Tool::ComposefsBootable) {
                argvs.push(init(self.cfsctl, &store(dir), self.verity));
            }
            if matches!(tool, Tool::Tar | Tool::Floor) {
                argvs.push(Argv::new(["mkdir"]).with([store(dir)]));
            }
            for version in *before {
                argvs.push(self.pull(tool, dir, *from, *form, version)?);
            }
        }
        // What the disk still has to write is not the next one's business.
        argvs.push(Argv::new(["sync"]));
        Ok(argvs)
    }

    /// What is measured.
    pub(super) fn act(&self, tool: Tool, task: &Task, dir: &Path) -> Result<Argv> {
        if let Task::Pull { from, form, version, .. } = task {
            return self.pull(tool, dir, *from, *form, version);
        }
        let count = match task {
            Task::Status(count) | Task::Collect(count) | Task::Fsck(count) => *count,
            _ => 1,
        };
        let machine = self.hosts.machine(count)?;
        let host = |verb: &str| Argv::new([self.host]).with([verb]).with([machine]);
        let cfsctl = || Argv::new([self.cfsctl]).with(["--repo"]).with([machine.join("sysroot/composefs")]);
        Ok(match (tool, task) {
            (Tool::Selkie, Task::Status(_)) => host("status"),
            (Tool::Selkie, Task::Check) => host("check"),
            (Tool::Selkie, Task::Collect(_)) => host("gc"),
            (Tool::Selkie, Task::Mount) => host("mount"),
            (Tool::Selkie, Task::Fsck(_)) => Argv::new([self.selkie])
                .with(["fsck", "--progress=none", "--sysroot"])
                .with([machine.join("sysroot")])
                .with(["--esp"])
                .with([machine.join("esp")]),
            (Tool::Composefs, Task::Status(_)) => cfsctl().with(["oci", "images"]),
            (Tool::Composefs, Task::Collect(_)) => cfsctl().with(["gc"]),
            (Tool::Composefs, Task::Fsck(_)) => cfsctl().with(["fsck"]),
            (Tool::Composefs, Task::Mount) => {
                let root = self.hosts.booted(count)?;
                let mount = cfsctl().with(["mount", &root]).with([dir]);
                Argv::new(["unshare", "--mount"]).with(mount.0)
            }
            (Tool::Skopeo, Task::Check) => {
                let image = format!("docker://{}", self.hosts.follows);
                Argv::new(["skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", &image])
            }
            _ => bail!("measuring: nobody has taught {tool:?} how to {task:?}"),
        })
    }

    fn pull(&self, tool: Tool, dir: &Path, from: From, form: Form, version: &str) -> Result<Argv> {
        let layout = self.pair.layout(form);
        let transport = match from {
            From::Registry => format!("docker://{}", self.meter.reference(&Pair::name(form, version))),
            From::Layout => format!("oci:{}:{version}", layout.display()),
        };
        Ok(match tool {
            Tool::Selkie => {
                let argv = Argv::new([self.selkie]).with(["pull", &transport, "--tls-verify=false", "--progress=none", "--repo"]);
                argv.with([store(dir)])
            }
            Tool::Composefs | Tool::ComposefsBootable => {
                let insecure = format!("HOME={}", home(self.meter, dir)?.display());
                let argv = Argv::new(["env", &insecure]).with([self.cfsctl]).with(["--repo"]).with([store(dir)]);
                let bootable: &[&str] = if tool == Tool::ComposefsBootable { &["--bootable"] } else { &[] };
                argv.with(["oci", "pull"]).with(bootable).with([&transport, "bench"])
            }
            Tool::Podman => {
                let storage =
                    Argv::new(["podman", "--storage-driver", "overlay", "--root"]).with([store(dir)]).with(["--runroot"]).with([self.run]);
                storage.with(["pull", "--quiet", "--tls-verify=false", &transport])
            }
            Tool::Skopeo => {
                let to = format!("oci:{}:bench", store(dir).display());
                Argv::new(["skopeo", "copy", "--quiet", "--src-tls-verify=false", &transport, &to])
            }
            Tool::Tar => {
                let script = r#"to=$1; shift; for layer; do tar --extract --directory "$to" --file "$layer"; done"#;
                Argv::new(["sh", "-euc", script, "sh"]).with([store(dir)]).with(layouts::layers(&layout, version)?)
            }
            Tool::Floor => Argv::new([self.floor]).with([&layout]).with([layouts::digest(&layout, version)?]).with([store(dir)]),
        })
    }
}

/// composefs-ctl makes a repository. Both sides have the same fs-verity algorithm.
pub(super) fn init(cfsctl: &Path, repository: &Path, verity: bool) -> Argv {
    let argv = Argv::new([cfsctl]).with(["--repo"]).with([repository]).with(["init", "--algorithm", "fsverity-sha256-12"]);
    if verity { argv } else { argv.with(["--insecure"]) }
}

fn store(dir: &Path) -> PathBuf {
    dir.join("store")
}

/// composefs-ctl has no option for a registry without TLS; the containers configuration of a user has.
fn home(meter: &Meter, dir: &Path) -> Result<PathBuf> {
    let home = dir.join("home");
    let config = home.join(".config/containers");
    std::fs::create_dir_all(&config).with_context(|| format!("making {}", config.display()))?;
    let host = meter.reference("");
    let text = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", host.trim_end_matches('/'));
    std::fs::write(config.join("registries.conf"), text).with_context(|| format!("writing in {}", config.display()))?;
    Ok(home)
}
