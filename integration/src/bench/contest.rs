//! What is measured, and how each contestant is told to do it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Meter, Sample, pair::Pair};
use crate::{command::Argv, lab::Lab};

/// What all contestants use.
#[derive(Debug)]
pub(crate) struct Bench<'lab> {
    pub(crate) lab: &'lab Lab,
    pub(crate) selkie: &'lab Path,
    pub(crate) cfsctl: &'lab Path,
    pub(crate) pair: &'lab Pair,
    pub(crate) meter: &'lab Meter,
}

/// One thing to do, and those who do it; the first is who the others are compared with.
#[derive(Debug)]
pub(crate) struct Contest {
    pub(crate) title: &'static str,
    pub(crate) contestants: Vec<Contestant>,
}

/// A program at its task.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    tool: Tool,
    from: From,
    compression: &'static str,
    /// Whether v1 is there before, and v2 is what is pulled.
    update: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Selkie,
    Composefs,
    Podman,
    Skopeo,
    Tar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Registry,
    Layout,
}

/// Every contest.
pub(crate) fn all() -> Vec<Contest> {
    let stores = [("selkie", Tool::Selkie), ("composefs-ctl", Tool::Composefs), ("podman", Tool::Podman)];
    let transport = [("skopeo copy: transport and blob digests only", Tool::Skopeo)];
    let unpack = [("tar -x: files only, unproven", Tool::Tar)];
    let cold = [&stores[..], &transport].concat();
    let local = [&stores[..2], &unpack].concat();
    vec![
        contest("cold pull, registry, gzip", &cold, (From::Registry, "gzip", false)),
        contest("cold pull, registry, zstd", &cold, (From::Registry, "zstd", false)),
        contest("cold pull, OCI layout, zstd", &local, (From::Layout, "zstd", false)),
        contest("update v1 to v2, registry, zstd", &stores, (From::Registry, "zstd", true)),
    ]
}

fn contest(title: &'static str, tools: &[(&'static str, Tool)], (from, compression, update): (From, &'static str, bool)) -> Contest {
    let contestants = tools.iter().map(|(name, tool)| Contestant { name, tool: *tool, from, compression, update }).collect();
    Contest { title, contestants }
}

impl Contestant {
    /// Does the task in `dir`, which is empty, and tells its cost. What has to be there before is not counted.
    pub(crate) fn measure(&self, bench: &Bench<'_>, dir: &Path) -> Result<Sample> {
        for argv in self.before(bench, dir)? {
            argv.read()?;
        }
        bench.meter.measure(&self.pull(bench, dir, if self.update { "v2" } else { "v1" })?, dir)
    }

    fn before(&self, bench: &Bench<'_>, dir: &Path) -> Result<Vec<Argv>> {
        let mut argvs = Vec::new();
        if self.tool == Tool::Composefs {
            argvs.push(Argv::new([bench.cfsctl]).with(["--repo"]).with([store(dir)]).with([
                "init",
                "--algorithm",
                "fsverity-sha256-12",
                "--insecure",
            ]));
        }
        if self.tool == Tool::Tar {
            argvs.push(Argv::new(["mkdir"]).with([store(dir)]));
        }
        if self.update {
            argvs.push(self.pull(bench, dir, "v1")?);
        }
        // What the disk still has to write is not the next one's business.
        argvs.push(Argv::new(["sync"]));
        Ok(argvs)
    }

    fn pull(&self, bench: &Bench<'_>, dir: &Path, version: &str) -> Result<Argv> {
        let remote = bench.meter.reference(&Pair::name(version, self.compression));
        let layout = bench.pair.layout(version, self.compression);
        let transport = match self.from {
            From::Registry => format!("docker://{remote}"),
            From::Layout => layout,
        };
        Ok(match self.tool {
            Tool::Selkie => {
                Argv::new([bench.selkie]).with(["pull", &transport, "--tls-verify=false", "--progress=none", "--repo"]).with([store(dir)])
            }
            Tool::Composefs => {
                let insecure = format!("CONTAINERS_REGISTRIES_CONF={}", registries(bench, dir)?.display());
                Argv::new(["env", &insecure])
                    .with([bench.cfsctl])
                    .with(["--repo"])
                    .with([store(dir)])
                    .with(["oci", "pull", &transport, "bench"])
            }
            Tool::Podman => {
                let (root, run) = (store(dir), dir.join("run"));
                let storage = Argv::new(["podman", "--storage-driver", "overlay", "--root"]).with([root]).with(["--runroot"]).with([run]);
                storage.with(["pull", "--quiet", "--tls-verify=false", &transport])
            }
            Tool::Skopeo => {
                let to = format!("oci:{}:bench", store(dir).display());
                Argv::new(["skopeo", "copy", "--quiet", "--src-tls-verify=false", &transport, &to])
            }
            Tool::Tar => Argv::new(["tar", "--extract", "--zstd", "--directory"])
                .with([store(dir)])
                .with(["--file"])
                .with([bench.pair.layer(version, self.compression)?]),
        })
    }
}

fn store(dir: &Path) -> PathBuf {
    dir.join("store")
}

/// composefs-ctl has no option for a registry without TLS; the containers configuration has.
fn registries(bench: &Bench<'_>, dir: &Path) -> Result<PathBuf> {
    let path = dir.join("registries.conf");
    let host = bench.meter.reference("");
    std::fs::write(&path, format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", host.trim_end_matches('/')))?;
    Ok(path)
}
