//! Which files' contents the boot recipe reads: those of the SELinux policy. All else of a boot image is names, metadata and digests.
//! [`require_bounded`] looks at them first.

mod backtracking;
mod check;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod paths;
mod patterns;

use std::ffi::OsStr;
use std::path::Path;

use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::{Directory, Inode, LeafContent};
use composefs::tree::{FileSystem, RegularFile};

pub(super) use check::require_bounded;

/// Where the policy is. The library looks for the rest of the path below, and the configuration names it, so that any depth can be meant.
const DIRECTORY: &str = "etc/selinux";
/// The files that composefs-boot opens to label a tree: which policy, patterns of paths with labels, paths that are labelled as others.
const CONFIG: &str = "config";
const FILES_OF_PATTERNS: [&str; 3] = ["file_contexts", "file_contexts.local", "file_contexts.homedirs"];
const FILES_OF_SUBSTITUTES: [&str; 2] = ["file_contexts.subs", "file_contexts.subs_dist"];

/// Whether an entry of a layer with this clean name is a file of the policy. Through links the tree can have one under another name.
pub(super) fn has_name(path: &Path) -> bool {
    path.starts_with(DIRECTORY) && path.file_name().is_some_and(is_one)
}

/// The files of the policy in a tree that are objects: their digests and sizes.
pub(super) fn objects<H: FsVerityHashValue>(tree: &FileSystem<H>) -> Vec<(H, u64)> {
    let mut found = Vec::new();
    // Where it is no directory, labelling says what is wrong.
    if let Ok(Some(directory)) = tree.root.get_directory_opt(OsStr::new(DIRECTORY)) {
        collect(tree, directory, &mut found);
    }
    found
}

fn collect<H: FsVerityHashValue>(tree: &FileSystem<H>, directory: &Directory<RegularFile<H>>, found: &mut Vec<(H, u64)>) {
    for (name, inode) in directory.entries() {
        match inode {
            Inode::Directory(below) => collect(tree, below, found),
            Inode::Leaf(leaf, _) if is_one(name) => {
                if let LeafContent::Regular(RegularFile::External(id, size)) = &tree.leaf(*leaf).content {
                    found.push((id.clone(), *size));
                }
            }
            Inode::Leaf(..) => {}
        }
    }
}

fn is_one(name: &OsStr) -> bool {
    [CONFIG].iter().chain(&FILES_OF_PATTERNS).chain(&FILES_OF_SUBSTITUTES).any(|file| name == *file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_known_by_name() {
        let table = [
            ("etc/selinux/config", true),
            ("etc/selinux/targeted/contexts/files/file_contexts", true),
            ("etc/selinux/targeted/contexts/files/file_contexts.subs_dist", true),
            ("etc/selinux/targeted/contexts/files/file_contexts.bin", false),
            ("etc/selinux/targeted/policy/policy.33", false),
            ("usr/etc/selinux/config", false),
            ("etc/selinux", false),
            ("etc/selinux.d/config", false),
        ];
        for (path, expected) in table {
            assert_eq!(has_name(Path::new(path)), expected, "{path}");
        }
    }
}
