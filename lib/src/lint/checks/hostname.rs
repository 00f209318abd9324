//! `hostname`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "hostname",
    severity: Severity::Warning,
    about: "/etc/hostname names a machine: all machines of the image get this name, whatever DHCP says",
    mend: "remove it or leave it empty; a name for machines that have none belongs into os-release: DEFAULT_HOSTNAME=",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    const PATH: &str = "/etc/hostname";
    let text = subject.text(PATH)?.unwrap_or_default();
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).unwrap_or_default();
    // With `?` systemd fills a name in from the machine id.
    let own = !matches!(name, "" | "localhost" | "localhost.localdomain") && !name.contains('?');
    Ok(own.then(|| Found::new(format!("it says {name:?}")).at(PATH)).into_iter().collect())
}
