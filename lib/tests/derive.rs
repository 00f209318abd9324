//! Images with a layer more: what is written is what was derived, wherever it goes.

mod derive_common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use derive_common::oci::{self, Compression, Layout, read, read_all, tar};
use derive_common::registry::{Registry, copy, push};
use derive_common::{Base, check, open, seal, snapshot, top};
use selkie::image::Written;
use selkie::progress::{Event, Recorder, Silent};
use serde_json::{Value, json};

const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_what_was_derived_wherever_it_goes() {
    let (base, registry, temp) = (Base::new(&ALL), Registry::start(), tempfile::tempdir().unwrap());
    let at = temp.path().display();
    let mut outputs =
        vec![format!("oci:{at}/new:v2"), format!("oci:{at}/only"), format!("oci-archive:{at}/os.tar:v2"), registry.name("acme/os:v2")];
    if rustix::process::geteuid().is_root() {
        outputs.push(format!("containers-storage:[vfs@{at}/storage+{at}/run]localhost/os:v2"));
    }
    for output in outputs {
        let (derived, written) = seal(&base.reference(), &output).await.unwrap();
        let own = derived.blob.len() + derived.config.len() + derived.manifest.len();
        let bytes: u64 = open(&base.reference()).await.resolved().layers.iter().map(|layer| layer.size).sum();
        let expected =
            Written { reference: output.clone(), manifest_digest: derived.manifest_digest.clone(), bytes_written: bytes + own as u64 };
        assert_eq!(written, expected);
        check(&output, &derived, &base.tars).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_base_can_be_derived_from() {
    let (base, registry, temp) = (Base::new(&[Compression::Gzip; 2]), Registry::start(), tempfile::tempdir().unwrap());
    let at = temp.path().display();
    push(&[], base.layout.path(), "v1", &registry.name("acme/os:v1"));
    push(&["--format=v2s2"], base.layout.path(), "v1", &registry.name("acme/os:docker"));
    let (oci, docker) = (format!("oci-archive:{at}/oci.tar:v1"), format!("docker-archive:{at}/docker.tar:localhost/os:v1"));
    let mut bases = vec![base.reference(), registry.name("acme/os:v1"), registry.name("acme/os:docker"), oci.clone(), docker.clone()];
    copy(&[], &base.reference(), &oci);
    copy(&[], &base.reference(), &docker);
    if rustix::process::geteuid().is_root() {
        let storage = format!("containers-storage:[vfs@{at}/storage+{at}/run]localhost/os:v1");
        copy(&[], &base.reference(), &storage);
        bases.push(storage);
    }
    for (number, from) in bases.iter().enumerate() {
        let output = format!("oci:{at}/{number}:v2");
        let (derived, _) = seal(from, &output).await.unwrap();
        check(&output, &derived, &base.tars).await;
        assert!(!String::from_utf8_lossy(&derived.manifest).contains("docker"), "{from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_read_as_they_are_and_verified() {
    let (base, registry) = (Base::new(&ALL), Registry::start());
    push(&["--preserve-digests"], base.layout.path(), "v1", &registry.name("acme/os:v1"));
    for reference in [base.reference(), registry.name("acme/os:v1")] {
        let source = open(&reference).await;
        for (index, layer) in source.resolved().layers.iter().enumerate() {
            let recorder = Arc::new(Recorder::default());
            let bytes = read_all(source.open_blob(index, recorder.clone()).await.unwrap()).await.unwrap();
            assert_eq!(bytes, std::fs::read(base.layout.blob(&layer.digest)).unwrap(), "{reference}, layer {index}");
            let last = recorder.events().pop();
            assert!(matches!(last, Some(Event::Advance { done, total, .. }) if done == layer.size && total == layer.size), "{last:?}");
        }
        assert!(source.open_blob(3, Arc::new(Silent)).await.is_err());
        source.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digest_stays_through_other_tools_and_the_same_input_gives_it_again() {
    // Other tools compress layers that are not compressed.
    let (base, registry, temp) = (Base::new(&ALL[1..]), Registry::start(), tempfile::tempdir().unwrap());
    let at = temp.path().display();
    let (derived, _) = seal(&base.reference(), &format!("oci:{at}/one:v2")).await.unwrap();
    copy(&[], &format!("oci:{at}/one:v2"), &format!("docker://{}", registry.name("acme/os:v2")));
    copy(&[], &format!("docker://{}", registry.name("acme/os:v2")), &format!("oci:{at}/back:v2"));
    copy(&[], &format!("oci:{at}/back:v2"), &format!("oci-archive:{at}/os.tar:v2"));
    for output in [registry.name("acme/os:v2"), format!("oci:{at}/back:v2"), format!("oci-archive:{at}/os.tar:v2")] {
        check(&output, &derived, &base.tars).await;
    }
    for output in ["one.tar", "two.tar"] {
        let (again, _) = seal(&base.reference(), &format!("oci-archive:{at}/{output}:v2")).await.unwrap();
        assert_eq!(again, derived);
    }
    let mode = |name: &str| std::fs::metadata(temp.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("one.tar"), mode("one/index.json"));
    assert_eq!(std::fs::read(temp.path().join("one.tar")).unwrap(), std::fs::read(temp.path().join("two.tar")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_derived_image_is_a_base_too() {
    let (base, temp) = (Base::new(&[Compression::Gzip]), tempfile::tempdir().unwrap());
    let (one, two) = (format!("oci:{}/x:one", temp.path().display()), format!("oci:{}/x:two", temp.path().display()));
    let (first, _) = seal(&base.reference(), &one).await.unwrap();
    let (second, written) = seal(&one, &two).await.unwrap();
    // The same layer twice is one blob.
    assert_eq!(written.bytes_written, (second.config.len() + second.manifest.len()) as u64);
    check(&one, &first, &base.tars).await;
    let archive = format!("oci-archive:{}/os.tar:two", temp.path().display());
    assert_eq!(seal(&one, &archive).await.unwrap().0, second);
    for output in [two, archive] {
        check(&output, &second, &[base.tars[0].clone(), top()]).await;
    }
    let config: Value = serde_json::from_slice(&second.config).unwrap();
    let ours = json!({"created": "2023-11-14T22:13:20Z", "created_by": "a test"});
    assert_eq!(config["history"], json!([{}, ours, ours]));
    assert_eq!(config["rootfs"]["diff_ids"][1], config["rootfs"]["diff_ids"][2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_image_of_this_architecture_is_derived() {
    let mut layout = Layout::new();
    let [amd64, arm64] = ["amd64", "arm64"].map(|a| layout.image(a, &[(Compression::Gzip, tar(a.as_bytes()))]));
    let index = layout.index(&[&arm64, &amd64]);
    layout.publish(Some("all"), &index);
    let output = layout.reference(Some("sealed"));
    let (derived, _) = seal(&layout.reference(Some("all")), &output).await.unwrap();
    check(&output, &derived, &[tar(b"amd64")]).await;
    assert_eq!(open(&layout.reference(Some("all"))).await.resolved().index_digest.as_deref(), Some(index.digest().as_ref()));
    let listed: Value = serde_json::from_slice(&std::fs::read(layout.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(listed["manifests"][1]["platform"], json!({"os": "linux", "architecture": "amd64"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_keeps_its_other_images_and_its_blobs() {
    let base = Base::new(&[Compression::Gzip, Compression::Zstd]);
    let before = snapshot(base.layout.path());
    let times = |snapshot: &[(PathBuf, Option<Vec<u8>>)]| -> Vec<_> {
        let blobs = snapshot.iter().filter(|(path, content)| content.is_some() && !path.ends_with("index.json"));
        blobs.map(|(path, _)| std::fs::metadata(path).unwrap().modified().unwrap()).collect()
    };
    let (old, output) = (times(&before), base.layout.reference(Some("v2")));
    let (derived, written) = seal(&base.reference(), &output).await.unwrap();
    assert_eq!(written.bytes_written, (derived.blob.len() + derived.config.len() + derived.manifest.len()) as u64);
    assert_eq!(times(&before), old);
    check(&output, &derived, &base.tars).await;
    let v1 = open(&base.reference()).await;
    assert_eq!(read(&v1, 1, Arc::new(Silent)).await.unwrap(), base.tars[1]);
    // The base's own tag is as good as any other.
    seal(&base.reference(), &base.reference()).await.unwrap();
    check(&base.reference(), &derived, &base.tars).await;
    let index: Value = serde_json::from_slice(&std::fs::read(base.layout.path().join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_in_the_output_is_written_again() {
    let (base, temp) = (Base::new(&[Compression::Gzip]), tempfile::tempdir().unwrap());
    let output = format!("oci:{}/x:v2", temp.path().display());
    let (derived, _) = seal(&base.reference(), &output).await.unwrap();
    let layers = open(&output).await.resolved().layers.clone();
    oci::flip(&temp.path().join("x/blobs").join(layers[0].digest.replace(':', "/")));
    oci::halve(&temp.path().join("x/blobs").join(layers[1].digest.replace(':', "/")));
    let (_, written) = seal(&base.reference(), &output).await.unwrap();
    assert_eq!(written.bytes_written, layers[0].size + layers[1].size);
    check(&output, &derived, &base.tars).await;
}
