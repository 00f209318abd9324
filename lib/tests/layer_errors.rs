//! What is told of a layer that cannot be read: which one, once, and what was found.

#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use oci::{Compression, Damage, Layout, flip, halve, noise, plain_http, remove, tar};
use registry::{Registry, push};
use selkie::error::{Failure, FailureKind};
use selkie::image_id::Algorithm;
use selkie::ops::{digest, pull};
use selkie::progress::{Progress, Silent};
use selkie::store::Verity;

/// Every error of a verb that reads the image, as people see it.
fn told(image: &str) -> [anyhow::Error; 2] {
    let (temp, progress) = (tempfile::tempdir().unwrap(), Arc::new(Silent) as Arc<dyn Progress>);
    let image: selkie::reference::ImageReference = image.parse().unwrap();
    let repository = pull::Repository { path: temp.path().join("r"), algorithm: Some(Algorithm::Sha256), verity: Verity::IfPossible };
    let options = pull::Options { image: image.clone(), source: plain_http(), tag: Some("os".to_owned()) };
    let pulled = pull::run_into(&repository, &options, &progress).unwrap_err();
    let options = digest::Options { image, source: plain_http(), algorithm: None, scratch: temp.path().to_owned() };
    [pulled, digest::run(&options, &progress).unwrap_err()]
}

fn check(image: &str, layer: &str, what: &str) {
    for error in told(image) {
        let shown = format!("{error:#}");
        assert_eq!(Failure::find(&error).map(|failure| failure.kind), Some(FailureKind::Corrupt), "{what}: {shown}");
        assert_eq!(shown.matches(layer).count(), 1, "{what}: {shown}");
    }
}

fn published(compression: Compression) -> (Layout, String) {
    let mut layout = Layout::new();
    let layers = [(compression, tar(b"first")), (compression, tar(&noise(200_000)))];
    let image = layout.image(&selkie::image::host_architecture(), &layers);
    layout.publish(Some("v1"), &image);
    let manifest = std::fs::read(layout.blob(image.digest().as_ref())).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][1]["digest"].as_str().unwrap().to_owned();
    (layout, layer)
}

#[test]
fn a_layer_is_named_once() {
    let registry = Registry::start();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let (layout, layer) = published(compression);
        let name = registry.name("acme/os:v1");
        push(&["--preserve-digests"], layout.path(), "v1", &name);
        let damages: [(&str, Damage); 3] = [("flipped", &flip), ("halved", &halve), ("removed", &remove)];
        for (what, damage) in damages {
            for (image, blob) in [(layout.reference(Some("v1")), layout.blob(&layer)), (name.clone(), registry.blob(&layer))] {
                let good = std::fs::read(&blob).unwrap();
                damage(&blob);
                check(&image, &layer, &format!("{compression:?} {what}"));
                std::fs::write(&blob, good).unwrap();
            }
        }
        let archive = layout.path().join("os.tar");
        flip(&layout.blob(&layer));
        pack(layout.path(), &archive);
        check(&format!("oci-archive:{}:v1", archive.display()), &layer, &format!("{compression:?} in an archive"));
    }
}

fn pack(layout: &Path, archive: &Path) {
    let argv = ["oci-layout", "index.json", "blobs"];
    let status = Command::new("tar").arg("--create").arg("--file").arg(archive).arg("--directory").arg(layout).args(argv).status();
    assert!(status.expect("tar is installed").success());
}
