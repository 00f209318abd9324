//! Restarting the machine, by the service manager, so that everything is stopped in order.

use anyhow::{Context, Result};

/// Asks systemd to reboot and returns at once.
pub fn reboot() -> Result<()> {
    super::process::run(&["systemctl".into(), "--no-block".into(), "reboot".into()], b"").context("asking systemd to reboot").map(drop)
}

/// The same although inhibitors are held. Not by way of logind, which refuses that to root where there is no polkit: this is the job that it would start.
pub fn reboot_anyway() -> Result<()> {
    let argv = ["systemctl", "--no-block", "--job-mode=replace-irreversibly", "start", "reboot.target"].map(Into::into);
    super::process::run(&argv, b"").context("asking systemd to reboot").map(drop)
}
