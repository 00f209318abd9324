//! OCI layout directories: what is chosen, and that nothing wrong is ever read to its end.

#[path = "common/oci.rs"]
mod oci;

use std::sync::Arc;

use oci::{Compression, Damage, Layout, flip, halve, noise, read, remove, tar};
use selkie::error::{Failure, FailureKind};
use selkie::image::{Source, SourceOptions};
use selkie::progress::{Event, Recorder, Silent, Unit};

const VERSION: &str = "org.opencontainers.image.version";

fn amd64() -> SourceOptions {
    SourceOptions { architecture: Some("amd64".into()), ..Default::default() }
}

async fn open(reference: &str) -> Result<Source, Failure> {
    let opened = Source::open(&reference.parse().unwrap(), &amd64(), &Silent).await;
    opened.map_err(|e| Failure::find(&e).unwrap_or_else(|| panic!("not a failure: {e:?}")))
}

async fn refused(reference: &str) -> Failure {
    match open(reference).await {
        Ok(source) => panic!("{reference} was resolved to {}", source.resolved().manifest_digest),
        Err(failure) => failure,
    }
}

#[tokio::test]
async fn layers_of_every_compression_come_out_as_they_went_in() {
    let mut layout = Layout::new();
    let layers = [Compression::None, Compression::Gzip, Compression::Zstd].map(|c| (c, tar(format!("{c:?}").as_bytes())));
    let image = layout.image("amd64", &layers);
    layout.publish(Some("v1"), &image);
    let source = open(&layout.reference(Some("v1"))).await.unwrap();
    let resolved = source.resolved();
    assert_eq!(resolved.manifest_digest, image.digest().to_string());
    assert_eq!(resolved.manifest, std::fs::read(layout.blob(&resolved.manifest_digest)).unwrap());
    assert_eq!(resolved.config, std::fs::read(layout.blob(&resolved.config_digest)).unwrap());
    assert_eq!((resolved.index_digest.as_ref(), resolved.label(VERSION).as_deref()), (None, Some("1")));
    for (index, (_, tar)) in layers.iter().enumerate() {
        assert_eq!(&read(&source, index, Arc::new(Silent)).await.unwrap(), tar);
    }
    assert!(source.open_layer(3, Arc::new(Silent)).await.is_err());
    let reader = source.open_layer(0, Arc::new(Silent)).await.unwrap();
    source.close().await.unwrap();
    assert_eq!(oci::read_all(reader).await.unwrap_err().to_string(), "its source was given up");
}

#[tokio::test]
async fn progress_ends_with_all_of_the_blob_and_only_when_it_was_good() {
    let mut layout = Layout::new();
    let image = layout.image("amd64", &[(Compression::Gzip, tar(&noise(900_000)))]);
    layout.publish(None, &image);
    let source = open(&layout.reference(None)).await.unwrap();
    let layer = &source.resolved().layers[0];
    let recorder = Arc::new(Recorder::default());
    read(&source, 0, recorder.clone()).await.unwrap();
    let done: Vec<u64> = recorder.events().into_iter().map(|event| advance(event, &layer.digest, layer.size)).collect();
    assert!(done.windows(2).all(|pair| pair[0] < pair[1]), "{done:?}");
    assert!(done.len() as u64 <= layer.size / (256 * 1024) + 1 && done.len() > 1, "{done:?}");
    assert_eq!(done.last(), Some(&layer.size));
    flip(&layout.blob(&layer.digest));
    let recorder = Arc::new(Recorder::default());
    read(&source, 0, recorder.clone()).await.unwrap_err();
    assert!(recorder.events().into_iter().all(|event| advance(event, &layer.digest, layer.size) < layer.size));
}

fn advance(event: Event, expected: &str, size: u64) -> u64 {
    match event {
        Event::Advance { item, done, total, unit: Unit::Bytes } if item == expected && total == size => done,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn damaged_layers_never_reach_their_end() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut layout = Layout::new();
        let image = layout.image("amd64", &[(compression, tar(&noise(100_000)))]);
        layout.publish(None, &image);
        let source = open(&layout.reference(None)).await.unwrap();
        let layer = source.resolved().layers[0].clone();
        let blob = layout.blob(&layer.digest);
        let good = std::fs::read(&blob).unwrap();
        let table: [(&dyn Fn(), &str); 4] = [
            (&|| flip(&blob), "blob digest is sha256:"),
            (&|| halve(&blob), "truncated: it ended after "),
            (&|| std::fs::write(&blob, [&good[..], b"more"].concat()).unwrap(), "size is more than "),
            (&|| std::fs::remove_file(&blob).unwrap(), "the blob is missing"),
        ];
        for (damage, expected) in table {
            std::fs::write(&blob, &good).unwrap();
            damage();
            let failure = read(&source, 0, Arc::new(Silent)).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Corrupt);
            assert!(failure.message.contains(expected), "{compression:?}: {failure}");
        }
    }
}

#[tokio::test]
async fn a_wrong_diff_id_is_found() {
    let mut layout = Layout::new();
    let (layer, diff_id) = layout.layer(Compression::Gzip, &tar(b"this"));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let image = layout.image_of("amd64", vec![layer], vec![wrong.clone()]);
    layout.publish(None, &image);
    let failure = read(&open(&layout.reference(None)).await.unwrap(), 0, Arc::new(Silent)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Corrupt);
    assert!(failure.message.ends_with(&format!("diff_id of the uncompressed bytes is {diff_id} (expected {wrong})")), "{failure}");
}

