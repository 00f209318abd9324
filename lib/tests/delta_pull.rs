//! Pulls by a delta: how many bytes, that nobody can tell afterwards, and that nothing is believed.

mod delta_common;
#[path = "common/relay.rs"]
mod relay;

use std::io::Write;

use delta_common::partial_common::oci::{Compression, flip, noise, plain_http};
use delta_common::partial_common::registry::{Registry, push};
use delta_common::partial_common::{CHUNKED, Machine};
use delta_common::{Desk, Files, base, first, json, noise_from, second, silent, tar};
use relay::{Odd, Relay};
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::ops::delta::Options;
use selkie::ops::pull::{self, FetchedLayer, Pulled, Way};
use selkie::progress::{Event, Recorder, Silent};
use serde_json::{Value, json};

/// How the layer that changes came.
fn top(pulled: &Pulled) -> &FetchedLayer {
    pulled.fetched.last().unwrap()
}

/// What was told beside the work.
fn notes(recorder: &Recorder) -> Vec<String> {
    let note = |event| if let Event::Note { message } = event { Some(message) } else { None };
    recorder.events().into_iter().filter_map(note).collect()
}

/// Pushes both releases to a repository, and a delta between them if `delta`.
fn published(registry: &Registry, desk: &Desk, name: &str, options: &[&str], delta: bool) {
    let at = |tag: &str| registry.name(&format!("{name}:{tag}"));
    for tag in ["v1", "v2"] {
        push(options, desk.layout.path(), tag, &at(tag));
    }
    if delta {
        desk.delta(&desk.options(&at("v1"), &at("v2"), &at("delta"))).unwrap();
    }
}

fn second_pull(registry: &Registry, name: &str) -> (Machine, Pulled) {
    let machine = Machine::new();
    machine.pull(&registry.name(&format!("{name}:v1")));
    let pulled = machine.pull(&registry.name(&format!("{name}:v2")));
    (machine, pulled)
}

#[test]
fn the_repository_is_that_of_a_whole_pull() {
    let (registry, desk) = (Registry::start(), Desk::new());
    published(&registry, &desk, "acme/delta", &["--preserve-digests"], true);
    published(&registry, &desk, "acme/whole", &["--preserve-digests"], false);
    let (by_delta, pulled) = second_pull(&registry, "acme/delta");
    let (whole, expected) = second_pull(&registry, "acme/whole");
    let (layer, other) = (top(&pulled), top(&expected));
    assert_eq!((layer.way, layer.reason.as_deref()), (Way::Delta, None), "{pulled:?}");
    assert_eq!((other.way, other.reason.as_deref()), (Way::Whole, Some("the layer has no table of contents")));
    assert!(layer.bytes < 42_000 && layer.bytes < other.bytes / 8, "{} of {}", layer.bytes, other.bytes);
    assert_eq!((pulled.bytes_fetched, &pulled.fetched[0].way), (layer.bytes, &Way::Here));
    assert_eq!((&pulled.image, &pulled.boot_image, pulled.objects_new), (&expected.image, &expected.boot_image, expected.objects_new));
    assert!(by_delta.everything() == whole.everything());
}

#[test]
fn the_cheapest_way_is_taken() {
    let (registry, desk) = (Registry::start(), Desk::new());
    published(&registry, &desk, "acme/delta", CHUNKED, true);
    published(&registry, &desk, "acme/parts", CHUNKED, false);
    let (by_delta, pulled) = second_pull(&registry, "acme/delta");
    let (in_parts, expected) = second_pull(&registry, "acme/parts");
    let (layer, other) = (top(&pulled), top(&expected));
    assert_eq!((layer.way, other.way), (Way::Delta, Way::Partial), "{pulled:?} {expected:?}");
    assert!(layer.bytes < other.bytes / 3 && other.bytes < other.size, "{} and {} of {}", layer.bytes, other.bytes, other.size);
    // Also what is known of contents is the same.
    assert!(by_delta.everything() == in_parts.everything());
    // Where parts cost less, the delta stays where it is: this one has the layer whole.
    let machine = Machine::new();
    machine.pull(&registry.name("acme/delta:v2"));
    let again = machine.pull(&registry.name("acme/delta:v1"));
    assert_eq!(top(&again).way, Way::Partial, "{again:?}");
}

