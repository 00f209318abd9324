//! Tar files written so that the same content is always the same bytes: the layer that is put on top of an image, and the entries of
//! an archive. Pure.
//!
//! POSIX ustar, with pax records for paths that are too long for it (pax, IEEE Std 1003.1); owner and group are root by number and have
//! no names.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use tar::{Builder, EntryType, Header};

/// Tar files are written in blocks of so many bytes.
const BLOCK: u64 = 512;

/// Two empty blocks are the end of a tar file.
pub(super) const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

/// A name that begins so removes the rest of the name from the layers below, as OCI's image layer specification has it.
const WHITEOUT: &str = ".wh.";

/// A file in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile<'a> {
    /// Where it is, without a slash at the beginning: `boot/EFI/Linux/os.efi`.
    pub path: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
    /// Its permissions, such as `0o644`.
    pub mode: u32,
}

/// The tar of a layer with these files, owned by root.
///
/// Directories that lead to a file are written too, 0755 and owned by root, except `existing` ones and those that lead to them: an
/// entry would change what the layers below say about their owner and permissions. `whiteouts` are paths that the layers below have
/// and the image shall not have; they stand first, because they are about other layers only. Everything bears `mtime`, in seconds
/// since 1970. The order of the arguments does not matter.
///
/// # Errors
///
/// A path that is absolute or has `.`, `..`, an empty part or a part that begins with `.wh.`; a path that occurs twice, or is a file
/// and a directory; a whiteout of what this layer itself writes, or of what leads to it, which layer stores read in different ways.
pub fn layer_tar(files: &[LayerFile<'_>], whiteouts: &[&str], existing: &[&str], mtime: u64) -> Result<Vec<u8>> {
    let mut paths: BTreeMap<&str, Option<&LayerFile<'_>>> = BTreeMap::new();
    for path in files.iter().map(|file| file.path).chain(whiteouts.iter().copied()).chain(existing.iter().copied()) {
        check(path)?;
    }
    let existing: BTreeSet<&str> = existing.iter().flat_map(|path| parents(path).chain([*path])).collect();
    let parents_of_files: BTreeSet<&str> = files.iter().flat_map(|file| parents(file.path)).collect();
    for file in files {
        let twice = paths.insert(file.path, Some(file)).is_some();
        if twice || parents_of_files.contains(file.path) || existing.contains(file.path) {
            bail!("writing a layer: {} is there twice, or is a directory too", file.path);
        }
    }
    paths.extend(parents_of_files.iter().filter(|path| !existing.contains(*path)).map(|path| (*path, None)));
    let whiteouts: BTreeSet<&str> = whiteouts.iter().copied().collect();
    if let Some(path) = whiteouts.iter().find(|path| paths.contains_key(*path) || parents_of_files.contains(*path)) {
        bail!("writing a layer: {path} is removed and written at the same time");
    }
    let mut tar = Vec::new();
    for path in whiteouts {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
        let path = if parent.is_empty() { format!("{WHITEOUT}{name}") } else { format!("{parent}/{WHITEOUT}{name}") };
        tar.extend(header(&path, EntryType::Regular, 0o644, 0, mtime)?);
    }
    for (path, file) in paths {
        match file {
            None => tar.extend(header(&format!("{path}/"), EntryType::Directory, 0o755, 0, mtime)?),
            Some(file) => {
                tar.extend(header(path, EntryType::Regular, file.mode, file.bytes.len() as u64, mtime)?);
                tar.extend(file.bytes);
                tar.extend(padding(file.bytes.len() as u64));
            }
        }
    }
    tar.extend(END);
    Ok(tar)
}

/// What stands before the bytes of an entry.
pub(super) fn header(path: &str, kind: EntryType, mode: u32, size: u64, mtime: u64) -> Result<Vec<u8>> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_mtime(mtime);
    let mut before = Builder::new(Vec::new());
    if header.set_path(path).is_err() {
        before.append_pax_extensions([("path", path.as_bytes())]).with_context(|| format!("writing the tar header of {path}"))?;
        // Whoever reads it takes the path from the record; this one is only needed to be some path.
        header.set_path("long").with_context(|| format!("writing the tar header of {path}"))?;
    }
    header.set_cksum();
    let mut bytes = std::mem::take(before.get_mut());
    bytes.extend(header.as_bytes());
    Ok(bytes)
}

