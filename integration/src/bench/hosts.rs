//! Machines made of directories, for verbs that need one; see `src/bin/host.rs`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{
    Meter, layouts,
    pair::{Form, Pair},
};
use crate::{command::Argv, lab::Lab, story::Teller};

/// The machines, by the number of their deployments.
#[derive(Debug)]
pub(super) struct Hosts {
    machines: Vec<(usize, PathBuf)>,
    /// What their deployments follow, through the relay.
    pub(super) follows: String,
}

impl Hosts {
    /// Makes machines of v1 with so many deployments; `host` is the program.
    pub(super) fn make(lab: &Lab, host: &Path, pair: &Pair, meter: &Meter, counts: &[usize], tell: &Teller) -> Result<Self> {
        let follows = meter.reference(&Pair::name(Form::Zstd, "v1"));
        let layout = pair.layout(Form::Zstd);
        let digest = layouts::digest(&layout, "v1")?;
        let mut machines = Vec::new();
        for count in counts {
            let dir = lab.fresh_subdir(&format!("bench-host-{count}"))?;
            tell.say(format!("a machine with {count} deployments"));
            let make = Argv::new([host]).with(["make"]).with([&dir]).with([&count.to_string()]).with([&layout]);
            make.with([&digest, &follows]).read()?;
            machines.push((*count, dir));
        }
        Ok(Self { machines, follows })
    }

    /// How many deployments the machines have.
    pub(super) fn counts(&self) -> Vec<usize> {
        self.machines.iter().map(|(count, _)| *count).collect()
    }

    /// The machine with so many.
    pub(super) fn machine(&self, count: usize) -> Result<&Path> {
        let machine = self.machines.iter().find(|(has, _)| *has == count);
        machine.map(|(_, dir)| dir.as_path()).with_context(|| format!("looking for a machine with {count} deployments"))
    }

    /// The root that runs there, in hexadecimal digits.
    pub(super) fn booted(&self, count: usize) -> Result<String> {
        let path = self.machine(count)?.join("booted");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.rsplit(':').next().unwrap_or_default().trim().to_owned())
    }
}
