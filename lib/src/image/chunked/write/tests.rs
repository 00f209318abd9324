//! What was written is read by other implementations: zstd, tar, and this crate's reader of tables.

use super::super::{FOOTER, Position, Ranged, Table, copy, exactly, random};
use super::*;
use crate::image::entry::EntryKind;

struct Memory(Vec<u8>);

impl Ranged for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send>> {
        let rest = self.0[usize::try_from(offset).unwrap()..].to_vec();
        Ok(Box::new(exactly(io::Cursor::new(rest), length)))
    }
}

fn entry<'a>(path: &'a [u8], kind: EntryKind<'a>) -> Entry<'a> {
    Entry { path, kind, mode: 0o640, uid: 1, gid: 2, mtime: (1_700_000_000, 5), xattrs: vec![(b"user.a", b"\0")] }
}

type Files = Vec<(String, Vec<u8>)>;

fn written(files: &Files, more: &[Entry<'_>]) -> (Vec<u8>, Finished) {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for (path, content) in files {
        writer.add(&entry(path.as_bytes(), EntryKind::File(content.len() as u64)), content.as_slice()).unwrap();
    }
    more.iter().for_each(|entry| writer.add(entry, io::empty()).unwrap());
    writer.finish().unwrap()
}

/// Files of all sizes, of noise, of zeros and of both.
fn files(state: &mut u64) -> Files {
    let sizes = [0, 1, 511, 512, 513, 70_000, 3_000_000];
    (0..1 + random(state) % 8)
        .map(|number| {
            let size = sizes[random(state) % sizes.len()];
            let kind = random(state) % 3;
            let byte = |at: usize, state: &mut u64| if kind == 0 || kind == 1 && at < size / 2 { 0 } else { random(state) as u8 };
            (format!("usr/{number}"), (0..size).map(|at| byte(at, state)).collect())
        })
        .collect()
}

fn table(blob: &[u8]) -> Table {
    let end = &blob[blob.len() - FOOTER as usize..];
    let position = Position::of_footer(end, blob.len() as u64).unwrap().unwrap();
    let (at, size) = (position.offset as usize, position.size as usize);
    let json = zstd::decode_all(&blob[at..at + size]).unwrap();
    assert_eq!(json.len() as u64, position.uncompressed);
    Table::parse(&json, position.offset).unwrap()
}

#[test]
fn files_are_read_by_the_table_and_in_a_row() {
    let mut state = 11;
    for _ in 0..12 {
        let files = files(&mut state);
        let (blob, finished) = written(&files, &[]);
        assert_eq!((finished.size, finished.digest.clone()), (blob.len() as u64, digest_of(&blob)));
        let tar = zstd::decode_all(blob.as_slice()).unwrap();
        assert_eq!((finished.tar_size, finished.diff_id.clone()), (tar.len() as u64, digest_of(&tar)));
        let (table, mut archive) = (table(&blob), tar::Archive::new(tar.as_slice()));
        let mut memory = Memory(blob);
        for ((path, content), entry) in files.iter().zip(archive.entries().unwrap()) {
            let (mut entry, mut found) = (entry.unwrap(), Vec::new());
            entry.read_to_end(&mut found).unwrap();
            assert!(entry.path_bytes() == path.as_bytes() && found == *content);
            let mut ranged: Vec<u8> = Vec::new();
            copy(&mut memory, table.find(path.as_bytes()).unwrap(), &mut 0, &mut |bytes| {
                ranged.extend(bytes);
                Ok(())
            })
            .unwrap();
            assert!(ranged == *content, "{path}");
        }
    }
}

#[test]
fn annotations_lead_to_the_table_and_to_what_makes_the_tar_again() {
    let files: Files = vec![("a".into(), vec![7; 1_000_000]), ("b".into(), vec![]), ("c".into(), b"c".to_vec())];
    let more = [entry(b"d", EntryKind::Directory), entry(b"e", EntryKind::Hardlink(b"a")), entry(b"f", EntryKind::Fifo)];
    let (blob, finished) = written(&files, &more);
    let annotations = finished.annotations.iter().cloned().collect();
    let position = Position::of_annotations(&annotations, blob.len() as u64).unwrap().unwrap();
    let toc = &blob[position.offset as usize..][..position.size as usize];
    position.verify(toc).unwrap();
    let toc: serde_json::Value = serde_json::from_slice(&zstd::decode_all(toc).unwrap()).unwrap();
    let place: Vec<usize> = annotations[&format!("{PREFIX}tarsplit-position")].split(':').map(|n| n.parse().unwrap()).collect();
    let split = &blob[place[0]..][..place[1]];
    assert_eq!(toc["tarSplitDigest"], digest_of(split));
    let split = zstd::decode_all(split).unwrap();
    assert_eq!(split.len(), place[2]);
    // Put together as tar-split does it.
    let (mut tar, mut names) = (Vec::new(), Vec::new());
    for (number, line) in split.split(|b| *b == b'\n').filter(|line| !line.is_empty()).enumerate() {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(line["position"], number);
        match line["type"].as_u64().unwrap() {
            2 => tar.extend(openssl::base64::decode_block(line["payload"].as_str().unwrap()).unwrap()),
            _ => {
                names.push(line["name"].as_str().unwrap().to_owned());
                let content = files.iter().find(|(name, _)| line["name"] == *name).map(|(_, content)| content.clone()).unwrap_or_default();
                assert_eq!(line["size"].as_u64().unwrap_or(0), content.len() as u64);
                tar.extend(content);
            }
        }
    }
    assert_eq!(digest_of(&tar), finished.diff_id);
    let entries = toc["entries"].as_array().unwrap().iter().filter(|entry| entry["type"] != "chunk");
    assert!(entries.map(|entry| entry["name"].as_str().unwrap()).eq(&names));
    let first = &toc["entries"][0];
    assert_eq!((&first["mode"], &first["modtime"]), (&0o640.into(), &"2023-11-14T22:13:20.000000005Z".into()));
    assert_eq!(first["xattrs"]["user.a"], "AA==");
}

#[test]
fn a_layer_with_names_that_are_no_text_has_no_table() {
    let (blob, finished) = written(&vec![("a".into(), b"a".to_vec())], &[entry(b"\xe9", EntryKind::Fifo), entry(b"z", EntryKind::Fifo)]);
    assert_eq!(finished.annotations, []);
    assert_eq!(Position::of_footer(&blob[blob.len().saturating_sub(72)..], blob.len() as u64), Ok(None));
    assert_eq!(digest_of(&zstd::decode_all(blob.as_slice()).unwrap()), finished.diff_id);
}

#[test]
fn content_of_another_size_is_an_error() {
    for (content, expected) in [("ab", "writing a: 2 bytes (expected 3)"), ("abcd", "writing a: at least 4 bytes (expected 3)")] {
        let error = Writer::new(Vec::new()).unwrap().add(&entry(b"a", EntryKind::File(3)), content.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(openssl::sha::sha256(bytes)))
}
