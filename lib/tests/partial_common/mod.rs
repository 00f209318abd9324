//! What the tests of partial pulls share: two releases, and machines that pull them.
#![allow(dead_code, reason = "each test program uses its own part")]

#[path = "../common/chunked.rs"]
pub(crate) mod chunked;
#[path = "../common/oci.rs"]
pub(crate) mod oci;
#[path = "../common/registry.rs"]
pub(crate) mod registry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chunked::{Chunked, Spoil, chunked};
use oci::{Compression, Layout, header, noise, plain_http};
use registry::{Registry, push};
use selkie::ops::pull::{self, Pulled, Way};
use selkie::progress::Recorder;
use selkie::store::{CONTENT_INDEX, Store, Verity};

/// How skopeo compresses so.
pub(crate) const CHUNKED: &[&str] = &["--dest-compress-format=zstd:chunked"];

/// A release: files with what is in them.
#[derive(Clone)]
pub(crate) struct Release(pub(crate) BTreeMap<String, Vec<u8>>);

impl Release {
    /// 40 files of 20 to 60 KB, some small ones, one with a hole and one without content.
    pub(crate) fn first() -> Self {
        let noise = noise(3_000_000);
        let mut files: BTreeMap<String, Vec<u8>> =
            (0..40).map(|n| (format!("usr/lib/{n:02}"), noise[n * 50_000..][..20_000 + n * 1000].to_vec())).collect();
        files.extend((0..40).map(|n| (format!("usr/share/{n:02}"), format!("text {n}\n").repeat(n).into_bytes())));
        files.insert("usr/hole".into(), [&noise[..300_000], &[0; 2_000_000], &noise[300_000..400_000]].concat());
        files.insert("usr/empty".into(), Vec::new());
        files.insert("usr/same/a".into(), vec![b'a'; 5000]);
        files.insert("usr/same/b".into(), vec![b'b'; 5000]);
        Self(files)
    }

    /// One file is another, one is new.
    pub(crate) fn second() -> Self {
        let mut release = Self::first();
        release.0.insert("usr/lib/07".into(), noise(3_100_000)[3_000_000..].to_vec());
        release.0.insert("usr/share/new".into(), b"hello\n".to_vec());
        release
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for directory in ["usr/", "usr/lib/", "usr/same/", "usr/share/"] {
            builder.append_data(&mut header(tar::EntryType::Directory, 0), directory, &b""[..]).unwrap();
        }
        for (path, content) in &self.0 {
            builder.append_data(&mut header(tar::EntryType::Regular, content.len()), path, content.as_slice()).unwrap();
        }
        builder.append_link(&mut header(tar::EntryType::Link, 0), "usr/link", "usr/lib/00").unwrap();
        builder.append_link(&mut header(tar::EntryType::Symlink, 0), "usr/sym", "link").unwrap();
        builder.into_inner().unwrap()
    }

    pub(crate) fn push(&self, registry: &Registry, tag: &str, options: &[&str]) {
        let mut layout = Layout::new();
        let image = layout.image("amd64", &[(Compression::None, self.tar())]);
        layout.publish(Some(tag), &image);
        push(options, layout.path(), tag, &registry.name(&format!("acme/os:{tag}")));
    }
}

/// A repository in a temporary directory.
pub(crate) struct Machine {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) store: Store,
}

/// The repository in a directory, made where there is none.
pub(crate) fn store(directory: &Path) -> Store {
    Store::open_or_init(selkie::sys::dir::open_path(directory).unwrap(), "r", None, Verity::IfPossible).unwrap()
}

/// Pulls an image into a repository, with its tag as the name of it there.
pub(crate) fn pull_into(store: &Store, reference: &str, recorder: &Arc<Recorder>) -> anyhow::Result<Pulled> {
    let tag = reference.rsplit_once(':').map(|(_, tag)| tag.to_owned());
    let options = pull::Options { image: reference.parse().unwrap(), source: plain_http(), tag };
    pull::run(store, &options, &(Arc::clone(recorder) as _))
}

impl Machine {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = store(temp.path());
        Self { temp, store }
    }

    pub(crate) fn pull(&self, reference: &str) -> Pulled {
        self.try_pull(reference).unwrap()
    }

    pub(crate) fn try_pull(&self, reference: &str) -> anyhow::Result<Pulled> {
        self.pull_with(reference, &Arc::default())
    }

    pub(crate) fn pull_with(&self, reference: &str, recorder: &Arc<Recorder>) -> anyhow::Result<Pulled> {
        pull_into(&self.store, reference, recorder)
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.temp.path().join("r").join(CONTENT_INDEX)
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.temp.path().join("r").join("content-journal")
    }

    /// The objects, with what is in them.
    pub(crate) fn objects(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.everything().into_iter().filter(|(name, _)| name.starts_with("objects")).collect()
    }

    /// Everything in the repository: what files have, and where links lead.
    pub(crate) fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = self.temp.path().join("r");
        let (mut found, mut open) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(directory) = open.pop() {
            for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                let name = path.strip_prefix(&root).unwrap().to_owned();
                if path.is_symlink() {
                    found.insert(name, std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes());
                } else if path.is_dir() {
                    open.push(path);
                } else {
                    found.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        found
    }
}

/// How the only layer came: the way, bytes, size of the blob, reason.
pub(crate) fn way(pulled: &Pulled) -> (Way, u64, u64, Option<&str>) {
    let [layer] = &pulled.fetched[..] else { panic!("{pulled:?}") };
    (layer.way, layer.bytes, layer.size, layer.reason.as_deref())
}

/// A layout with both releases, the second with these tables.
pub(crate) fn layout(spoil: &Spoil<'_>) -> (Layout, Chunked) {
    let mut layout = Layout::new();
    chunked(&Release::first().tar(), &Spoil::nothing(true)).publish(&mut layout, "v1");
    let second = chunked(&Release::second().tar(), spoil);
    second.publish(&mut layout, "v2");
    (layout, second)
}
