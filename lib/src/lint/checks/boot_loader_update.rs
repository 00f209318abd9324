//! `boot-loader-update`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "boot-loader-update",
    severity: Severity::Warning,
    about: "systemd-boot-update.service is enabled: at a boot it replaces the boot loader on the ESP by an unsigned one, and a machine with Secure Boot does not come up again",
    mend: "disable systemd-boot-update.service in a preset, or by `RUN systemctl disable systemd-boot-update.service`",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    const UNIT: &str = "systemd-boot-update.service";
    let mut found = Vec::new();
    for units in ["/etc/systemd/system", "/usr/lib/systemd/system"] {
        for (name, _) in subject.tree.children(units)? {
            let Some(target) = name.to_str().filter(|name| name.ends_with(".wants") || name.ends_with(".requires")) else { continue };
            let path = format!("{units}/{target}/{UNIT}");
            if subject.tree.get_link(&path)?.is_some() {
                found.push(Found::new(format!("{target} pulls it in")).at(path));
            }
        }
    }
    Ok(found)
}
