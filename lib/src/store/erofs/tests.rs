use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use composefs::erofs::format::FormatVersion;
use composefs::fsverity::{Algorithm, FsVerityHashValue, Sha256HashValue, Sha512HashValue, compute_verity};
use composefs::generic_tree::{LeafContent, LeafId, Stat};
use composefs::tree::{Directory, FileSystem, Inode, RegularFile};

use super::{Problem, image};

#[path = "../../../tests/store_common/numbers.rs"]
#[allow(unreachable_pub, reason = "programs of tests share it")]
mod numbers;

use numbers::Random;

impl Random {
    fn stat(&mut self) -> Stat {
        let mut stat = Stat {
            st_mode: self.pick(&[0o644, 0o755, 0o4711, 0]),
            st_uid: self.pick(&[0, 0, 0, 1000, 65_535, 65_536]),
            st_gid: self.pick(&[0, 0, 0, 70_000]),
            st_mtim_sec: self.pick(&[0, 0, 5, 1_700_000_000, -1]),
            st_mtim_nsec: self.pick(&[0, 0, 999]),
            ..Stat::uninitialized()
        };
        for _ in 0..self.below(8).saturating_sub(4) {
            let name = self.pick(&NAMES);
            let value = self.pick(&[&b""[..], b"x", b"y", b"xy", &[0; 20], &[7; 3000]]);
            stat.xattrs.insert(OsStr::new(name).into(), value.into());
        }
        stat
    }

    fn content<H: FsVerityHashValue>(&mut self) -> LeafContent<RegularFile<H>> {
        let id = |number: usize| compute_verity::<H>(&number.to_le_bytes());
        match self.below(20) {
            0..8 => {
                let size = self.pick(&[0, 1, 4096, 4097, 1 << 20, (1 << 20) + 1, u64::from(u32::MAX), u64::from(u32::MAX) + 1, 1 << 43]);
                LeafContent::Regular(RegularFile::External(id(self.below(40)), size))
            }
            8..12 => {
                let size = self.pick(&[0, 1, 31, 64, 2047, 2048, 2049, 4095, 4096, 4097, 6200, 9000]);
                LeafContent::Regular(RegularFile::Inline(self.bytes(size).into()))
            }
            12..16 => {
                let length = self.pick(&[1, 5, 60, 200, 1900, 3900, 3980, 4031, 4032, 4033, 4063, 4064, 4065, 4095]);
                LeafContent::Symlink(OsStr::from_bytes(&self.bytes(length)).into())
            }
            16 => LeafContent::CharacterDevice(self.pick(&[0, 0, 0x0501])),
            17 => LeafContent::BlockDevice(self.pick(&[0, 0x0800])),
            18 => LeafContent::Fifo,
            _ => LeafContent::Socket,
        }
    }

    /// Bytes that no other file has, each another than those around it.
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let first = self.below(255);
        (first..first + count).map(|number| (number % 255 + 1) as u8).collect()
    }

    fn name(&mut self) -> OsString {
        let stem = self.pick(&[&b"a"[..], b"b", b"!", b"-", b"..c", b"00", b"0a", b"ff", b"FF", b"zz", b"bin", b"\xff\x80"]);
        let rest = match self.below(4) {
            0 => vec![b'n'; self.pick(&[1, 30, 255 - stem.len()])],
            1 => self.below(300).to_string().into_bytes(),
            _ => Vec::new(),
        };
        OsStr::from_bytes(&[stem, &rest].concat()).to_owned()
    }

    /// A directory of the tree, by way of few of those that are there.
    fn directory<'t, H: FsVerityHashValue>(&mut self, tree: &'t mut FileSystem<H>) -> &'t mut Directory<H> {
        let mut at = &mut tree.root;
        for _ in 0..self.below(6) {
            let below: Vec<OsString> =
                at.sorted_entries().filter(|(_, inode)| matches!(inode, Inode::Directory(_))).map(|(name, _)| name.to_owned()).collect();
            if below.is_empty() {
                break;
            }
            at = at.get_directory_mut(&self.pick(&below)).unwrap();
        }
        at
    }

    fn tree<H: FsVerityHashValue>(&mut self) -> FileSystem<H> {
        let mut tree = FileSystem::new(self.stat());
        for _ in 0..self.pick(&[0, 1, 5, 30, 400]) {
            let name = self.name();
            let inode = match self.below(8) {
                0 | 1 => Inode::Directory(Box::new(Directory::new(self.stat()))),
                2 if !tree.leaves.is_empty() => {
                    let leaf = LeafId(self.below(tree.leaves.len()));
                    // A whiteout has one name.
                    if matches!(tree.leaf(leaf).content, LeafContent::CharacterDevice(0)) {
                        continue;
                    }
                    Inode::leaf(leaf)
                }
                3 => {
                    // What the format adds by itself, or nearly.
                    let stat = Stat { st_mode: self.pick(&[0o644, 0o600]), ..tree.root.stat.clone() };
                    Inode::leaf(tree.push_leaf(stat, LeafContent::CharacterDevice(0)))
                }
                _ => {
                    let (stat, content) = (self.stat(), self.content());
                    Inode::leaf(tree.push_leaf(stat, content))
                }
            };
            self.directory(&mut tree).insert(&name, inode);
        }
        tree.compact();
        tree
    }
}

