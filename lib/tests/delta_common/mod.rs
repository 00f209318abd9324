//! What the tests of deltas share: two releases of an image, and deltas between them.
#![allow(dead_code, reason = "each test program uses its own part")]

#[path = "../partial_common/mod.rs"]
pub(crate) mod partial_common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use partial_common::oci::{Compression, Layout, header, noise, plain_http};
use selkie::image::OutputOptions;
use selkie::ops::delta::{self, Options, Report};
use selkie::progress::{Progress, Silent};
use serde_json::Value;

/// Files of a layer, by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Noise that differs from `noise` in a few bytes, and is a little longer.
pub(crate) fn changed(noise: &[u8]) -> Vec<u8> {
    let mut new = noise.to_vec();
    let middle = new.len() / 2;
    new[middle..middle + 10].fill(7);
    new.extend(b"and more");
    new
}

/// Noise that differs from all other.
pub(crate) fn noise_from(start: usize, length: usize) -> Vec<u8> {
    static ALL: LazyLock<Vec<u8>> = LazyLock::new(|| noise(1_000_000));
    ALL[start..][..length].to_vec()
}

/// What does not change from release to release.
pub(crate) fn base() -> Files {
    Files::from([
        ("usr/lib/os-release".to_owned(), b"ID=debian\n".to_vec()),
        ("usr/lib/libbase.so.1".to_owned(), noise_from(0, 40_000)),
        ("usr/share/a".to_owned(), b"a".repeat(5000)),
    ])
}

/// The layer that changes, in the first release.
pub(crate) fn first() -> Files {
    let mut files: Files = (0..10).map(|n| (format!("usr/lib/{n:02}"), noise_from(100_000 + n * 30_000, 20_000 + n * 1000))).collect();
    files.insert("usr/lib/libfoo.so.1.2".to_owned(), noise_from(500_000, 60_000));
    files.insert("usr/lib/modules/6.1.0-9/vmlinuz".to_owned(), noise_from(600_000, 80_000));
    files.insert("usr/bin/tool".to_owned(), noise_from(700_000, 50_000));
    files.insert("usr/share/small".to_owned(), b"small\n".to_vec());
    files
}

/// The same in the second: one file changed, two under other versions and changed, one moved, one in place of another layer's, one new.
pub(crate) fn second() -> Files {
    let mut files = first();
    let mut become_ = |old: &str, new: &str, change: fn(&[u8]) -> Vec<u8>| {
        let content = files.remove(old).unwrap();
        files.insert(new.to_owned(), change(&content));
    };
    become_("usr/bin/tool", "usr/bin/tool", changed);
    become_("usr/lib/libfoo.so.1.2", "usr/lib/libfoo.so.1.3.1", changed);
    become_("usr/lib/modules/6.1.0-9/vmlinuz", "usr/lib/modules/6.1.0-10/vmlinuz", changed);
    become_("usr/lib/03", "usr/libexec/03", <[u8]>::to_vec);
    files.insert("usr/share/copy".to_owned(), b"a".repeat(5000));
    files.insert("usr/share/new".to_owned(), noise_from(900_000, 30_000));
    files
}

pub(crate) fn tar(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let parents = |path: &str| path.match_indices('/').map(|(at, _)| path[..=at].to_owned()).collect::<Vec<_>>();
    let directories: BTreeSet<String> = files.keys().flat_map(|path| parents(path)).collect();
    for directory in directories {
        builder.append_data(&mut header(tar::EntryType::Directory, 0), directory, &b""[..]).unwrap();
    }
    for (path, content) in files {
        builder.append_data(&mut header(tar::EntryType::Regular, content.len()), path, content.as_slice()).unwrap();
    }
    let first = files.keys().next().unwrap();
    builder.append_link(&mut header(tar::EntryType::Link, 0), "usr/link", first).unwrap();
    builder.append_link(&mut header(tar::EntryType::Symlink, 0), "usr/sym", "link").unwrap();
    builder.into_inner().unwrap()
}

/// A layout with images, and room to work.
pub(crate) struct Desk {
    pub(crate) layout: Layout,
    pub(crate) temp: tempfile::TempDir,
}

impl Desk {
    /// A layout with both releases, under `v1` and `v2`.
    pub(crate) fn new() -> Self {
        let mut desk = Self::empty();
        desk.image("v1", vec![tar(&base()), tar(&first())]);
        desk.image("v2", vec![tar(&base()), tar(&second())]);
        desk
    }

    pub(crate) fn empty() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("scratch")).unwrap();
        Self { layout: Layout::new(), temp }
    }

    pub(crate) fn image(&mut self, tag: &str, layers: Vec<Vec<u8>>) {
        let layers: Vec<_> = layers.into_iter().map(|tar| (Compression::Gzip, tar)).collect();
        let image = self.layout.image("amd64", &layers);
        self.layout.publish(Some(tag), &image);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn tag(&self, tag: &str) -> String {
        self.layout.reference(Some(tag))
    }

    pub(crate) fn options(&self, from: &str, to: &str, output: &str) -> Options {
        Options {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            source: plain_http(),
            output: output.parse().unwrap(),
            destination: OutputOptions { tls_verify: Some(false), ..Default::default() },
            scratch: self.path("scratch"),
        }
    }

    pub(crate) fn delta(&self, options: &Options) -> anyhow::Result<Report> {
        let report = delta::run(options, &silent());
        assert_eq!(std::fs::read_dir(self.path("scratch")).unwrap().count(), 0, "something is left behind");
        report
    }

    /// The delta from `v1` to `v2` in a place.
    pub(crate) fn v1_to_v2(&self, output: &str) -> Report {
        self.delta(&self.options(&self.tag("v1"), &self.tag("v2"), output)).unwrap()
    }
}

pub(crate) fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

/// A file of JSON.
pub(crate) fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
