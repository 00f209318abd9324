//! Pulls that fetch only the files that are missing, from a real registry: how many bytes, and that nobody can tell afterwards.

#[path = "common/chunked.rs"]
mod chunked;
#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;
#[path = "common/relay.rs"]
mod relay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chunked::{Change, Chunked, Spoil, chunked};
use oci::{Compression, Layout, noise};
use registry::{Registry, push};
use relay::{Odd, Relay};
use selkie::image::SourceOptions;
use selkie::ops::pull::{self, Pulled, Way};
use selkie::progress::Recorder;
use selkie::store::{CONTENT_INDEX, Store, Verity};
use serde_json::{Value, json};

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
        files.insert("usr/same/a".into(), vec![b'a'; 5000]);
        files.insert("usr/same/b".into(), vec![b'b'; 5000]);
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
        self.pull_with(reference, &Arc::default())
    }

    fn pull_with(&self, reference: &str, recorder: &Arc<Recorder>) -> anyhow::Result<Pulled> {
        let source = SourceOptions { tls_verify: Some(false), architecture: Some("amd64".into()), ..Default::default() };
        let tag = reference.rsplit_once(':').map(|(_, tag)| tag.to_owned());
        let options = pull::Options { image: reference.parse().unwrap(), source, tag };
        pull::run(&self.store, &options, &(Arc::clone(recorder) as _))
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

/// A layout with both releases, the second with these tables.
fn layout(spoil: &Spoil<'_>) -> (Layout, Chunked) {
    let mut layout = Layout::new();
    chunked(&Release::first().tar(), &Spoil::nothing(true)).publish(&mut layout, "v1");
    let second = chunked(&Release::second().tar(), spoil);
    second.publish(&mut layout, "v2");
    (layout, second)
}

#[test]
fn with_a_list_of_headers_an_update_costs_the_missing_files_and_the_tables() {
    let registry = Registry::start();
    for headers in [true, false] {
        let (layout, second) = layout(&Spoil::nothing(headers));
        for tag in ["v1", "v2"] {
            push(&["--preserve-digests"], layout.path(), tag, &registry.name(&format!("acme/os{headers}:{tag}")));
        }
        let machine = Machine::new();
        machine.pull(&registry.name(&format!("acme/os{headers}:v1")));
        let pulled = machine.pull(&registry.name(&format!("acme/os{headers}:v2")));
        let (way, bytes, size, reason) = way(&pulled);
        assert_eq!((way, reason, size), (Way::Partial, None, second.blob.len() as u64));
        let missing = second.files["usr/lib/07"] + second.files["usr/share/new"];
        let most = (missing + second.tables) as f64 * if headers { 1.05 } else { 1.10 };
        assert!((bytes as f64) < most, "{bytes} bytes (expected at most {most})");
        assert_eq!(pulled.bytes_fetched, bytes);
    }
}

#[test]
fn all_of_a_whole_pull_is_equal_for_every_form_of_the_layer() {
    let expected = Machine::new();
    let (layout, _) = layout(&Spoil::nothing(true));
    expected.pull(&layout.reference(Some("v2")));
    let expected = expected.everything();
    for headers in [true, false] {
        let (layout, _) = self::layout(&Spoil::nothing(headers));
        let machine = Machine::new();
        machine.pull(&layout.reference(Some("v1")));
        assert_eq!(way(&machine.pull(&layout.reference(Some("v2")))).0, Way::Partial);
        // What the first release leaves when it is gone; another form of the layer has another manifest.
        machine.store.untag("v1").unwrap();
        machine.store.gc(&[]).unwrap();
        let found = machine.everything();
        let layers = |all: &BTreeMap<PathBuf, Vec<u8>>| -> Vec<(PathBuf, Vec<u8>)> {
            all.iter()
                .filter(|(name, _)| name.starts_with("streams") && name.to_string_lossy().contains("oci-layer-"))
                .map(|(n, c)| (n.clone(), c.clone()))
                .collect()
        };
        assert_eq!(layers(&found), layers(&expected));
        for (name, content) in expected.iter().filter(|(name, _)| headers && name.starts_with("objects")) {
            assert_eq!(found.get(name), Some(content), "{}", name.display());
        }
        if headers {
            let names =
                |all: &BTreeMap<PathBuf, Vec<u8>>| all.keys().filter(|name| name.starts_with("objects")).cloned().collect::<Vec<_>>();
            assert_eq!(names(&found), names(&expected));
        }
    }
}

/// The entry of a file in a table of contents.
fn entry<'a>(table: &'a mut Value, name: &str) -> &'a mut Value {
    table["entries"].as_array_mut().unwrap().iter_mut().find(|entry| entry["name"] == name && entry["type"] == "reg").unwrap()
}

