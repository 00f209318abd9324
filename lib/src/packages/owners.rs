//! Which package a file came with.

use std::collections::{BTreeMap, HashSet};

use super::field_of;

/// The source packages of installed packages, by the name of a package as in [`Packages`](super::Packages). What is built from one source
/// is updated together.
pub fn dpkg_sources(status: &str) -> BTreeMap<String, String> {
    let source = |record: &str| {
        let field = |key: &str| field_of(record, key);
        let package = field("Package")?;
        // A source of another version than the package has that version behind it.
        let source = field("Source").and_then(|source| source.split_whitespace().next().map(str::to_owned));
        Some((super::qualified(&package, &field), source.unwrap_or(package)))
    };
    status.split("\n\n").filter_map(source).collect()
}

/// The paths in one of dpkg's lists (`info/PACKAGE.list`), without the slash at their front and without directories that have something in the
/// same list: what is at such a path and no directory (`/bin`, a link in a merged `/usr`) did not come with the package.
pub fn dpkg_list(list: &[u8]) -> Vec<&[u8]> {
    let paths = || list.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"/"));
    let parent = |path: &'_ [u8]| path.iter().rposition(|byte| *byte == b'/');
    let directories: HashSet<&[u8]> = paths().filter_map(|path| Some(&path[..parent(path)?])).collect();
    paths().filter(|path| !path.is_empty() && *path != b"." && !directories.contains(path)).collect()
}

/// The files that apk's `installed` database lists, with the origin (source package) of each.
pub fn apk_files(installed: &[u8]) -> Vec<(Vec<u8>, String)> {
    let mut files = Vec::new();
    let (mut package, mut origin, mut directory, mut begun) = (String::new(), None, Vec::new(), 0);
    for line in installed.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        match line {
            [] => {
                let owner = origin.take().unwrap_or_else(|| std::mem::take(&mut package));
                files[begun..].iter_mut().for_each(|(_, of): &mut (Vec<u8>, String)| of.clone_from(&owner));
                begun = files.len();
            }
            [b'P', b':', name @ ..] => (package, directory) = (text(name), Vec::new()),
            [b'o', b':', name @ ..] => origin = Some(text(name)),
            [b'F', b':', path @ ..] => directory = path.to_vec(),
            [b'R', b':', name @ ..] if directory.is_empty() => files.push((name.to_vec(), String::new())),
            [b'R', b':', name @ ..] => files.push(([&directory, &b"/"[..], name].concat(), String::new())),
            _ => {}
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_dpkg_have_sources() {
        let status = "Package: bash\nVersion: 5\n\nPackage: libc6\nArchitecture: amd64\nMulti-Arch: same\nSource: glibc (2.41-1)\n\n\
                      Package: libc-bin\nMulti-Arch: foreign\nSource: glibc\n\nnonsense\n";
        let expected = [("bash", "bash"), ("libc-bin", "glibc"), ("libc6:amd64", "glibc")];
        assert!(dpkg_sources(status).iter().map(|(name, source)| (name.as_str(), source.as_str())).eq(expected));
    }

    #[test]
    fn lists_of_dpkg_are_paths_from_the_root() {
        let list = b"/.\n/bin\n/bin/sh\n/usr\n/usr/bin\n/usr/bin/\xe9\n/var/empty\nnonsense\n\n";
        assert_eq!(dpkg_list(list), [&b"bin/sh"[..], b"usr/bin/\xe9", b"var/empty"]);
    }

    #[test]
    fn files_of_apk_have_origins() {
        let installed = b"P:musl\nF:lib\nR:ld.so\na:0:0:755\nR:libc.so\nF:\nR:top\no:musl-origin\n\nP:busybox\nF:bin\nM:0:0:755\nR:sh\n";
        let file = |path: &str, owner: &str| (path.as_bytes().to_vec(), owner.to_owned());
        let expected =
            [file("lib/ld.so", "musl-origin"), file("lib/libc.so", "musl-origin"), file("top", "musl-origin"), file("bin/sh", "busybox")];
        assert_eq!(apk_files(installed), expected);
        assert_eq!(apk_files(b""), []);
    }
}
