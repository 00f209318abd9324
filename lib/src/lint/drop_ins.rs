//! Drop-in directories, read as systemd reads them: of several files with one name the first directory's counts.

use std::collections::BTreeMap;

use anyhow::Result;

use super::subject::Subject;
use crate::store::NodeKind;

/// The directories that configuration is read from, the most important first. `/run` is empty in an image.
const PREFIXES: [&str; 3] = ["/etc", "/usr/local/lib", "/usr/lib"];

/// A drop-in file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DropIn {
    /// Its path.
    pub(super) path: String,
    /// Its text; bytes that are not UTF-8 are replaced.
    pub(super) text: String,
}

/// The files `*.conf` of a family such as `tmpfiles.d`, by name.
pub(super) fn read(subject: &Subject<'_>, family: &str) -> Result<Vec<DropIn>> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for prefix in PREFIXES {
        for (name, node) in subject.tree.children(format!("{prefix}/{family}"))? {
            let Some(name) = name.to_str().filter(|name| name.ends_with(".conf")) else { continue };
            if !matches!(node.kind, NodeKind::Directory) {
                files.entry(name.to_owned()).or_insert_with(|| format!("{prefix}/{family}/{name}"));
            }
        }
    }
    let mut read = Vec::new();
    for path in files.into_values() {
        // A link to /dev/null masks the file; there is no regular file then.
        if let Some(text) = subject.text(&path)? {
            read.push(DropIn { path, text });
        }
    }
    Ok(read)
}

/// The words of a line, as tmpfiles.d and sysusers.d have them: quotes protect white space, `\` escapes one character.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, '\\') => word.get_or_insert_default().push(escaped(&mut chars)),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What follows a backslash: `x20`, or the character itself.
fn escaped(chars: &mut std::str::Chars<'_>) -> char {
    let rest = chars.as_str();
    let hex = rest.strip_prefix('x').and_then(|rest| rest.get(..2)).and_then(|hex| u8::from_str_radix(hex, 16).ok());
    match hex.filter(u8::is_ascii) {
        Some(byte) => {
            chars.nth(2);
            byte.into()
        }
        None => chars.next().unwrap_or('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_systemd_does() {
        let table: [(&str, &[&str]); 7] = [
            ("d /a 0755 root", &["d", "/a", "0755", "root"]),
            ("  d\t/a  ", &["d", "/a"]),
            (r#"d "/a b" -"#, &["d", "/a b", "-"]),
            (r"d /a\x20b\\c", &["d", r"/a b\c"]),
            ("u x - \"\" /h", &["u", "x", "-", "", "/h"]),
            (r"d /a\", &["d", r"/a\"]),
            ("d '/a", &["d", "/a"]),
        ];
        for (line, expected) in table {
            assert_eq!(words(line), expected, "{line}");
        }
    }
}
