//! A registry that does not answer while it is looked at what is missing of an update that does not fit as a whole: that is what is told, and not that there is no room.
//!
//! Small tmpfs mounts in a mount namespace of the test's thread; needs root.

mod common;
#[path = "common/oci.rs"]
mod oci;
#[path = "space_common/parts.rs"]
mod parts;
#[path = "common/registry.rs"]
mod registry;
#[path = "common/relay.rs"]
mod relay;
mod space_common;
mod store_common;

use std::sync::Arc;

use common::layout::Files;
use oci::plain_http;
use parts::{Chunked, EACH, with_files};
use relay::{Odd, Relay};
use selkie::error::{Failure, FailureKind};
use selkie::image::OutputOptions;
use selkie::ops::delta;
use selkie::ops::pull::Way;
use selkie::ops::upgrade::Outcome;
use selkie::progress::{Event, Recorder};
use space_common::{assert_unchanged, fill};
use store_common::sha256;

/// A machine, and two megabytes more for it in a layer of five, of which three are here and two are one file twenty times.
fn chunked() -> Chunked {
    let bytes = oci::noise(31 * EACH);
    let (old, new) = bytes.split_at(30 * EACH);
    let chunked = Chunked::new(&with_files("2", "old", old.chunks(EACH)));
    chunked.publish("next", &with_files("3", "old", old.chunks(EACH).chain(std::iter::repeat_n(new, 20))));
    chunked
}

/// The pauses that were told.
fn pauses(recorder: &Recorder) -> usize {
    let pause = |event: &Event| matches!(event, Event::Note { message } if message.contains("; asking again in "));
    recorder.events().iter().filter(|event| pause(event)).count()
}

#[test]
fn an_outage_that_stays_is_what_is_told_and_nothing_is_given_up_for_it() {
    let chunked = chunked();
    // What a pull that was cut has left.
    let left = oci::tar(&oci::noise(300_000));
    let sysroot = chunked.temp.path().join("sysroot");
    std::fs::remove_file(sysroot.join("other")).unwrap();
    chunked.machine.host(&chunked.booted).store().unwrap().import_layer(&sha256(&left), &left[..]).unwrap();
    fill(&sysroot, 1_500_000);
    let before = chunked.machine.snapshot();
    for odd in [Odd::Gone(0), Odd::Closed(usize::MAX), Odd::Unmet(2)] {
        let relay = Relay::start(&chunked.registry.address, odd);
        let error = chunked.switch(&relay.address, "next", &Arc::default()).unwrap_err();
        assert_eq!(Failure::find(&error).map(|failure| failure.kind), Some(FailureKind::Unreachable), "{odd:?}: {error:#}");
        assert!(format!("{error:#}").contains(" MiB of layers that are not here yet"), "{odd:?}: {error:#}");
        assert_eq!(chunked.machine.snapshot(), before, "{odd:?}");
        assert_unchanged(&chunked.machine, &chunked.booted);
    }
}

#[test]
fn an_outage_that_passes_is_waited_for() {
    for odd in [Odd::Busy, Odd::Closed(3)] {
        let chunked = chunked();
        let relay = Relay::start(&chunked.registry.address, odd);
        let recorder = Arc::<Recorder>::default();
        let report = chunked.switch(&relay.address, "next", &recorder).unwrap_or_else(|error| panic!("{odd:?}: {error:#}"));
        assert_eq!((report.outcome, report.pulled.unwrap().fetched[0].way), (Outcome::Staged, Way::Partial), "{odd:?}");
        assert!(pauses(&recorder) > 0, "{odd:?}: {:?}", recorder.events());
    }
}

#[test]
fn where_the_parts_fit_nobody_has_to_say_whether_there_is_a_delta() {
    let chunked = chunked();
    let relay = Relay::start(&chunked.registry.address, Odd::Unlisted(usize::MAX));
    let report = chunked.switch(&relay.address, "next", &Arc::default()).unwrap();
    assert_eq!((report.outcome, report.pulled.unwrap().fetched[0].way), (Outcome::Staged, Way::Partial));
}

#[test]
fn where_only_skopeo_is_answered_all_of_a_layer_counts() {
    let chunked = chunked();
    let relay = Relay::start(&chunked.registry.address, Odd::Unmet(usize::MAX));
    let error = chunked.switch(&relay.address, "next", &Arc::default()).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    assert!(failure.message.contains("expected at least 5 MiB: 5 MiB of layers that are not here yet"), "{failure}");
}

/// A release that fits by its delta alone.
fn by_delta() -> Chunked {
    let mut bytes = oci::noise(30 * EACH);
    let release = |version: &str, bytes: &[u8]| -> Files { with_files(version, "old", bytes.chunks(EACH)) };
    let plain = Chunked::in_format(&release("2", &bytes), &["--dest-compress-format=zstd"]);
    bytes[20 * EACH] ^= 1;
    plain.publish("next", &release("3", &bytes));
    let at = |tag: &str| plain.registry.name(&format!("acme/os:{tag}")).parse().unwrap();
    let options = delta::Options {
        from: at("stable"),
        to: at("next"),
        source: plain_http(),
        output: at("delta"),
        destination: OutputOptions { tls_verify: Some(false), ..OutputOptions::default() },
        scratch: plain.machine.root.clone(),
    };
    delta::run(&options, &common::host::silent()).unwrap();
    plain
}

#[test]
fn whether_there_is_a_delta_is_asked_again_and_what_is_not_known_is_no_lack_of_room() {
    let plain = by_delta();
    let relay = Relay::start(&plain.registry.address, Odd::Unlisted(usize::MAX));
    let error = plain.switch(&relay.address, "next", &Arc::default()).unwrap_err();
    assert_eq!(Failure::find(&error).map(|failure| failure.kind), Some(FailureKind::Unreachable), "{error:#}");
    assert!(format!("{error:#}").ends_with("the answer is 503 Service Unavailable (expected 200 or 404), 3 times in a row"), "{error:#}");
    assert_unchanged(&plain.machine, &plain.booted);
    let relay = Relay::start(&plain.registry.address, Odd::Unlisted(2));
    let recorder = Arc::<Recorder>::default();
    let report = plain.switch(&relay.address, "next", &recorder).unwrap();
    assert_eq!((report.outcome, report.pulled.unwrap().fetched[0].way), (Outcome::Staged, Way::Delta));
    assert_eq!(pauses(&recorder), 2, "{:?}", recorder.events());
}
