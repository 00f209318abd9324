//! The files in the root of the image that a delta starts from: by content, by path, and by what a path looks like without its numbers.

use std::collections::HashMap;

use anyhow::Result;

use super::files::Files;
use crate::store::{Content, File, NodeKind, ObjectId, Tree};

/// The root of the image that a delta starts from.
pub(super) struct Known {
    pub(super) files: Files,
    by_object: HashMap<ObjectId, String>,
    by_path: HashMap<String, File>,
    by_shape: HashMap<String, Vec<String>>,
}

impl Known {
    /// Lists a root. Files with names that are not UTF-8 are left out: no patch can name them.
    pub(super) fn list(tree: Tree) -> Result<Self> {
        let mut known = Self { files: Files(tree.clone()), by_object: HashMap::new(), by_path: HashMap::new(), by_shape: HashMap::new() };
        tree.walk("/", |path, node| {
            let (NodeKind::File(file), Some(path)) = (&node.kind, path.to_str()) else { return Ok(()) };
            let Content::Object(object) = &file.content else { return Ok(()) };
            let path = path.trim_start_matches('/');
            known.by_object.entry(object.clone()).or_insert_with(|| path.to_owned());
            known.by_path.insert(path.to_owned(), file.clone());
            known.by_shape.entry(shape(path)).or_default().push(path.to_owned());
            Ok(())
        })?;
        Ok(known)
    }

    /// The path of a file with the same content.
    pub(super) fn same(&self, file: &File) -> Option<&str> {
        let Content::Object(object) = &file.content else { return None };
        self.by_object.get(object).map(String::as_str)
    }

    /// The file that one at `path` may come of: at the same path, else at one that differs in numbers only, such as the version of a library or a
    /// kernel; of several, the one with the most in common.
    pub(super) fn like(&self, path: &str) -> Option<(&str, &File)> {
        if let Some((path, file)) = self.by_path.get_key_value(path) {
            return Some((path, file));
        }
        let in_common = |other: &String| other.bytes().zip(path.bytes()).take_while(|(a, b)| a == b).count();
        let nearest = self.by_shape.get(&shape(path))?.iter().max_by_key(|other| (in_common(other), *other))?;
        self.by_path.get_key_value(nearest.as_str()).map(|(path, file)| (path.as_str(), file))
    }
}

/// A path with `#` for each version in it: numbers, and what stands between two of them.
fn shape(path: &str) -> String {
    let mut shape = String::with_capacity(path.len());
    let mut between = String::new();
    let mut in_version = false;
    for letter in path.chars() {
        match letter {
            '0'..='9' => {
                between.clear();
                shape.push_str(if in_version { "" } else { "#" });
                in_version = true;
            }
            '.' | '-' | '_' | '+' | '~' | ':' if in_version => between.push(letter),
            other => {
                shape.push_str(&std::mem::take(&mut between));
                shape.push(other);
                in_version = false;
            }
        }
    }
    shape + &between
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_do_not_count() {
        let table = [
            ("usr/lib/libfoo.so.1.2", "usr/lib/libfoo.so.#"),
            ("usr/lib/libfoo.so.1.2.13", "usr/lib/libfoo.so.#"),
            ("usr/lib/modules/6.1.0-17-amd64/vmlinuz", "usr/lib/modules/#-amd#/vmlinuz"),
            ("usr/lib/modules/6.12.3+1-amd64/vmlinuz", "usr/lib/modules/#-amd#/vmlinuz"),
            ("usr/lib/python3.11/os.py", "usr/lib/python#/os.py"),
            ("usr/bin/a-1.", "usr/bin/a-#."),
            ("a.b", "a.b"),
            ("", ""),
        ];
        for (path, expected) in table {
            assert_eq!(shape(path), expected, "{path}");
        }
    }
}