/// What stands behind the bytes of an entry.
pub(super) fn padding(size: u64) -> impl Iterator<Item = u8> {
    std::iter::repeat_n(0, (size.next_multiple_of(BLOCK) - size) as usize)
}

fn check(path: &str) -> Result<()> {
    let off = |part: &str| matches!(part, "" | "." | "..") || part.starts_with(WHITEOUT) || part.contains('\0');
    if path.split('/').any(off) {
        bail!("writing a layer: path {path:?} is off (expected a path from the root, without a slash at the beginning)");
    }
    Ok(())
}

/// The directories that lead to a path, topmost first.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn file<'a>(path: &'a str, bytes: &'a [u8]) -> LayerFile<'a> {
        LayerFile { path, bytes, mode: 0o640 }
    }

    /// Path, kind, permissions, size, owner, group, time and content of each entry, as another implementation reads them.
    fn entries(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let shown = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let (header, path) = (entry.header(), entry.path().unwrap().display().to_string());
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 7));
            assert_eq!((header.username().unwrap(), header.groupname().unwrap()), (Some(""), Some("")));
            format!("{path} {:?} {:o} {content:?}", header.entry_type(), header.mode().unwrap())
        });
        shown.collect()
    }

    #[test]
    fn whiteouts_come_first_and_directories_before_their_files() {
        let long = format!("usr/{}/{}", "a".repeat(150), "b".repeat(150));
        let files = [file("boot/EFI/Linux/os.efi", b"uki"), file("boot/EFI/BOOT/BOOTX64.EFI", b"loader"), file(&long, b"long")];
        let tar = layer_tar(&files, &["boot/EFI/Linux/old.efi", "vmlinuz"], &["boot/EFI/Linux"], 7).unwrap();
        let expected = [
            "boot/EFI/Linux/.wh.old.efi Regular 644 \"\"".to_owned(),
            ".wh.vmlinuz Regular 644 \"\"".to_owned(),
            "boot/EFI/BOOT/ Directory 755 \"\"".to_owned(),
            "boot/EFI/BOOT/BOOTX64.EFI Regular 640 \"loader\"".to_owned(),
            "boot/EFI/Linux/os.efi Regular 640 \"uki\"".to_owned(),
            "usr/ Directory 755 \"\"".to_owned(),
            format!("usr/{}/ Directory 755 \"\"", "a".repeat(150)),
            format!("{long} Regular 640 \"long\""),
        ];
        assert_eq!(entries(&tar), expected);
        let turned: Vec<_> = files.iter().rev().cloned().collect();
        assert_eq!(layer_tar(&turned, &["vmlinuz", "boot/EFI/Linux/old.efi"], &["boot/EFI/Linux", "boot"], 7).unwrap(), tar);
        assert_eq!(tar.len() % 512, 0);
    }

    #[test]
    fn an_empty_layer_is_an_empty_tar() {
        assert_eq!(layer_tar(&[], &[], &["boot"], 7).unwrap(), END);
    }

    #[test]
    fn what_other_tools_would_read_in_another_way_is_refused() {
        for path in ["", "/boot", "boot/", "boot//a", "./boot", "boot/../a", "boot/.wh.a"] {
            assert!(layer_tar(&[file(path, b"")], &[], &[], 7).is_err(), "{path}");
            assert!(layer_tar(&[], &[path], &[], 7).is_err(), "{path}");
        }
        assert!(layer_tar(&[file("a", b""), file("a", b"")], &[], &[], 7).is_err());
        assert!(layer_tar(&[file("a", b""), file("a/b", b"")], &[], &[], 7).is_err());
        assert!(layer_tar(&[file("a", b"")], &[], &["a/b"], 7).is_err());
        for whiteout in ["a/b", "a"] {
            assert!(layer_tar(&[file("a/b", b"")], &[whiteout], &["a"], 7).is_err(), "{whiteout}");
        }
    }
}
