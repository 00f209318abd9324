//! The kernel's mount table (`/proc/self/mountinfo`, proc_pid_mountinfo(5)).

use std::path::{Path, PathBuf};

/// One line of the table, as far as anyone here asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Where it is mounted.
    pub target: PathBuf,
    /// Options of this mount: `ro`, `nosuid`…
    pub options: Vec<String>,
    /// Kind of file system.
    pub kind: String,
    /// What was mounted: a device, or any word, such as `composefs:<hex>`.
    pub source: String,
    /// Options of the file system: `verity=require`…
    pub filesystem_options: Vec<String>,
}

/// Reads the table, in its order: a later mount at the same place hides the earlier. Lines that cannot be read are left out.
pub fn parse(text: &str) -> Vec<MountEntry> {
    text.lines().filter_map(line).collect()
}

/// The source of what is seen at `/`.
pub fn root_source(mountinfo: &str) -> Option<String> {
    source_of(mountinfo, Path::new("/"))
}

/// The source of what is seen at `target`, if something is mounted right there.
pub fn source_of(mountinfo: &str, target: &Path) -> Option<String> {
    parse(mountinfo).into_iter().rfind(|entry| entry.target == target).map(|entry| entry.source)
}

fn line(line: &str) -> Option<MountEntry> {
    // id parent major:minor root target options [optional fields…] - kind source filesystem-options
    let (mount, filesystem) = line.split_once(" - ")?;
    let mount: Vec<&str> = mount.split(' ').collect();
    let [_id, _parent, _device, _root, target, options, ..] = mount[..] else { return None };
    let filesystem: Vec<&str> = filesystem.split(' ').collect();
    let [kind, source, filesystem_options] = filesystem[..] else { return None };
    Some(MountEntry {
        target: PathBuf::from(unescape(target)),
        options: list(options),
        kind: kind.to_owned(),
        source: unescape(source),
        filesystem_options: list(filesystem_options),
    })
}

fn list(options: &str) -> Vec<String> {
    options.split(',').map(unescape).collect()
}

/// Undoes `\040` and its kin, in which the kernel writes space, tab, newline, backslash and hash.
fn unescape(field: &str) -> String {
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(value) if byte == b'\\' => {
                out.push(value);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime - ext4 /dev/vda2 rw
23 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:5 - proc proc rw
62 1 0:40 / / ro,relatime shared:1 - overlay composefs:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef ro,metacopy=on,verity=require
70 62 8:1 / /sysroot ro,relatime shared:2 master:7 - ext4 /dev/vda2 rw
71 62 0:50 / /mnt/with\\040space\\134and\\011tab rw - tmpfs tmp\\043fs rw,size=4k
not a line
";

    #[test]
    fn the_last_mount_at_the_root_counts() {
        let source = root_source(TABLE).unwrap();
        assert_eq!(source, "composefs:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
        assert_eq!(root_source("23 22 0:21 / /proc rw - proc proc rw\n"), None);
        assert_eq!(source_of(TABLE, Path::new("/sysroot")).as_deref(), Some("/dev/vda2"));
    }

    #[test]
    fn escapes_and_optional_fields() {
        let entries = parse(TABLE);
        assert_eq!(entries.len(), 5);
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            entries[4],
            MountEntry {
                target: "/mnt/with space\\and\ttab".into(),
                options: words("rw"),
                kind: "tmpfs".into(),
                source: "tmp#fs".into(),
                filesystem_options: words("rw size=4k"),
            }
        );
        assert_eq!((entries[2].options[0].as_str(), entries[2].filesystem_options[2].as_str()), ("ro", "verity=require"));
    }

    #[test]
    fn an_escape_that_is_none_stays() {
        for (field, text) in [("a\\", "a\\"), ("a\\9zz", "a\\9zz"), ("a\\04", "a\\04"), ("\\040", " ")] {
            assert_eq!(unescape(field), text);
        }
    }
}
