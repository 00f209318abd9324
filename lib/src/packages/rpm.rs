//! rpm's database: one header a package, in a table of an SQLite database (`rpmdb.sqlite`, rpm 4.16 and newer).
//!
//! A header (rpm's documentation, "Package format") is two numbers, as many index entries as the first says, and as many bytes of data as the second; an entry is a
//! tag, a type, where in the data it begins, and how many there are. The bytes are foreign: nothing is believed that does not fit.

use std::collections::{BTreeMap, BTreeSet};

use super::sqlite::{self, Value};
use super::{DatabaseError, Packages};

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const INSTALL_TIME: u32 = 1008;
const ARCH: u32 = 1022;
const FILE_MODES: u32 = 1030;
const SOURCE_RPM: u32 = 1044;
const DIR_INDEXES: u32 = 1116;
const BASE_NAMES: u32 = 1117;
const DIR_NAMES: u32 = 1118;

/// Bytes of one entry of the index.
const ENTRY: usize = 16;
/// Bytes of the paths of one package together: hundreds of thousands of files.
const MAX_PATHS: usize = 64 << 20;

/// A package that is installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RpmPackage {
    /// Its name.
    pub name: String,
    /// `[EPOCH:]VERSION-RELEASE`
    pub version: String,
    /// Its architecture; none for what is no real package, such as a key.
    pub architecture: Option<String>,
    /// The name of the source that it was built from; its own where it does not say so.
    pub source: String,
    /// When it was installed, in seconds since 1970.
    pub installed: Option<u32>,
    /// Its files by their paths, without a slash at the front and without directories.
    pub files: Vec<Vec<u8>>,
}

/// The packages of a database.
///
/// # Errors
///
/// It is none, or contradicts itself.
pub fn rpm(database: &[u8]) -> Result<Vec<RpmPackage>, DatabaseError> {
    let (mut packages, mut left) = (Vec::new(), MAX_PATHS);
    sqlite::rows(database, "Packages", &mut |row| {
        // The number of the package stands for the row.
        if let [_, Value::Bytes(header), ..] = row.as_slice() {
            packages.push(Header::parse(header)?.package(&mut left)?);
        }
        Ok(())
    })?;
    Ok(packages)
}

/// Names and versions. Of what is not of the architecture of most, the architecture is a part of the name; of what is there in several versions (kernels), all are
/// told.
pub fn rpm_versions(packages: &[RpmPackage]) -> Packages {
    let architecture = |package: &RpmPackage| package.architecture.clone().filter(|name| name != "noarch");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    packages.iter().filter_map(architecture).for_each(|name| *counts.entry(name).or_default() += 1);
    let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name);
    let mut versions: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let foreign = architecture(package).filter(|name| Some(name) != most.as_ref());
        let name = foreign.map_or_else(|| package.name.clone(), |architecture| format!("{}:{architecture}", package.name));
        versions.entry(name).or_default().insert(&package.version);
    }
    let joined = |(name, versions): (String, BTreeSet<&str>)| (name, versions.into_iter().collect::<Vec<_>>().join(", "));
    versions.into_iter().map(joined).collect()
}

struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

