//! Transfers that break: they go on from there, and a registry that is busy is asked again.

#[path = "partial_common/killed.rs"]
mod killed;
mod partial_common;
#[path = "common/relay.rs"]
mod relay;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use partial_common::oci::{Compression, Layout, noise, plain_http, tar};
use partial_common::registry::{Registry, push};
use partial_common::{CHUNKED, Machine, Release, store, way};
use relay::{Odd, Relay};
use selkie::error::{Failure, FailureKind};
use selkie::image::{Contents, Retries, Source, SourceOptions};
use selkie::ops::digest;
use selkie::ops::pull::{self, Way};
use selkie::progress::{Event, Progress, Recorder};

/// The first release with a file of five megabytes that cannot be compressed.
fn large() -> Release {
    let mut release = Release::first();
    release.0.insert("usr/large".into(), noise(8_000_000)[3_000_000..].to_vec());
    release
}

/// What selkie asked for of blobs: where each range began, and nothing for all of it.
fn asked(relay: &Relay) -> Vec<Option<u64>> {
    let heads = relay.seen().into_iter().filter(|head| head.contains("user-agent: selkie/") && head.contains("/blobs/"));
    let start = |head: String| head.split_once("range: bytes=").map(|(_, range)| range.split_once('-').unwrap().0.parse().unwrap());
    heads.map(start).collect()
}

fn machine(registry: &Registry, odd: Odd) -> (Machine, Relay, String) {
    let relay = Relay::start(&registry.address, odd);
    let name = format!("{}/acme/os:v1", relay.address);
    (Machine::new(), relay, name)
}

#[test]
fn a_layer_goes_on_from_where_the_connection_broke() {
    let registry = Registry::start();
    large().push(&registry, "v1", &["--dest-compress-format=zstd"]);
    let expected = Machine::new();
    let size = expected.pull(&registry.name("acme/os:v1")).bytes_fetched;
    // In pieces; all again where there are no ranges, of which what is here is passed over.
    let piece = 1_200_000;
    let pieces: Vec<Option<u64>> = (0..size).step_by(piece).map(|at| Some(at).filter(|at| *at > 0)).collect();
    for (odd, requests) in [(Odd::Breaks(piece), pieces), (Odd::BreaksOnce(piece), vec![None, Some(piece as u64)])] {
        let (machine, relay, name) = machine(&registry, odd);
        let recorder = Arc::<Recorder>::default();
        machine.pull_with(&name, &recorder).unwrap();
        assert_eq!(asked(&relay), requests, "{odd:?}");
        let notes = recorder.events().into_iter().filter(|event| matches!(event, Event::Note { .. })).count();
        assert!(notes >= requests.len() - 1, "{odd:?}: every pause is told");
        assert_eq!(machine.objects(), expected.objects(), "{odd:?}");
    }
}

#[test]
fn a_line_that_breaks_all_the_time_is_given_up_and_what_came_is_of_use() {
    let registry = Registry::start();
    large().push(&registry, "v1", &["--dest-compress-format=zstd"]);
    let (machine, relay, name) = machine(&registry, Odd::Breaks(300_000));
    let error = machine.try_pull(&name).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::Unreachable, "{error:#}");
    assert!(failure.message.contains(", after 900000 bytes (expected ") && failure.message.ends_with("), 3 times in a row"), "{failure}");
    assert_eq!(asked(&relay), [None, Some(300_000), Some(600_000)]);
    let hint = "run the same command again when the registry can be reached";
    assert_eq!(failure.hint, Some(format!("{hint}: it goes on from what is there")));
    // A verb that keeps nothing begins anew.
    let options =
        digest::Options { image: name.parse().unwrap(), source: plain_http(), algorithm: None, scratch: machine.temp.path().into() };
    let measured = digest::run(&options, &(Arc::<Recorder>::default() as _)).unwrap_err();
    let failure = Failure::find(&measured).unwrap();
    assert_eq!((failure.kind, failure.hint.as_deref()), (FailureKind::Unreachable, Some(hint)), "{measured:#}");
    let again = machine.pull(&registry.name("acme/os:v1"));
    assert!(again.objects_reused > 0, "{again:?}");
}

