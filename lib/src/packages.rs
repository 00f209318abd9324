//! Databases of installed packages: names, versions and files, out of the text files that dpkg and apk keep, and of rpm's SQLite database.

use std::collections::BTreeMap;

use serde::Serialize;

mod owners;
mod rpm;
mod sqlite;

pub use owners::{apk_files, dpkg_list, dpkg_sources};
pub use rpm::{RpmPackage, rpm, rpm_versions};

/// A database that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DatabaseError(String);

/// Packages by name (with the architecture behind a colon where a system may have several), and their versions.
pub type Packages = BTreeMap<String, String>;

/// Reads `/var/lib/dpkg/status` (deb-status in dpkg's documentation): the packages that are installed. Records of others, such as those of
/// which only the configuration is left, and records without a name or version, are passed over.
pub fn dpkg(status: &str) -> Packages {
    records(status, "Package", "Version", |field| field("Status").is_some_and(|status| status.ends_with(" installed")))
}

/// Reads apk's `installed` database: records of lines that begin with one letter and a colon.
pub fn apk(installed: &str) -> Packages {
    records(installed, "P", "V", |_| true)
}

/// What became of a package from one set to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PackageChange {
    /// Its name.
    pub name: String,
    /// The version before; none where it is new.
    pub before: Option<String>,
    /// The version after; none where it is gone.
    pub after: Option<String>,
}

/// The packages that are not the same before and after, by name.
pub fn changes(before: &Packages, after: &Packages) -> Vec<PackageChange> {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let change = |name: &String| PackageChange { name: name.clone(), before: before.get(name).cloned(), after: after.get(name).cloned() };
    names.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

/// Reads records that are separated by empty lines, one `key: value` a line; lines that begin with a space go on with the one before, which is
/// never one that is of use here.
fn records(text: &str, name: &str, version: &str, counts: impl Fn(&dyn Fn(&str) -> Option<String>) -> bool) -> Packages {
    let mut packages = Packages::new();
    for record in text.split("\n\n") {
        let field = |key: &str| field_of(record, key);
        let (Some(found), Some(version)) = (field(name), field(version)) else { continue };
        if counts(&field) {
            packages.insert(qualified(&found, &field), version);
        }
    }
    packages
}

/// A field of a record.
fn field_of(record: &str, key: &str) -> Option<String> {
    record.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim().to_owned()))
}

/// The name of a package, with its architecture where a system may have several.
fn qualified(name: &str, field: &dyn Fn(&str) -> Option<String>) -> String {
    let foreign = field("Multi-Arch").filter(|kind| kind == "same").and_then(|_| field("Architecture"));
    foreign.map_or(name.to_owned(), |architecture| format!("{name}:{architecture}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(list: &[(&str, &str)]) -> Packages {
        list.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    #[test]
    fn dpkg_counts_what_is_installed() {
        let status = "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\nDescription: shell\n Version: no field\n\n\
                      Package: old\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                      Package: libc6\nStatus: hold ok installed\nArchitecture: amd64\nMulti-Arch: same\nVersion: 2.41\n\n\
                      Package: nothing\nStatus: install ok installed\n";
        assert_eq!(dpkg(status), packages(&[("bash", "5.2-1"), ("libc6:amd64", "2.41")]));
        assert_eq!(dpkg(""), Packages::new());
    }

    #[test]
    fn apk_has_letters() {
        assert_eq!(
            apk("C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\n\nP:busybox\nV:1.37\n"),
            packages(&[("busybox", "1.37"), ("musl", "1.2.5-r0")])
        );
    }

    #[test]
    fn changes_are_new_gone_and_other_versions() {
        let before = packages(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let after = packages(&[("b", "2"), ("c", "1"), ("d", "1")]);
        let change = |name: &str, before: Option<&str>, after: Option<&str>| PackageChange {
            name: name.into(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let expected = [change("a", Some("1"), None), change("b", Some("1"), Some("2")), change("d", None, Some("1"))];
        assert_eq!(changes(&before, &after), expected);
    }
}
