//! `configuration`
//!
//! What the image itself says in /usr and /etc. A machine adds its own, so the files are read one by one: each has to be right by itself.

use anyhow::Result;
use jiff::tz::TimeZone;

use super::{Check, Found, Look, Severity, Subject};
use crate::config::{self, File};

pub(super) const CHECK: Check = Check {
    id: "configuration",
    severity: Severity::Error,
    about: "a file of selkie's configuration (/usr/lib/selkie/config.d/*.toml, or the same in /etc) is not understood: no update would be taken by a machine of this image",
    mend: "correct the file; docs/configuration.md has all keys, and `selkie config show --root DIR` reads the files of a root directory",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let zones = |name: Option<&str>| match name {
        Some(name) => config::zone(name, |path| subject.bytes(format!("/{path}")).ok().flatten()),
        None => Some(TimeZone::UTC),
    };
    let mut found = Vec::new();
    for folder in config::FOLDERS {
        for (name, _) in subject.tree.children(format!("/{folder}"))? {
            let Some(name) = name.to_str().filter(|name| name.ends_with(".toml") && !name.starts_with('.')) else { continue };
            let path = format!("/{folder}/{name}");
            // A link to /dev/null is no file, and turns one off.
            let Some(bytes) = subject.bytes(&path)? else { continue };
            let what = match String::from_utf8(bytes) {
                Err(_) => Some("it is not UTF-8".to_owned()),
                Ok(text) => config::read(&[File { path: path.clone(), text }], &zones).err().map(|error| error.to_string()),
            };
            found.extend(what.map(|what| Found::new(what).at(path)));
        }
    }
    Ok(found)
}