#[test]
fn the_files_of_a_layer_that_was_cut_are_not_fetched_again() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    let (cut, _relay, name) = machine(&registry, Odd::Breaks(300_000));
    cut.try_pull(&name).unwrap_err();
    assert!(cut.journal().exists() && !cut.index().exists());
    // A journal that is torn loses what is torn; what is no record leads to no object.
    let torn = std::fs::read(cut.journal()).unwrap();
    std::fs::write(cut.journal(), [&[0xab; 72], &torn[..torn.len() - 1]].concat()).unwrap();
    let pulled = cut.pull(&registry.name("acme/os:v1"));
    let (way, bytes, size, reason) = way(&pulled);
    assert_eq!((way, reason), (Way::Partial, None));
    assert!(bytes < size - 500_000, "{bytes} of {size}");
    assert!(!cut.journal().exists() && cut.index().exists());
    let whole = Machine::new();
    whole.pull(&registry.name("acme/os:v1"));
    assert_eq!(cut.everything(), whole.everything());
}

/// What [`killed_pull`] kills.
#[test]
fn child() {
    killed::child(store);
}

/// Pulls in a process of its own, and kills that once the files that it has noted are written. What is left.
fn killed_pull(reference: &str) -> Machine {
    /// A record of the journal: two digests of 32 bytes, and a size.
    const RECORD: usize = 72;
    let machine = Machine::new();
    // A batch is noted when it goes to be written.
    let noted = || {
        let journal = std::fs::read(machine.journal()).unwrap_or_default();
        journal.chunks_exact(RECORD).map(<[u8]>::to_vec).collect::<BTreeSet<_>>().len()
    };
    killed::kill_once(machine.temp.path(), reference, || noted() > 0 && machine.objects().len() >= noted());
    assert!(noted() > 0 && machine.objects().len() >= noted(), "it has noted {} files and written {}", noted(), machine.objects().len());
    machine
}

#[test]
fn the_files_of_a_pull_that_was_killed_are_not_fetched_again() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    let relay = Relay::start(&registry.address, Odd::Stalls(1_600_000));
    let killed = killed_pull(&format!("{}/acme/os:v1", relay.address));
    let pulled = killed.pull(&registry.name("acme/os:v1"));
    let (way, bytes, size, reason) = way(&pulled);
    assert_eq!((way, reason), (Way::Partial, None));
    // At least what was in the first batch.
    assert!(bytes < size - 300_000, "{bytes} of {size}");
    let whole = Machine::new();
    whole.pull(&registry.name("acme/os:v1"));
    assert_eq!(killed.everything(), whole.everything());
}

/// Two layers that are well, and the smallest one, which is begun only when one of these has come in.
#[test]
fn layers_that_came_in_have_their_names_where_another_fails() {
    let mut layout = Layout::new();
    let (descriptors, mut diff_ids): (Vec<_>, Vec<_>) =
        [300_000, 200_000, 100_000].into_iter().map(|size| layout.layer(Compression::Zstd, &tar(&noise(size)))).unzip();
    let right = std::mem::replace(&mut diff_ids[2], format!("sha256:{}", "5".repeat(64)));
    let image = layout.image_of("amd64", descriptors, diff_ids.clone());
    layout.publish(Some("v1"), &image);
    let machine = Machine::new();
    let error = machine.try_pull(&layout.reference(Some("v1"))).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Corrupt, "{error:#}");
    let is_here = |diff_id: &String| machine.store.has_layer(diff_id).unwrap();
    assert!(diff_ids[..2].iter().any(is_here) && !is_here(&diff_ids[2]) && !is_here(&right));
}

#[test]
fn a_registry_that_is_busy_is_asked_again() {
    let registry = Registry::start();
    large().push(&registry, "v1", CHUNKED);
    let (machine, relay, name) = machine(&registry, Odd::Busy);
    machine.pull(&name);
    assert_eq!(asked(&relay), [None; 3]);
}

