//! What the store makes of a layer equals what composefs-oci makes of it: the split stream to the last bit, and every object.

mod store_common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, Sha512HashValue};
use composefs::repository::Repository;
use composefs_oci::{LAYER_CONTENT_TYPE, layer_content_id};
use selkie::error::FailureKind;
use selkie::image_id::Algorithm;
use selkie::store::{Store, Verity};
use store_common::random::Random;
use store_common::*;

/// The objects of a repository by name, and their bytes.
fn objects(repository: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for directory in std::fs::read_dir(repository.join("objects")).unwrap().map(|entry| entry.unwrap().path()) {
        for file in std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            let name = format!("{}/{}", directory.file_name().unwrap().display(), file.file_name().unwrap().display());
            found.insert(name, std::fs::read(&file).unwrap());
        }
    }
    found
}

fn make(within: &Path, name: &str, algorithm: Algorithm) -> Store {
    let parent = selkie::sys::dir::open_path(within).unwrap();
    Store::open_or_init(parent, name, Some(algorithm), Verity::Never).unwrap()
}

/// Takes in `layer` by the library: where its stream is.
fn by_library<H: FsVerityHashValue>(within: &Path, layer: &[u8]) -> String {
    let repository = Arc::new(Repository::<H>::open_path(rustix::fs::CWD, within.join("library")).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let split = composefs_oci::tar::split_async(layer, repository, LAYER_CONTENT_TYPE);
    let (stream, _) = runtime.block_on(split).unwrap();
    format!("../objects/{}", stream.to_object_pathname())
}

/// Takes in `layer` both ways.
fn compare(what: &str, layer: &[u8]) {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let temp = temporary();
        drop(make(temp.path(), "library", algorithm));
        let expected = match algorithm {
            Algorithm::Sha256 => by_library::<Sha256HashValue>(temp.path(), layer),
            Algorithm::Sha512 => by_library::<Sha512HashValue>(temp.path(), layer),
        };
        make(temp.path(), "ours", algorithm).import_layer(&sha256(layer), layer).unwrap();
        let name = layer_content_id(&sha256(layer).parse().unwrap());
        let found = std::fs::read_link(temp.path().join("ours/streams").join(name)).unwrap();
        assert_eq!(found, Path::new(&expected), "{what}, {algorithm}");
        let (ours, library) = (objects(&temp.path().join("ours")), objects(&temp.path().join("library")));
        assert!(ours.keys().eq(library.keys()), "{what}, {algorithm}: {:?} (expected {:?})", ours.keys(), library.keys());
        assert!(ours == library, "{what}, {algorithm}: the contents of objects differ");
    }
}

/// A layer with one file of each size, each with other contents.
fn sizes(sizes: &[usize]) -> Vec<u8> {
    let files = sizes.iter().enumerate().map(|(index, size)| {
        let content: Vec<u8> = (0..*size).map(|n| (n / 3 + index) as u8).collect();
        file(format!("f{index}"), content)
    });
    tar(&files.collect::<Vec<_>>())
}

#[test]
fn files_of_every_size_that_matters() {
    let around = |size: usize| [size - 1, size, size + 1];
    let small: Vec<usize> = [1, 64, 512, 4096, 65536].into_iter().flat_map(around).collect();
    compare("small files", &sizes(&small));
    // Around what is gathered for the writer, and around what is held as a whole.
    let large: Vec<usize> = [1 << 20, 4 << 20].into_iter().flat_map(around).chain([5 << 20, (9 << 20) + 17]).collect();
    compare("large files", &sizes(&large));
    compare("many files", &sizes(&[3000; 900]));
}