/// Gives a file the digest of another one.
fn digest_of(table: &mut Value, file: &str, other: &str) {
    let other = entry(table, other)["digest"].clone();
    entry(table, file)["digest"] = other;
}

type Lie<'a> = (&'a str, Change<'a, Value>, Option<&'a str>);

#[test]
fn tables_that_lie_cost_a_whole_layer_at_most() {
    let table: [Lie<'_>; 12] = [
        ("the digest of a missing file", &|t| entry(t, "usr/lib/07")["digest"] = json!(format!("sha256:{}", "0".repeat(64))), None),
        (
            "the digest of a piece",
            &|t| entry(t, "usr/lib/07")["chunkDigest"] = json!(format!("sha256:{}", "0".repeat(64))),
            Some("the digest of a piece"),
        ),
        ("the digest of another file of another size", &|t| digest_of(t, "usr/lib/03", "usr/share/05"), None),
        (
            "the digest of another file of the same size",
            &|t| digest_of(t, "usr/same/a", "usr/same/b"),
            Some("what was rebuilt by its table of contents has the diff_id sha256:"),
        ),
        ("overlapping ranges", &|t| entry(t, "usr/lib/08")["offset"] = entry(t, "usr/lib/07")["offset"].clone(), Some("a piece lies from")),
        ("a range out of the blob", &|t| entry(t, "usr/lib/39")["endOffset"] = json!(1_u64 << 40), Some("a piece lies from")),
        ("a size that overflows", &|t| entry(t, "usr/lib/07")["size"] = json!(u64::MAX), Some("its pieces have")),
        ("a chunk that overflows", &|t| entry(t, "usr/lib/07")["chunkSize"] = json!(u64::MAX), Some("its piece at 0")),
        ("a file that is missing", &|t| t["entries"].as_array_mut().unwrap().retain(|e| e["name"] != "usr/lib/20"), None),
        ("no entries", &|t| t["entries"] = json!([]), Some("")),
        ("a larger file", &|t| (entry(t, "usr/share/20")["size"], entry(t, "usr/share/20")["chunkSize"]) = (json!(170), json!(170)), None),
        ("another version", &|t| t["version"] = json!(2), Some("of version 2")),
    ];
    for headers in [true, false] {
        for (lie, spoil, reason) in &table {
            let (layout, second) = layout(&Spoil { table: spoil, headers: headers.then_some(&|_| {}) });
            let machine = Machine::new();
            machine.pull(&layout.reference(Some("v1")));
            let pulled = machine.try_pull(&layout.reference(Some("v2"))).unwrap_or_else(|error| panic!("{lie}, {headers}: {error:#}"));
            let (way, _, _, found) = way(&pulled);
            if *lie == "a file that is missing" {
                // With the list of headers, that contradicts it; without, what the table leaves out is between the files of which it tells.
                assert_eq!(way, if headers { Way::Whole } else { Way::Partial });
            }
            if let Some(reason) = reason {
                assert_eq!(way, Way::Whole, "{lie}, {headers}");
                assert!(found.is_some_and(|found| found.contains(reason)), "{lie}, {headers}: {found:?} (expected {reason})");
            }
            assert!(machine.store.has_layer(&second.diff_id).unwrap());
            machine.store.check_objects(&pulled.boot_image).unwrap();
        }
    }
}

#[test]
fn registries_that_answer_ranges_badly_are_read_whole() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    Release::second().push(&registry, "v2", CHUNKED);
    for (odd, expected) in [
        (Odd::Ignored, "the registry allows no ranges: it answers with the whole blob"),
        (Odd::Truncated, "reading the answer: "),
        (Odd::Shifted, "the answer has the range \"bytes "),
        (Odd::OtherSize, "the answer has the range \"bytes "),
        (Odd::Short, "bytes (expected "),
        (Odd::Flipped, "its table of contents does not match its checksum"),
        (Odd::FlippedContents, ""),
        (Odd::Refused, "the answer is 500 Internal Server Error (expected 206)"),
    ] {
        let relay = Relay::start(&registry.address, odd);
        let machine = Machine::new();
        machine.pull(&registry.name("acme/os:v1"));
        let pulled = machine.pull(&format!("{}/acme/os:v2", relay.address));
        let (way, bytes, size, reason) = way(&pulled);
        assert!(way == Way::Whole && bytes > size, "{odd:?}: {pulled:?}");
        assert!(reason.unwrap().contains(expected), "{odd:?}: {reason:?}");
    }
}

