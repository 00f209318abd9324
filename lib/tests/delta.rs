//! `delta`: what is written, that others read it and make the same image of it, and what is refused.

mod delta_common;

use std::sync::Arc;

use composefs::fsverity::Sha256HashValue;
use composefs::repository::Repository;
use composefs_oci::PullOptions;
use delta_common::partial_common::oci::{Compression, flip};
use delta_common::partial_common::registry::{Registry, meddling_line, push, put_index};
use delta_common::{Desk, base, first, json, second, tar};
use ocidir::oci_spec::image::{Descriptor, Digest, MediaType};
use selkie::error::{Failure, FailureKind};
use selkie::image_id::Algorithm;
use selkie::ops::delta::Options;
use selkie::store::{Store, Verity};

const DELTA: &str = "application/vnd.io.github.containers.oci-delta.v1";

#[test]
fn a_delta_has_what_is_new_and_is_found_by_its_subject() {
    let desk = Desk::new();
    // Into the layout of the images, without a tag.
    let report = desk.v1_to_v2(&desk.layout.reference(None));
    assert!(report.size < 45_000 && report.size < report.size_whole / 8, "{report:?}");
    let [layer] = &report.layers[..] else { panic!("{report:?}") };
    assert!(layer.patch && report.layers_same == 1);
    let content = second();
    let size = |paths: &[&str]| paths.iter().map(|path| content[*path].len() as u64).sum::<u64>();
    let patched = size(&["usr/bin/tool", "usr/lib/libfoo.so.1.3.1", "usr/lib/modules/6.1.0-10/vmlinuz"]);
    assert_eq!(report.origins.patched, patched);
    let all: u64 = content.values().map(|content| content.len() as u64).sum();
    assert_eq!(report.origins.copied, all - patched - size(&["usr/share/new", "usr/share/small"]));

    let index = json(desk.layout.path().join("index.json"));
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!((&entries[2]["artifactType"], &entries[2]["digest"]), (&DELTA.into(), &report.delta_digest.clone().into()));
    assert!(entries[2]["annotations"].get("org.opencontainers.image.ref.name").is_none() && entries[2].get("platform").is_none());
    let manifest = json(desk.layout.blob(&report.delta_digest));
    assert_eq!((&manifest["artifactType"], &manifest["subject"]["digest"]), (&DELTA.into(), &report.to_digest.clone().into()));
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");
    let v1 = json(desk.layout.blob(&report.from_digest));
    assert_eq!(entries[2]["annotations"], manifest["annotations"]);
    let annotation = |name: &str| &manifest["annotations"][format!("io.github.containers.delta.{name}")];
    assert_eq!(annotation("source-config"), &v1["config"]["digest"]);
    assert_eq!(annotation("source"), &report.from_digest);
    assert_eq!(annotation("reused"), &format!("[{}]", v1["layers"][0]["digest"]));
    for described in manifest["layers"].as_array().unwrap() {
        let blob = std::fs::read(desk.layout.blob(described["digest"].as_str().unwrap())).unwrap();
        assert_eq!(described["size"], blob.len());
    }
    // Images are read as before, and once more is no news.
    let again = desk.v1_to_v2(&desk.layout.reference(None));
    assert_eq!((&again.delta_digest, again.bytes_written), (&report.delta_digest, 0));
    assert_eq!(json(desk.layout.path().join("index.json")), index);
}

