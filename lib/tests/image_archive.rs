//! Archives (`oci-archive:`, `docker-archive:`) that are not whole: nobody waits for a network, and what is the matter is told.

#[path = "common/oci.rs"]
mod oci;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use oci::{Compression, Layout, noise, tar};
use selkie::error::{Failure, FailureKind};
use selkie::image::{Source, SourceOptions};
use selkie::progress::Silent;

fn archive(layout: &Layout, reference: &str) {
    let from = layout.reference(Some("v1"));
    let status = Command::new("skopeo").args(["copy", "--quiet", &from, reference]).status().expect("skopeo is installed");
    assert!(status.success(), "{reference}");
}

#[tokio::test]
async fn what_ends_early_or_is_no_archive_is_damaged_and_told_at_once() {
    let (temp, mut layout) = (tempfile::tempdir().unwrap(), Layout::new());
    let image = layout.image(&selkie::image::host_architecture(), &[(Compression::None, tar(&noise(300_000)))]);
    layout.publish(Some("v1"), &image);
    let whole = temp.path().join("whole.tar");
    let cut = temp.path().join("cut.tar");
    for (transport, tag) in [("oci-archive", "v1"), ("docker-archive", "localhost/os:v1")] {
        archive(&layout, &format!("{transport}:{}:{tag}", whole.display()));
        let bytes = std::fs::read(&whole).unwrap();
        std::fs::remove_file(&whole).unwrap();
        let reference = format!("{transport}:{}:{tag}", cut.display());
        let lengths = [0, 700, 4096, bytes.len() / 2];
        for content in lengths.map(|length| bytes[..length].to_vec()).into_iter().chain([b"no archive\n".repeat(10_000)]) {
            std::fs::write(&cut, &content).unwrap();
            let failure = refused(&reference, &cut).await;
            assert_eq!(failure.kind, FailureKind::Corrupt, "{} bytes: {failure}", content.len());
            let words = format!("resolving {reference}: the file is damaged, ends early, or is no archive of an image: ");
            assert!(failure.message.starts_with(&words) && failure.hint.is_some_and(|hint| hint.contains("again")), "{}", failure.message);
        }
        std::fs::write(&cut, &bytes).unwrap();
        Source::open(&reference.parse().unwrap(), &SourceOptions::default(), &Silent).await.unwrap().close().await.unwrap();
        std::fs::remove_file(&cut).unwrap();
        assert_eq!(refused(&reference, &cut).await.kind, FailureKind::NotFound);
    }
}

/// A process of its own, which has another place for temporary files. By itself it does nothing.
#[tokio::test]
async fn child() {
    let Ok(reference) = std::env::var("SELKIE_TEST_ARCHIVE") else { return };
    let _source = Source::open(&reference.parse().unwrap(), &SourceOptions::default(), &Silent).await.unwrap();
    let unpacked = |directory: std::fs::DirEntry| std::fs::read_dir(directory.path()).unwrap().count();
    assert!(std::fs::read_dir(std::env::var("TMPDIR").unwrap()).unwrap().map(|entry| unpacked(entry.unwrap())).sum::<usize>() > 0);
    // It is not closed: as where the pull has failed.
}

#[test]
fn nothing_is_left_of_an_archive_that_was_unpacked() {
    let (temp, mut layout) = (tempfile::tempdir().unwrap(), Layout::new());
    let image = layout.image(&selkie::image::host_architecture(), &[(Compression::None, tar(&noise(300_000)))]);
    layout.publish(Some("v1"), &image);
    let reference = format!("oci-archive:{}:v1", temp.path().join("os.tar").display());
    archive(&layout, &reference);
    let place = temp.path().join("temporary");
    std::fs::create_dir(&place).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child"])
        .env("SELKIE_TEST_ARCHIVE", &reference)
        .env("TMPDIR", &place)
        .status();
    assert!(status.unwrap().success());
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

/// With the pauses that a registry gets: none is made.
async fn refused(reference: &str, file: &Path) -> Failure {
    let begin = Instant::now();
    let opened = Source::open(&reference.parse().unwrap(), &SourceOptions::default(), &Silent).await;
    let error = opened.err().unwrap_or_else(|| panic!("{} was read", file.display()));
    assert!(begin.elapsed() < Duration::from_secs(30), "{error:#}");
    Failure::find(&error).unwrap_or_else(|| panic!("not a failure: {error:#}"))
}
