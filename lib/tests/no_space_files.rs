//! Full file systems that files and objects of a pull meet: told with numbers, and nothing is lost.
//!
//! Small tmpfs mounts in a mount namespace of the test's thread; needs root.

#[path = "common/chunked.rs"]
mod chunked;
mod common;
#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;
#[path = "common/relay.rs"]
mod relay;
mod space_common;
mod store_common;

use std::sync::Arc;

use chunked::{Spoil, chunked};
use common::layout;
use oci::{Layout, plain_http};
use registry::{Registry, push};
use relay::{Odd, Relay};
use selkie::error::{Failure, FailureKind};
use selkie::image::OutputOptions;
use selkie::ops::upgrade::{Outcome, Until};
use selkie::ops::{pull, rechunk};
use selkie::progress::{Progress, Silent};
use selkie::store::{Keep, Scratch, Unproven};
use serde_json::Value;
use space_common::{assert_unchanged, installed, noise, repository, resize};
use store_common::{base, file, sha256, sized, tar, zeros};

#[test]
fn a_disk_that_fills_up_during_a_pull_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "4m", "8m");
    // Of none of them alone is it clear that it cannot fit.
    let add = |files, letter: &&str| layout::with(files, &format!("usr/{letter}"), &letter.repeat(3 << 20));
    machine.release("stable", &["a", "b", "c", "d"].iter().fold(layout::bootable("2"), add));
    let error = machine.upgrade(&first, None, Until::Stage).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    let begin = format!("pulling {}: ", machine.reference("stable"));
    let [full, free, missing] = [
        ": No space left on device (os error 28)",
        ": the file system of the repository has 0 MiB free; ",
        " MiB of layers, as they are fetched, are not here yet",
    ];
    assert!(failure.message.starts_with(&begin) && failure.message.contains(full) && failure.message.contains(free), "{failure}");
    assert!(failure.message.ends_with(missing) && failure.hint.is_some_and(|hint| hint.contains("`selkie gc`")), "{error:#}");
    assert_eq!(failure.message.matches(full).count(), 1, "{error:#}");
    assert_unchanged(&machine, &first);
    resize(&temp.path().join("sysroot"), "64m");
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, Outcome::Staged);
}

#[test]
fn a_disk_that_is_full_when_the_images_are_written_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let store = repository(temp.path(), "8m");
    let mut layout = Layout::new();
    let entries: Vec<_> = (0..20_000).map(|n| file(format!("usr/{n}"), [0; 60])).collect();
    let layer = tar(&base().into_iter().chain(entries).collect::<Vec<_>>());
    let image = layout.image(&selkie::image::host_architecture(), &[(oci::Compression::Gzip, layer)]);
    layout.publish(Some("v1"), &image);
    let options = pull::Options { image: layout.reference(Some("v1")).parse().unwrap(), source: plain_http(), tag: None };
    let pull = || pull::run(&store, &options, &(Arc::new(Silent) as Arc<dyn Progress>));
    space_common::fill(temp.path(), 1 << 20);
    let failure = Failure::find(&pull().unwrap_err()).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{failure}");
    assert!(failure.message.ends_with("; all layers are here, and the images of the root file system are not"), "{failure}");
    std::fs::remove_file(temp.path().join("other")).unwrap();
    assert_eq!(pull().unwrap().layers_new, 0);
}

#[test]
fn a_scratch_directory_that_is_full_is_told_as_one() {
    let temp = tempfile::tempdir().unwrap();
    drop(repository(temp.path(), "2m"));
    let images = tempfile::tempdir().unwrap();
    let files = (0..8).fold(layout::bootable("1"), |files, n| layout::with(files, &format!("usr/{n}"), &noise((1 << 20) + n)));
    layout::write(images.path(), "v1", &files);
    let options = rechunk::Options {
        image: format!("oci:{}:v1", images.path().display()).parse().unwrap(),
        output: format!("oci:{}:v2", images.path().display()).parse().unwrap(),
        scratch: temp.path().to_owned(),
        layers: rechunk::LAYERS,
        source: plain_http(),
        destination: OutputOptions::default(),
    };
    let error = rechunk::run(&options, &(Arc::new(Silent) as Arc<dyn Progress>)).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    assert!(failure.message.contains("the file system of the scratch directory has "), "{error:#}");
    assert!(failure.hint.is_some_and(|hint| hint.contains("--scratch") && !hint.contains("selkie gc")));
}

#[test]
fn a_file_that_cannot_fit_is_told_by_its_header() {
    let temp = tempfile::tempdir().unwrap();
    let (layer, diff_id) = (|| zeros(64 << 20), sha256(b"layer"));
    let store = repository(temp.path(), "8m");
    let mut read = layer();
    let error = store.import_layer(&diff_id, &mut read).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    let words = "storing file \"usr/big\": the file system of the repository has 7 MiB free (expected at least 64 MiB)";
    assert!(failure.message == words && failure.hint.is_some(), "{failure}");
    assert!(error.is::<Unproven>(), "{error:#}");
    assert!(std::io::copy(&mut read, &mut std::io::sink()).unwrap() > 63 << 20, "the rest is not read");
    assert!(!store.has_layer(&diff_id).unwrap() && store.objects().unwrap().is_empty());
    // What is not kept needs no room.
    let scratch = Scratch::new(temp.path(), store.algorithm()).unwrap();
    scratch.measure_layer(&diff_id, layer(), Keep::Names(|_| false)).unwrap();
    // Where nobody knows how much room there is, it is tried.
    let unbounded = repository(&temp.path().join("unbounded"), "0");
    assert_eq!(unbounded.import_layer(&diff_id, layer()).unwrap().bytes_new, 64 << 20);
}

