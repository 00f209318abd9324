//! One entry of a layer's tar, and its header: the same entry is always the same bytes. Pure.
//!
//! POSIX ustar, with pax records for all that does not fit into it (pax, IEEE Std 1003.1) and for extended attributes (`SCHILY.xattr.`). No
//! names of owners, so that no other machine's numbers are looked up.

use anyhow::{Result, bail};

/// Tar files are written in blocks of so many bytes.
pub(super) const BLOCK: usize = 512;

/// The largest number in a field of eleven octal digits.
const ELEVEN: u64 = 0o777_7777_7777;
/// The largest number in a field of seven.
const SEVEN: u64 = 0o777_7777;

/// What pax calls an extended attribute.
const XATTR: &str = "SCHILY.xattr.";

/// Something in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it is, without a slash at either end; nothing for the root itself.
    pub path: &'a [u8],
    /// What it is.
    pub kind: EntryKind<'a>,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of modification: seconds since 1970 and nanoseconds.
    pub mtime: (u64, u32),
    /// Extended attributes by name, in byte order.
    pub xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A directory.
    Directory,
    /// A regular file of so many bytes.
    File(u64),
    /// A symbolic link with its target.
    Symlink(&'a [u8]),
    /// One more name of a file that has stood before in the same layer, at this path.
    Hardlink(&'a [u8]),
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}

impl Entry<'_> {
    /// Bytes of content that follow the header.
    pub(super) fn size(&self) -> u64 {
        if let EntryKind::File(size) = self.kind { size } else { 0 }
    }

    /// Where a link leads.
    pub(super) fn target(&self) -> &[u8] {
        match self.kind {
            EntryKind::Symlink(target) | EntryKind::Hardlink(target) => target,
            _ => b"",
        }
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> (u32, u32) {
        match self.kind {
            EntryKind::CharDevice(major, minor) | EntryKind::BlockDevice(major, minor) => (major, minor),
            _ => (0, 0),
        }
    }

    /// The path as it stands in a tar.
    pub(super) fn name(&self) -> Vec<u8> {
        match self.kind {
            EntryKind::Directory if self.path.is_empty() => b"./".to_vec(),
            EntryKind::Directory => [self.path, b"/"].concat(),
            _ => self.path.to_vec(),
        }
    }

    /// What stands before the content: the header, and in front of it pax records where some are needed.
    ///
    /// # Errors
    ///
    /// A path that is none or would remove something (`.wh.`), an extended attribute without a name, a device number that no tar can hold.
    pub(super) fn header(&self) -> Result<Vec<u8>> {
        self.check()?;
        let (name, records) = (self.name(), self.records());
        let mut bytes = Vec::with_capacity(BLOCK);
        if !records.is_empty() {
            bytes.extend(Fields { name: b"pax", kind: b'x', size: records.len() as u64, mode: 0o644, ..Fields::default() }.block());
            bytes.extend(&records);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        let fields = Fields {
            name: &name,
            kind: self.letter(),
            mode: self.mode,
            uid: u64::from(self.uid),
            gid: u64::from(self.gid),
            size: self.size(),
            mtime: self.mtime.0,
            target: self.target(),
            device: self.device(),
        };
        bytes.extend(fields.block());
        Ok(bytes)
    }

    fn check(&self) -> Result<()> {
        let shown = || String::from_utf8_lossy(self.path);
        let off = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.starts_with(b".wh.") || part.contains(&0);
        let root = self.path.is_empty() && self.kind == EntryKind::Directory;
        if !root && self.path.split(|b| *b == b'/').any(off) {
            bail!("writing a layer: path {:?} is off (expected a path from the root, without a slash at either end)", shown());
        }
        let (major, minor) = self.device();
        if u64::from(major) > SEVEN || u64::from(minor) > SEVEN {
            bail!("writing {:?}: its device number is {major}:{minor} (expected what a tar can hold)", shown());
        }
        if self.xattrs.iter().any(|(name, _)| name.is_empty() || name.contains(&b'=') || name.contains(&0)) {
            bail!("writing {:?}: an extended attribute has a name that a tar cannot hold", shown());
        }
        Ok(())
    }

    fn letter(&self) -> u8 {
        match self.kind {
            EntryKind::File(_) => b'0',
            EntryKind::Hardlink(_) => b'1',
            EntryKind::Symlink(_) => b'2',
            EntryKind::CharDevice(..) => b'3',
            EntryKind::BlockDevice(..) => b'4',
            EntryKind::Directory => b'5',
            EntryKind::Fifo => b'6',
        }
    }

    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut numbered = |key: &str, value: u64, most: u64| {
            if value > most {
                record(&mut records, key.as_bytes(), value.to_string().as_bytes());
            }
        };
        numbered("uid", self.uid.into(), SEVEN);
        numbered("gid", self.gid.into(), SEVEN);
        numbered("size", self.size(), ELEVEN);
        let (seconds, nanoseconds) = self.mtime;
        if nanoseconds > 0 {
            let fraction = format!("{nanoseconds:09}");
            record(&mut records, b"mtime", format!("{seconds}.{}", fraction.trim_end_matches('0')).as_bytes());
        } else {
            numbered("mtime", seconds, ELEVEN);
        }
        for (key, value) in [("path", self.name()), ("linkpath", self.target().to_vec())] {
            if value.len() > 100 {
                record(&mut records, key.as_bytes(), &value);
            }
        }
        for (name, value) in &self.xattrs {
            record(&mut records, &[XATTR.as_bytes(), *name].concat(), value);
        }
        records
    }
}

/// One record of pax: its length, which counts itself, key and value.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    records.extend(length.to_string().into_bytes());
    records.extend([b" ", key, b"=", value, b"\n"].concat());
}

