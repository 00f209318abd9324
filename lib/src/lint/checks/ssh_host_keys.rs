//! `ssh-host-keys`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "ssh-host-keys",
    severity: Severity::Error,
    about: "the image has private ssh host keys: whoever has the image can pose as any of its machines",
    mend: "rm -f /etc/ssh/ssh_host_* in the RUN that installs the server, and let a unit run ssh-keygen -A before the server starts",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let names = subject.tree.children("/etc/ssh")?;
    let keys = names.iter().filter_map(|(name, _)| name.to_str()).filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key"));
    let paths: Vec<String> = keys.map(|name| format!("/etc/ssh/{name}")).collect();
    Ok(if paths.is_empty() { Vec::new() } else { vec![Found::new(format!("{} private host keys", paths.len())).at_all(paths)] })
}
