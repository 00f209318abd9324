//! Pulls that fetch only the files that are missing, from tables, registries and repositories that are not what they should be.

mod partial_common;
#[path = "common/relay.rs"]
mod relay;

use partial_common::chunked::{Change, Spoil, chunked};
use partial_common::oci::Layout;
use partial_common::registry::Registry;
use partial_common::{CHUNKED, Machine, Release, layout, way};
use relay::{Odd, Relay};
use selkie::ops::pull::Way;
use serde_json::{Value, json};

/// The entry of a file in a table of contents.
fn entry<'a>(table: &'a mut Value, name: &str) -> &'a mut Value {
    table["entries"].as_array_mut().unwrap().iter_mut().find(|entry| entry["name"] == name && entry["type"] == "reg").unwrap()
}

/// Gives a file the digest of another one.
fn digest_of(table: &mut Value, file: &str, other: &str) {
    let other = entry(table, other)["digest"].clone();
    entry(table, file)["digest"] = other;
}

/// Has a file end with a hole.
fn hole_at_the_end(table: &mut Value, file: &str, size: u64) {
    let first = entry(table, file);
    let (end, before) = (first["endOffset"].clone(), first["size"].as_u64().unwrap());
    first["size"] = json!(before + size);
    let hole = json!({"type": "chunk", "name": file, "chunkOffset": before, "chunkSize": size, "chunkType": "zeros", "offset": end});
    let entries = table["entries"].as_array_mut().unwrap();
    let last = entries.iter().rposition(|entry| entry["name"] == file).unwrap();
    entries.insert(last + 1, hole);
}

type Lie<'a> = (&'a str, Change<'a, Value>, Option<&'a str>);

#[test]
fn tables_that_lie_cost_a_whole_layer_at_most() {
    let table: [Lie<'_>; 13] = [
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
        ("a hole that makes a file larger than the disk", &|t| hole_at_the_end(t, "usr/hole", 1 << 60), Some("bytes")),
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
            let largest = machine.store.objects().unwrap().into_iter().map(|object| object.size).max();
            assert_eq!(largest, Some(2_400_000), "{lie}, {headers}: that of the largest file");
        }
    }
}

/// Two files that are here, instead of the one in the tar that has the contents of both.
fn two_files_of_one(table: &mut Value) {
    let entries = table["entries"].as_array_mut().unwrap();
    let of = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap()["digest"].clone();
    let (first, second) = (of("usr/same/a"), of("usr/same/b"));
    let place = entries.iter().position(|entry| entry["name"] == "usr/same/c").unwrap();
    let mut one = entries[place].clone();
    let (start, end) = (one["offset"].clone(), one["endOffset"].as_u64().unwrap());
    (one["size"], one["chunkSize"]) = (json!(5000), json!(5000));
    let mut other = one.clone();
    (one["digest"], one["endOffset"]) = (first, json!(end - 1));
    (other["digest"], other["offset"]) = (second, json!(end - 1));
    assert!(start.as_u64().unwrap() < end - 1);
    entries[place] = one;
    entries.insert(place + 1, other);
}

#[test]
fn a_table_that_makes_two_files_of_one_costs_a_whole_layer() {
    let mut layout = Layout::new();
    chunked(&Release::first().tar(), &Spoil::nothing(true)).publish(&mut layout, "v1");
    let mut release = Release::second();
    release.0.insert("usr/same/c".into(), [[b'a'; 5000], [b'b'; 5000]].concat());
    let second = chunked(&release.tar(), &Spoil { table: &two_files_of_one, headers: None });
    second.publish(&mut layout, "v2");
    let machine = Machine::new();
    machine.pull(&layout.reference(Some("v1")));
    let pulled = machine.pull(&layout.reference(Some("v2")));
    let (way, _, _, reason) = way(&pulled);
    assert_eq!((way, reason), (Way::Whole, Some("what its table of contents calls a file is not one in its tar")), "{pulled:?}");
    machine.store.check_objects(&pulled.boot_image).unwrap();
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
    // The whole layer had its bytes: it is well again, in both images.
    for image in [&first.boot_image, &pulled.boot_image] {
        machine.store.check_objects(image).unwrap();
    }
}
