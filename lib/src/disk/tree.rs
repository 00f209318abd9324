//! What goes into an image: the files of the ESP and the tree of the root file system. Data only; nothing is read here but sizes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::image_id::Algorithm;

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Here they are.
    Bytes(Vec<u8>),
    /// They are in a file, which is read when the image is written, never changed.
    File(PathBuf),
}

impl Content {
    /// How many bytes there are.
    pub(super) fn size(&self) -> Result<u64> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.len() as u64),
            Self::File(path) => Ok(std::fs::metadata(path).with_context(|| format!("measuring {}", path.display()))?.len()),
        }
    }

    /// A reader of the bytes.
    pub(super) fn open(&self) -> Result<Box<dyn Read + '_>> {
        match self {
            Self::Bytes(bytes) => Ok(Box::new(Cursor::new(bytes))),
            Self::File(path) => Ok(Box::new(File::open(path).with_context(|| format!("opening {}", path.display()))?)),
        }
    }
}

/// Who may do what with a file, and what else is known about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, with set-user-id, set-group-id and sticky; the type of the file is not in here.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Time of the last change, in seconds since 1970.
    pub mtime: u64,
    /// Extended attributes, by full name (`security.capability`).
    pub xattrs: Vec<(OsString, Vec<u8>)>,
}

/// A device file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// How a file is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) algorithm: Algorithm,
    /// The digest that the caller knows it by.
    pub(super) expected: Option<String>,
}

/// What a name in the root file system stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(Content, Option<Seal>),
    Symlink(OsString),
    Device(Device),
}

/// A name's node and attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) attributes: Attributes,
    pub(super) node: Node,
}

/// The tree of the root file system. Paths may begin with a slash; a directory comes before what is in it.
#[derive(Debug, Clone)]
pub struct RootTree {
    /// The root directory's own attributes.
    pub(super) root: Attributes,
    /// By path without the leading slash, a directory right before its contents: the order of inodes and data in the image.
    pub(super) entries: BTreeMap<PathBuf, Entry>,
}

impl RootTree {
    /// A tree of nothing but its root directory.
    pub fn new(root: Attributes) -> Self {
        Self { root, entries: BTreeMap::new() }
    }

    /// Adds a directory. `lost+found` is there already.
    pub fn add_directory(&mut self, path: impl AsRef<Path>, attributes: Attributes) -> Result<()> {
        self.add(path.as_ref(), attributes, Node::Directory)
    }

    /// Adds a regular file.
    pub fn add_file(&mut self, path: impl AsRef<Path>, attributes: Attributes, content: Content) -> Result<()> {
        self.add(path.as_ref(), attributes, Node::File(content, None))
    }

    /// Adds a symbolic link. Its mode is not used.
    pub fn add_symlink(&mut self, path: impl AsRef<Path>, attributes: Attributes, target: impl Into<OsString>) -> Result<()> {
        let target = target.into();
        ensure!(!target.is_empty() && target.len() < 4096, "adding {}: a target of {} bytes", path.as_ref().display(), target.len());
        self.add(path.as_ref(), attributes, Node::Symlink(target))
    }

    /// Adds a device or a named pipe.
    pub fn add_device(&mut self, path: impl AsRef<Path>, attributes: Attributes, device: Device) -> Result<()> {
        if let Device::Character(major, minor) | Device::Block(major, minor) = device {
            let fits = major < 4096 && minor < 65536;
            ensure!(fits, "adding {}: device {major}:{minor} (expected at most 4095:65535)", path.as_ref().display());
        }
        self.add(path.as_ref(), attributes, Node::Device(device))
    }

    /// Adds a file that is sealed with fs-verity. Where `expected` is given (hexadecimal), writing the image ends with
    /// [`Corrupt`](crate::error::FailureKind::Corrupt) if that is not the fs-verity digest of the content.
    pub fn add_object(
        &mut self,
        path: impl AsRef<Path>,
        attributes: Attributes,
        content: Content,
        algorithm: Algorithm,
        expected: Option<&str>,
    ) -> Result<()> {
        let seal = Seal { algorithm, expected: expected.map(str::to_owned) };
        self.add(path.as_ref(), attributes, Node::File(content, Some(seal)))
    }