const NAMES: [&str; 14] = [
    "security.selinux",
    "security.capability",
    "user.a",
    "user.",
    "user.overlay.whiteout",
    "trusted.b",
    "trusted.overlay.opaque",
    "trusted.overlay.redirect",
    "trusted.overlay.whiteouts",
    "trusted.overlay.overlay.x",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "lustre.lov",
    "other.name",
];

fn compare<H: FsVerityHashValue>(tree: &FileSystem<H>, what: &str) {
    let (expected, _) = tree.compute_image_bytes(FormatVersion::V1);
    let found = image(tree).unwrap();
    let differ = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!((found.len(), differ), (expected.len(), None), "{what}, {}", Algorithm::for_hash::<H>());
}

#[test]
fn images_of_random_trees_are_those_of_the_library() {
    for seed in 1..200 {
        compare(&Random(seed * 77_777).tree::<Sha256HashValue>(), &format!("seed {seed}"));
        compare(&Random(seed * 77_777).tree::<Sha512HashValue>(), &format!("seed {seed}"));
    }
}

fn tree_of(content: LeafContent<RegularFile<Sha256HashValue>>, stat: Stat) -> FileSystem<Sha256HashValue> {
    let mut tree = FileSystem::new(Stat::uninitialized());
    let leaf = tree.push_leaf(stat, content);
    tree.root.insert(OsStr::new("x"), Inode::leaf(leaf));
    tree
}

fn insert(tree: &mut FileSystem<Sha256HashValue>, name: &str, stat: Stat, content: LeafContent<RegularFile<Sha256HashValue>>) {
    let leaf = tree.push_leaf(stat, content);
    tree.root.insert(OsStr::new(name), Inode::leaf(leaf));
}

/// Links that fill the block of their inode, nearly or by a byte too much, wherever in the block that begins; and what follows them.
#[test]
fn links_at_the_end_of_a_block() {
    let late = Stat { st_mtim_sec: 1, ..Stat::uninitialized() };
    for (header, stat) in [(32, Stat::uninitialized()), (64, late)] {
        for left in (header..=4096).step_by(32) {
            let fit: usize = left - header;
            for length in (fit.saturating_sub(1)..=fit + 1).filter(|length| (1..=4095).contains(length)) {
                let mut tree = FileSystem::new(Stat::uninitialized());
                let target: Vec<u8> = (0..length).map(|number| (number % 255 + 1) as u8).collect();
                insert(&mut tree, "a", Stat::uninitialized(), LeafContent::Regular(RegularFile::Inline(vec![1; 100].into())));
                insert(&mut tree, "x", stat.clone(), LeafContent::Symlink(OsStr::from_bytes(&target).into()));
                insert(&mut tree, "y", Stat::uninitialized(), LeafContent::Regular(RegularFile::Inline(vec![2; 100].into())));
                compare(&tree, &format!("a link of {length} bytes, header {header}"));
            }
        }
    }
}

/// Directories around a whole block, half of one, and one more.
#[test]
fn directories_of_many_sizes() {
    for bytes in [2000, 2047, 2048, 2049, 4095, 4096, 4097, 6143, 6144, 6145, 8191, 8192, 8193] {
        let mut directory = Directory::new(Stat::uninitialized());
        // Its own entry and that of the directory above.
        let mut left = bytes - (12 + 1) - (12 + 2);
        for number in 0.. {
            let own = match left {
                ..=267 => left,
                268..400 => left / 2,
                _ => 200,
            };
            let name = format!("{number:03}{}", "n".repeat(own - 12 - 3));
            directory.insert(OsStr::new(&name), Inode::Directory(Box::new(Directory::new(Stat::uninitialized()))));
            left -= own;
            if left == 0 {
                break;
            }
        }
        let mut tree = tree_of(LeafContent::Fifo, Stat::uninitialized());
        tree.root.insert(OsStr::new("d"), Inode::Directory(Box::new(directory)));
        compare(&tree, &format!("a directory of {bytes} bytes"));
    }
}

/// More names and directories than a short header can count.
#[test]
fn many_links() {
    let mut tree = tree_of(LeafContent::Fifo, Stat::uninitialized());
    let mut directory = Directory::new(Stat::uninitialized());
    for number in 0..65_536 {
        directory.insert(OsStr::new(&format!("l{number}")), Inode::leaf(LeafId(0)));
        directory.insert(OsStr::new(&format!("d{number}")), Inode::Directory(Box::new(Directory::new(Stat::uninitialized()))));
    }
    tree.root.insert(OsStr::new("many"), Inode::Directory(Box::new(directory)));
    compare(&tree, "65536 links");
}