#[tokio::test]
async fn damaged_metadata_is_found_while_resolving() {
    for what in ["image index", "manifest", "configuration"] {
        for (damage, found) in
            [(&flip as Damage, "blob digest is sha256:"), (&halve, "blob digest is sha256:"), (&remove, "the blob is missing")]
        {
            let mut layout = Layout::new();
            let image = layout.image("amd64", &[(Compression::Gzip, tar(b"x"))]);
            let index = layout.index(&[&image]);
            layout.publish(Some("v1"), &index);
            let config = open(&layout.reference(None)).await.unwrap().resolved().config_digest.clone();
            let digest = match what {
                "image index" => index.digest().to_string(),
                "manifest" => image.digest().to_string(),
                _ => config,
            };
            damage(&layout.blob(&digest));
            let failure = refused(&layout.reference(Some("v1"))).await;
            assert_eq!(failure.kind, FailureKind::Corrupt);
            assert!(failure.message.starts_with(&format!("reading {what} {digest}")) && failure.message.contains(found), "{failure}");
        }
    }
}

#[tokio::test]
async fn the_image_of_this_architecture_is_chosen_through_any_number_of_indexes() {
    let mut layout = Layout::new();
    let [amd64, arm64, s390x] = ["amd64", "arm64", "s390x"].map(|a| layout.image(a, &[(Compression::Gzip, tar(a.as_bytes()))]));
    let inner = layout.index(&[&arm64, &amd64]);
    let outer = layout.index(&[&s390x, &inner]);
    let foreign = layout.index(&[&arm64, &s390x]);
    layout.publish(Some("all"), &outer);
    layout.publish(Some("foreign"), &foreign);
    layout.publish(Some("arm"), &arm64);
    let source = open(&layout.reference(Some("all"))).await.unwrap();
    let found = (&source.resolved().manifest_digest, source.resolved().index_digest.as_deref());
    assert_eq!(found, (&amd64.digest().to_string(), Some(outer.digest().as_ref())));
    assert_eq!(read(&source, 0, Arc::new(Silent)).await.unwrap(), tar(b"amd64"));
    for (tag, there) in [("foreign", "linux/arm64, linux/s390x"), ("arm", "linux/arm64")] {
        let failure = refused(&layout.reference(Some(tag))).await;
        assert_eq!(failure.kind, FailureKind::Unsuitable);
        assert!(failure.message.ends_with(&format!("there is none for linux/amd64; it is for {there}")), "{failure}");
    }
    let failure = refused(&layout.reference(Some("none"))).await;
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(failure.message.ends_with("there is no tag none; it has all, arm, foreign"), "{failure}");
}

#[tokio::test]
async fn without_a_tag_there_must_be_one_image() {
    let mut layout = Layout::new();
    assert_eq!(refused(&layout.reference(None)).await.kind, FailureKind::NotFound);
    let [one, two] = [b"1", b"2"].map(|content| layout.image("amd64", &[(Compression::Gzip, tar(content))]));
    let arm64 = layout.image("arm64", &[(Compression::Gzip, tar(b"x"))]);
    layout.publish(None, &arm64);
    layout.publish(Some("one"), &one);
    layout.publish(Some("same"), &one);
    assert_eq!(open(&layout.reference(None)).await.unwrap().resolved().manifest_digest, one.digest().to_string());
    layout.publish(Some("two"), &two);
    let failure = refused(&layout.reference(None)).await;
    assert_eq!(failure.kind, FailureKind::Usage);
    assert!(failure.message.ends_with("it has one, same, two"), "{failure}");
    assert_eq!(open(&layout.reference(Some("two"))).await.unwrap().resolved().manifest_digest, two.digest().to_string());
}

#[tokio::test]
async fn the_platform_is_read_from_the_image_where_the_index_does_not_say() {
    let mut layout = Layout::new();
    let mut image = layout.image("amd64", &[(Compression::Gzip, tar(b"x"))]);
    image.set_platform(None);
    layout.publish(Some("v1"), &image);
    assert_eq!(open(&layout.reference(Some("v1"))).await.unwrap().resolved().manifest_digest, image.digest().to_string());
    let mut lying = layout.image("arm64", &[(Compression::Gzip, tar(b"x"))]);
    lying.set_platform(layout.image("amd64", &[]).platform().clone());
    layout.publish(Some("lying"), &lying);
    assert_eq!(refused(&layout.reference(Some("lying"))).await.kind, FailureKind::Unsuitable);
}

#[tokio::test]
async fn what_is_no_layout_is_said_so() {
    let temp = tempfile::tempdir().unwrap();
    let missing = refused(&format!("oci:{}/none", temp.path().display())).await;
    assert!(missing.kind == FailureKind::NotFound && missing.message.ends_with("no such directory"), "{missing}");
    let empty = refused(&format!("oci:{}", temp.path().display())).await;
    assert!(empty.kind == FailureKind::NotFound && empty.message.contains("expected an OCI image layout"), "{empty}");
    let layout = Layout::new();
    std::fs::write(layout.path().join("index.json"), "{").unwrap();
    assert_eq!(refused(&layout.reference(None)).await.kind, FailureKind::Corrupt);
}