/// Gives a file another size in its header in the list of tar headers; in the list, too, if `listed`.
fn resize_in_headers(lines: &mut [Value], file: &str, size: u64, listed: bool) {
    let place = lines.iter().position(|line| line["name"] == file).unwrap();
    if listed {
        lines[place]["size"] = size.into();
    }
    let before = &mut lines[place - 1]["payload"];
    let mut bytes = openssl::base64::decode_block(before.as_str().unwrap()).unwrap();
    bytes.truncate(bytes.len() - 512);
    sized(&mut bytes, file.as_bytes(), size);
    *before = openssl::base64::encode_block(&bytes).into();
}

#[test]
fn a_file_that_cannot_fit_by_a_table_that_lies_costs_a_whole_layer() {
    const SIZE: u64 = 64 << 30;
    let files = |version: &str| {
        let noise = noise(400_000);
        let content = (0..8).map(|n| file(format!("usr/{n}"), &noise.as_bytes()[n * 50_000..][..40_000]));
        // More than is rebuilt before it is known whether the file is taken.
        let text = [file("usr/text", version.repeat(1000)), file("usr/text-and-more", version.repeat(4 << 20))];
        tar(&base().into_iter().chain(content).chain(text).collect::<Vec<_>>())
    };
    // It is one hole.
    let hole = |table: &mut Value| {
        let entries = table["entries"].as_array_mut().unwrap();
        let entry = entries.iter_mut().find(|entry| entry["name"] == "usr/text").unwrap();
        (entry["size"], entry["chunkSize"], entry["chunkType"]) = (SIZE.into(), SIZE.into(), "zeros".into());
        entry["endOffset"] = entry["offset"].clone();
    };
    // Both tables lie, or the header alone: then the file comes without the one in the blob.
    let told_by_both = "its list of tar headers has something else before a file than the blob";
    let told_by_room = "storing file \"usr/text\": the file system of the repository has ";
    for (both, told) in [(true, told_by_both), (false, told_by_room)] {
        let temp = tempfile::tempdir().unwrap();
        let store = repository(temp.path(), "32m");
        let mut layout = Layout::new();
        chunked(&files("1"), &Spoil::nothing(true)).publish(&mut layout, "v1");
        let headers = |lines: &mut Vec<Value>| resize_in_headers(lines, "usr/text", SIZE, both);
        let spoil = Spoil { table: if both { &hole } else { &|_| {} }, headers: Some(&headers) };
        chunked(&files("2"), &spoil).publish(&mut layout, "v2");
        let pull = |tag: &str| {
            let options =
                pull::Options { image: layout.reference(Some(tag)).parse().unwrap(), source: plain_http(), tag: Some(tag.to_owned()) };
            pull::run(&store, &options, &(Arc::new(Silent) as Arc<dyn Progress>)).unwrap()
        };
        pull("v1");
        let pulled = pull("v2");
        let reason = pulled.fetched[0].reason.as_deref().unwrap_or_default();
        assert_eq!(pulled.fetched[0].way, pull::Way::Whole, "{pulled:?}");
        assert!(reason.starts_with(told), "{reason}");
        let text = store.tree(&pulled.image).unwrap().file("/usr/text").unwrap().unwrap();
        assert_eq!(text.size, 1000);
    }
}

#[test]
fn a_file_that_cannot_fit_by_the_header_in_the_blob_costs_no_whole_layer() {
    let files = |version: &str, extra: Option<store_common::Entry>| {
        let noise = noise(400_000);
        let content = (0..8).map(|n| file(format!("usr/{n}"), &noise.as_bytes()[n * 50_000..][..40_000]));
        tar(&base().into_iter().chain(content).chain([file("usr/text", version)]).chain(extra).collect::<Vec<_>>())
    };
    for headers in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        let store = repository(temp.path(), "32m");
        let (mut layout, registry) = (Layout::new(), Registry::start());
        chunked(&files("1", None), &Spoil::nothing(headers)).publish(&mut layout, "v1");
        // Of the large file, the table says what is so.
        let big = file("usr/big", vec![b'a'; 40 << 20]);
        chunked(&files("2", Some(big)), &Spoil::nothing(headers)).publish(&mut layout, "v2");
        for tag in ["v1", "v2"] {
            push(&["--preserve-digests"], layout.path(), tag, &registry.name(&format!("acme/os:{tag}")));
        }
        let relay = Relay::start(&registry.address, Odd::Gone(usize::MAX));
        let pull = |address: &str, tag: &str| {
            let image = format!("{address}/acme/os:{tag}").parse().unwrap();
            let options = pull::Options { image, source: plain_http(), tag: Some(tag.to_owned()) };
            pull::run(&store, &options, &(Arc::new(Silent) as Arc<dyn Progress>))
        };
        pull(&registry.address, "v1").unwrap();
        let error = pull(&relay.address, "v2").unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
        let numbers = " MiB free (expected at least 40 MiB)";
        assert!(failure.message.starts_with("storing file \"usr/big\": ") && failure.message.ends_with(numbers), "{failure}");
        let blobs = relay.seen().into_iter().filter(|head| head.contains("user-agent: selkie/") && head.contains("/blobs/"));
        let (parts, whole): (Vec<_>, Vec<_>) = blobs.partition(|head| head.contains("\r\nrange: "));
        assert!(parts.len() > 1 && whole.is_empty(), "{headers}: {whole:#?}");
    }
}
