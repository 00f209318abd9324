//! The users and groups that systemd-sysusers makes at boot: sysusers.d(5).

use std::collections::BTreeSet;

use anyhow::Result;

use super::drop_ins;
use super::subject::Subject;

/// Names that sysusers.d declares.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sysusers {
    pub(super) users: BTreeSet<String>,
    pub(super) groups: BTreeSet<String>,
}

impl Sysusers {
    pub(super) fn read(subject: &Subject<'_>) -> Result<Self> {
        let mut found = Self::default();
        for file in drop_ins::read(subject, "sysusers.d")? {
            file.text.lines().for_each(|line| found.add_line(line));
        }
        Ok(found)
    }

    fn add_line(&mut self, line: &str) {
        let words = drop_ins::words(line.trim());
        let [kind, name, rest @ ..] = words.as_slice() else { return };
        match kind.trim_end_matches('!') {
            // A user brings a group of its own name, even where its primary group is another.
            "u" => {
                self.users.insert(name.clone());
                self.groups.insert(name.clone());
            }
            "g" => _ = self.groups.insert(name.clone()),
            "m" => {
                self.users.insert(name.clone());
                self.groups.extend([name.clone()].into_iter().chain(rest.first().cloned()));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_declare_users_and_groups() {
        let mut found = Sysusers::default();
        for line in ["#u no", "u! web - \"Web server\"", "g ssl", "m web adm", "r - 500-900", "u"] {
            found.add_line(line);
        }
        assert!(found.users.iter().eq(["web"]));
        assert!(found.groups.iter().eq(["adm", "ssl", "web"]));
    }
}