/// Of a file of more than 8 MiB, both versions would be in memory.
#[test]
fn a_large_file_comes_in_pieces_of_the_old_one() {
    let mut desk = Desk::empty();
    let old = noise(9 << 20);
    // Something at the front, a hole in the middle, something else at the end.
    let new = [&b"new"[..], &old[..4 << 20], &old[5 << 20..], &noise_from(7, 1000)].concat();
    for (tag, content) in [("v1", &old), ("v2", &new)] {
        let files = Files::from([("usr/lib/large".to_owned(), content.clone())]);
        desk.image(tag, vec![tar(&base()), tar(&files)]);
    }
    let report = desk.v1_to_v2(&desk.layout.reference(None));
    assert_eq!(report.origins.patched, new.len() as u64, "{report:?}");
    let machine = Machine::new();
    machine.pull(&desk.tag("v1"));
    let pulled = machine.pull(&desk.tag("v2"));
    assert_eq!(top(&pulled).way, Way::Delta, "{pulled:?}");
    assert!(top(&pulled).bytes < 10_000, "{pulled:?}");
    machine.store.check_objects(&pulled.boot_image).unwrap();
}

#[test]
fn a_registry_that_lists_referrers_is_asked_for_them() {
    let (registry, desk) = (Registry::start(), Desk::new());
    published(&registry, &desk, "acme/os", &["--preserve-digests"], true);
    let relay = Relay::start(&registry.address, Odd::Referrers);
    let machine = Machine::new();
    machine.pull(&registry.name("acme/os:v1"));
    let pulled = machine.pull(&format!("{}/acme/os:v2", relay.address));
    assert_eq!(top(&pulled).way, Way::Delta, "{pulled:?}");
    let seen = relay.seen();
    let asked =
        format!("GET /v2/acme/os/referrers/{}?artifacttype=application/vnd.io.github.containers.oci-delta.v1 ", pulled.manifest_digest);
    assert!(seen.iter().any(|head| head.starts_with(&asked)), "{seen:#?}");
    assert!(!seen.iter().any(|head| head.contains("manifests/sha256-")));
    // One that has no ranges gives the whole patch.
    let relay = Relay::start(&registry.address, Odd::Ignored);
    let machine = Machine::new();
    machine.pull(&registry.name("acme/os:v1"));
    assert_eq!(top(&machine.pull(&format!("{}/acme/os:v2", relay.address))).way, Way::Delta);
}

#[test]
fn an_outage_while_a_delta_is_fetched_is_the_error_of_the_pull() {
    let (registry, desk) = (Registry::start(), Desk::new());
    published(&registry, &desk, "acme/os", &["--preserve-digests"], true);
    let relay = Relay::start(&registry.address, Odd::Gone(0));
    let machine = Machine::new();
    machine.pull(&registry.name("acme/os:v1"));
    let error = machine.try_pull(&format!("{}/acme/os:v2", relay.address)).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::Unreachable, "{error:#}");
    assert!(failure.message.contains(", 3 times in a row"), "{error:#}");
    // Three times the patch, and once the layer, in case that there is more to be had.
    let seen = relay.seen();
    assert_eq!(seen.iter().filter(|head| head.contains("user-agent: selkie/") && head.contains("/blobs/")).count(), 4, "{seen:#?}");
}

#[test]
fn credentials_are_those_of_the_image() {
    let (registry, desk) = (Registry::start_closed(), Desk::new());
    let authfile = registry.authfile("bWU6c2VjcmV0");
    let at = |tag: &str| registry.name(&format!("acme/os:{tag}"));
    for tag in ["v1", "v2"] {
        push(&["--preserve-digests", "--dest-authfile", authfile.to_str().unwrap()], desk.layout.path(), tag, &at(tag));
    }
    let source = SourceOptions { authfile: Some(authfile.clone()), ..plain_http() };
    let mut options = desk.options(&at("v1"), &at("v2"), &at("delta"));
    let refused = desk.delta(&Options { source: source.clone(), ..options.clone() }).unwrap_err();
    assert_eq!(Failure::find(&refused).unwrap().kind, FailureKind::Denied, "{refused:#}");
    options.destination.authfile = Some(authfile);
    desk.delta(&Options { source: source.clone(), ..options }).unwrap();
    let machine = Machine::new();
    let pull = |tag: &str| {
        let options = pull::Options { image: at(tag).parse().unwrap(), source: source.clone(), tag: Some(tag.to_owned()) };
        pull::run(&machine.store, &options, &silent()).unwrap()
    };
    pull("v1");
    assert_eq!(top(&pull("v2")).way, Way::Delta);
}

