//! Pulls that fetch only the files that are missing, from a real registry: how many bytes, and that nobody can tell afterwards.

#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Compression, Layout, noise};
use registry::{Registry, push};
use selkie::image::SourceOptions;
use selkie::ops::pull::{self, Pulled, Way};
use selkie::progress::Recorder;
use selkie::store::{CONTENT_INDEX, Store, Verity};

const CHUNKED: &[&str] = &["--dest-compress-format=zstd:chunked"];

/// A release: files with what is in them.
#[derive(Clone)]
struct Release(BTreeMap<String, Vec<u8>>);

impl Release {
    /// 40 files of 20 to 60 KB, some small ones, one with a hole and one without content.
    fn first() -> Self {
        let noise = noise(3_000_000);
        let mut files: BTreeMap<String, Vec<u8>> =
            (0..40).map(|n| (format!("usr/lib/{n:02}"), noise[n * 50_000..][..20_000 + n * 1000].to_vec())).collect();
        files.extend((0..40).map(|n| (format!("usr/share/{n:02}"), format!("text {n}\n").repeat(n).into_bytes())));
        files.insert("usr/hole".into(), [&noise[..300_000], &[0; 2_000_000], &noise[300_000..400_000]].concat());
        files.insert("usr/empty".into(), Vec::new());
        Self(files)
    }

    /// One file is another, one is new.
    fn second() -> Self {
        let mut release = Self::first();
        release.0.insert("usr/lib/07".into(), noise(3_100_000)[3_000_000..].to_vec());
        release.0.insert("usr/share/new".into(), b"hello\n".to_vec());
        release
    }

    fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let header = |kind, size: usize| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(size as u64);
            header
        };
        for directory in ["usr/", "usr/lib/", "usr/share/"] {
            builder.append_data(&mut header(tar::EntryType::Directory, 0), directory, &b""[..]).unwrap();
        }
        for (path, content) in &self.0 {
            builder.append_data(&mut header(tar::EntryType::Regular, content.len()), path, content.as_slice()).unwrap();
        }
        builder.append_link(&mut header(tar::EntryType::Link, 0), "usr/link", "usr/lib/00").unwrap();
        builder.append_link(&mut header(tar::EntryType::Symlink, 0), "usr/sym", "link").unwrap();
        builder.into_inner().unwrap()
    }

    fn push(&self, registry: &Registry, tag: &str, options: &[&str]) {
        let mut layout = Layout::new();
        let image = layout.image("amd64", &[(Compression::None, self.tar())]);
        layout.publish(Some(tag), &image);
        push(options, layout.path(), tag, &registry.name(&format!("acme/os:{tag}")));
    }
}

/// A repository in a temporary directory.
struct Machine {
    temp: tempfile::TempDir,
    store: Store,
}

impl Machine {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open_or_init(selkie::sys::dir::open_path(temp.path()).unwrap(), "r", None, Verity::IfPossible).unwrap();
        Self { temp, store }
    }

    fn pull(&self, reference: &str) -> Pulled {
        self.try_pull(reference).unwrap()
    }

    fn try_pull(&self, reference: &str) -> anyhow::Result<Pulled> {
        let source = SourceOptions { tls_verify: Some(false), architecture: Some("amd64".into()), ..Default::default() };
        let tag = reference.rsplit_once(':').map(|(_, tag)| tag.to_owned());
        let options = pull::Options { image: reference.parse().unwrap(), source, tag };
        pull::run(&self.store, &options, &(Arc::new(Recorder::default()) as _))
    }

    fn index(&self) -> PathBuf {
        self.temp.path().join("r").join(CONTENT_INDEX)
    }

    /// Everything in the repository: what files have, and where links lead.
    fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
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
fn way(pulled: &Pulled) -> (Way, u64, u64, Option<&str>) {
    let [layer] = &pulled.fetched[..] else { panic!("{pulled:?}") };
    (layer.way, layer.bytes, layer.size, layer.reason.as_deref())
}

#[test]
fn an_update_fetches_what_is_missing_and_the_repository_is_that_of_a_whole_pull() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    Release::second().push(&registry, "v2", CHUNKED);
    let (parts, whole) = (Machine::new(), Machine::new());
    for machine in [&parts, &whole] {
        let first = machine.pull(&registry.name("acme/os:v1"));
        let (way, bytes, size, reason) = way(&first);
        assert_eq!((way, bytes, reason), (Way::Whole, size, Some("none of its files are here")));
        assert!(machine.index().exists());
    }
    std::fs::remove_file(whole.index()).unwrap();
    let (second, expected) = (parts.pull(&registry.name("acme/os:v2")), whole.pull(&registry.name("acme/os:v2")));
    let (way, bytes, size, reason) = way(&second);
    assert_eq!((way, reason), (Way::Partial, None), "{second:?}");
    assert!(bytes < 125_000 && bytes < size / 10, "{bytes} of {size}");
    assert_eq!((&second.image, &second.boot_image), (&expected.image, &expected.boot_image));
    assert_eq!(second.objects_new, expected.objects_new);
    assert_eq!(second.bytes_stored, expected.bytes_stored);
    let (parts, whole) = (parts.everything(), whole.everything());
    let names = |all: &BTreeMap<PathBuf, Vec<u8>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&parts), names(&whole));
    for (name, content) in &parts {
        assert!(name == Path::new(CONTENT_INDEX) || *content == whole[name], "{}", name.display());
    }
}

#[test]
fn a_lost_or_torn_index_costs_a_whole_layer_and_fsck_makes_it_again() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    Release::second().push(&registry, "v2", CHUNKED);
    let machine = Machine::new();
    machine.pull(&registry.name("acme/os:v1"));
    let right = std::fs::read(machine.index()).unwrap();
    for torn in [None, Some(&right[..right.len() - 1]), Some(&b"something else"[..])] {
        std::fs::remove_file(machine.index()).unwrap();
        torn.iter().for_each(|torn| std::fs::write(machine.index(), torn).unwrap());
        assert!(machine.store.contents().unwrap().is_empty() && machine.store.lacks_content_index().unwrap());
        assert!(machine.store.rebuild_content_index().unwrap());
        assert!(std::fs::read(machine.index()).unwrap() == right, "{torn:?}");
        assert!(!machine.store.lacks_content_index().unwrap());
    }
    // Without one, the next pull is as always.
    std::fs::write(machine.index(), &right[..right.len() - 1]).unwrap();
    let second = machine.pull(&registry.name("acme/os:v2"));
    assert_eq!((way(&second).0, way(&second).3), (Way::Whole, Some("none of its files are here")));
    assert!(!machine.store.contents().unwrap().is_empty());
}
