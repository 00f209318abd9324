//! The entries of a table of contents with what their headers say, for foretelling what a layer changes. Pure. Where the pieces of files lie is
//! [`super::Table`]'s.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use super::table::sha256;
use super::{TableError, entries};
use crate::listing::{Listed, ListedKind};

/// Permission bits. Tables have the type of the file beside them.
const PERMISSIONS: u32 = 0o7777;

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow, deserialize_with = "entries::bounded")]
    entries: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    link_name: Cow<'a, str>,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    size: u64,
    #[serde(borrow)]
    digest: Option<Cow<'a, str>>,
    #[serde(default)]
    dev_major: u32,
    #[serde(default)]
    dev_minor: u32,
    #[serde(borrow, default)]
    xattrs: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// The entries, in the order of the tar.
///
/// # Errors
///
/// It is no such table.
pub(in crate::image) fn list(json: &[u8]) -> Result<Vec<Listed>, TableError> {
    let raw: Raw<'_> = serde_json::from_slice(json).map_err(|e| TableError::new(format!("its table of contents: {e}")))?;
    let entries = raw.entries.iter().filter(|entry| entry.r#type != "chunk");
    let listed =
        |entry: &Entry<'_>| entry.listed().map_err(|found| TableError::new(format!("its table of contents: {:?}: {found}", entry.name)));
    entries.map(listed).collect()
}

impl Entry<'_> {
    fn listed(&self) -> Result<Listed, String> {
        let kind = match &*self.r#type {
            "dir" => ListedKind::Directory,
            "reg" => ListedKind::File { size: self.size, sha256: self.digest.as_deref().map(sha256).transpose()? },
            "symlink" => ListedKind::Symlink(self.link_name.to_string()),
            "hardlink" => ListedKind::Hardlink(self.link_name.to_string()),
            "char" => ListedKind::CharDevice(self.dev_major, self.dev_minor),
            "block" => ListedKind::BlockDevice(self.dev_major, self.dev_minor),
            "fifo" => ListedKind::Fifo,
            other => return Err(format!("it is a {other:?} (expected a kind of file)")),
        };
        let xattr = |(name, value): (&Cow<'_, str>, &Cow<'_, str>)| {
            let value = openssl::base64::decode_block(value).map_err(|_| format!("attribute {name} is no base64"))?;
            Ok::<_, String>((name.to_string(), value))
        };
        Ok(Listed {
            path: self.name.to_string(),
            kind,
            mode: self.mode & PERMISSIONS,
            uid: self.uid,
            gid: self.gid,
            xattrs: self.xattrs.iter().map(xattr).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(entry: &str) -> Result<Vec<Listed>, String> {
        list(format!("{{\"version\":1,\"entries\":[{entry}]}}").as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_kind_of_entry_is_listed_with_its_metadata() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let file = format!(
            r#"{{"type":"reg","name":"a","mode":33261,"uid":7,"gid":8,"size":3,"digest":"{digest}","offset":1,"endOffset":2,
               "xattrs":{{"user.a":"aGVsbG8="}}}},{{"type":"chunk","name":"a","offset":2}}"#
        );
        let expected = Listed {
            path: "a".into(),
            kind: ListedKind::File { size: 3, sha256: Some([0xab; 32]) },
            mode: 0o755,
            uid: 7,
            gid: 8,
            xattrs: vec![("user.a".into(), b"hello".to_vec())],
        };
        assert_eq!(listed(&file), Ok(vec![expected]));
        let kinds = [
            (r#"{"type":"dir","name":"d/"}"#, ListedKind::Directory),
            (r#"{"type":"reg","name":"e"}"#, ListedKind::File { size: 0, sha256: None }),
            (r#"{"type":"symlink","name":"s","linkName":"t"}"#, ListedKind::Symlink("t".into())),
            (r#"{"type":"hardlink","name":"h","linkName":"a"}"#, ListedKind::Hardlink("a".into())),
            (r#"{"type":"char","name":"c","devMajor":1,"devMinor":3}"#, ListedKind::CharDevice(1, 3)),
            (r#"{"type":"block","name":"b","devMajor":8}"#, ListedKind::BlockDevice(8, 0)),
            (r#"{"type":"fifo","name":"p"}"#, ListedKind::Fifo),
        ];
        for (entry, kind) in kinds {
            assert_eq!(listed(entry).map(|all| all[0].kind.clone()), Ok(kind), "{entry}");
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for entry in [
            r#"{"type":"door","name":"d"}"#,
            r#"{"type":"reg","name":"d","digest":"md5:00"}"#,
            r#"{"type":"reg","name":"d","xattrs":{"user.a":"*"}}"#,
            r#"{"type":"reg","name":"d","uid":-1}"#,
            r#"{"type":"reg"}"#,
        ] {
            assert!(listed(entry).is_err(), "{entry}");
        }
    }
}
