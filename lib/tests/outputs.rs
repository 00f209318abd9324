//! What the verbs that write images ask of their output before the work: what it names now, and whether it can be reached.

mod rechunk_common;
#[path = "common/registry.rs"]
mod registry;

use std::process::Command;

use rechunk_common::oci::{Compression, plain_http, tar};
use rechunk_common::{Desk, silent};
use registry::{Registry, copy};
use selkie::error::{Failure, FailureKind};
use selkie::image::OutputOptions;
use selkie::image_id::Algorithm;
use selkie::ops::{rechunk, seal};

/// An image that is not there: what is refused is refused without looking for it.
const NONE: &str = "oci:/none";

/// A desk with an image under `one`, and an index of two under `several` and of itself under `single`.
fn desk() -> Desk {
    let mut desk = Desk::new();
    let image = |architecture: &str| desk.layout.image(architecture, &[(Compression::Gzip, tar(b"x"))]);
    let (one, other) = (image("amd64"), image("arm64"));
    let (several, single) = (desk.layout.index(&[&one, &other]), desk.layout.index(&[&one]));
    for (tag, what) in [("one", &one), ("several", &several), ("single", &single)] {
        desk.layout.publish(Some(tag), what);
    }
    desk
}

/// What writes an image, with nothing to make it of.
fn writers(desk: &Desk, output: &str, destination: &OutputOptions) -> [(&'static str, Failure); 2] {
    let (image, output, scratch) = (NONE.parse().unwrap(), output.parse().unwrap(), desk.path("scratch"));
    let rechunk =
        rechunk::Options { image, source: plain_http(), output, destination: destination.clone(), layers: rechunk::LAYERS, scratch };
    let seal = seal::Options {
        image: rechunk.image.clone(),
        source: plain_http(),
        output: rechunk.output.clone(),
        destination: destination.clone(),
        signer: None,
        arguments: vec![],
        addons: vec![],
        algorithm: Algorithm::Sha256,
        mtime: 0,
        scratch: rechunk.scratch.clone(),
    };
    let failed = |error: anyhow::Error| Failure::find(&error).unwrap_or_else(|| panic!("{error:#}"));
    let rechunked = desk.rechunk(&rechunk).map(drop).map_err(failed).unwrap_err();
    [("rechunk", rechunked), ("seal", seal::run(&seal, &silent()).map(drop).map_err(failed).unwrap_err())]
}

fn to_plain_http() -> OutputOptions {
    OutputOptions { tls_verify: Some(false), ..Default::default() }
}

#[test]
fn an_index_is_not_replaced_by_one_image() {
    let (desk, registry) = (desk(), Registry::start());
    let at = |tag: &str| registry.name(&format!("acme/os:{tag}"));
    for tag in ["several", "single"] {
        copy(&["--all"], &desk.original(tag), &format!("docker://{}", at(tag)));
    }
    copy(&[], &desk.original("one"), &format!("docker://{}", at("one")));
    let (layout, before) = (desk.layout.path().join("index.json"), registry.tag("acme/os", "several"));
    let index = std::fs::read(&layout).unwrap();
    let both = "an image index of 2 manifests: linux/amd64, linux/arm64 (expected an image, or nothing)";
    let table = [
        (at("several"), both),
        (at("single"), "an image index of 1 manifest: linux/amd64 (expected an image, or nothing)"),
        (desk.original("several"), both),
    ];
    for (output, expected) in table {
        for (verb, failure) in writers(&desk, &output, &to_plain_http()) {
            assert_eq!((failure.kind, failure.message), (FailureKind::Usage, format!("writing {output}: it names {expected}")), "{verb}");
            assert!(failure.hint.is_some_and(|hint| hint.contains("podman manifest")), "{verb}");
        }
    }
    // What names an image, or nothing yet, is no reason: the image to start from is looked for.
    for output in [at("one"), at("new"), registry.name("acme/new:v1"), desk.original("one"), desk.original("new")] {
        for (verb, failure) in writers(&desk, &output, &to_plain_http()) {
            assert!(failure.kind == FailureKind::NotFound && failure.message.contains("/none"), "{verb} {output}: {failure}");
        }
    }
    assert_eq!((registry.tag("acme/os", "several"), std::fs::read(&layout).unwrap()), (before, index));
}

#[test]
fn nor_is_one_in_the_storage_of_podman() {
    let desk = desk();
    let (root, run) = (desk.path("storage"), desk.path("run"));
    let create = ["--storage-driver", "vfs", "--root", root.to_str().unwrap(), "--runroot", run.to_str().unwrap()];
    let made = Command::new("podman").args(create).args(["manifest", "create", "localhost/os:several"]).output();
    let made = made.expect("starting podman, which this test needs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let at = |tag: &str| format!("containers-storage:[vfs@{}+{}]localhost/os:{tag}", root.display(), run.display());
    for (tag, kind, words) in [("several", FailureKind::Usage, "an image index of 0 manifests"), ("new", FailureKind::NotFound, "/none")] {
        for (verb, failure) in writers(&desk, &at(tag), &to_plain_http()) {
            assert!(failure.kind == kind && failure.message.contains(words), "{verb}: {failure}");
        }
    }
}

#[test]
fn an_output_that_cannot_be_reached_is_found_before_the_work() {
    let (desk, closed) = (desk(), Registry::start_closed());
    std::fs::write(desk.path("none.json"), "{}").unwrap();
    let anonymous = OutputOptions { authfile: Some(desk.path("none.json")), ..to_plain_http() };
    let table = [
        ("127.0.0.1:1/acme/os:v1".to_owned(), to_plain_http(), FailureKind::Unreachable),
        (closed.name("acme/os:v1"), anonymous, FailureKind::Denied),
        (format!("oci:{}/none/at/all:v1", desk.temp.path().display()), to_plain_http(), FailureKind::NotFound),
    ];
    for (output, options, kind) in table {
        for (verb, failure) in writers(&desk, &output, &options) {
            assert_eq!(failure.kind, kind, "{verb}: {failure}");
            let place = output.strip_prefix("oci:").unwrap_or(&output).trim_end_matches(":v1");
            assert!(failure.message.starts_with(&format!("writing {place}")), "{verb}: {failure}");
        }
    }
}
