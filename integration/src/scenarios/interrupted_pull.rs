//! The power goes in the middle of a pull: the old system boots, and the same command then completes.

use anyhow::Result;

use super::{
    Bench,
    held_pull::{HeldPull, PASSED},
    same,
};
use crate::{images, selkie::Status, story::Teller, vm::Machine};

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let mut machine = Machine::new(bench.lab, "interrupted-pull", &bench.disk, bench.accel)?;
    machine.boot()?;
    machine.settle()?;
    bench.publish(&images::release("v3"))?;
    let held = HeldPull::new(bench, &mut machine)?;
    held.start_upgrade(&mut machine)?;
    machine.cut_power()?;
    held.release();
    tell.say(format!("the power is cut when {} MiB of the pull have been sent", PASSED >> 20));

    machine.boot()?;
    machine.settle()?;
    Status::of(&mut machine)?.expect("v1", None, None)?;
    machine.read(&["selkie", "upgrade"])?;
    Status::of(&mut machine)?.expect("v1", Some("v3"), Some("v1"))?;
    machine.reboot()?;
    Status::of(&mut machine)?.expect("v3", None, Some("v1"))?;
    same("the release in /usr", machine.shell("cat /usr/share/lab/release")?.as_str(), "v3")?;
    same("the payload", machine.shell("cd /usr/share/lab/payload && sha256sum --quiet -c SUMS")?.as_str(), "")
}
