//! A repository by its files, before and after something was damaged in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every file by path with its bytes, and every link with where it leads.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What is below `root`.
pub(crate) fn content(root: &Path) -> Files {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let (path, kind) = entry.map(|e| (e.path(), e.file_type().unwrap())).unwrap();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_symlink() {
                found.insert(path.clone(), std::fs::read_link(path).unwrap().into_os_string().into_encoded_bytes());
            } else {
                found.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Every file is as it was when it was well, or as it was when it was damaged, or half of something under a temporary name.
pub(crate) fn assert_well_or_damaged(now: &Files, well: &Files, damaged: &Files, when: &str) {
    let temporary = |path: &Path| path.file_name().unwrap().to_str().unwrap().starts_with('.');
    for (path, bytes) in now {
        let known = well.get(path) == Some(bytes) || damaged.get(path) == Some(bytes);
        assert!(known || temporary(path), "{when}: {} is neither as it was nor well", path.display());
    }
    for path in damaged.keys().filter(|path| !temporary(path)) {
        assert!(now.contains_key(path), "{when}: {} is gone", path.display());
    }
}