#[test]
fn an_image_may_have_a_layer_twice() {
    let mut desk = Desk::new();
    desk.image("twice", vec![tar(&base()), tar(&second()), tar(&second())]);
    let layers = [(Compression::Gzip, base()), (Compression::Gzip, second()), (Compression::Zstd, second())];
    let image = desk.layout.image("amd64", &layers.map(|(compression, files)| (compression, tar(&files))));
    desk.layout.publish(Some("other"), &image);
    for tag in ["twice", "other"] {
        let output = desk.layout.reference(None);
        let report = desk.delta(&desk.options(&desk.tag("v1"), &desk.tag(tag), &output)).unwrap();
        assert_eq!((report.layers.len(), report.layers_same), (1, 1));
        let machine = Machine::new();
        machine.pull(&desk.tag("v1"));
        let ways: Vec<Way> = machine.pull(&desk.tag(tag)).fetched.iter().map(|layer| layer.way).collect();
        assert_eq!(ways, [Way::Here, Way::Delta, Way::Here]);
    }
}

#[test]
fn a_delta_from_an_image_that_is_not_here_is_none() {
    let mut desk = Desk::new();
    desk.image("v0", vec![tar(&base())]);
    desk.v1_to_v2(&desk.layout.reference(None));
    for before in [None, Some("v0")] {
        let machine = Machine::new();
        before.iter().for_each(|tag| _ = machine.pull(&desk.tag(tag)));
        let pulled = machine.pull(&desk.tag("v2"));
        assert_eq!((top(&pulled).way, top(&pulled).reason.as_deref()), (Way::Whole, Some("the layer has no table of contents")));
    }
    // One that was here and is to go is not relied on.
    let machine = Machine::new();
    machine.pull(&desk.tag("v1"));
    machine.store.untag("v1").unwrap();
    assert_eq!(top(&machine.pull(&desk.tag("v2"))).way, Way::Whole);
    // Of several, the one that costs least.
    desk.delta(&desk.options(&desk.tag("v0"), &desk.tag("v2"), &desk.layout.reference(None))).unwrap();
    let machine = Machine::new();
    for tag in ["v0", "v1"] {
        machine.pull(&desk.tag(tag));
    }
    let pulled = machine.pull(&desk.tag("v2"));
    assert!(top(&pulled).way == Way::Delta && top(&pulled).bytes < 42_000, "{pulled:?}");
}

/// A layout with both releases and a delta, which is changed.
struct Lying {
    desk: Desk,
    /// It has the first release.
    machine: Machine,
    manifest: Value,
    right: (Value, Vec<u8>),
}

impl Lying {
    fn new() -> Self {
        let desk = Desk::new();
        let report = desk.v1_to_v2(&desk.layout.reference(None));
        let manifest = json(desk.layout.blob(&report.delta_digest));
        let patch = std::fs::read(desk.layout.blob(&report.layers[0].delta_digest)).unwrap();
        let machine = Machine::new();
        machine.pull(&desk.tag("v1"));
        Self { desk, machine, right: (manifest.clone(), patch), manifest }
    }

    /// Makes all right again.
    fn again(&mut self) {
        let (manifest, patch) = self.right.clone();
        self.manifest = manifest;
        self.patch(&patch);
    }

    fn put(&self, bytes: &[u8]) -> String {
        let digest = format!("sha256:{}", hex::encode(openssl::sha::sha256(bytes)));
        std::fs::write(self.desk.layout.blob(&digest), bytes).unwrap();
        digest
    }

