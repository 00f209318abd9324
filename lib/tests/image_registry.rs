//! Registries and archives through skopeo: a real registry on loopback, good and bad.

#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;

use std::io::Read;
use std::sync::Arc;

use oci::{Compression, Damage, Layout, flip, halve, noise, plain_http, read, read_all, remove, tar};
use registry::{Registry, breaking_line, copy, push};
use selkie::error::{Failure, FailureKind};
use selkie::image::{Source, SourceOptions};
use selkie::progress::{Event, Recorder, Silent};

/// `me:secret` and `me:wrong`.
const RIGHT: &str = "bWU6c2VjcmV0";
const WRONG: &str = "bWU6d3Jvbmc=";

async fn open_with(reference: &str, options: &SourceOptions) -> Result<Source, Failure> {
    let opened = Source::open(&reference.parse().unwrap(), options, &Silent).await;
    opened.map_err(|e| Failure::find(&e).unwrap_or_else(|| panic!("not a failure: {e:?}")))
}

async fn open(reference: &str) -> Source {
    open_with(reference, &plain_http()).await.unwrap()
}

async fn refused(reference: &str, options: &SourceOptions) -> Failure {
    match open_with(reference, options).await {
        Ok(source) => panic!("{reference} was resolved to {}", source.resolved().manifest_digest),
        Err(failure) => failure,
    }
}

/// A layout with `v1` (an image of three layers), `all` (an index with v1) and `foreign` (an index without this architecture).
struct Published {
    layout: Layout,
    tars: Vec<Vec<u8>>,
    manifest_digest: String,
}

impl Published {
    fn new() -> Self {
        let mut layout = Layout::new();
        let tars = vec![tar(b"lowest"), tar(&noise(1_500_000)), tar(b"highest")];
        let compressions = [Compression::Gzip, Compression::Gzip, Compression::Zstd];
        let layers: Vec<_> = compressions.into_iter().zip(tars.iter().cloned()).collect();
        let image = layout.image("amd64", &layers);
        let [arm64, s390x] = ["arm64", "s390x"].map(|a| layout.image(a, &[(Compression::Gzip, tar(a.as_bytes()))]));
        let all = layout.index(&[&arm64, &image, &s390x]);
        layout.publish(Some("v1"), &image);
        layout.publish(Some("all"), &all);
        let foreign = layout.index(&[&arm64, &s390x]);
        layout.publish(Some("foreign"), &foreign);
        Self { layout, tars, manifest_digest: image.digest().to_string() }
    }

    fn push(&self, registry: &Registry) {
        for tag in ["v1", "all", "foreign"] {
            push(&["--all"], self.layout.path(), tag, &registry.name(&format!("acme/os:{tag}")));
        }
    }

    /// Checks every layer and ends the source, which must work.
    async fn check(&self, source: Source) {
        for (index, tar) in self.tars.iter().enumerate() {
            assert_eq!(&read(&source, index, Arc::new(Silent)).await.unwrap(), tar);
        }
        source.close().await.unwrap();
    }
}

#[tokio::test]
async fn tags_and_digests_lead_to_the_same_verified_image() {
    let (registry, published) = (Registry::start(), Published::new());
    published.push(&registry);
    let name = registry.name("acme/os");
    // Not that of the layout: newer skopeo adds an annotation to an index whose images have layers with zstd.
    let index_digest = registry.tag("acme/os", "all");
    let index = Some(index_digest.as_str());
    let table = [
        (format!("{name}:v1"), None),
        (format!("{name}:all"), index),
        (format!("{name}@{}", published.manifest_digest), None),
        (format!("{name}@{}", index_digest), index),
        (format!("{name}:whatever@{}", index_digest), index),
    ];
    for (reference, index_digest) in table {
        let source = open(&reference).await;
        let resolved = source.resolved();
        assert_eq!(
            (resolved.manifest_digest.as_str(), resolved.index_digest.as_deref()),
            (published.manifest_digest.as_str(), index_digest)
        );
        assert_eq!(resolved.manifest, std::fs::read(published.layout.blob(&resolved.manifest_digest)).unwrap());
        assert_eq!(resolved.config, std::fs::read(published.layout.blob(&resolved.config_digest)).unwrap());
        assert_eq!(resolved.label("org.opencontainers.image.version").as_deref(), Some("1"));
        published.check(source).await;
    }
}

#[tokio::test]
async fn another_architecture_can_be_asked_for_and_a_missing_one_is_named() {
    let (registry, published) = (Registry::start(), Published::new());
    published.push(&registry);
    let s390x = SourceOptions { architecture: Some("s390x".into()), ..plain_http() };
    let source = open_with(&registry.name("acme/os:all"), &s390x).await.unwrap();
    assert_eq!(read(&source, 0, Arc::new(Silent)).await.unwrap(), tar(b"s390x"));
    source.close().await.unwrap();
    let failure = refused(&registry.name("acme/os:foreign"), &plain_http()).await;
    assert_eq!(failure.kind, FailureKind::Unsuitable);
    assert!(failure.message.ends_with("there is none for linux/amd64; it is for linux/arm64, linux/s390x"), "{failure}");
    let failure = refused(&registry.name("acme/os:v1"), &s390x).await;
    assert_eq!(failure.kind, FailureKind::Unsuitable);
    assert!(failure.message.ends_with("there is none for linux/s390x; it is for linux/amd64"), "{failure}");
}

