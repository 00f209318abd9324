//! `resolv-conf`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::store::NodeKind;

pub(super) const CHECK: Check = Check {
    id: "resolv-conf",
    severity: Severity::Warning,
    about: "/etc/resolv.conf is a file, as builders leave it behind, where the machine's resolver wants its link: name resolution does not work, or asks \
            the builder's servers",
    mend: "nothing that runs in a build can replace it; let the machine do it: echo 'L+ /etc/resolv.conf - - - - ../run/systemd/resolve/stub-resolv.conf' > \
           /usr/lib/tmpfiles.d/resolv.conf",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    const PATH: &str = "/etc/resolv.conf";
    let Some(NodeKind::File(file)) = subject.tree.get_link(PATH)?.map(|node| node.kind) else { return Ok(Vec::new()) };
    if subject.tmpfiles()?.forces_link(PATH) {
        return Ok(Vec::new());
    }
    let found = if file.size == 0 { "it is an empty file" } else { "it is a file of the builder's" };
    Ok(vec![Found::new(format!("{found}, and no L+ line of tmpfiles.d replaces it")).at(PATH)])
}
