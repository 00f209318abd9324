//! What systemd-tmpfiles makes at boot, and what units declare of the same kind: tmpfiles.d(5), `StateDirectory=` and its like.

use std::collections::BTreeSet;

use anyhow::Result;

use super::drop_ins;
use super::subject::Subject;

/// Where units are.
const UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/etc/systemd/system"];

/// Settings of a unit that make directories, and where.
const SETTINGS: [(&str, &str); 3] = [("StateDirectory", "/var/lib"), ("CacheDirectory", "/var/cache"), ("LogsDirectory", "/var/log")];

/// Paths that exist after every boot.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tmpfiles {
    made: BTreeSet<String>,
    /// Made with all that is below them.
    copied: BTreeSet<String>,
    /// Links that replace what they find.
    forced: BTreeSet<String>,
}

impl Tmpfiles {
    pub(super) fn read(subject: &Subject<'_>) -> Result<Self> {
        let mut found = Self::default();
        for file in drop_ins::read(subject, "tmpfiles.d")? {
            file.text.lines().for_each(|line| found.add_line(line));
        }
        for directory in UNITS {
            for (name, _) in subject.tree.children(directory)? {
                let Some(name) = name.to_str().filter(|name| name.ends_with(".service")) else { continue };
                if let Some(text) = subject.text(format!("{directory}/{name}"))? {
                    found.add_unit(&text);
                }
            }
        }
        Ok(found)
    }

    /// Whether something makes `path` at boot.
    pub(super) fn makes(&self, path: &str) -> bool {
        let copied = || self.copied.iter().any(|top| path.strip_prefix(top.as_str()).is_some_and(|rest| rest.starts_with('/')));
        self.made.contains(path) || copied()
    }

    /// Whether `path` becomes a link at boot, whatever is there.
    pub(super) fn forces_link(&self, path: &str) -> bool {
        self.forced.contains(path)
    }

    fn add_line(&mut self, line: &str) {
        let words = drop_ins::words(line.trim());
        let [kind, path, ..] = words.as_slice() else { return };
        let Some(letter) = kind.chars().next().filter(|letter| "dDvqQfFpLcbC".contains(*letter)) else { return };
        let Some(path) = expand(path) else { return };
        if letter == 'C' {
            self.copied.insert(path.clone());
        }
        if letter == 'L' && kind.contains('+') {
            self.forced.insert(path.clone());
        }
        // The way to a path is made, too.
        let parents: Vec<&str> = std::path::Path::new(&path).ancestors().filter_map(std::path::Path::to_str).collect();
        self.made.extend(parents.into_iter().map(str::to_owned));
    }

    fn add_unit(&mut self, text: &str) {
        for line in text.lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=') else { continue };
            let Some((_, base)) = SETTINGS.iter().find(|(setting, _)| *setting == key.trim()) else { continue };
            for name in drop_ins::words(value) {
                // `name:link`, since systemd 251.
                let name = name.split(':').next().unwrap_or_default();
                let names: Vec<&str> = std::path::Path::new(name).ancestors().filter_map(std::path::Path::to_str).collect();
                self.made.extend(names.iter().filter(|name| !name.is_empty()).map(|name| format!("{base}/{name}")));
            }
        }
    }
}

/// A path without specifiers and without a slash at its end; `None` where only the machine knows it.
fn expand(path: &str) -> Option<String> {
    let mut plain = String::new();
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('%')) => plain.push('%'),
            ('%', Some('S')) => plain.push_str("/var/lib"),
            ('%', Some('C')) => plain.push_str("/var/cache"),
            ('%', Some('L')) => plain.push_str("/var/log"),
            ('%', Some('V')) => plain.push_str("/var/tmp"),
            ('%', Some('t')) => plain.push_str("/run"),
            ('%', _) => return None,
            (c, _) => plain.push(c),
        }
    }
    Some(plain.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_units_tell_what_is_made() {
        let mut found = Tmpfiles::default();
        for line in [
            "# d /var/comment",
            "d /var/lib/a/ 0755 - - -",
            "L+! /etc/resolv.conf - - - - ../run/x",
            "L /var/link - - - - x",
            "C /var/lib/copy - - - - /usr/share/x",
            "f+ %S/file",
            "x /var/excluded",
            "Z /var/relabelled",
            "d /var/%m/x",
            "d",
            "d /var/lib/%",
        ] {
            found.add_line(line);
        }
        found.add_unit("[Service]\nStateDirectory=one two/three\n CacheDirectory = c:link\nLogsDirectory=\nExecStart=/x\n");
        for path in ["/var/lib/a", "/var", "/var/lib/copy/deep/file", "/var/lib/file", "/var/lib/one", "/var/lib/two", "/var/lib/two/three"]
        {
            assert!(found.makes(path), "{path}");
        }
        assert!(found.makes("/var/cache/c"));
        for path in ["/var/comment", "/var/excluded", "/var/relabelled", "/var/lib/a/b", "/var/lib/copying", "/var/log/", "/var/lib/%"] {
            assert!(!found.makes(path), "{path}");
        }
        assert!(found.forces_link("/etc/resolv.conf") && !found.forces_link("/var/link"));
    }
}