#[tokio::test]
async fn layers_may_be_opened_together_and_left_early() {
    let (registry, published) = (Registry::start(), Published::new());
    published.push(&registry);
    let source = open(&registry.name("acme/os:v1")).await;
    let mut readers = Vec::new();
    for index in 0..3 {
        readers.push(source.open_layer(index, Arc::new(Silent)).await.unwrap());
    }
    for (reader, tar) in readers.into_iter().zip(&published.tars).rev() {
        assert_eq!(&read_all(reader).await.unwrap(), tar);
    }
    let mut left = source.open_layer(1, Arc::new(Silent)).await.unwrap();
    tokio::task::spawn_blocking(move || left.read_exact(&mut [0; 1000])).await.unwrap().unwrap();
    published.check(source).await;
    let source = open(&registry.name("acme/os:v1")).await;
    let held = source.open_layer(1, Arc::new(Silent)).await.unwrap();
    source.close().await.unwrap();
    assert!(read_all(held).await.unwrap_err().to_string().ends_with("its source was given up"));
}

#[tokio::test]
async fn progress_counts_the_bytes_of_the_blob() {
    let (registry, published) = (Registry::start(), Published::new());
    published.push(&registry);
    let source = open(&registry.name("acme/os:v1")).await;
    let recorder = Arc::new(Recorder::default());
    read(&source, 1, recorder.clone()).await.unwrap();
    let size = source.resolved().layers[1].size;
    let last = recorder.events().pop();
    assert!(matches!(last, Some(Event::Advance { done, total, .. }) if done == size && total == size), "{last:?}");
    source.close().await.unwrap();
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_told_apart() {
    let (open_to_all, closed, published) = (Registry::start(), Registry::start_closed(), Published::new());
    published.push(&open_to_all);
    let creds = format!("--dest-authfile={}", closed.authfile(RIGHT).display());
    push(&[&creds], published.layout.path(), "v1", &closed.name("acme/os:v1"));
    let with = |base64| SourceOptions { authfile: Some(closed.authfile(base64)), ..plain_http() };
    let nobody_listens = "127.0.0.1:1/acme/os:v1".to_owned();
    let https = SourceOptions { tls_verify: Some(true), ..plain_http() };
    let unknown_digest = open_to_all.name(&format!("acme/os@sha256:{}", "0".repeat(64)));
    let table = [
        (open_to_all.name("acme/os:none"), plain_http(), FailureKind::NotFound),
        (open_to_all.name("acme/none:v1"), plain_http(), FailureKind::NotFound),
        (unknown_digest, plain_http(), FailureKind::NotFound),
        (closed.name("acme/os:v1"), with(WRONG), FailureKind::Denied),
        (closed.name("acme/os:v1"), SourceOptions { authfile: Some("/dev/null".into()), ..plain_http() }, FailureKind::Denied),
        (nobody_listens, plain_http(), FailureKind::Unreachable),
        (open_to_all.name("acme/os:v1"), https, FailureKind::Unreachable),
        ("registry.invalid/os:v1".to_owned(), plain_http(), FailureKind::Unreachable),
    ];
    for (reference, options, kind) in table {
        let failure = refused(&reference, &options).await;
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.starts_with(&format!("resolving {reference}: ")), "{failure}");
        assert_eq!(failure.hint.is_some(), kind != FailureKind::NotFound, "{failure}");
    }
    let missing = SourceOptions { authfile: Some("/nonexistent".into()), ..plain_http() };
    let failure = refused(&closed.name("acme/os:v1"), &missing).await;
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::NotFound, "reading credentials: there is no file /nonexistent"));
    let source = open_with(&closed.name("acme/os:v1"), &with(RIGHT)).await.unwrap();
    published.check(source).await;
}

#[tokio::test]
async fn blobs_that_the_registry_has_damaged_never_reach_their_end() {
    let (registry, published) = (Registry::start(), Published::new());
    published.push(&registry);
    let table: [(Damage, &str); 3] =
        [(&flip, "blob digest is sha256:"), (&halve, "truncated: it ended after "), (&remove, "etching blob: ")];
    for index in 0..3 {
        let source = open(&registry.name("acme/os:v1")).await;
        let digest = source.resolved().layers[index].digest.clone();
        let blob = registry.blob(&digest);
        let good = std::fs::read(&blob).unwrap();
        for (damage, expected) in &table {
            std::fs::write(&blob, &good).unwrap();
            damage(&blob);
            let failure = read(&source, index, Arc::new(Silent)).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Corrupt, "{failure}");
            assert!(failure.message.contains(expected), "{failure}");
        }
        std::fs::write(&blob, &good).unwrap();
        assert_eq!(read(&source, index, Arc::new(Silent)).await.unwrap(), published.tars[index]);
        source.close().await.unwrap();
    }
}

