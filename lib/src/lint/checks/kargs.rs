//! `kargs`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::kargs;

pub(super) const CHECK: Check = Check {
    id: "kargs",
    severity: Severity::Error,
    about: "a drop-in file of kernel arguments (/usr/lib/bootc/kargs.d/*.toml) cannot be read",
    mend: "write kargs = [\"a=b\", \"c\"], one argument a string, and match-architectures = [\"x86_64\"] where it is not for all",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (name, _) in subject.tree.children(kargs::DIRECTORY)? {
        let Some(name) = name.to_str().filter(|name| name.ends_with(".toml")) else { continue };
        let path = format!("{}/{name}", kargs::DIRECTORY);
        let what = match subject.bytes(&path)?.map(String::from_utf8) {
            None => Some("it is no regular file".to_owned()),
            Some(Err(_)) => Some("it is not UTF-8".to_owned()),
            Some(Ok(text)) => kargs::parse(&text, subject.architecture().unwrap_or_default()).err().map(|e| e.to_string()),
        };
        found.extend(what.map(|what| Found::new(what).at(path)));
    }
    Ok(found)
}
