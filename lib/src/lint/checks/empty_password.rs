//! `empty-password`

use anyhow::Result;

use super::accounts::{PASSWD, lines};
use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "empty-password",
    severity: Severity::Error,
    about: "a user's password is empty: anyone can log in",
    mend: "lock it in the Containerfile: passwd --lock USER",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in ["/etc/shadow", PASSWD] {
        let text = subject.text(path)?.unwrap_or_default();
        let users: Vec<&str> = lines(&text).filter(|fields| fields.len() > 1 && fields[1].is_empty()).map(|fields| fields[0]).collect();
        if !users.is_empty() {
            found.push(Found::new(format!("{} has no password in {path}", users.join(", "))).at(path));
        }
    }
    Ok(found)
}