/// Pulls by composefs' own library: the names of manifest, configuration and root.
fn pull_by_library(desk: &Desk, references: &[String]) -> Vec<(String, String, String)> {
    let at = selkie::sys::dir::open_path(desk.temp.path()).unwrap();
    drop(Store::open_or_init(at, "library", Some(Algorithm::Sha256), Verity::Never).unwrap());
    let open = || Arc::new(Repository::<Sha256HashValue>::open_path(rustix::fs::CWD, desk.path("library")).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let pulled = references.iter().enumerate().map(|(number, reference)| {
        let repository = open();
        let tag = format!("tag{number}");
        let pulled = runtime.block_on(composefs_oci::pull(&repository, reference, Some(&tag), PullOptions::default()));
        let pulled = pulled.unwrap_or_else(|e| panic!("{reference}: {e:#}"));
        let root = composefs_oci::composefs_erofs_for_config(&repository, &pulled.config_digest, None, repository.erofs_version()).unwrap();
        (pulled.manifest_digest.to_string(), pulled.config_digest.to_string(), format!("{root:?}"))
    });
    pulled.collect()
}

#[test]
fn composefs_makes_the_same_image_of_a_delta() {
    for output in ["oci:DIR/delta", "oci:DIR/delta:v1-v2", "oci-archive:DIR/delta.tar"] {
        let (by_delta, whole) = (Desk::new(), Desk::new());
        let output = output.replace("DIR", &by_delta.temp.path().display().to_string());
        by_delta.v1_to_v2(&output);
        let found = pull_by_library(&by_delta, &[by_delta.tag("v1"), output]);
        let expected = pull_by_library(&whole, &[whole.tag("v1"), whole.tag("v2")]);
        assert_eq!(found, expected);
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let digest = || {
        let desk = Desk::new();
        let archive = desk.path("delta.tar");
        let report = desk.v1_to_v2(&format!("oci-archive:{}", archive.display()));
        (report.delta_digest, std::fs::read(archive).unwrap())
    };
    assert!(digest() == digest());
}

#[test]
fn in_a_registry_a_tag_stands_in_for_the_list_of_referrers() {
    let registry = Registry::start();
    let mut desk = Desk::new();
    desk.image("v0", vec![tar(&base())]);
    for tag in ["v0", "v1", "v2"] {
        push(&["--preserve-digests"], desk.layout.path(), tag, &registry.name(&format!("acme/os:{tag}")));
    }
    let at = |tag: &str| registry.name(&format!("acme/os:{tag}"));
    let delta = |from: &str| desk.delta(&desk.options(&at(from), &at("v2"), &at(&format!("delta-{from}-v2")))).unwrap();
    let (one, other) = (delta("v1"), delta("v0"));
    assert_eq!(registry.tag("acme/os", "delta-v1-v2"), one.delta_digest);
    let tag = one.to_digest.replace(':', "-");
    let list = |digest: &str| {
        let index = json(registry.blob(digest));
        assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
        let entries = index["manifests"].as_array().unwrap().clone();
        assert!(entries.iter().all(|entry| entry["artifactType"] == DELTA));
        entries.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let digest = registry.tag("acme/os", &tag);
    assert_eq!(list(&digest), [one.delta_digest.as_str(), &other.delta_digest]);
    assert_eq!(delta("v1").delta_digest, one.delta_digest);
    assert_eq!(registry.tag("acme/os", &tag), digest);
    // What is in another layer of the image to start from is not brought along again.
    assert!(other.layers_same == 1 && other.layers.len() == 1 && other.size > 10 * one.size, "{other:?}");
    // All that hosts need is there.
    let manifest = json(registry.blob(&one.delta_digest));
    assert!(manifest["layers"].as_array().unwrap().iter().all(|layer| registry.blob(layer["digest"].as_str().unwrap()).exists()));
    // A tag of an image is none for a delta.
    let refused = desk.delta(&desk.options(&at("v1"), &at("v2"), &at("v1"))).unwrap_err();
    assert_eq!(Failure::find(&refused).unwrap().kind, FailureKind::Usage, "{refused:#}");
    // Nor is a list that is none changed.
    push(&["--preserve-digests"], desk.layout.path(), "v1", &at(&tag));
    let refused = desk.delta(&desk.options(&at("v1"), &at("v2"), &at("again"))).unwrap_err();
    assert_eq!(Failure::find(&refused).unwrap().kind, FailureKind::Unreachable, "{refused:#}");
    assert_eq!(registry.tag("acme/os", &tag), one.from_digest);
}

#[test]
fn a_layer_that_no_patch_beats_is_taken_as_it_is() {
    let mut desk = Desk::new();
    // Nothing but a header: what a patch says besides is too much.
    let new = tar(&[("usr/note".to_owned(), b"little".to_vec())].into());
    let small = zstd::encode_all(new.as_slice(), 22).unwrap();
    let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(openssl::sha::sha256(bytes)));
    std::fs::write(desk.layout.blob(&digest(&small)), &small).unwrap();
    let top = Descriptor::new(MediaType::ImageLayerZstd, small.len() as u64, digest(&small).parse::<Digest>().unwrap());
    let (bottom, diff_id) = desk.layout.layer(Compression::Gzip, &tar(&base()));
    let image = desk.layout.image_of("amd64", vec![bottom, top], vec![diff_id, digest(&new)]);
    desk.layout.publish(Some("new"), &image);
    let output = format!("oci:{}", desk.path("delta").display());
    let report = desk.delta(&desk.options(&desk.tag("v1"), &desk.tag("new"), &output)).unwrap();
    let [layer] = &report.layers[..] else { panic!("{report:?}") };
    assert!(!layer.patch && layer.digest == layer.delta_digest && layer.size == layer.delta_size, "{layer:?}");
    let expected = pull_by_library(&Desk { temp: tempfile::tempdir().unwrap(), ..Desk::new() }, &[desk.tag("new")]);
    assert_eq!(pull_by_library(&desk, &[desk.tag("v1"), output])[1], expected[0]);
}

fn refused(desk: &Desk, options: &Options) -> (FailureKind, String) {
    let error = desk.delta(options).unwrap_err();
    let failure = Failure::find(&error).unwrap_or_else(|| panic!("{error:#}"));
    (failure.kind, format!("{error:#}"))
}

#[test]
fn images_between_which_there_is_nothing_to_make_are_refused() {
    let mut desk = Desk::new();
    let output = format!("oci:{}", desk.path("delta").display());
    let foreign = desk.layout.image("arm64", &[(Compression::Gzip, tar(&first()))]);
    desk.layout.publish(Some("arm"), &foreign);
    let same = desk.layout.image("amd64", &[(Compression::Gzip, tar(&base())), (Compression::Gzip, tar(&second()))]);
    desk.layout.publish(Some("same"), &desk.layout.annotated(&same, &[("example.new", "yes")]));
    let table = [
        ("v2", "v2", FailureKind::Usage, "(expected two)"),
        ("v2", "same", FailureKind::Usage, "(expected one that is not)"),
        ("v1", "arm", FailureKind::Unsuitable, "linux/amd64"),
        ("arm", "v1", FailureKind::Unsuitable, "linux/amd64"),
    ];
    for (from, to, expected, words) in table {
        let (kind, message) = refused(&desk, &desk.options(&desk.tag(from), &desk.tag(to), &output));
        assert!(kind == expected && message.contains(words), "{from} {to}: {kind:?} {message}");
    }
    assert_eq!(refused(&desk, &desk.options(&desk.tag("none"), &desk.tag("v1"), &output)).0, FailureKind::NotFound);
    assert!(!desk.path("delta").exists());
}

#[test]
fn outputs_that_cannot_be_are_refused_before_the_work() {
    let desk = Desk::new();
    std::fs::write(desk.path("there"), "").unwrap();
    let there = desk.path("there").display().to_string();
    let table = [
        ("containers-storage:os:delta".to_owned(), FailureKind::Usage),
        ("docker-archive:/os.tar".to_owned(), FailureKind::Usage),
        (format!("quay.io/acme/os@sha256:{}", "a".repeat(64)), FailureKind::Usage),
        (format!("oci-archive:{there}"), FailureKind::Usage),
        (format!("oci:{there}"), FailureKind::Usage),
        (format!("oci:{}/none/at/all", desk.temp.path().display()), FailureKind::NotFound),
        (desk.tag("v1"), FailureKind::Usage),
        ("127.0.0.1:1/acme/os:delta".to_owned(), FailureKind::Unreachable),
    ];
    for (output, expected) in table {
        // There are no such images: what is refused is refused without looking at them.
        let (kind, message) = refused(&desk, &desk.options("oci:/none", "oci:/none", &output));
        assert_eq!(kind, expected, "{message}");
        assert!(message.contains("writing") || message.contains("resolving 127"), "{message}");
    }
}

#[test]
fn an_output_where_nobody_looks_is_refused_before_the_work() {
    let desk = Desk::new();
    // Nobody is there: what is refused is refused without asking.
    let table = [
        ("127.0.0.1:1/acme/other:delta", "deltas of 127.0.0.1:1/acme/os:v2 are looked for in 127.0.0.1:1/acme/os and nowhere else"),
        ("127.0.0.1:2/acme/os:delta", "deltas of 127.0.0.1:1/acme/os:v2 are looked for in 127.0.0.1:1/acme/os and nowhere else"),
        ("127.0.0.1:1/acme/os", "latest, which a reference without a tag means, is the tag of images"),
        ("127.0.0.1:1/acme/os:latest", "latest, which a reference without a tag means, is the tag of images"),
    ];
    for (output, words) in table {
        let (kind, message) = refused(&desk, &desk.options("127.0.0.1:1/acme/os:v1", "127.0.0.1:1/acme/os:v2", output));
        assert!(kind == FailureKind::Usage && message.contains(words), "{output}: {kind:?} {message}");
    }
}

#[test]
fn others_who_list_at_the_same_time_take_nothing_from_the_list() {
    let (registry, mut desk) = (Registry::start(), Desk::new());
    desk.image("v0", vec![tar(&base())]);
    for tag in ["v0", "v1", "v2"] {
        push(&["--preserve-digests"], desk.layout.path(), tag, &registry.name(&format!("acme/os:{tag}")));
    }
    let delta = |address: &str, from: &str| {
        let at = |tag: &str| format!("{address}/acme/os:{tag}");
        desk.delta(&desk.options(&at(from), &at("v2"), &at(&format!("delta-{from}-v2"))))
    };
    let other = delta(&registry.address, "v0").unwrap();
    let tag = other.to_digest.replace(':', "-");
    let before = std::fs::read(registry.blob(&registry.tag("acme/os", &tag))).unwrap();
    let one = delta(&meddling_line(&registry.address, &tag, &before, 2), "v1").unwrap();
    let index = json(registry.blob(&registry.tag("acme/os", &tag)));
    let listed: Vec<_> = index["manifests"].as_array().unwrap().iter().map(|entry| entry["digest"].clone()).collect();
    assert_eq!(listed, [other.delta_digest, one.delta_digest]);
    // Not for ever.
    put_index(&registry.address, &tag, &before);
    let refused = delta(&meddling_line(&registry.address, &tag, &before, usize::MAX), "v1").unwrap_err();
    assert!(Failure::find(&refused).unwrap().kind == FailureKind::Unreachable && format!("{refused:#}").contains("5 times"), "{refused:#}");
}

#[test]
fn a_damaged_image_gives_no_delta() {
    for tag in ["v1", "v2"] {
        let desk = Desk::new();
        let output = format!("oci:{}", desk.path("delta").display());
        let report = desk.v1_to_v2(&format!("oci:{}", desk.path("other").display()));
        let manifest = json(desk.layout.blob(if tag == "v1" { &report.from_digest } else { &report.to_digest }));
        flip(&desk.layout.blob(manifest["layers"][1]["digest"].as_str().unwrap()));
        let (kind, message) = refused(&desk, &desk.options(&desk.tag("v1"), &desk.tag("v2"), &output));
        assert_eq!(kind, FailureKind::Corrupt, "{message}");
        assert!(!desk.path("delta").exists());
    }
}
