//! An upgrade that is certainly under way: a gate in front of the registry lets a part of it pass, and holds the rest for as long as the scenario looks.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::{relay::Gate, vm::Machine};

/// What passes: more than manifests and configurations, so that layers are on their way, and little enough to leave some of v3's payload (48 MiB that
/// nothing compresses) after three tries.
pub(super) const PASSED: u64 = 10 << 20;
/// How long an upgrade may take on hardware to get so far.
const BEGIN: Duration = Duration::from_secs(300);

/// The way of one machine to its registry.
#[derive(Debug)]
pub(super) struct HeldPull {
    gate: Gate,
    limit: Duration,
}

impl HeldPull {
    /// Sends `machine` through a gate from now on. The gate is open.
    pub(super) fn new(bench: &Bench<'_>, machine: &mut Machine) -> Result<Self> {
        let (gate, configuration) = bench.registry.gate()?;
        // The scenario may cut the power afterwards.
        let script = format!("cat > /etc/containers/registries.conf.d/60-gate.conf <<'end'\n{configuration}end\nsync");
        machine.shell(&script).context("sending the machine through a gate")?;
        Ok(Self { gate, limit: BEGIN * bench.accel.patience() })
    }

    /// Starts an upgrade in the background, and returns when bytes of layers have arrived and the rest is held; the result is its process. What it says is in
    /// `/run/errors`, and its exit code in `/run/code` when it has ended.
    pub(super) fn start_upgrade(&self, machine: &mut Machine) -> Result<u64> {
        machine.shell("rm -f /run/code /run/pid; : > /run/errors")?;
        self.gate.hold_after(PASSED);
        // Not in the background of a shell, which has its jobs ignore SIGINT.
        let script = "sh -c 'echo $$ > /run/pid; exec selkie upgrade --progress json 2> /run/errors'; echo $? > /run/code";
        machine.spawn(&["/bin/sh", "-c", script])?;
        let begin = Instant::now();
        while !self.gate.is_holding() {
            let said = machine.shell("cat /run/errors; test ! -s /run/code || echo ended: $(cat /run/code)")?;
            if said.contains("ended:") {
                bail!("starting an upgrade: it was over before anything was held\n{said}");
            }
            if begin.elapsed() > self.limit {
                bail!("starting an upgrade: {PASSED} bytes have not come in {} s\n{said}\n{}", self.limit.as_secs(), machine.console());
            }
            sleep(Duration::from_secs(1));
        }
        machine.shell("cat /run/pid")?.parse().context("reading the number of a process")
    }

    /// Lets everything pass.
    pub(super) fn release(&self) {
        self.gate.open();
    }
}
