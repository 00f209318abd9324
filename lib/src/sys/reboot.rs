//! Restarting the machine, by the service manager, so that everything is stopped in order.

use anyhow::{Context, Result};

use super::interrupt::{self, Signal};
use super::process;

/// Asks systemd to reboot and returns at once. The end of the machine is the end of this process: what a caller says after this call may not be heard.
pub fn reboot() -> Result<()> {
    ask(&["systemctl", "--no-block", "reboot"])
}

/// The same although inhibitors are held. Not by way of logind, which refuses that to root where there is no polkit: this is the job that it would start.
pub fn reboot_anyway() -> Result<()> {
    ask(&["systemctl", "--no-block", "--job-mode=replace-irreversibly", "start", "reboot.target"])
}

fn ask(words: &[&str]) -> Result<()> {
    interrupt::finish();
    let argv: Vec<_> = words.iter().map(Into::into).collect();
    match process::run(&argv, b"") {
        // The shutdown ends systemctl as well, and may be quicker than its answer.
        Err(_) if interrupt::asked() == Some(Signal::Terminate) => Ok(()),
        asked => asked.context("asking systemd to reboot").map(drop),
    }
}
