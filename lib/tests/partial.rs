//! Pulls that fetch only the files that are missing, from a real registry: how many bytes, and that nobody can tell afterwards.

mod partial_common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use partial_common::chunked::{Spoil, chunked};
use partial_common::oci::{Compression, Layout, noise};
use partial_common::registry::{Registry, push};
use partial_common::{CHUNKED, Machine, Release, layout, pull_into, way};
use selkie::ops::pull::Way;
use selkie::progress::{Event, Recorder, Silent};
use selkie::store::CONTENT_INDEX;

#[test]
fn an_update_fetches_what_is_missing_and_the_repository_is_that_of_a_whole_pull() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    Release::second().push(&registry, "v2", CHUNKED);
    let (parts, whole) = (Machine::new(), Machine::new());
    for machine in [&parts, &whole] {
        let first = machine.pull(&registry.name("acme/os:v1"));
        let (way, bytes, size, reason) = way(&first);
        assert_eq!(
            (way, bytes, reason),
            (Way::Whole, size, Some("no layer with a table of contents came before, so no files are known here by their contents"))
        );
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
fn how_far_a_layer_in_parts_is_grows_and_ends_with_all_that_was_planned() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    Release::second().push(&registry, "v2", CHUNKED);
    let machine = Machine::new();
    machine.pull(&registry.name("acme/os:v1"));
    let recorder = Arc::<Recorder>::default();
    let pulled = pull_into(&machine.store, &registry.name("acme/os:v2"), &recorder).unwrap();
    let layer = &pulled.fetched[0];
    assert_eq!(layer.way, Way::Partial);
    let far = |event| match event {
        Event::Advance { item, done, total, .. } if item == layer.digest => Some((done, total)),
        _ => None,
    };
    let told: Vec<(u64, u64)> = recorder.events().into_iter().filter_map(far).collect();
    assert!(told.len() > 1 && told.is_sorted_by(|(before, total), (after, same)| before < after && total == same), "{told:?}");
    assert_eq!(told.last().map(|(done, total)| done == total), Some(true), "{told:?}");
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
    assert_eq!(
        (way(&second).0, way(&second).3),
        (Way::Whole, Some("no layer with a table of contents came before, so no files are known here by their contents"))
    );
    assert!(!machine.store.contents().unwrap().is_empty());
}

#[test]
fn an_index_is_made_again_of_what_can_be_read() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    Release::second().push(&registry, "v2", CHUNKED);
    let machine = Machine::new();
    machine.pull(&registry.name("acme/os:v1"));
    machine.pull(&registry.name("acme/os:v2"));
    let repository = machine.temp.path().join("r");
    let knows = |release: &Release, path: &str| {
        let content = &release.0[path];
        machine.store.contents().unwrap().has(&openssl::sha::sha256(content), content.len() as u64)
    };
    let known = || {
        let (first, second) = (Release::first(), Release::second());
        [knows(&first, "usr/lib/03"), knows(&first, "usr/lib/04"), knows(&second, "usr/lib/07")]
    };
    assert_eq!(known(), [true; 3]);
    // A file that leads in circles, and a layer and a manifest that are cut.
    let content = &Release::first().0["usr/lib/03"];
    let object = composefs::fsverity::compute_verity::<composefs::fsverity::Sha256HashValue>(content);
    let object = repository.join("objects").join(composefs::fsverity::FsVerityHashValue::to_object_pathname(&object));
    std::fs::remove_file(&object).unwrap();
    std::os::unix::fs::symlink(&object, &object).unwrap();
    let second = format!("sha256:{}", hex::encode(openssl::sha::sha256(&Release::second().tar())));
    let manifest = machine.store.tags().unwrap().into_iter().find(|(tag, _)| tag == "v2").unwrap().1;
    for stream in [format!("oci-layer-{second}"), format!("oci-manifest-{manifest}")] {
        let stream = std::fs::canonicalize(repository.join("streams").join(stream)).unwrap();
        let bytes = std::fs::read(&stream).unwrap();
        std::fs::remove_file(&stream).unwrap();
        std::fs::write(&stream, &bytes[..20]).unwrap();
    }
    std::fs::remove_file(machine.index()).unwrap();
    assert!(machine.store.lacks_content_index().unwrap());
    assert!(machine.store.rebuild_content_index().unwrap());
    assert!(!machine.store.lacks_content_index().unwrap());
    assert_eq!(known(), [false, true, false]);
}

#[test]
fn an_index_is_not_made_of_objects_that_are_not_what_they_are_called() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    let machine = Machine::new();
    let first = machine.pull(&registry.name("acme/os:v1"));
    let (right, mut other) = (Release::first().0["usr/lib/20"].clone(), Release::first().0["usr/lib/20"].clone());
    other[100] ^= 1;
    let knows = |content: &[u8]| machine.store.contents().unwrap().has(&openssl::sha::sha256(content), content.len() as u64);
    assert!(knows(&right) && !knows(&other));
    let file = machine.store.tree(&first.boot_image).unwrap().file("/usr/lib/20").unwrap().unwrap();
    let selkie::store::Content::Object(object) = file.content else { panic!("it is inline") };
    let path = machine.temp.path().join("r/objects").join(object.path());
    // Whether or not it is sealed.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &other).unwrap();
    std::fs::remove_file(machine.index()).unwrap();
    assert!(machine.store.rebuild_content_index().unwrap());
    assert!(!knows(&right) && !knows(&other));
    assert!(knows(&Release::first().0["usr/lib/21"]));
}