    /// Puts this patch in place of the right one.
    fn patch(&mut self, bytes: &[u8]) {
        let digest = self.put(bytes);
        self.manifest["layers"][2]["digest"] = digest.into();
        self.manifest["layers"][2]["size"] = bytes.len().into();
    }

    /// The file of the patch.
    fn blob(&self) -> std::path::PathBuf {
        self.desk.layout.blob(self.manifest["layers"][2]["digest"].as_str().unwrap())
    }

    /// Lists the manifest as it is now, and pulls; afterwards the machine is as before.
    fn pull(&self) -> (Pulled, Vec<String>) {
        let bytes = serde_json::to_vec(&self.manifest).unwrap();
        let digest = self.put(&bytes);
        let path = self.desk.layout.path().join("index.json");
        let mut index = json(path.clone());
        let entry = &mut index["manifests"][2];
        entry["digest"] = digest.into();
        entry["size"] = bytes.len().into();
        std::fs::write(path, serde_json::to_vec(&index).unwrap()).unwrap();
        let recorder = std::sync::Arc::<Recorder>::default();
        let pulled = self.machine.pull_with(&self.desk.tag("v2"), &recorder).unwrap();
        self.machine.store.untag("v2").unwrap();
        self.machine.store.alone(&Silent).unwrap().gc(&[]).unwrap();
        (pulled, notes(&recorder))
    }
}