/// What stands in a header's block. What is too long or too large for its field stands in a record of pax instead.
#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    target: &'a [u8],
    device: (u32, u32),
}

impl Fields<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        text(&mut block[..100], self.name);
        octal(&mut block[100..108], self.mode.into());
        octal(&mut block[108..116], self.uid);
        octal(&mut block[116..124], self.gid);
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], self.mtime);
        block[148..156].fill(b' ');
        block[156] = self.kind;
        text(&mut block[157..257], self.target);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..337], self.device.0.into());
        octal(&mut block[337..345], self.device.1.into());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }
}

fn text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// Octal digits and a zero byte; zero where the number does not fit.
fn octal(field: &mut [u8], number: u64) {
    let width = field.len() - 1;
    let digits = format!("{number:0width$o}");
    let digits = if digits.len() > width { "0".repeat(width) } else { digits };
    field[..width].copy_from_slice(digits.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(path: &'a [u8], kind: EntryKind<'a>) -> Entry<'a> {
        Entry { path, kind, mode: 0o4755, uid: 7, gid: 8, mtime: (1_700_000_000, 0), xattrs: vec![] }
    }

    /// What another implementation reads: path, kind, mode, owner, group, time and link.
    fn read(entry: &Entry<'_>) -> String {
        let mut tar = entry.header().unwrap();
        assert_eq!(tar.len() % BLOCK, 0);
        tar.extend([0; 2 * BLOCK]);
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut found = archive.entries().unwrap().next().unwrap().unwrap();
        let pax: Vec<String> = found
            .pax_extensions()
            .unwrap()
            .into_iter()
            .flatten()
            .map(|record| record.unwrap())
            .filter(|record| !["path", "linkpath"].contains(&record.key().unwrap()))
            .map(|record| format!(" {}={:?}", record.key().unwrap(), String::from_utf8_lossy(record.value_bytes())))
            .collect();
        let header = found.header();
        let link = found.link_name_bytes().map(|l| format!(" -> {}", String::from_utf8_lossy(&l))).unwrap_or_default();
        format!(
            "{} {:?} {:o} {} {} {}{link}{}",
            String::from_utf8_lossy(&found.path_bytes()),
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
            pax.concat()
        )
    }

    #[test]
    fn entries_are_read_by_others_as_they_were_meant() {
        let long = [b"usr/".to_vec(), vec![b'n'; 250], b"/x".to_vec()].concat();
        let shown = String::from_utf8(long.clone()).unwrap();
        let table = [
            (entry(b"", EntryKind::Directory), "./ Directory 4755 7 8 1700000000".to_owned()),
            (entry(b"usr", EntryKind::Directory), "usr/ Directory 4755 7 8 1700000000".to_owned()),
            (entry(b"a b\n", EntryKind::Fifo), "a b\n Fifo 4755 7 8 1700000000".to_owned()),
            (entry(b"dev/null", EntryKind::CharDevice(1, 3)), "dev/null Char 4755 7 8 1700000000".to_owned()),
            (entry(b"l", EntryKind::Symlink(&long)), format!("l Symlink 4755 7 8 1700000000 -> {shown}")),
            (entry(&long, EntryKind::Hardlink(b"usr/y")), format!("{shown} Link 4755 7 8 1700000000 -> usr/y")),
            (
                Entry {
                    uid: 0o777_7777 + 1,
                    gid: u32::MAX,
                    mtime: (5, 120_000_000),
                    xattrs: vec![(b"user.a", b"x y"), (b"user.b", b"")],
                    ..entry(b"f", EntryKind::File(0))
                },
                "f Regular 4755 2097152 4294967295 5 uid=\"2097152\" gid=\"4294967295\" mtime=\"5.12\" SCHILY.xattr.user.a=\"x y\" \
                 SCHILY.xattr.user.b=\"\""
                    .to_owned(),
            ),
        ];
        for (entry, expected) in table {
            assert_eq!(read(&entry), expected);
        }
    }

    #[test]
    fn numbers_that_do_not_fit_stand_in_records() {
        let large = entry(b"f", EntryKind::File(ELEVEN + 1));
        assert!(String::from_utf8_lossy(&large.records()).ends_with("size=8589934592\n"));
        let late = Entry { mtime: (ELEVEN + 1, 0), ..entry(b"f", EntryKind::Fifo) };
        assert_eq!(late.records(), b"20 mtime=8589934592\n");
    }

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for length in 0..2000 {
            let mut records = Vec::new();
            record(&mut records, b"key", &vec![b'v'; length]);
            let text = String::from_utf8(records.clone()).unwrap();
            assert_eq!(text.split_once(' ').unwrap().0, records.len().to_string());
        }
    }

    #[test]
    fn what_no_layer_can_hold_is_refused() {
        for path in [&b""[..], b"/a", b"a/", b"a//b", b"a/../b", b"./a", b"a/.wh.b", b".wh..wh..opq", b"a\0"] {
            assert!(entry(path, EntryKind::Fifo).header().is_err(), "{path:?}");
        }
        assert!(entry(b"a", EntryKind::CharDevice(0o777_7777 + 1, 0)).header().is_err());
        for name in [&b""[..], b"a=b"] {
            assert!(Entry { xattrs: vec![(name, b"")], ..entry(b"a", EntryKind::Fifo) }.header().is_err());
        }
    }
}