#[test]
fn an_index_forgets_what_was_removed_and_nothing_else() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    Release::second().push(&registry, "v2", CHUNKED);
    let (both, second) = (Machine::new(), Machine::new());
    both.pull(&registry.name("acme/os:v1"));
    for machine in [&both, &second] {
        machine.pull(&registry.name("acme/os:v2"));
    }
    let index = |machine: &Machine| std::fs::read(machine.index()).unwrap();
    assert!(index(&both).len() > index(&second).len());
    let untouched = index(&both);
    assert_eq!(both.store.alone(&Silent).unwrap().gc(&[]).unwrap().objects, 0);
    assert!(!both.store.alone(&Silent).unwrap().forget_what_is_gone().unwrap());
    assert!(index(&both) == untouched);
    both.store.untag("v1").unwrap();
    assert!(both.store.alone(&Silent).unwrap().gc(&[]).unwrap().objects > 0);
    assert!(both.store.alone(&Silent).unwrap().forget_what_is_gone().unwrap());
    assert!(index(&both) == index(&second));
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
        let needed = missing + second.tables;
        // With the list, not even the small files are fetched, which are in the streams of layers and are no objects.
        let most = if headers { needed } else { needed * 11 / 10 };
        assert!((needed..=most).contains(&bytes), "{bytes} bytes (expected {needed} to {most})");
        assert_eq!(pulled.bytes_fetched, bytes);
    }
}

#[test]
fn a_large_file_comes_with_its_header() {
    let mut release = Release::second();
    release.0.insert("usr/large".into(), noise(8_000_000)[5_500_000..].to_vec());
    let mut layout = Layout::new();
    chunked(&Release::first().tar(), &Spoil::nothing(true)).publish(&mut layout, "v1");
    let second = chunked(&release.tar(), &Spoil::nothing(true));
    second.publish(&mut layout, "v2");
    let machine = Machine::new();
    machine.pull(&layout.reference(Some("v1")));
    let pulled = machine.pull(&layout.reference(Some("v2")));
    let (way, bytes, _, reason) = way(&pulled);
    assert_eq!((way, reason), (Way::Partial, None));
    let missing = second.files["usr/lib/07"] + second.files["usr/share/new"] + second.files["usr/large"];
    let header = bytes - missing - second.tables;
    assert!((1..1000).contains(&header), "{header} bytes");
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
        machine.store.alone(&Silent).unwrap().gc(&[]).unwrap();
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

#[test]
fn a_layout_and_a_registry_give_the_same_repository() {
    let registry = Registry::start();
    let mut zstd = Layout::new();
    for (tag, release) in [("v1", Release::first()), ("v2", Release::second())] {
        let image = zstd.image("amd64", &[(Compression::Zstd, release.tar())]);
        zstd.publish(Some(tag), &image);
    }
    let (chunked, _) = layout(&Spoil::nothing(true));
    for (name, layout, update) in [("zstd", &zstd, Way::Whole), ("chunked", &chunked, Way::Partial)] {
        let (here, there) = (Machine::new(), Machine::new());
        for (tag, expected) in [("v1", Way::Whole), ("v2", update)] {
            let remote = registry.name(&format!("acme/{name}:{tag}"));
            push(&["--preserve-digests"], layout.path(), tag, &remote);
            let ways = [here.pull(&layout.reference(Some(tag))), there.pull(&remote)].map(|pulled| way(&pulled).0);
            assert_eq!(ways, [expected; 2], "{name}, {tag}");
            let (here, there) = (here.everything(), there.everything());
            for folder in ["streams", "images", "objects"] {
                assert!(here.keys().any(|path| path.starts_with(folder)), "{name}, {tag}: nothing in {folder}");
            }
            assert!(here.keys().eq(there.keys()), "{name}, {tag}: {:?} and {:?}", here.keys(), there.keys());
            for (path, content) in &here {
                assert!(*content == there[path], "{name}, {tag}: {}", path.display());
            }
        }
    }
}

#[test]
fn the_index_is_written_after_the_layers_and_may_name_what_is_gone() {
    let (layout, _) = layout(&Spoil::nothing(true));
    let machine = Machine::new();
    let recorder = Arc::new(Recorder::default());
    let first = machine.pull_with(&layout.reference(Some("v1")), &recorder).unwrap();
    let steps = ["mark unsynced", "import layer", "name layers", "write content index", "commit image", "tag image"];
    assert_eq!(recorder.steps(), steps[usize::from(machine.store.is_sealed())..]);
    machine.store.untag("v1").unwrap();
    assert!(machine.store.alone(&Silent).unwrap().gc(&[]).unwrap().objects > 40);
    // The index still names what is gone.
    assert!(!machine.store.contents().unwrap().is_empty());
    let second = machine.pull(&layout.reference(Some("v2")));
    assert_eq!((way(&second).0, way(&second).3), (Way::Whole, Some("nearly all of it is missing here")));
    assert!(machine.store.alone(&Silent).unwrap().forget_what_is_gone().unwrap());
    let fresh = Machine::new();
    fresh.pull(&layout.reference(Some("v2")));
    assert!(std::fs::read(machine.index()).unwrap() == std::fs::read(fresh.index()).unwrap());
    // A layer that is here is not fetched, and is no news for the index; nor is the image made again.
    let recorder = Arc::new(Recorder::default());
    let again = machine.pull_with(&layout.reference(Some("v2")), &recorder).unwrap();
    assert_eq!((way(&again).0, again.bytes_fetched), (Way::Here, 0));
    assert_eq!(recorder.steps(), ["tag image"]);
    assert_ne!(first.image, second.image);
}
