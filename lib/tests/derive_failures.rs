//! Derived images that cannot be written: the output is what it was before.
//!
//! Small tmpfs mounts in a mount namespace of the test's thread; needs root.

mod derive_common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use derive_common::oci::{Compression, Damage, flip, halve, read, remove};
use derive_common::registry::{Registry, breaking_line, copy, push, put_index};
use derive_common::{Base, check, derive, failure, open, plain_http, refused, seal, seal_with, snapshot, to_plain_http};
use rustix::mount::MountFlags;
use selkie::error::FailureKind;
use selkie::image::{OutputOptions, Source, check_output, write};
use selkie::progress::{Event, Progress, Silent};
use selkie::sys::mount::enter_private_namespace;

/// `me:secret` and `me:wrong`.
const RIGHT: &str = "bWU6c2VjcmV0";
const WRONG: &str = "bWU6d3Jvbmc=";

async fn kind_of(reference: &str) -> Option<FailureKind> {
    Source::open(&reference.parse().unwrap(), &plain_http(), &Silent).await.err().map(|e| failure(&e).kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_base_leaves_every_output_as_it_was() {
    let (base, registry, temp) = (Base::new(&[Compression::Gzip; 3]), Registry::start(), tempfile::tempdir().unwrap());
    push(&[], base.layout.path(), "v1", &registry.name("acme/os:v1"));
    let at = temp.path().display().to_string();
    seal(&Base::new(&[Compression::Zstd]).reference(), &format!("oci:{at}/there:v2")).await.unwrap();
    std::fs::create_dir(temp.path().join("empty")).unwrap();
    let before = snapshot(temp.path());
    let damaged = open(&base.reference()).await.resolved().layers[1].digest.clone();
    let bases = [(base.reference(), base.layout.blob(&damaged)), (registry.name("acme/os:v1"), registry.blob(&damaged))];
    for (from, blob) in bases {
        let good = std::fs::read(&blob).unwrap();
        for damage in [&flip as Damage, &halve, &remove] {
            damage(&blob);
            for output in
                ["oci:AT/there:v2", "oci:AT/there:v3", "oci:AT/new:v2", "oci:AT/empty", "oci-archive:AT/os.tar", "REGISTRY/acme/new:v2"]
            {
                let output = output.replace("AT", &at).replace("REGISTRY", &registry.address);
                let failure = refused(&from, &output, &to_plain_http()).await;
                assert_eq!(failure.kind, FailureKind::Corrupt, "{output}: {failure}");
                assert_eq!(failure.message.matches(&damaged).count(), 1, "{failure}");
                assert!(snapshot(temp.path()) == before, "{output} left something");
            }
            std::fs::write(&blob, &good).unwrap();
        }
    }
    assert_eq!(kind_of(&registry.name("acme/new:v2")).await, Some(FailureKind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_is_told_apart_and_has_no_new_tag() {
    let (base, closed, temp) = (Base::new(&[Compression::Gzip]), Registry::start_closed(), tempfile::tempdir().unwrap());
    let with = |base64| OutputOptions { authfile: Some(closed.authfile(base64)), ..to_plain_http() };
    let https = OutputOptions { tls_verify: Some(true), ..Default::default() };
    let (output, anonymous) = (closed.name("acme/os:v2"), temp.path().join("none.json"));
    std::fs::write(&anonymous, "{}").unwrap();
    let table = [
        (output.as_str(), with(WRONG), FailureKind::Denied, "--authfile"),
        (&output, OutputOptions { authfile: Some(anonymous), ..to_plain_http() }, FailureKind::Denied, "--authfile"),
        (&output, https, FailureKind::Unreachable, "--tls-verify=false"),
        ("127.0.0.1:1/acme/os:v2", to_plain_http(), FailureKind::Unreachable, "run the same command again"),
        ("registry.invalid/os:v2", to_plain_http(), FailureKind::Unreachable, "run the same command again"),
    ];
    for (output, options, kind, hint) in table {
        let failure = refused(&base.reference(), output, &options).await;
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.starts_with(&format!("writing {output}: ")), "{failure}");
        assert!(failure.hint.as_ref().is_some_and(|h| h.contains(hint)), "{failure:?}");
    }
    let (derived, _) = seal_with(&base.reference(), &output, &with(RIGHT), Arc::new(Silent)).await.unwrap();
    assert_eq!(closed.tag("acme/os", "v2"), derived.manifest_digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_breaks_leaves_the_tag_where_it_was() {
    let (old, new, registry) = (Base::new(&[Compression::Gzip]), Base::new(&[Compression::Zstd; 2]), Registry::start());
    let (derived, _) = seal(&old.reference(), &registry.name("acme/os:v2")).await.unwrap();
    let line = breaking_line(&registry.address, 1000);
    let failure = refused(&new.reference(), &format!("{line}/acme/os:v2"), &to_plain_http()).await;
    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
    check(&registry.name("acme/os:v2"), &derived, &old.tars).await;
}

/// Does something at one of the events that it waits for.
struct Meanwhile<F> {
    action: F,
    waits_for: fn(&Event) -> bool,
    /// Which of them, counted from 1.
    at: usize,
    seen: AtomicUsize,
}

impl<F> Meanwhile<F> {
    fn at_first(waits_for: fn(&Event) -> bool, action: F) -> Arc<Self> {
        Arc::new(Self { action, waits_for, at: 1, seen: AtomicUsize::new(0) })
    }
}

impl<F: Fn() + Send + Sync> Progress for Meanwhile<F> {
    fn event(&self, event: Event) {
        if (self.waits_for)(&event) && self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.at {
            (self.action)();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_at_the_same_time_is_seen() {
    let (base, other, registry) = (Base::new(&[Compression::Gzip]), Base::new(&[Compression::Gzip]), Registry::start());
    let (output, layout) = (registry.name("acme/os:v2"), other.layout.path().to_owned());
    let target = output.clone();
    let pushed = |event: &Event| matches!(event, Event::Step { name } if name == "push image");
    let progress = Meanwhile::at_first(pushed, move || push(&[], &layout, "v1", &target));
    let failure = seal_with(&base.reference(), &output, &to_plain_http(), progress).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unreachable, "{failure}");
    assert!(failure.message.contains(&registry.tag("acme/os", "v2")), "{failure}");

    let temp = tempfile::tempdir().unwrap();
    let archive = temp.path().join("os.tar");
    let (output, made) = (format!("oci-archive:{}", archive.display()), archive.clone());
    let reading = |event: &Event| matches!(event, Event::Advance { .. });
    let progress = Meanwhile::at_first(reading, move || std::fs::write(&made, "of somebody else").unwrap());
    let failure = seal_with(&base.reference(), &output, &to_plain_http(), progress).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Usage, "{failure}");
    assert_eq!(snapshot(temp.path()), [(archive, Some(b"of somebody else".to_vec()))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_write_to_the_same_place_do_not_meet() {
    let (base, temp) = (Base::new(&[Compression::Gzip; 2]), tempfile::tempdir().unwrap());
    for output in ["oci:AT/x:v2", "oci-archive:AT/os.tar"] {
        let output = output.replace("AT", &temp.path().display().to_string());
        let (from, to) = (base.reference(), output.clone());
        let second = move || {
            let (from, to) = (from.clone(), to.clone());
            let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let writing = std::thread::spawn(move || runtime().block_on(refused(&from, &to, &to_plain_http())));
            let failure = writing.join().unwrap();
            assert_eq!(failure.kind, FailureKind::Busy, "{failure}");
        };
        let progress = Meanwhile::at_first(|event| matches!(event, Event::Advance { .. }), second);
        let (derived, _) = seal_with(&base.reference(), &output, &to_plain_http(), progress.clone()).await.unwrap();
        assert!(progress.seen.load(Ordering::SeqCst) > 0);
        check(&output, &derived, &base.tars).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_not_the_base_is_refused() {
    let (one, two, temp) = (Base::new(&[Compression::Gzip]), Base::new(&[Compression::Zstd]), tempfile::tempdir().unwrap());
    let (one, two) = (open(&one.reference()).await, open(&two.reference()).await);
    let output = format!("oci:{}/x", temp.path().display()).parse().unwrap();
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    assert!(write(&two, &derive(&one), &output, &to_plain_http(), temp.path(), &progress).await.is_err());
    assert_eq!(snapshot(temp.path()), []);
}

#[test]
fn outputs_are_checked_before_the_work() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path().display().to_string();
    let base = Base::new(&[Compression::Gzip]);
    std::fs::write(temp.path().join("file"), "").unwrap();
    std::fs::create_dir_all(temp.path().join("other/x")).unwrap();
    std::fs::create_dir_all(temp.path().join("broken")).unwrap();
    std::fs::write(temp.path().join("broken/index.json"), "{").unwrap();
    let digest = format!("@sha256:{}", "0".repeat(64));
    let table = [
        ("oci:AT/new", None),
        ("oci:AT/new:v1", None),
        ("oci:AT/new/", None),
        ("oci:AT", Some(FailureKind::Usage)),
        ("oci:AT/file:v1", Some(FailureKind::Usage)),
        ("oci:AT/other:v1", Some(FailureKind::Usage)),
        ("oci:AT/broken:v1", Some(FailureKind::Corrupt)),
        ("oci:AT/none/new", Some(FailureKind::NotFound)),
        ("oci:AT/file/new", Some(FailureKind::Usage)),
        ("oci:BASE:v1", None),
        ("oci:BASE:v2", None),
        ("oci:BASE", Some(FailureKind::Usage)),
        ("oci-archive:AT/new.tar", None),
        ("oci-archive:AT/new.tar:v1", None),
        ("oci-archive:AT/file:v1", Some(FailureKind::Usage)),
        ("oci-archive:AT/none/new.tar", Some(FailureKind::NotFound)),
        ("oci-archive:AT/file/new.tar", Some(FailureKind::NotFound)),
        ("oci-archive:/", Some(FailureKind::Usage)),
        ("docker-archive:AT/new.tar", Some(FailureKind::Usage)),
        ("r.io/os:v1", None),
        ("r.io/osDIGEST", Some(FailureKind::Usage)),
        ("r.io/os:v1DIGEST", Some(FailureKind::Usage)),
        ("containers-storage:[vfs@/a+/b]localhost/os:v1", None),
        ("containers-storage:localhost/osDIGEST", Some(FailureKind::Usage)),
        ("containers-storage:[vfs@/a+/b]localhost/osDIGEST", Some(FailureKind::Usage)),
    ];
    let before = snapshot(temp.path());
    for (output, expected) in table {
        let reference = output.replace("AT", &at).replace("BASE", &base.layout.path().display().to_string()).replace("DIGEST", &digest);
        let found = check_output(&reference.parse().unwrap()).err().map(|e| failure(&e));
        assert_eq!(found.as_ref().map(|f| f.kind), expected, "{output}: {found:?}");
    }
    assert_eq!(snapshot(temp.path()), before);
}

fn mount(directory: &Path, size: &str) {
    std::fs::create_dir_all(directory).unwrap();
    let data = std::ffi::CString::new(format!("size={size}")).unwrap();
    rustix::mount::mount("tmpfs", directory, "tmpfs", MountFlags::empty(), data.as_c_str()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_or_full_file_system_is_told_and_nothing_is_lost() {
    enter_private_namespace().expect("these tests mount file systems: run them as root");
    let (small, large, temp) = (Base::new(&[Compression::Gzip]), Base::new(&[Compression::Gzip; 5]), tempfile::tempdir().unwrap());
    let (there, new) = (temp.path().join("there"), format!("oci:{}/there/new", temp.path().display()));
    mount(&there, "1m");
    let output = format!("oci:{}:v2", there.display());
    let (derived, _) = seal(&small.reference(), &output).await.unwrap();
    let before = snapshot(temp.path());
    let archive = format!("oci-archive:{}/os.tar", there.display());
    for output in [&output, &archive, &new] {
        let failure = refused(&large.reference(), output, &to_plain_http()).await;
        assert_eq!(failure.kind, FailureKind::NoSpace, "{output}: {failure}");
        assert!(snapshot(temp.path()) == before, "{output} left something");
    }
    check(&output, &derived, &small.tars).await;
    rustix::mount::mount_remount(&there, MountFlags::RDONLY, c"").unwrap();
    for output in [&output, &archive, &new] {
        let failure = refused(&large.reference(), output, &to_plain_http()).await;
        assert_eq!(failure.kind, FailureKind::NotPermitted, "{output}: {failure}");
        assert!(failure.message.contains("Read-only file system"), "{failure}");
    }
    check(&output, &derived, &small.tars).await;
}

#[test]
fn a_layout_whose_blobs_cannot_be_written_is_found_before_the_work() {
    enter_private_namespace().expect("these tests mount file systems: run them as root");
    let temp = tempfile::tempdir().unwrap();
    let output = format!("oci:{}:v1", temp.path().display()).parse().unwrap();
    std::fs::write(temp.path().join("index.json"), r#"{"schemaVersion": 2, "manifests": []}"#).unwrap();
    check_output(&output).unwrap();
    for closed in ["blobs/sha256", "blobs"] {
        let directory = temp.path().join(closed);
        mount(&directory, "1m");
        check_output(&output).unwrap();
        rustix::mount::mount_remount(&directory, MountFlags::RDONLY, c"").unwrap();
        let failure = failure(&check_output(&output).unwrap_err());
        assert_eq!(failure.kind, FailureKind::NotPermitted, "{closed}: {failure}");
        rustix::mount::unmount(&directory, rustix::mount::UnmountFlags::empty()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_came_meanwhile_is_not_replaced() {
    let (base, registry) = (Base::new(&[Compression::Gzip]), Registry::start());
    let index = r#"{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}"#;
    push(&[], base.layout.path(), "v1", &registry.name("acme/os:v1"));
    put_index(&registry.address, "v2", index.as_bytes());
    let before = registry.tag("acme/os", "v2");
    let failure = refused(&base.reference(), &registry.name("acme/os:v2"), &to_plain_http()).await;
    assert!(failure.kind == FailureKind::Usage && failure.message.contains("an image index of 0 manifests"), "{failure}");
    assert_eq!(registry.tag("acme/os", "v2"), before);
}

/// Variables by which a child knows that it is one.
const FROM: &str = "SELKIE_DERIVE_FROM";
const TO: &str = "SELKIE_DERIVE_TO";
const STOP: &str = "SELKIE_DERIVE_STOP";

/// Not a test by itself: what a child does. Without the variables there is nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    let (Ok(from), Ok(to)) = (std::env::var(FROM), std::env::var(TO)) else { return };
    let killer = Meanwhile {
        action: || std::process::abort(),
        waits_for: |event| matches!(event, Event::Step { .. } | Event::Advance { .. }),
        at: std::env::var(STOP).unwrap().parse().unwrap(),
        seen: AtomicUsize::new(0),
    };
    seal_with(&from, &to, &to_plain_http(), Arc::new(killer)).await.unwrap();
}

/// Writes in a child that is killed at the event `stop`; whether it was, or ended before.
fn killed(from: &str, to: &str, stop: usize, scratch: &Path) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .envs([(FROM, from), (TO, to), (STOP, &stop.to_string())])
        .env("TMPDIR", scratch)
        .output()
        .unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(6);
    assert!(aborted || output.status.success(), "{to} at {stop}: {}", String::from_utf8_lossy(&output.stderr));
    aborted
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_output_shows_the_old_image_or_the_new_one() {
    let (old, new, registry) = (Base::new(&[Compression::Gzip]), Base::new(&[Compression::Gzip; 2]), Registry::start());
    let mut moments = 0;
    for output in ["oci:AT/there:v2", "oci:AT/there:v3", "oci:AT/new:v2", "oci-archive:AT/new.tar:v2", "REGISTRY/acme/os:v2"] {
        for stop in 1.. {
            let temp = tempfile::tempdir().unwrap();
            let at = temp.path().display().to_string();
            let output = output.replace("AT", &at).replace("REGISTRY", &registry.address);
            let neighbour = format!("oci:{at}/there:v1");
            copy(&[], &old.reference(), &neighbour);
            let before = if output.ends_with("new.tar:v2") || output.ends_with("new:v2") || output.ends_with("v3") {
                None
            } else {
                Some(seal(&old.reference(), &output).await.unwrap().0)
            };
            let was_killed = killed(&new.reference(), &output, stop, temp.path());
            assert_eq!(read(&open(&neighbour).await, 0, Arc::new(Silent)).await.unwrap(), old.tars[0]);
            let derived = derive(&open(&new.reference()).await);
            match (Source::open(&output.parse().unwrap(), &plain_http(), &Silent).await, &before) {
                (Ok(source), _) if source.resolved().manifest_digest == derived.manifest_digest => {
                    check(&output, &derived, &new.tars).await
                }
                (Ok(_), Some(before)) => check(&output, before, &old.tars).await,
                (Ok(source), None) => panic!("{output} at {stop}: {}", source.resolved().manifest_digest),
                (Err(e), None) if was_killed => assert_eq!(failure(&e).kind, FailureKind::NotFound, "{output} at {stop}"),
                (Err(e), _) => panic!("{output} at {stop}: {e:#}"),
            }
            if !was_killed {
                break;
            }
            // Whatever the killed one has left is not in the way, but where it was finished.
            if check_output(&output.parse().unwrap()).is_ok() {
                seal(&new.reference(), &output).await.unwrap();
            }
            check(&output, &derived, &new.tars).await;
            moments += 1;
        }
    }
    assert!(moments > 30, "{moments}");
}