#[test]
fn an_image_is_resolved_by_a_registry_that_starts_anew() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", CHUNKED);
    let notes = |recorder: &Recorder| recorder.events().iter().filter(|event| format!("{event:?}").contains("; asking again in ")).count();
    // Each attempt asks at least once.
    let (machine, _relay, name) = self::machine(&registry, Odd::Starts(2));
    let recorder = Arc::<Recorder>::default();
    machine.pull_with(&name, &recorder).unwrap();
    assert!((1..=2).contains(&notes(&recorder)), "{:?}", recorder.events());
    // And is given up.
    let (machine, _relay, name) = self::machine(&registry, Odd::Starts(usize::MAX));
    let recorder = Arc::<Recorder>::default();
    let error = machine.pull_with(&name, &recorder).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!((failure.kind, notes(&recorder)), (FailureKind::Unreachable, 2), "{error:#}");
    assert!(failure.message.starts_with("resolving ") && failure.message.ends_with(", 3 times in a row"), "{failure}");
}

#[test]
fn ranges_of_a_layer_go_on_too() {
    let registry = Registry::start();
    Release::first().push(&registry, "v0", CHUNKED);
    large().push(&registry, "v1", CHUNKED);
    let (machine, relay, name) = machine(&registry, Odd::Breaks(1_200_000));
    machine.pull(&registry.name("acme/os:v0"));
    let pulled = machine.pull(&name);
    assert_eq!((way(&pulled).0, way(&pulled).3), (Way::Partial, None));
    assert!(asked(&relay).len() > 5, "{:?}", asked(&relay));
}

#[test]
fn an_outage_while_parts_are_fetched_is_the_error_of_the_pull() {
    let registry = Registry::start();
    Release::first().push(&registry, "v0", CHUNKED);
    large().push(&registry, "v1", CHUNKED);
    // Before the table of contents, and after it.
    for answers in [0, 1] {
        let (machine, relay, name) = machine(&registry, Odd::Gone(answers));
        machine.pull(&registry.name("acme/os:v0"));
        let error = machine.try_pull(&name).unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.kind, FailureKind::Unreachable, "{error:#}");
        assert!(failure.message.contains(", 3 times in a row"), "{error:#}");
        // The whole layer is asked for once, in case that only ranges do not work, and by nobody else.
        let whole = asked(&relay).into_iter().filter(Option::is_none).count();
        assert!(whole <= 1 && asked(&relay).len() >= answers + 3, "{:?}", asked(&relay));
        let layers = relay.seen().into_iter().filter(|head| head.contains("/blobs/") && !head.contains("user-agent: selkie/")).count();
        assert!(layers <= 1, "the configuration at most: {:#?}", relay.seen());
    }
}

#[test]
fn a_line_that_breaks_in_parts_is_not_tried_for_long_with_the_whole_layer() {
    let registry = Registry::start();
    Release::first().push(&registry, "v0", CHUNKED);
    large().push(&registry, "v1", CHUNKED);
    let (machine, relay, name) = machine(&registry, Odd::Breaks(300_000));
    machine.pull(&registry.name("acme/os:v0"));
    let error = machine.try_pull(&name).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Unreachable, "{error:#}");
    let first = asked(&relay).iter().position(Option::is_none).unwrap();
    assert_eq!(asked(&relay).len(), first + 1, "{:?}", asked(&relay));
}

#[test]
fn requests_of_a_layer_stop_when_one_has_failed_for_good() {
    let registry = Registry::start();
    Release::first().push(&registry, "v0", CHUNKED);
    Release::second().push(&registry, "v1", CHUNKED);
    let (machine, relay, name) = machine(&registry, Odd::Uneven);
    machine.pull(&registry.name("acme/os:v0"));
    // Once waited for, the busy one would have failed with the other words.
    let retries = Retries { most: 1, first: Duration::from_secs(20) };
    let source = SourceOptions { retries, ..plain_http() };
    let options = pull::Options { image: name.parse().unwrap(), source, tag: None };
    let recorder = Arc::<Recorder>::default();
    let pulled = pull::run(&machine.store, &options, &(recorder.clone() as _)).unwrap();
    let (way, _, _, reason) = way(&pulled);
    assert_eq!(way, Way::Whole);
    assert!(reason.unwrap().ends_with("the answer is 404 Not Found (expected 206)"), "{reason:?}");
    // None where another had failed before it was made.
    assert!(asked(&relay).into_iter().filter(|at| *at == Some(0)).count() <= 1, "{:?}", asked(&relay));
}

