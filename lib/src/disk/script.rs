//! The debugfs script that makes a tree: directories, inodes, names and where the contents are. Pure.
//!
//! The contents themselves are not debugfs's business: files are made empty, and get their extents by block number. Three things
//! cannot be said in a script, which is read by lines: a name with a line break, a symlink target with one, and a very long target.
//! They are made by single requests, under a placeholder name first; see [`Script`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::blocks::{Extent, Reservation};
use super::line::{fits, here, line};
use super::size::FileSize;
use super::tree::{Attributes, Device, Entry, Node, RootTree};
use super::verity::BLOCK;

/// The name of an empty file, in the directory where debugfs runs.
pub(super) const EMPTY: &str = "empty";
/// Extended attributes of an inode share one block with their names.
const LONGEST_XATTR: usize = 3900;
/// EXT4_EXTENTS_FL and EXT4_VERITY_FL.
const SEALED: u32 = 0x0018_0000;
/// The last second that ext4's inodes can tell.
const LAST_SECOND: u64 = 0x3_7fff_ffff;

/// The commands, in the order in which they have to be run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// First: nearly everything.
    pub(super) main: Vec<u8>,
    /// Then one after the other: what has line breaks in it.
    pub(super) requests: Vec<OsString>,
    /// Last: what had to wait for the requests.
    pub(super) last: Vec<u8>,
    /// Values of extended attributes: the files to have in debugfs's directory.
    pub(super) values: Vec<(String, Vec<u8>)>,
}

/// Writes the script for `tree`, whose files have these sizes and extents (in its order). `reservation` has the blocks of all
/// extents; `clock` is what debugfs gives as time to everything.
pub(super) fn write(tree: &RootTree, sizes: &[FileSize], extents: &[Vec<Extent>], reservation: &Reservation, clock: u32) -> Result<Script> {
    let mut writer = Writer { clock: clock.into(), ..Writer::default() };
    writer.reserve(reservation);
    writer.attributes("/".as_ref(), 0o040_000, &tree.root)?;
    let mut files = sizes.iter().zip(extents);
    for (path, entry) in &tree.entries {
        let name = writer.enter(tree, path);
        writer.entry(path, &name, entry, &mut files)?;
    }
    writer.rename_placeholders();
    Ok(writer.script)
}

/// Where the writer is.
#[derive(Debug, Default)]
struct Writer {
    script: Script,
    clock: u64,
    /// debugfs's working directory, as a path of the tree.
    directory: PathBuf,
    /// Paths of the tree whose last name cannot be said in a line, and the name that they have at first.
    placeholders: BTreeMap<PathBuf, OsString>,
    /// The number of the next placeholder: none is given twice.
    next_placeholder: u64,
    /// Values of extended attributes that have a file already.
    values: BTreeMap<Vec<u8>, String>,
    /// Whether lines go to the last script.
    late: bool,
}

impl Writer {
    /// Says which blocks are taken, first of all. setb changes bitmaps and nothing else.
    fn reserve(&mut self, reservation: &Reservation) {
        for range in &reservation.taken {
            self.say(&[b"setb", number(range.start).as_bytes(), number(range.end - range.start).as_bytes()]);
        }
        for (group, free) in &reservation.groups {
            let id = number(group.number);
            self.say(&[b"set_bg", id.as_bytes(), b"free_blocks_count", number(*free).as_bytes()]);
            self.say(&[b"set_bg", id.as_bytes(), b"flags", number(group.flags.into()).as_bytes()]);
        }
        self.say(&[b"ssv", b"free_blocks_count", number(reservation.free).as_bytes()]);
    }

