//! The power goes in the middle of a pull: the old system boots, and the same command then completes.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{Bench, same};
use crate::{images, selkie::Status, story::Teller, vm::Machine};

/// Runs the scenario.
pub(crate) fn run(bench: &Bench<'_>, tell: &Teller) -> Result<()> {
    bench.publish(&images::release("v1"))?;
    let mut machine = Machine::new(bench.lab, "interrupted-pull", &bench.disk, bench.accel)?;
    machine.boot()?;
    machine.settle()?;
    bench.publish(&images::release("v3"))?;
    let done = interrupt(&mut machine)?;
    tell.say(format!("the power is cut after {} KiB of the pull", done >> 10));

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

/// Starts an upgrade and cuts the power when bytes have arrived but not all of them; the result is how many.
fn interrupt(machine: &mut Machine) -> Result<u64> {
    let script = "selkie upgrade --progress json > /run/progress 2> /run/errors; echo $? > /run/code";
    machine.spawn(&["/bin/sh", "-c", script])?;
    let deadline = Instant::now() + Duration::from_secs(300);
    while Instant::now() < deadline {
        let progress = machine.shell("cat /run/progress /run/errors; test ! -e /run/code || echo ended: $(cat /run/code)")?;
        if progress.contains("ended:") {
            bail!("interrupting the pull: it was over before that\n{progress}");
        }
        if let Some(done) = bytes_done(&progress) {
            machine.cut_power()?;
            return Ok(done);
        }
        sleep(Duration::from_millis(100));
    }
    bail!("interrupting the pull: it has not begun in time\n{}", machine.console())
}

/// The bytes of the last progress line that tells of an unfinished item with at least a MiB done.
pub(super) fn bytes_done(progress: &str) -> Option<u64> {
    let values = progress.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut bytes = values.filter(|value| value["event"] == "advance" && value["unit"] == "bytes");
    let last = bytes.next_back()?;
    let (done, total) = (last["done"].as_u64()?, last["total"].as_u64()?);
    (done >= 1 << 20 && (total == 0 || done < total)).then_some(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unfinished_transfer_is_worth_a_cut() {
        let line = |done: u64| format!("{{\"event\":\"advance\",\"item\":\"x\",\"done\":{done},\"total\":4194304,\"unit\":\"bytes\"}}\n");
        assert_eq!(bytes_done("{\"event\":\"phase\",\"name\":\"x\"}\n"), None);
        assert_eq!(bytes_done(&line(1000)), None);
        assert_eq!(bytes_done(&(line(1000) + &line(2 << 20))), Some(2 << 20));
        assert_eq!(bytes_done(&line(4 << 20)), None);
    }
}