#[test]
fn entries_of_every_kind() {
    for (number, layer) in system().iter().chain(&labelled()).enumerate() {
        compare(&format!("layer {number}"), layer);
    }
    let same = [file("a", [7; 5000]), hardlink("b", "a"), file("c", [7; 5000]), file("d", [7; 70]), file("e", [7; 70])];
    compare("the same file again", &tar(&same));
    let long = "long/".repeat(60);
    let mut layer = Vec::new();
    block(&mut layer, b'L', b"././@LongLink", b"", format!("{long}name\0").as_bytes(), 0o644, (0, 0), 0, (0, 0));
    block(&mut layer, b'0', b"short", b"", &[1; 100], 0o644, (0, 0), 0, (0, 0));
    block(&mut layer, b'K', b"././@LongLink", b"", format!("{long}name\0").as_bytes(), 0o644, (0, 0), 0, (0, 0));
    block(&mut layer, b'2', b"link", b"short", b"", 0o777, (0, 0), 0, (0, 0));
    let records = [record("path", format!("{long}pax").as_bytes()), record("mtime", b"5.25"), record("SCHILY.xattr.user.a", b"b")].concat();
    block(&mut layer, b'g', b"global", b"", &record("comment", b"nothing"), 0o644, (0, 0), 0, (0, 0));
    block(&mut layer, b'x', b"pax", b"", &records, 0o644, (0, 0), 0, (0, 0));
    block(&mut layer, b'0', b"short", b"", &[2; 5000], 0o4755, (7, 8), 9, (0, 0));
    block(&mut layer, b'3', b"null", b"", b"", 0o666, (0, 0), 0, (1, 3));
    block(&mut layer, b'4', b"disk", b"", b"", 0o660, (0, 6), 0, (8, 0));
    block(&mut layer, b'6', b"fifo", b"", b"", 0o600, (0, 0), 0, (0, 0));
    block(&mut layer, b'0', b"d/.wh.gone", b"", b"", 0o644, (0, 0), 0, (0, 0));
    block(&mut layer, b'0', b"d/.wh..wh..opq", b"", b"", 0o644, (0, 0), 0, (0, 0));
    compare("without an end", &layer);
    layer.resize(layer.len() + 1024, 0);
    compare("with an end", &layer);
    layer.resize(layer.len().next_multiple_of(10240), 0);
    compare("with a whole record", &layer);
    layer.extend(b"something after the end");
    compare("with something after the end", &layer);
}

#[test]
fn random_layers() {
    let mut random = Random(0x5e1_f1e);
    for round in 0..15 {
        for layer in with_base(random.stack()) {
            compare(&format!("round {round}"), &layer);
        }
    }
}

/// The map of a PAX sparse file 1.0 is text, which ends nowhere here; composefs-oci's reader asks for the same bytes for ever.
#[test]
fn a_header_that_never_ends_is_refused() {
    let temp = temporary();
    let repository = repository(&temp);
    let records = [record("GNU.sparse.major", b"1"), record("GNU.sparse.minor", b"0"), record("GNU.sparse.realsize", b"4096")].concat();
    let mut layer = Vec::new();
    block(&mut layer, b'x', b"pax", b"", &records, 0o644, (0, 0), 0, (0, 0));
    block(&mut layer, b'0', b"x", b"", &[b'1'; 1 << 20], 0o644, (0, 0), 0, (0, 0));
    layer.resize(layer.len() + 1024, 0);
    let error = repository.import_layer(&sha256(&layer), &layer[..]).unwrap_err();
    let found = failure(&error);
    assert_eq!((found.kind, found.message.as_str()), (FailureKind::Unsuitable, "reading its tar stream: a header that does not end"));
    assert!(!repository.has_layer(&sha256(&layer)).unwrap());
    let scratch = selkie::store::Scratch::new(temp.path(), Algorithm::Sha256).unwrap();
    let measured = scratch.measure_layer(&sha256(&layer), &layer[..], selkie::store::Keep::Names(|_| false)).unwrap_err();
    assert_eq!(failure(&measured), found);
}

#[test]
fn an_object_that_was_shortened_is_replaced() {
    let temp = temporary();
    let repository = repository(&temp);
    let first = tar(&[file("a", [7; 5000])]);
    repository.import_layer(&sha256(&first), &first[..]).unwrap();
    let root = temp.path().join("repository");
    let whole = objects(&root);
    let (name, _) = whole.iter().find(|(_, bytes)| bytes.len() == 5000).unwrap();
    let at = root.join("objects").join(name);
    std::fs::remove_file(&at).unwrap();
    std::fs::write(&at, []).unwrap();
    let second = tar(&[file("b", [7; 5000]), file("c", [8; 5000])]);
    let stats = repository.import_layer(&sha256(&second), &second[..]).unwrap();
    assert_eq!((stats.objects_new, stats.objects_reused, stats.bytes_new), (2, 0, 10000));
    assert_eq!(std::fs::read(&at).unwrap(), [7; 5000]);
}
