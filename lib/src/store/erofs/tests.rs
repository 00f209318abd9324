use std::ffi::{OsStr, OsString};
use std::iter;
use std::os::unix::ffi::OsStrExt;

use composefs::erofs::format::FormatVersion;
use composefs::fsverity::{Algorithm, FsVerityHashValue, Sha256HashValue, Sha512HashValue, compute_verity};
use composefs::generic_tree::{LeafContent, Stat};
use composefs::tree::{Directory, FileSystem, Inode, RegularFile};

use super::{Unwritable, image};

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // xorshift64*, by Vigna.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

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
                let size = self.pick(&[0, 1, 4096, 4097, 1 << 20, (1 << 20) + 1, u64::from(u32::MAX) + 1, 1 << 43]);
                LeafContent::Regular(RegularFile::External(id(self.below(40)), size))
            }
            8..12 => {
                let size = self.pick(&[0, 1, 31, 64, 2047, 2048, 2049, 4095, 4096, 4097, 6200, 9000]);
                LeafContent::Regular(RegularFile::Inline(vec![b'c'; size].into()))
            }
            12..16 => {
                let length = self.pick(&[1, 5, 60, 200, 1900, 3900, 3980, 4031, 4032, 4033, 4063, 4064, 4065, 4095]);
                LeafContent::Symlink(OsString::from("t".repeat(length)).into())
            }
            16 => LeafContent::CharacterDevice(self.pick(&[0, 0, 0x0501])),
            17 => LeafContent::BlockDevice(self.pick(&[0, 0x0800])),
            18 => LeafContent::Fifo,
            _ => LeafContent::Socket,
        }
    }

    fn name(&mut self) -> String {
        let stem = self.pick(&["a", "b", "!", "-", "..c", "00", "0a", "ff", "FF", "zz", "bin"]).to_owned();
        match self.below(4) {
            0 => stem + &"n".repeat(self.pick(&[1, 30, 250])),
            1 => stem + &self.below(300).to_string(),
            _ => stem,
        }
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
            let name = OsString::from(self.name());
            let inode = match self.below(8) {
                0 | 1 => Inode::Directory(Box::new(Directory::new(self.stat()))),
                2 if !tree.leaves.is_empty() => {
                    let leaf = composefs::generic_tree::LeafId(self.below(tree.leaves.len()));
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

/// Everything around the end of a block: a symbolic link of each length after a file of each.
#[test]
fn links_and_files_at_the_end_of_a_block() {
    for length in (1..4096).step_by(13) {
        let mut tree = tree_of(LeafContent::Symlink(OsString::from("t".repeat(length)).into()), Stat::uninitialized());
        for (number, size) in (0..4096).step_by(311).enumerate() {
            let leaf = tree.push_leaf(Stat::uninitialized(), LeafContent::Regular(RegularFile::Inline(vec![1; size].into())));
            tree.root.insert(OsStr::new(&format!("f{number}")), Inode::leaf(leaf));
        }
        compare(&tree, &format!("a link of {length} bytes"));
    }
}

#[test]
fn directories_of_many_sizes() {
    for count in (0..400).step_by(7) {
        let mut tree = tree_of(LeafContent::Fifo, Stat::uninitialized());
        for number in 0..count {
            let name = format!("{number}{}", "n".repeat(number % 200));
            tree.root.insert(OsStr::new(&name), Inode::Directory(Box::new(Directory::new(Stat::uninitialized()))));
        }
        compare(&tree, &format!("{count} entries"));
    }
}

#[test]
fn what_an_image_cannot_hold_is_said() {
    let with = |name: &str, value: &[u8]| {
        let xattrs = iter::once((Box::from(OsStr::new(name)), Box::from(value))).collect();
        tree_of(LeafContent::Fifo, Stat { xattrs, ..Stat::uninitialized() })
    };
    let mut linked = tree_of(LeafContent::CharacterDevice(0), Stat::uninitialized());
    linked.root.insert(OsStr::new("y"), Inode::leaf(composefs::generic_tree::LeafId(0)));
    let mut long = tree_of(LeafContent::Fifo, Stat::uninitialized());
    long.root.insert(OsStr::from_bytes(&[b'n'; 256]), Inode::Directory(Box::new(Directory::new(Stat::uninitialized()))));
    let many = (0..9).map(|number| (Box::from(OsStr::new(&format!("user.{number}"))), vec![number; 40_000].into())).collect();
    let size = (1 << 43) + 1;
    let table = [
        (linked, Unwritable::LinkedWhiteout(2)),
        (long, Unwritable::Name(256)),
        (tree_of(LeafContent::BlockDevice(1 << 32), Stat::uninitialized()), Unwritable::Device(1 << 32)),
        (tree_of(LeafContent::Regular(RegularFile::External(Sha256HashValue::EMPTY, size)), Stat::uninitialized()), Unwritable::Size(size)),
        (tree_of(LeafContent::Regular(RegularFile::Sparse(5)), Stat::uninitialized()), Unwritable::NoContent),
        (with(&format!("user.{}", "n".repeat(256)), b""), Unwritable::AttributeName(261)),
        (with("user.x", &[0; 65_536]), Unwritable::AttributeValue(65_536)),
        (tree_of(LeafContent::Fifo, Stat { xattrs: many, ..Stat::uninitialized() }), Unwritable::Attributes(360_084)),
    ];
    for (tree, expected) in table {
        assert_eq!(image(&tree).unwrap_err(), expected);
    }
}