#[test]
fn lists_of_headers_that_lie_cost_a_whole_layer() {
    let table: [(&str, Change<'_, Vec<Value>>, &str); 5] = [
        ("another size", &|lines| lines[9]["size"] = json!(7), "bytes where its list of tar headers has 7"),
        (
            "one file more",
            &|lines| lines.push(json!({"type": 1, "size": 7})),
            "has no more files where its list of tar headers has one more",
        ),
        (
            "one file fewer",
            &|lines| drop(lines.remove(lines.iter().position(|line| line["size"] == 2_400_000).unwrap())),
            "its list of tar headers has",
        ),
        ("other bytes", &|lines| lines[0]["payload"] = json!("AAAA"), "was rebuilt by its table of contents has the diff_id sha256:"),
        ("no such entry", &|lines| lines[0]["type"] = json!(3), "its list of tar headers: an entry of type 3"),
    ];
    for (lie, spoil, expected) in table {
        let (layout, _) = layout(&Spoil { table: &|_| {}, headers: Some(spoil) });
        let machine = Machine::new();
        machine.pull(&layout.reference(Some("v1")));
        let pulled = machine.pull(&layout.reference(Some("v2")));
        let (way, _, _, reason) = way(&pulled);
        assert!(way == Way::Whole && reason.is_some_and(|reason| reason.contains(expected)), "{lie}: {reason:?}");
    }
}

#[test]
fn a_layer_that_is_another_than_its_diff_id_is_refused_both_ways_and_nothing_is_published() {
    let mut layout = Layout::new();
    chunked(&Release::first().tar(), &Spoil::nothing(true)).publish(&mut layout, "v1");
    let mut second = chunked(&Release::second().tar(), &Spoil::nothing(true));
    second.diff_id = format!("sha256:{}", "5".repeat(64));
    second.publish(&mut layout, "v2");
    let machine = Machine::new();
    machine.pull(&layout.reference(Some("v1")));
    let before = (machine.store.tags().unwrap(), std::fs::read(machine.index()).unwrap());
    let error = machine.try_pull(&layout.reference(Some("v2"))).unwrap_err();
    assert_eq!(selkie::error::Failure::find(&error).unwrap().kind, selkie::error::FailureKind::Corrupt, "{error:#}");
    assert!(!machine.store.has_layer(&second.diff_id).unwrap());
    assert!((machine.store.tags().unwrap(), std::fs::read(machine.index()).unwrap()) == before);
}

#[test]
fn the_index_is_written_last_and_what_is_gone_is_swept() {
    let (layout, _) = layout(&Spoil::nothing(true));
    let machine = Machine::new();
    let recorder = Arc::new(Recorder::default());
    let first = machine.pull_with(&layout.reference(Some("v1")), &recorder).unwrap();
    assert_eq!(recorder.steps(), ["import layer", "write content index", "commit image", "tag image"]);
    machine.store.untag("v1").unwrap();
    assert!(machine.store.gc(&[]).unwrap().objects > 40);
    // The index still names what is gone.
    assert!(!machine.store.contents().unwrap().is_empty());
    let second = machine.pull(&layout.reference(Some("v2")));
    assert_eq!((way(&second).0, way(&second).3), (Way::Whole, Some("nearly all of it is missing here")));
    let fresh = Machine::new();
    fresh.pull(&layout.reference(Some("v2")));
    assert!(std::fs::read(machine.index()).unwrap() == std::fs::read(fresh.index()).unwrap());
    // A layer that is here is not fetched, and is no news for the index.
    let recorder = Arc::new(Recorder::default());
    let again = machine.pull_with(&layout.reference(Some("v2")), &recorder).unwrap();
    assert_eq!((way(&again).0, again.bytes_fetched), (Way::Here, 0));
    assert_eq!(recorder.steps(), ["commit image", "tag image"]);
    assert_ne!(first.image, second.image);
}

#[test]
fn an_object_that_is_damaged_costs_a_whole_layer() {
    let (layout, second) = layout(&Spoil::nothing(true));
    let machine = Machine::new();
    let first = machine.pull(&layout.reference(Some("v1")));
    let file = machine.store.tree(&first.boot_image).unwrap().file("/usr/lib/20").unwrap().unwrap();
    let selkie::store::Content::Object(object) = file.content else { panic!("it is inline") };
    let path = machine.temp.path().join("r/objects").join(object.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    // Whether or not it is sealed.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let pulled = machine.pull(&layout.reference(Some("v2")));
    assert!(way(&pulled).0 == Way::Whole && way(&pulled).3.is_some(), "{pulled:?}");
    assert!(machine.store.has_layer(&second.diff_id).unwrap());
}
