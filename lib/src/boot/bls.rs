//! Type 1 entries of the Boot Loader Specification: parse, print, and the activation order.

use std::fmt;

use crate::cmdline::{Cmdline, RootImage};

/// One entry file. Keys that selkie does not use are kept in order, so that parse and print are inverse up to comments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    fields: Vec<(String, String)>,
}

/// A line that is not `key value`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlsError {
    /// Not text.
    #[error("reading boot entry: not UTF-8 text")]
    NotText,
    /// No white space between key and value.
    #[error("reading boot entry line {line}: {text:?} (expected a key, white space and a value)")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
}

impl Entry {
    /// Reads an entry file.
    pub fn parse(bytes: &[u8]) -> Result<Self, BlsError> {
        let text = std::str::from_utf8(bytes).map_err(|_| BlsError::NotText)?;
        let mut fields = Vec::new();
        for (index, raw) in text.lines().enumerate() {
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) =
                line.split_once(char::is_whitespace).ok_or_else(|| BlsError::Line { line: index + 1, text: line.to_owned() })?;
            fields.push((key.to_owned(), value.trim_start().to_owned()));
        }
        Ok(Self { fields })
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.fields.push((key.to_owned(), value.into()));
        self
    }

    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All values of `key`, in order; `initrd` and `options` may be repeated.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The kernel arguments.
    pub fn options(&self) -> Cmdline {
        Cmdline::parse(&self.all("options").collect::<Vec<_>>().join(" "))
    }

    /// The root image that this entry boots: the first that its arguments name. `None` for entries without one, and for
    /// arguments that cannot be read, which no selkie wrote.
    pub fn root_image(&self) -> Option<RootImage> {
        self.options().root_images().ok()?.into_iter().next()
    }

    /// The activation serial, if this is an entry in selkie's order.
    pub fn serial(&self) -> Option<u64> {
        parse_sort_key(self.get("sort-key")?)
    }

    /// The files of the ESP that this entry needs, as written (absolute, from the root of the ESP).
    pub fn files(&self) -> impl Iterator<Item = &str> {
        ["linux", "efi", "initrd", "devicetree"].into_iter().flat_map(|key| self.all(key))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields.iter().try_for_each(|(key, value)| writeln!(f, "{key} {value}"))
    }
}

/// Serials count upwards; ten digits last longer than any machine.
const LAST_SERIAL: u64 = 9_999_999_999;

/// systemd-boot sorts entries by ascending sort-key before it looks at versions, so the serial stands there inverted: the entry
/// that was activated last comes first, whatever its OS version.
pub(super) fn sort_key(serial: u64) -> String {
    format!("selkie-{:010}", LAST_SERIAL.saturating_sub(serial))
}

fn parse_sort_key(key: &str) -> Option<u64> {
    let digits = key.strip_prefix("selkie-").filter(|d| d.len() == 10)?;
    LAST_SERIAL.checked_sub(digits.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "title Debian\nversion 13\nsort-key selkie-9999999992\nlinux /EFI/selkie/a.linux\ninitrd /ucode\ninitrd /EFI/selkie/b.initrd\noptions quiet\noptions rw\n";

    #[test]
    fn parse_and_print_are_inverse() {
        let entry = Entry::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(entry.to_string(), TEXT);
        assert_eq!(entry.options().to_string(), "quiet rw");
        assert_eq!(entry.files().collect::<Vec<_>>(), ["/EFI/selkie/a.linux", "/ucode", "/EFI/selkie/b.initrd"]);
        assert_eq!((entry.serial(), entry.root_image()), (Some(7), None));
    }

    #[test]
    fn comments_and_odd_white_space_are_read_and_garbage_is_named() {
        let entry = Entry::parse(b"# a comment\n\n  title\t Two words \n").unwrap();
        assert_eq!(entry.get("title"), Some("Two words"));
        assert_eq!(Entry::parse(b"title x\nnonsense\n"), Err(BlsError::Line { line: 2, text: "nonsense".into() }));
        assert_eq!(Entry::parse(b"\xff\xfe"), Err(BlsError::NotText));
    }

    #[test]
    fn a_later_serial_sorts_first() {
        let keys: Vec<String> = [0, 1, 9, 10, 1234].map(sort_key).into();
        assert!(keys.windows(2).all(|pair| pair[0] > pair[1]), "{keys:?}");
        assert_eq!(keys.iter().map(|k| parse_sort_key(k)).collect::<Vec<_>>(), [0, 1, 9, 10, 1234].map(Some));
        for other in ["debian", "selkie-", "selkie-12", "selkie-99999999xx"] {
            assert_eq!(parse_sort_key(other), None);
        }
    }

    #[test]
    fn the_root_image_is_read_from_the_options() {
        let image = RootImage::new("ab".repeat(32).parse().unwrap(), true);
        let entry = Entry::default().with("options", format!("rw {image}"));
        assert_eq!(entry.root_image(), Some(image));
        assert_eq!(Entry::default().with("options", "composefs=junk").root_image(), None);
    }
}
