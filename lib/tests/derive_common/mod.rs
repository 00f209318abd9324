//! What the tests of derived images share: a base, and a layer on top of it.
#![allow(dead_code, reason = "each test program uses its own part")]

#[path = "../common/oci.rs"]
pub(crate) mod oci;
#[path = "../common/registry.rs"]
pub(crate) mod registry;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Compression, Layout, noise, read, tar};
use selkie::error::Failure;
use selkie::image::{Derived, LayerFile, NewLayer, OutputOptions, Source, SourceOptions, Written, layer_tar, write};
use selkie::progress::{Progress, Silent};

pub(crate) const ANNOTATION: &str = "example.digest";

/// A layout with `v1`: an image with layers of these compressions.
pub(crate) struct Base {
    pub(crate) layout: Layout,
    pub(crate) tars: Vec<Vec<u8>>,
}

impl Base {
    pub(crate) fn new(compressions: &[Compression]) -> Self {
        let mut layout = Layout::new();
        let tars: Vec<_> = (0..compressions.len()).map(|n| tar(&noise(300_000 + n))).collect();
        let layers: Vec<_> = compressions.iter().copied().zip(tars.iter().cloned()).collect();
        let image = layout.image("amd64", &layers);
        layout.publish(Some("v1"), &image);
        Self { layout, tars }
    }

    pub(crate) fn reference(&self) -> String {
        self.layout.reference(Some("v1"))
    }
}

pub(crate) fn plain_http() -> SourceOptions {
    SourceOptions { tls_verify: Some(false), architecture: Some("amd64".into()), ..Default::default() }
}

pub(crate) fn to_plain_http() -> OutputOptions {
    OutputOptions { tls_verify: Some(false), ..Default::default() }
}

pub(crate) fn top() -> Vec<u8> {
    let file = LayerFile { path: "boot/EFI/Linux/os.efi", bytes: b"a kernel", mode: 0o644 };
    layer_tar(&[file], &["boot/old"], &["boot"], 7).unwrap()
}

pub(crate) fn derive(source: &Source) -> Derived {
    let layer = NewLayer { tar: top(), created_by: "a test".into(), comment: None };
    Derived::new(source.resolved(), &layer, &[(ANNOTATION.to_owned(), "1".to_owned())], Some(1_700_000_000)).unwrap()
}

/// The failure in an error, with all that is told of it.
pub(crate) fn failure(error: &anyhow::Error) -> Failure {
    let found = Failure::find(error).unwrap_or_else(|| panic!("not a failure: {error:?}"));
    Failure { message: format!("{error:#}"), ..found }
}

pub(crate) async fn open(reference: &str) -> Source {
    Source::open(&reference.parse().unwrap(), &plain_http(), &Silent).await.unwrap()
}

/// Derives from `base` and writes to `output`.
pub(crate) async fn seal(base: &str, output: &str) -> Result<(Derived, Written), Failure> {
    seal_with(base, output, &to_plain_http(), Arc::new(Silent)).await
}

pub(crate) async fn seal_with(
    base: &str,
    output: &str,
    options: &OutputOptions,
    progress: Arc<dyn Progress>,
) -> Result<(Derived, Written), Failure> {
    let scratch = tempfile::tempdir().unwrap();
    let source = Source::open_to_copy(&base.parse().unwrap(), &plain_http(), scratch.path(), &Silent).await.unwrap();
    let derived = derive(&source);
    let written = write(&source, &derived, &output.parse().unwrap(), options, scratch.path(), &progress).await;
    source.close().await.unwrap();
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "scratch files are left");
    written.map(|written| (derived, written)).map_err(|e| failure(&e))
}

pub(crate) async fn refused(base: &str, output: &str, options: &OutputOptions) -> Failure {
    match seal_with(base, output, options, Arc::new(Silent)).await {
        Ok((derived, _)) => panic!("{output} was written: {}", derived.manifest_digest),
        Err(failure) => failure,
    }
}

/// Checks that `output` is what was derived, and its layers these and the new one.
pub(crate) async fn check(output: &str, derived: &Derived, tars: &[Vec<u8>]) {
    let source = open(output).await;
    let resolved = source.resolved();
    assert_eq!((&resolved.manifest_digest, &resolved.index_digest), (&derived.manifest_digest, &None), "{output}");
    assert_eq!((&resolved.manifest, &resolved.config), (&derived.manifest, &derived.config), "{output}");
    assert_eq!(resolved.layers.len(), tars.len() + 1);
    assert_eq!(resolved.layers.last(), Some(&derived.layer));
    assert_eq!(resolved.label("org.opencontainers.image.version").as_deref(), Some("1"));
    assert_eq!(resolved.label(ANNOTATION).as_deref(), Some("1"));
    for (index, tar) in tars.iter().chain([&top()]).enumerate() {
        assert_eq!(&read(&source, index, Arc::new(Silent)).await.unwrap(), tar, "{output}, layer {index}");
    }
    source.close().await.unwrap();
}

/// Every file below a directory with its content, and every directory.
pub(crate) fn snapshot(directory: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(snapshot(&path));
            found.push((path, None));
        } else {
            let content = std::fs::read(&path).unwrap();
            found.push((path, Some(content)));
        }
    }
    found.sort();
    found
}