    fn entry<'a>(
        &mut self,
        path: &Path,
        name: &OsStr,
        entry: &Entry,
        files: &mut impl Iterator<Item = (&'a FileSize, &'a Vec<Extent>)>,
    ) -> Result<()> {
        let here = here(name);
        let here = here.as_os_str();
        let kind = match &entry.node {
            Node::Directory => {
                self.say(&[b"mkdir", here.as_bytes()]);
                0o040_000
            }
            Node::File(_, seal) => {
                let (size, extents) = files.next().ok_or_else(|| anyhow::anyhow!("placing {}: it has no blocks", path.display()))?;
                self.file(here, size, extents, seal.is_some());
                0o100_000
            }
            Node::Device(device) => self.device(name, *device),
            Node::Symlink(target) => {
                self.symlink(path, here, target);
                0o120_000
            }
        };
        self.attributes(here, kind, &entry.attributes)?;
        self.late = false;
        Ok(())
    }

    fn file(&mut self, here: &OsStr, size: &FileSize, extents: &[Extent], sealed: bool) {
        self.say(&[b"write", EMPTY.as_bytes(), here.as_bytes()]);
        if size.bytes == 0 {
            return;
        }
        self.set(here, "size", &number(size.bytes));
        self.set(here, "blocks", &number(size.blocks() * (BLOCK as u64 / 512)));
        if sealed {
            self.set(here, "flags", &format!("{SEALED:#x}"));
        }
        self.say(&[b"extent_open", here.as_bytes()]);
        for (i, extent) in extents.iter().enumerate() {
            let mut words = vec![b"insert_node".as_slice()];
            if i > 0 {
                words.push(b"--after");
            }
            let numbers = [number(extent.logical), number(extent.length), number(extent.physical)];
            words.extend(numbers.iter().map(String::as_bytes));
            self.say(&words);
        }
        self.say(&[b"extent_close"]);
    }

    /// mknod takes no path.
    fn device(&mut self, name: &OsStr, device: Device) -> u32 {
        let (word, kind, major, minor) = match device {
            Device::Character(major, minor) => ("c", 0o020_000, major, minor),
            Device::Block(major, minor) => ("b", 0o060_000, major, minor),
            Device::Fifo => {
                self.say(&[b"mknod", name.as_bytes(), b"p"]);
                return 0o010_000;
            }
        };
        self.say(&[b"mknod", name.as_bytes(), word.as_bytes(), number(major.into()).as_bytes(), number(minor.into()).as_bytes()]);
        kind
    }

    /// A link whose target cannot be said in a line is made later, and so has to be addressed by its whole path.
    fn symlink(&mut self, path: &Path, here: &OsStr, target: &OsStr) {
        let command = line(&[b"symlink", here.as_bytes(), target.as_bytes()]);
        if fits(&command) {
            self.push(&command);
            return;
        }
        let whole = self.whole(path);
        self.script.requests.push(OsString::from_vec(line(&[b"symlink", whole.as_os_str().as_bytes(), target.as_bytes()])));
        self.late = true;
        let parent = whole.parent().unwrap_or(Path::new("/")).to_path_buf();
        self.walk(&parent);
    }

    /// Everything that differs from what debugfs gives to a new inode.
    fn attributes(&mut self, here: &OsStr, kind: u32, attributes: &Attributes) -> Result<()> {
        if kind != 0o120_000 {
            self.set(here, "mode", &format!("0{:o}", kind | (attributes.mode & 0o7777)));
        }
        for (field, id) in [("uid", attributes.uid), ("gid", attributes.gid)] {
            if id != 0 {
                self.set(here, field, &number(id.into()));
            }
        }
        if attributes.mtime != self.clock {
            self.set(here, "mtime", &format!("@{}", attributes.mtime.min(LAST_SECOND)));
        }
        for (name, value) in &attributes.xattrs {
            ensure!(value.len() <= LONGEST_XATTR, "setting {} of {}: {} bytes", name.display(), here.display(), value.len());
            ensure!(fits(name.as_bytes()), "setting {:?} of {}: not a name of an attribute", name, here.display());
            let file = self.value(value);
            self.say(&[b"ea_set", b"-f", file.as_bytes(), here.as_bytes(), name.as_bytes()]);
        }
        Ok(())
    }

    /// The file that has `value`.
    fn value(&mut self, value: &[u8]) -> String {
        if let Some(file) = self.values.get(value) {
            return file.clone();
        }
        let file = format!("value{}", self.values.len());
        self.values.insert(value.to_vec(), file.clone());
        self.script.values.push((file.clone(), value.to_vec()));
        file
    }

    /// Goes to the directory of `path`; the name that `path` has there for now.
    fn enter(&mut self, tree: &RootTree, path: &Path) -> OsString {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent != self.directory {
            let whole = self.whole(parent);
            self.walk(&whole);
            self.directory = parent.to_path_buf();
        }
        let name = path.file_name().unwrap_or_default();
        if fits(name.as_bytes()) {
            return name.to_owned();
        }
        loop {
            let placeholder = OsString::from(format!(".selkie-name-{}", self.next_placeholder));
            self.next_placeholder += 1;
            if !tree.entries.contains_key(&parent.join(&placeholder)) {
                self.placeholders.insert(path.to_path_buf(), placeholder.clone());
                return placeholder;
            }
        }
    }

    /// Changes debugfs's working directory, name by name, so that no line gets long.
    fn walk(&mut self, whole: &Path) {
        self.say(&[b"cd", b"/"]);
        for name in whole.strip_prefix("/").unwrap_or(whole) {
            self.say(&[b"cd", here(name).as_bytes()]);
        }
    }

    /// The absolute path of `path` as long as placeholders are in place.
    fn whole(&self, path: &Path) -> PathBuf {
        let mut tree = PathBuf::new();
        let mut whole = PathBuf::from("/");
        for name in path {
            tree.push(name);
            whole.push(self.placeholders.get(&tree).map_or(name, OsString::as_os_str));
        }
        whole
    }

    /// Gives the true names. The placeholders stay until the very end, deepest first, so that all paths are good until then.
    fn rename_placeholders(&mut self) {
        let placeholders = self.placeholders.clone();
        for (path, placeholder) in placeholders.iter().rev() {
            let whole = self.whole(path);
            let parent = whole.parent().unwrap_or(Path::new("/"));
            let name = parent.join(path.file_name().unwrap_or_default());
            // A link is not made where it does not fit into the directory: there is room for it in an empty block.
            self.late = false;
            self.walk(parent);
            self.say(&[b"expand_dir", b"."]);
            self.script.requests.push(OsString::from_vec(line(&[b"ln", whole.as_os_str().as_bytes(), name.as_os_str().as_bytes()])));
            self.late = true;
            self.walk(parent);
            self.say(&[b"unlink", here(placeholder).as_bytes()]);
        }
    }

    fn set(&mut self, here: &OsStr, field: &str, value: &str) {
        self.say(&[b"sif", here.as_bytes(), field.as_bytes(), value.as_bytes()]);
    }

    fn say(&mut self, words: &[&[u8]]) {
        self.push(&line(words));
    }

    fn push(&mut self, line: &[u8]) {
        let to = if self.late { &mut self.script.last } else { &mut self.script.main };
        to.extend_from_slice(line);
        to.push(b'\n');
    }
}