/// A patch of these operations.
fn patch(operations: &[(u8, u64, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (operation, mut size, data) in operations.iter().copied() {
        bytes.push(operation);
        while size >= 0x80 {
            bytes.push(size as u8 | 0x80);
            size >>= 7;
        }
        bytes.push(size as u8);
        bytes.extend(data);
    }
    [b"tardf2\n\0".as_slice(), &zstd::encode_all(bytes.as_slice(), 3).unwrap()].concat()
}

fn open(path: &str) -> (u8, u64, &[u8]) {
    (1, path.len() as u64, path.as_bytes())
}

type Lie<'a> = (&'a str, &'a dyn Fn(&mut Lying), &'a str);

#[test]
fn deltas_that_lie_cost_a_whole_layer_at_most() {
    let tool = first()["usr/bin/tool"].len() as u64;
    let table: &[Lie<'_>] = &[
        ("nothing", &|_| {}, ""),
        ("a flipped bit", &|lying| flip(&lying.blob()), "its blob has the digest"),
        ("a patch that ends early", &|lying| std::fs::write(lying.blob(), b"tardf1\n\0").unwrap(), "truncated: "),
        ("no blob", &|lying| std::fs::remove_file(lying.blob()).unwrap(), "the blob is missing"),
        ("no patch", &|lying| lying.patch(b"hello, world"), "Invalid tar-diff header"),
        ("garbage in the patch", &|lying| lying.patch(b"tardf1\n\0garbage"), "by a delta: "),
        ("an empty patch", &|lying| lying.patch(&patch(&[])), "diff_id mismatch"),
        ("an unknown operation", &|lying| lying.patch(&patch(&[(9, 0, b"")])), "op 9"),
        ("a file that is not there", &|lying| lying.patch(&patch(&[open("usr/none"), (2, 1, b"")])), "there is none"),
        ("a file outside", &|lying| lying.patch(&patch(&[open("../../../../etc/passwd"), (2, 1, b"")])), "there is none"),
        ("a directory", &|lying| lying.patch(&patch(&[open("usr/lib"), (2, 1, b"")])), "no regular file"),
        ("a link", &|lying| lying.patch(&patch(&[open("usr/sym"), (2, 1, b"")])), "no regular file"),
        ("no file", &|lying| lying.patch(&patch(&[(2, 1, b"")])), "has opened none"),
        ("more than a file has", &|lying| lying.patch(&patch(&[open("usr/bin/tool"), (2, tool + 1, b"")])), "of which there are"),
        (
            "bytes behind a file",
            &|lying| lying.patch(&patch(&[open("usr/bin/tool"), (4, 1 << 40, b""), (2, 1, b"")])),
            "of which there are 0",
        ),
        ("a frame of nothing", &|lying| lying.patch(&patch(&[open("usr/bin/tool"), (5, 4, b"none")])), "by a delta: "),
        ("another file", &|lying| lying.patch(&patch(&[open("usr/bin/tool"), (2, tool, b"")])), "diff_id mismatch"),
        ("a patch without end", &|lying| lying.patch(&endless()), "far more of the layer"),
        ("an unknown type", &|lying| lying.manifest["layers"][2]["mediaType"] = json!("text/plain"), ""),
        (
            "a patch as a layer",
            &|lying| lying.manifest["layers"][2]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar"),
            "diff_id mismatch",
        ),
        ("a size that is too large", &|lying| lying.manifest["layers"][2]["size"] = json!(u64::MAX / 2), ""),
        ("a size that is too small", &|lying| lying.manifest["layers"][2]["size"] = json!(100), "its blob has the digest"),
        ("no layers", &|lying| lying.manifest["layers"] = json!([]), ""),
        ("another subject", &|lying| lying.manifest["subject"]["digest"] = lying.manifest["config"]["digest"].clone(), ""),
        ("no subject", &|lying| lying.manifest["subject"] = Value::Null, ""),
        ("no type", &|lying| lying.manifest["artifactType"] = Value::Null, ""),
        ("no annotations", &|lying| lying.manifest["annotations"] = Value::Null, ""),
    ];
    let mut lying = Lying::new();
    let expected = Machine::new().pull(&lying.desk.tag("v2"));
    for (lie, spoil, reason) in table {
        lying.again();
        spoil(&mut lying);
        let (pulled, notes) = lying.pull();
        let layer = top(&pulled);
        assert_eq!((&pulled.image, &pulled.boot_image), (&expected.image, &expected.boot_image), "{lie}");
        if *lie == "nothing" {
            assert_eq!(layer.way, Way::Delta, "{pulled:?}");
            continue;
        }
        let found = layer.reason.as_deref().unwrap();
        assert_eq!(layer.way, Way::Whole, "{lie}: {found}");
        assert!(found.ends_with("the layer has no table of contents") && found.contains(reason), "{lie}: {found}");
        assert_eq!(found.contains("by a delta: "), !reason.is_empty(), "{lie}: {found}");
        assert!(layer.bytes >= layer.size && notes.iter().all(|note| !note.contains("looking for")), "{lie}: {notes:?}");
    }
}

/// A patch of a few bytes that makes as many as there is room for.
fn endless() -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(b"tardf1\n\0".to_vec(), 1).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..200 {
        encoder.write_all(&[0, 0x80, 0x80, 0x40]).unwrap();
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn a_list_that_is_wrong_is_told() {
    let lying = Lying::new();
    let path = lying.desk.layout.path().join("index.json");
    let mut index = json(path.clone());
    index["manifests"][2]["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    std::fs::write(path, serde_json::to_vec(&index).unwrap()).unwrap();
    let recorder = std::sync::Arc::<Recorder>::default();
    let pulled = lying.machine.pull_with(&lying.desk.tag("v2"), &recorder).unwrap();
    assert_eq!(top(&pulled).way, Way::Whole);
    let told = notes(&recorder);
    assert!(told.iter().any(|note| note.contains("looking for a delta of oci:")), "{told:?}");
}

#[test]
fn a_damaged_file_of_the_image_to_start_from_costs_a_whole_layer() {
    let desk = Desk::new();
    desk.v1_to_v2(&desk.layout.reference(None));
    let machine = Machine::new();
    machine.pull(&desk.tag("v1"));
    let tool = second()["usr/lib/09"].clone();
    let damaged: Vec<_> = machine.everything().into_iter().filter(|(_, content)| *content == tool).collect();
    let [(path, _)] = &damaged[..] else { panic!("{} files", damaged.len()) };
    let path = machine.temp.path().join("r").join(path);
    // A repository with fs-verity would not give it out.
    if std::fs::remove_file(&path).is_ok() {
        let mut other = tool;
        other[7] ^= 1;
        std::fs::write(&path, other).unwrap();
    }
    let pulled = machine.pull(&desk.tag("v2"));
    assert!(top(&pulled).way == Way::Whole && top(&pulled).reason.as_ref().unwrap().contains("by a delta: "), "{pulled:?}");
}
