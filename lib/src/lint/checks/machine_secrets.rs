//! `machine-secrets`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::subject::file_size;

pub(super) const CHECK: Check = Check {
    id: "machine-secrets",
    severity: Severity::Error,
    about: "the image has a random seed or a secret that each machine must make for itself: whoever has the image knows it",
    mend: "remove it in the same RUN that makes it; the machine makes its own",
    look: Look::Tree(look),
};

/// What programs make for one machine when they are installed or first run.
const SECRETS: [&str; 8] = [
    "/boot/loader/random-seed",
    "/etc/nvme/hostid",
    "/etc/nvme/hostnqn",
    "/etc/ssl/private/ssl-cert-snakeoil.key",
    "/var/lib/NetworkManager/secret_key",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
];

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in SECRETS {
        if subject.tree.get_link(path)?.as_ref().and_then(file_size).is_some_and(|size| size > 0) {
            found.push(Found::new(format!("{path} would be the same on every machine")).at(path));
        }
    }
    Ok(found)
}