fn number(number: u64) -> String {
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tree::Content;
    use super::*;

    fn attributes(mode: u32) -> Attributes {
        Attributes { mode, mtime: 7, ..Attributes::default() }
    }

    fn script(tree: &RootTree, extents: &[Vec<Extent>]) -> Script {
        let sizes = FileSize::of_all(tree).unwrap();
        #[expect(clippy::single_range_in_vec_init, reason = "a list of ranges is meant")]
        let reservation = Reservation { taken: vec![50..54], groups: vec![], free: 9 };
        write(tree, &sizes, extents, &reservation, 7).unwrap()
    }

    fn lines(script: &[u8]) -> Vec<&str> {
        std::str::from_utf8(script).unwrap().lines().collect()
    }

    #[test]
    fn a_tree_becomes_commands() {
        let mut tree = RootTree::new(attributes(0o755));
        tree.add_directory("a b", attributes(0o1777)).unwrap();
        let odd = Attributes { uid: 70_000, gid: 5, mtime: 9, xattrs: vec![("user.x".into(), b"v".to_vec())], ..attributes(0o4755) };
        let object = Content::Bytes(vec![0; 4097]);
        tree.add_object("a b/say \"hi\"", odd, object, crate::image_id::Algorithm::Sha256, None).unwrap();
        tree.add_device("a b/<12>", attributes(0o600), Device::Block(8, 1)).unwrap();
        tree.add_symlink("l", attributes(0), "to here").unwrap();
        let extent = |logical, physical| Extent { logical, physical, length: 2 };
        let script = script(&tree, &[vec![extent(0, 50), extent(16, 60)]]);
        let expected = [
            "setb 50 4",
            "ssv free_blocks_count 9",
            "sif / mode 040755",
            "mkdir \"./a b\"",
            "sif \"./a b\" mode 041777",
            "cd /",
            "cd \"./a b\"",
            "mknod <12> b 8 1",
            "sif ./<12> mode 060600",
            "write empty \"./say \"\"hi\"\"\"",
            "sif \"./say \"\"hi\"\"\" size 4097",
            "sif \"./say \"\"hi\"\"\" blocks 32",
            "sif \"./say \"\"hi\"\"\" flags 0x180000",
            "extent_open \"./say \"\"hi\"\"\"",
            "insert_node 0 2 50",
            "insert_node --after 16 2 60",
            "extent_close",
            "sif \"./say \"\"hi\"\"\" mode 0104755",
            "sif \"./say \"\"hi\"\"\" uid 70000",
            "sif \"./say \"\"hi\"\"\" gid 5",
            "sif \"./say \"\"hi\"\"\" mtime @9",
            "ea_set -f value0 \"./say \"\"hi\"\"\" user.x",
            "cd /",
            "symlink ./l \"to here\"",
        ];
        assert_eq!(lines(&script.main), expected);
        assert_eq!((script.requests, script.last, script.values), (vec![], vec![], vec![("value0".to_owned(), b"v".to_vec())]));
    }

    #[test]
    fn line_breaks_are_said_in_requests() {
        let mut tree = RootTree::new(attributes(0o755));
        tree.add_directory("d\n1", attributes(0o755)).unwrap();
        tree.add_device("d\n1/.selkie-name-1", attributes(0o600), Device::Fifo).unwrap();
        tree.add_symlink("d\n1/l\r", Attributes { uid: 3, ..attributes(0) }, "to\nhere").unwrap();
        tree.add_device("d\n1/p\n", attributes(0o600), Device::Fifo).unwrap();
        let script = script(&tree, &[]);
        let main = [
            "setb 50 4",
            "ssv free_blocks_count 9",
            "sif / mode 040755",
            "mkdir ./.selkie-name-0",
            "sif ./.selkie-name-0 mode 040755",
            "cd /",
            "cd ./.selkie-name-0",
            "mknod .selkie-name-1 p",
            "sif ./.selkie-name-1 mode 010600",
            "mknod .selkie-name-3 p",
            "sif ./.selkie-name-3 mode 010600",
            "cd /",
            "cd ./.selkie-name-0",
            "expand_dir .",
            "cd /",
            "cd ./.selkie-name-0",
            "expand_dir .",
            "cd /",
            "expand_dir .",
        ];
        let last = [
            "cd /",
            "cd ./.selkie-name-0",
            "sif ./.selkie-name-2 uid 3",
            "cd /",
            "cd ./.selkie-name-0",
            "unlink ./.selkie-name-3",
            "cd /",
            "cd ./.selkie-name-0",
            "unlink ./.selkie-name-2",
            "cd /",
            "unlink ./.selkie-name-0",
        ];
        let requests = [
            "symlink /.selkie-name-0/.selkie-name-2 to\nhere",
            "ln /.selkie-name-0/.selkie-name-3 /.selkie-name-0/p\n",
            "ln /.selkie-name-0/.selkie-name-2 /.selkie-name-0/l\r",
            "ln /.selkie-name-0 /d\n1",
        ];
        assert_eq!((lines(&script.main), lines(&script.last)), (main.to_vec(), last.to_vec()));
        assert_eq!(script.requests, requests);
    }
}
