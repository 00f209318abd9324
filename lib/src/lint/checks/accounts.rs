//! `accounts`, and what other checks of `/etc/passwd` and `/etc/group` need

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "accounts",
    severity: Severity::Warning,
    about: "a line of /etc/passwd or /etc/group is malformed or names someone twice; programs differ in what they make of it",
    mend: "mend the line: passwd(5), group(5)",
    look: Look::Tree(look),
};

pub(super) const PASSWD: &str = "/etc/passwd";
pub(super) const GROUP: &str = "/etc/group";

/// The files with their number of fields, and which of them are numbers.
const FILES: [(&str, usize, &[usize]); 2] = [(PASSWD, 7, &[2, 3]), (GROUP, 4, &[2])];

/// The fields of each line that says something. Lines of NIS (`+…`, `-…`) are none of the image's users.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let own = |line: &&str| !line.is_empty() && !line.starts_with(['+', '-', '#']);
    text.lines().filter(own).map(|line| line.split(':').collect())
}

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (path, count, numbers) in FILES {
        let text = subject.text(path)?.unwrap_or_default();
        let mut names = BTreeSet::new();
        for fields in lines(&text) {
            let name = fields[0];
            let problem = if fields.len() != count {
                Some(format!("has {} fields (expected {count})", fields.len()))
            } else if numbers.iter().any(|index| fields[*index].parse::<u32>().is_err()) {
                Some("has an id that is no number".to_owned())
            } else if name.is_empty() || name.contains(char::REPLACEMENT_CHARACTER) {
                Some("has a name that is empty or not UTF-8".to_owned())
            } else {
                (!names.insert(name)).then(|| "is there twice".to_owned())
            };
            found.extend(problem.map(|problem| Found::new(format!("line {name:?} of {path} {problem}")).at(path)));
        }
    }
    Ok(found)
}
