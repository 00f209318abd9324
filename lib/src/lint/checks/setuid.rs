//! `setuid`
//!
//! What every distribution ships with these bits is no news; what is listed is what somebody added, or what a distribution's newest
//! packages bring.

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::subject::text_of;
use crate::store::{Node, NodeKind};

pub(super) const CHECK: Check = Check {
    id: "setuid",
    severity: Severity::Info,
    about: "programs run with more rights than their caller (set-user-ID, set-group-ID, file capabilities) and are none of those that every distribution has",
    mend: "know why each is there; take the bit away (chmod ug-s, setcap -r) where nobody needs it",
    look: Look::Tree(look),
};

const SET_ID: u32 = 0o6000;
const EXECUTABLE: u32 = 0o111;
const CAPABILITIES: &str = "security.capability";

/// Programs by name, wherever the distribution has them.
const KNOWN: [&str; 36] = [
    "at",
    "chage",
    "chfn",
    "chsh",
    "crontab",
    "dbus-daemon-launch-helper",
    "expiry",
    "fusermount",
    "fusermount3",
    "gpasswd",
    "mount",
    "mount.cifs",
    "mount.nfs",
    "mtr-packet",
    "newgidmap",
    "newgrp",
    "newuidmap",
    "passwd",
    "ping",
    "pkexec",
    "plocate",
    "polkit-agent-helper-1",
    "sg",
    "ssh-agent",
    "ssh-keysign",
    "su",
    "sudo",
    "sudo-rs",
    "sudoedit",
    "umount",
    "unix_chkpwd",
    "unix_update",
    "utempter",
    "wall",
    "write",
    "write.ul",
];

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    subject.tree.walk("/", |path, node| {
        let known = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| KNOWN.contains(&name));
        if let Some(what) = rights(node).filter(|_| !known) {
            let path = text_of(path);
            found.push(Found::new(format!("{path}: {what}")).at(path));
        }
        Ok(())
    })?;
    Ok(found)
}

/// The rights that a program has of its own. On what nobody can run, the bits mean nothing.
fn rights(node: &Node) -> Option<String> {
    if !matches!(node.kind, NodeKind::File(_)) || node.mode & EXECUTABLE == 0 {
        return None;
    }
    let mut rights = Vec::new();
    if node.mode & SET_ID & 0o4000 != 0 {
        rights.push(format!("runs as user {}", node.uid));
    }
    if node.mode & SET_ID & 0o2000 != 0 {
        rights.push(format!("runs as group {}", node.gid));
    }
    if node.xattrs.iter().any(|(name, _)| name == CAPABILITIES) {
        rights.push("has capabilities".to_owned());
    }
    (!rights.is_empty()).then(|| rights.join(", "))
}