#[tokio::test]
async fn damaged_metadata_is_found_while_resolving() {
    let (registry, published) = (Registry::start(), Published::new());
    published.push(&registry);
    let source = open(&registry.name("acme/os:v1")).await;
    let config = source.resolved().config_digest.clone();
    source.close().await.unwrap();
    // A tag says what the manifest is; only who names its digest can know better.
    let pinned = registry.name(&format!("acme/os@{}", published.manifest_digest));
    let pinned_index = registry.name(&format!("acme/os@{}", registry.tag("acme/os", "all")));
    let table = [
        (config, vec![registry.name("acme/os:v1"), pinned.clone()]),
        (published.manifest_digest.clone(), vec![registry.name("acme/os:all"), pinned]),
        (registry.tag("acme/os", "all"), vec![pinned_index]),
    ];
    for (digest, references) in table {
        flip(&registry.blob(&digest));
        for reference in references {
            let failure = refused(&reference, &plain_http()).await;
            assert_eq!(failure.kind, FailureKind::Corrupt, "{failure}");
            assert!(failure.message.contains(&digest), "{failure}");
        }
        flip(&registry.blob(&digest));
    }
}

#[tokio::test]
async fn a_line_that_breaks_is_not_called_a_corrupt_image() {
    let (registry, published) = (Registry::start(), Published::new());
    published.push(&registry);
    let line = breaking_line(&registry.address, 400_000);
    let source = open(&format!("{line}/acme/os:v1")).await;
    let failure = read(&source, 1, Arc::new(Silent)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
}

#[tokio::test]
async fn a_registry_that_goes_away_is_unreachable() {
    let (registry, published) = (Registry::start(), Published::new());
    published.push(&registry);
    let source = open(&registry.name("acme/os:v1")).await;
    drop(registry);
    let failure = read(&source, 0, Arc::new(Silent)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
    source.close().await.unwrap();
}

#[tokio::test]
async fn archives_are_read_too() {
    let published = Published::new();
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).display().to_string();
    let from = published.layout.reference(Some("v1"));
    let oci = format!("oci-archive:{}:v1", path("oci.tar"));
    copy(&[], &from, &oci);
    let source = open(&oci).await;
    assert_eq!(source.resolved().manifest_digest, published.manifest_digest);
    published.check(source).await;
    let failure = refused(&format!("oci-archive:{}:none", path("oci.tar")), &plain_http()).await;
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
    // Docker's format has no zstd.
    let mut layout = Layout::new();
    let image = layout.image("amd64", &[(Compression::Gzip, published.tars[1].clone())]);
    layout.publish(Some("v1"), &image);
    let docker = format!("docker-archive:{}:localhost/os:v1", path("docker.tar"));
    copy(&[], &layout.reference(Some("v1")), &docker);
    let source = open(&docker).await;
    assert_eq!(read(&source, 0, Arc::new(Silent)).await.unwrap(), published.tars[1]);
    source.close().await.unwrap();
    let failure = refused(&format!("oci-archive:{}", path("none.tar")), &plain_http()).await;
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
}

#[tokio::test]
async fn the_docker_format_keeps_its_digests() {
    let (registry, published) = (Registry::start(), Published::new());
    let mut layout = Layout::new();
    let image = layout.image("amd64", &[(Compression::Gzip, published.tars[1].clone())]);
    layout.publish(Some("v1"), &image);
    push(&["--format=v2s2"], layout.path(), "v1", &registry.name("acme/os:docker"));
    for reference in
        ["acme/os:docker".to_owned(), format!("acme/os@{}", open(&registry.name("acme/os:docker")).await.resolved().manifest_digest)]
    {
        let source = open(&registry.name(&reference)).await;
        let resolved = source.resolved();
        assert_eq!(resolved.manifest, std::fs::read(registry.blob(&resolved.manifest_digest)).unwrap());
        assert_eq!(resolved.config, std::fs::read(registry.blob(&resolved.config_digest)).unwrap());
        assert!(String::from_utf8_lossy(&resolved.manifest).contains("application/vnd.docker.distribution.manifest.v2+json"));
        let (digest, manifest) = resolved.oci_manifest().unwrap();
        assert!(digest != resolved.manifest_digest && !String::from_utf8_lossy(&manifest).contains("docker"));
        assert_eq!(read(&source, 0, Arc::new(Silent)).await.unwrap(), published.tars[1]);
        source.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_storage_of_podman_is_read_too() {
    let published = Published::new();
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path().display();
    let storage = format!("containers-storage:[vfs@{at}/storage+{at}/run]localhost/os:v1");
    copy(&[], &published.layout.reference(Some("v1")), &storage);
    if !rustix::process::geteuid().is_root() {
        assert_eq!(refused(&storage, &plain_http()).await.kind, FailureKind::NotPermitted);
        return;
    }
    let source = open(&storage).await;
    assert_eq!(source.resolved().manifest_digest, published.manifest_digest);
    published.check(source).await;
    let failure = refused(&format!("containers-storage:[vfs@{at}/storage+{at}/run]localhost/os:none"), &plain_http()).await;
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure}");
}