/// A whiteout of the image's own where the format adds one: with the metadata of the root it is that one, else it is marked.
#[test]
fn whiteouts_in_the_place_of_stubs() {
    let label = |label: &str| (Box::from(OsStr::new("security.selinux")), Box::from(label.as_bytes()));
    let more = (Box::from(OsStr::new("user.x")), Box::from(&b""[..]));
    let root = Stat { xattrs: [label("root"), more.clone()].into(), ..Stat::uninitialized() };
    for xattrs in [vec![label("root")], vec![label("other")], vec![], vec![label("root"), more]] {
        let mut tree = FileSystem::new(root.clone());
        let what = format!("{xattrs:?}");
        let stat = Stat { st_mode: 0o644, xattrs: xattrs.into_iter().collect(), ..Stat::uninitialized() };
        insert(&mut tree, "a7", stat, LeafContent::CharacterDevice(0));
        compare(&tree, &what);
    }
}

fn with_attributes<'n>(attributes: impl IntoIterator<Item = (&'n str, usize)>) -> FileSystem<Sha256HashValue> {
    let xattrs = attributes.into_iter().map(|(name, size)| (Box::from(OsStr::new(name)), vec![7; size].into())).collect();
    tree_of(LeafContent::Fifo, Stat { xattrs, ..Stat::uninitialized() })
}

#[test]
fn what_an_image_can_just_hold() {
    compare(&with_attributes([("user.x", 65_535)]), "a value");
    compare(&with_attributes([(&*format!("user.{}", "n".repeat(255)), 1)]), "the name of an attribute");
    // Each with four bytes before it, and a name of four: together what can be said and no more.
    let names = ["user.1234", "user.2345", "user.3456", "user.4567"];
    compare(&with_attributes(names.into_iter().zip([65_528, 65_528, 65_528, 65_520])), "attributes");
    compare(&shared(255), "shared attributes");
}

/// Two files with the same attributes.
fn shared(count: usize) -> FileSystem<Sha256HashValue> {
    let names: Vec<_> = (0..count).map(|number| format!("user.{number}")).collect();
    let mut tree = with_attributes(names.iter().map(|name| (&**name, 1)));
    let stat = tree.leaves[0].stat.clone();
    insert(&mut tree, "y", stat, LeafContent::Fifo);
    tree
}

#[test]
fn what_an_image_cannot_hold_is_said() {
    let file = |content| tree_of(content, Stat::uninitialized());
    let mut linked = file(LeafContent::CharacterDevice(0));
    linked.root.insert(OsStr::new("y"), Inode::leaf(LeafId(0)));
    let names = ["user.1234", "user.2345", "user.3456", "user.4567"];
    let size = (1 << 43) + 1;
    let table = [
        (linked, Problem::LinkedWhiteout(2)),
        (file(LeafContent::BlockDevice(1 << 32)), Problem::Device(1 << 32)),
        (file(LeafContent::Regular(RegularFile::External(Sha256HashValue::EMPTY, size))), Problem::Size(size)),
        (file(LeafContent::Regular(RegularFile::Sparse(5))), Problem::NoContent),
        (file(LeafContent::Symlink(OsStr::new("").into())), Problem::Target(0)),
        (file(LeafContent::Symlink(OsString::from("t".repeat(4096)).into())), Problem::Target(4096)),
        (with_attributes([(&*format!("user.{}", "n".repeat(256)), 0)]), Problem::AttributeName(256)),
        (with_attributes([("user.x", 65_536)]), Problem::AttributeValue(65_536)),
        (with_attributes(names.into_iter().zip([65_528, 65_528, 65_528, 65_524])), Problem::Attributes(262_152)),
        (shared(256), Problem::Shared(256)),
    ];
    for (tree, expected) in table {
        let found = image(&tree).unwrap_err();
        assert_eq!((found.path.to_str(), &found.problem), (Some("/x"), &expected), "{found}");
    }
}

#[test]
fn what_cannot_be_held_has_its_path() {
    let mut tree = FileSystem::<Sha256HashValue>::new(Stat::uninitialized());
    let mut below = Directory::new(Stat::uninitialized());
    below.insert(OsStr::from_bytes(&[b'n'; 256]), Inode::Directory(Box::new(Directory::new(Stat::uninitialized()))));
    let mut directory = Directory::new(Stat::uninitialized());
    directory.insert(OsStr::new("below"), Inode::Directory(Box::new(below)));
    tree.root.insert(OsStr::new("a"), Inode::Directory(Box::new(Directory::new(Stat::uninitialized()))));
    tree.root.insert(OsStr::new("b"), Inode::Directory(Box::new(directory)));
    let expected = format!("/b/below/{}: a name of 256 bytes (expected at most 255)", "n".repeat(256));
    assert_eq!(image(&tree).unwrap_err().to_string(), expected);
}