/// The third table is asked for before anything of the first two layers has come.
#[test]
fn while_two_layers_come_in_the_table_of_the_next_is_read() {
    let registry = Registry::start();
    let noise = noise(900_000);
    for (version, tag) in ["v0", "v1"].into_iter().enumerate() {
        let layer = |number: usize| {
            let mut release = Release::first();
            release.0.insert("usr/layer".into(), noise[number * 200_000 + version * 100_000..][..40_000].to_vec());
            (Compression::None, release.tar())
        };
        let mut layout = Layout::new();
        let image = layout.image("amd64", &[0, 1, 2].map(layer));
        layout.publish(Some(tag), &image);
        push(CHUNKED, layout.path(), tag, &registry.name(&format!("acme/os:{tag}")));
    }
    let (machine, _relay, name) = machine(&registry, Odd::Tables(3));
    machine.pull(&registry.name("acme/os:v0"));
    let ways: Vec<Way> = machine.pull(&name).fetched.iter().map(|layer| layer.way).collect();
    assert_eq!(ways, [Way::Partial; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_nobody_wants_any_more_is_not_asked_for_again() {
    let registry = Registry::start();
    Release::first().push(&registry, "v0", CHUNKED);
    Release::second().push(&registry, "v1", CHUNKED);
    let (machine, relay, name) = machine(&registry, Odd::Refused);
    let v0 = registry.name("acme/os:v0");
    let machine = tokio::task::spawn_blocking(move || {
        machine.pull(&v0);
        machine
    });
    let contents: Arc<dyn Contents> = Arc::new(machine.await.unwrap().store.contents().unwrap());
    let retries = Retries { most: 1000, first: Duration::from_millis(10) };
    let (options, progress) = (SourceOptions { retries, ..plain_http() }, Arc::<Recorder>::default());
    let source = Source::open(&name.parse().unwrap(), &options, progress.as_ref()).await.unwrap();
    let planned = source.plan_partial(0, contents, progress).unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), planned).await.is_err());
    // The request that is under way may still be one more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = asked(&relay).len();
    assert!(before > 1, "{before}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(asked(&relay).len(), before);
}

/// Moves a tag as soon as something is fetched.
struct Mover<F>(F);

impl<F: Fn() + Send + Sync> Progress for Mover<F> {
    fn event(&self, event: Event) {
        if matches!(event, Event::Step { .. }) {
            (self.0)();
        }
    }
}

#[test]
fn a_tag_that_moves_meanwhile_is_told() {
    let registry = Registry::start();
    let mut layout = Layout::new();
    for (tag, release) in [("v1", Release::first()), ("v2", Release::second())] {
        let image = layout.image("amd64", &[(Compression::Zstd, release.tar())]);
        layout.publish(Some(tag), &image);
    }
    let name = registry.name("acme/os:stable");
    let move_to = |tag: &str| push(&["--preserve-digests"], layout.path(), tag, &name);
    move_to("v1");
    let options = pull::Options { image: name.parse().unwrap(), source: plain_http(), tag: None };
    let moved = |progress: Arc<dyn Progress>| pull::run(&Machine::new().store, &options, &progress).unwrap();
    assert_eq!(moved(Arc::<Recorder>::default()).moved_to, None);
    let (path, to) = (layout.path().to_owned(), name.clone());
    let pulled = moved(Arc::new(Mover(move || push(&["--preserve-digests"], &path, "v2", &to))));
    let second = moved(Arc::<Recorder>::default());
    assert_ne!(pulled.manifest_digest, second.manifest_digest);
    assert_eq!(pulled.moved_to, Some(second.manifest_digest));
}