fn wrong(found: impl Into<String>) -> DatabaseError {
    DatabaseError(found.into())
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, DatabaseError> {
        let parse = || {
            let (entries, data) = (number(bytes, 0)? as usize, number(bytes, 4)? as usize);
            let end = entries.checked_mul(ENTRY)?.checked_add(8)?;
            Some(Self { index: bytes.get(8..end)?, data: bytes.get(end..end.checked_add(data)?)? })
        };
        parse().ok_or_else(|| wrong("the header of a package ends early"))
    }

    /// The type, count and data of a tag.
    fn find(&self, tag: u32) -> Option<(u32, usize, &'a [u8])> {
        let entry = self.index.chunks_exact(ENTRY).find(|entry| number(entry, 0) == Some(tag))?;
        let offset = number(entry, 8)? as usize;
        Some((number(entry, 4)?, number(entry, 12)? as usize, self.data.get(offset..)?))
    }

    /// The strings of a tag: one, or an array.
    fn strings(&self, tag: u32) -> Result<Vec<&'a [u8]>, DatabaseError> {
        let Some((kind, count, data)) = self.find(tag) else { return Ok(Vec::new()) };
        if !matches!(kind, 6 | 8 | 9) {
            return Err(wrong(format!("tag {tag} is of type {kind} (expected text)")));
        }
        // Each has a NUL at its end.
        let strings: Vec<&[u8]> = data.split_inclusive(|byte| *byte == 0).take(count).filter_map(|text| text.strip_suffix(&[0])).collect();
        if strings.len() == count { Ok(strings) } else { Err(wrong(format!("tag {tag} has {} of {count} texts", strings.len()))) }
    }

    fn text(&self, tag: u32) -> Result<Option<String>, DatabaseError> {
        Ok(self.strings(tag)?.first().map(|text| String::from_utf8_lossy(text).into_owned()))
    }

    /// The numbers of a tag, of four bytes or of two.
    fn numbers(&self, tag: u32) -> Result<Vec<u32>, DatabaseError> {
        let Some((kind, count, data)) = self.find(tag) else { return Ok(Vec::new()) };
        let size = match kind {
            3 => 2,
            4 => 4,
            _ => return Err(wrong(format!("tag {tag} is of type {kind} (expected numbers)"))),
        };
        let bytes = count.checked_mul(size).and_then(|length| data.get(..length));
        let bytes = bytes.ok_or_else(|| wrong(format!("tag {tag} has fewer than {count} numbers")))?;
        Ok(bytes.chunks_exact(size).map(|number| number.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))).collect())
    }

    fn package(&self, left: &mut usize) -> Result<RpmPackage, DatabaseError> {
        let needed = |tag| self.text(tag)?.ok_or_else(|| wrong(format!("a package without tag {tag}")));
        let (name, version) = (needed(NAME)?, format!("{}-{}", needed(VERSION)?, needed(RELEASE)?));
        let epoch = self.numbers(EPOCH)?.first().map(|epoch| format!("{epoch}:")).unwrap_or_default();
        // NAME-VERSION-RELEASE.src.rpm
        let source = self.text(SOURCE_RPM)?;
        let source = source.and_then(|file| Some(file.rsplitn(3, '-').nth(2)?.to_owned())).filter(|name| !name.is_empty());
        Ok(RpmPackage {
            source: source.unwrap_or_else(|| name.clone()),
            version: format!("{epoch}{version}"),
            architecture: self.text(ARCH)?,
            installed: self.numbers(INSTALL_TIME)?.first().copied(),
            files: self.files(left)?,
            name,
        })
    }

    fn files(&self, left: &mut usize) -> Result<Vec<Vec<u8>>, DatabaseError> {
        let (names, folders, indexes) = (self.strings(BASE_NAMES)?, self.strings(DIR_NAMES)?, self.numbers(DIR_INDEXES)?);
        if names.len() != indexes.len() {
            return Err(wrong(format!("{} names of files in {} directories", names.len(), indexes.len())));
        }
        let modes = self.numbers(FILE_MODES)?;
        let mut files = Vec::new();
        for (number, (name, folder)) in names.into_iter().zip(indexes).enumerate() {
            let folder = folders.get(folder as usize).ok_or_else(|| wrong(format!("it has no directory {folder}")))?;
            if modes.get(number).is_some_and(|mode| mode & 0o170_000 == 0o040_000) {
                continue;
            }
            *left = left
                .checked_sub(folder.len() + name.len())
                .ok_or_else(|| wrong("the paths of its files are longer than those of any system"))?;
            files.push([folder.strip_prefix(b"/").unwrap_or(folder), name].concat());
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of these tags: type, count and data of each.
    fn header(tags: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::new());
        for (tag, kind, count, bytes) in tags {
            [*tag, *kind, data.len() as u32, *count].iter().for_each(|number| index.extend(number.to_be_bytes()));
            data.extend_from_slice(bytes);
        }
        [&(tags.len() as u32).to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &index, &data].concat()
    }

    const GOOD: [(u32, u32, u32, &[u8]); 11] = [
        (NAME, 6, 1, b"a-tool\0"),
        (VERSION, 6, 1, b"1.2\0"),
        (RELEASE, 6, 1, b"3\0"),
        (EPOCH, 4, 1, &[0, 0, 0, 2]),
        (INSTALL_TIME, 4, 1, &[0, 0, 1, 0]),
        (ARCH, 6, 1, b"x86_64\0"),
        (SOURCE_RPM, 6, 1, b"a-source-1.2-3.src.rpm\0"),
        (FILE_MODES, 3, 3, &[0x41, 0xed, 0x81, 0xed, 0xa1, 0xff]),
        (DIR_INDEXES, 4, 3, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        (BASE_NAMES, 8, 3, b"bin\0a\0b\0"),
        (DIR_NAMES, 8, 2, b"/usr/bin/\0/usr/\0"),
    ];

    fn package(tags: &[(u32, u32, u32, &[u8])]) -> Result<RpmPackage, DatabaseError> {
        Header::parse(&header(tags))?.package(&mut { MAX_PATHS })
    }

    #[test]
    fn headers_are_packages() {
        let expected = RpmPackage {
            name: "a-tool".into(),
            version: "2:1.2-3".into(),
            architecture: Some("x86_64".into()),
            source: "a-source".into(),
            installed: Some(256),
            files: vec![b"usr/bin/a".to_vec(), b"usr/bin/b".to_vec()],
        };
        assert_eq!(package(&GOOD), Ok(expected));
        let key = RpmPackage { name: "gpg-pubkey".into(), version: "1-2".into(), source: "gpg-pubkey".into(), ..Default::default() };
        assert_eq!(package(&[(NAME, 6, 1, b"gpg-pubkey\0"), (VERSION, 6, 1, b"1\0"), (RELEASE, 6, 1, b"2\0")]), Ok(key));
    }

    #[test]
    fn headers_that_lie_are_errors() {
        let with = |at: usize, tag: (u32, u32, u32, &'static [u8])| {
            let mut tags = GOOD;
            tags[at] = tag;
            package(&tags).unwrap_err().to_string()
        };
        for (found, expected) in [
            (with(0, (NAME, 4, 1, &[0, 0, 0, 1])), "tag 1000 is of type 4"),
            (with(0, (7, 6, 1, b"a\0")), "without tag 1000"),
            (with(3, (EPOCH, 6, 1, b"2\0")), "tag 1003 is of type 6"),
            (with(8, (DIR_INDEXES, 4, 2, &[0; 8])), "3 names of files in 2 directories"),
            (with(8, (DIR_INDEXES, 4, 3, &[9; 12])), "it has no directory 151587081"),
            (with(8, (DIR_INDEXES, 4, u32::MAX, &[0; 12])), "fewer than 4294967295 numbers"),
            (with(10, (DIR_NAMES, 8, u32::MAX, b"/usr/\0")), "1 of 4294967295 texts"),
            (with(10, (DIR_NAMES, 8, 2, b"/usr/\0/usr")), "1 of 2 texts"),
        ] {
            assert!(found.contains(expected), "{found} (expected {expected})");
        }
        let good = header(&GOOD);
        for length in 0..good.len() {
            assert!(Header::parse(&good[..length]).is_err(), "{length} bytes");
        }
        // A long directory for each of many files.
        let (folder, names) = ([&[b'a'; 1 << 20][..], b"\0"].concat(), b"f\0".repeat(1000));
        let long = [(DIR_INDEXES, 4, 1000, &[0; 4000][..]), (BASE_NAMES, 8, 1000, &names), (DIR_NAMES, 8, 1, &folder)];
        let found = package(&[&GOOD[..8], &long].concat()).unwrap_err().to_string();
        assert!(found.contains("longer than those of any"), "{found}");
    }

    #[test]
    fn other_architectures_and_several_versions_are_told() {
        let package = |name: &str, version: &str, architecture: &str| RpmPackage {
            name: name.into(),
            version: version.into(),
            architecture: Some(architecture.into()),
            ..Default::default()
        };
        let all = [
            package("glibc", "2", "i686"),
            package("glibc", "2", "x86_64"),
            package("kernel", "6.2", "x86_64"),
            package("kernel", "6.1", "x86_64"),
            package("tzdata", "1", "noarch"),
            package("words", "1", "noarch"),
            package("names", "1", "noarch"),
        ];
        let expected = [("glibc", "2"), ("glibc:i686", "2"), ("kernel", "6.1, 6.2"), ("names", "1"), ("tzdata", "1"), ("words", "1")];
        assert!(rpm_versions(&all).iter().map(|(name, version)| (name.as_str(), version.as_str())).eq(expected));
        assert_eq!(rpm_versions(&[]), Packages::new());
    }
}