    fn add(&mut self, path: &Path, attributes: Attributes, node: Node) -> Result<()> {
        let shown = path.display();
        let path = path.strip_prefix("/").unwrap_or(path);
        let plain = path.components().all(|part| matches!(part, Component::Normal(name) if name.len() < 256));
        ensure!(plain && !path.as_os_str().is_empty(), "adding {shown}: not a path below the root directory");
        ensure!(path != Path::new("lost+found"), "adding {shown}: the file system has one of its own");
        // Collected anew, because "a//b" and "a/./b" are the path a/b.
        let path: PathBuf = path.components().collect();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent
            && !self.entries.get(parent).is_some_and(|entry| entry.node == Node::Directory)
        {
            bail!("adding {shown}: {} is not a directory of the tree", parent.display());
        }
        match self.entries.entry(path) {
            Vacant(place) => place.insert(Entry { attributes, node }),
            Occupied(_) => bail!("adding {shown}: it is there already"),
        };
        Ok(())
    }
}

/// The files of the EFI system partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EspTree {
    /// By path without the leading slash.
    pub(super) files: BTreeMap<String, Content>,
}

impl EspTree {
    /// No files yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, with the directories that lead to it. FAT does not tell case apart.
    pub fn add_file(&mut self, path: &str, content: Content) -> Result<()> {
        let path = path.trim_start_matches('/');
        let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        ensure!(plain, "adding {path:?} to the ESP: not a path of a file");
        let clash = self.files.keys().find(|other| clash(other, path));
        if let Some(other) = clash {
            bail!("adding {path:?} to the ESP: {other:?} is there already");
        }
        self.files.insert(path.to_owned(), content);
        Ok(())
    }
}

/// Whether two files cannot be on one FAT file system: the same name, or one where the other has a directory.
fn clash(one: &str, other: &str) -> bool {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    one == other || one.starts_with(&format!("{other}/")) || other.starts_with(&format!("{one}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_refuses_what_it_cannot_hold() {
        let plain = Attributes::default;
        let mut tree = RootTree::new(plain());
        tree.add_directory("/a", plain()).unwrap();
        tree.add_file("a//b", plain(), Content::Bytes(vec![])).unwrap();
        for bad in ["", "/", "..", "a/../c", "a/b", "a/b/c", "x/y", "lost+found", &"n".repeat(256)] {
            assert!(tree.add_directory(bad, plain()).is_err(), "{bad}");
        }
        assert!(tree.add_symlink("l", plain(), "").is_err());
        assert!(tree.add_device("d", plain(), Device::Block(1, 65536)).is_err());
        assert_eq!(tree.entries.keys().collect::<Vec<_>>(), [Path::new("a"), Path::new("a/b")]);
    }

    #[test]
    fn a_directory_is_right_before_its_contents() {
        let mut tree = RootTree::new(Attributes::default());
        for path in ["a", "a-b", "a/z", "b"] {
            tree.add_directory(path, Attributes::default()).unwrap();
        }
        assert_eq!(tree.entries.keys().map(|p| p.to_str().unwrap()).collect::<Vec<_>>(), ["a", "a/z", "a-b", "b"]);
    }

    #[test]
    fn fat_does_not_tell_case_apart() {
        let mut esp = EspTree::new();
        esp.add_file("/EFI/BOOT/BOOTX64.EFI", Content::Bytes(vec![])).unwrap();
        for bad in ["EFI/boot/bootx64.efi", "efi/BOOT", "EFI/BOOT/BOOTX64.EFI/x", "", "a//b", "a/../b"] {
            assert!(esp.add_file(bad, Content::Bytes(vec![])).is_err(), "{bad}");
        }
        esp.add_file("EFI/BOOT2", Content::Bytes(vec![])).unwrap();
    }
}
