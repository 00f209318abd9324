//! Updates that do not fit as a whole: what is missing of them decides, and what has no role makes room.
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
use parts::{Chunked, EACH, with_files};
use registry::copy;
use relay::{Odd, Relay};
use selkie::error::{Failure, FailureKind};
use selkie::image::{OutputOptions, SourceOptions};
use selkie::ops::delta;
use selkie::ops::pull::Way;
use selkie::ops::upgrade::{Outcome, Until};
use selkie::progress::{Event, Recorder};
use space_common::{assert_unchanged, fill, installed};
use store_common::sha256;

#[test]
fn an_update_that_fits_in_parts_is_taken() {
    let bytes = oci::noise(31 * EACH);
    let (old, new) = bytes.split_at(30 * EACH);
    let chunked = Chunked::new(&with_files("2", "old", old.chunks(EACH)));
    // One new content, which is stored once and would not fit as often as it comes.
    let contents = || old.chunks(EACH).chain(std::iter::repeat_n(new, 20));
    chunked.publish("stable", &with_files("3", "old", contents()));
    let recorder = Arc::<Recorder>::default();
    let report = chunked.upgrade_with(None, Until::Download, &recorder).unwrap();
    let pulled = report.pulled.unwrap();
    assert_eq!((report.outcome, pulled.fetched[0].way), (Outcome::Downloaded, Way::Partial));
    // What a pull that was cut has fetched would be gone.
    let steps = recorder.steps();
    let at = |name: &str| steps.iter().position(|step| step == name).unwrap();
    assert!(at("import layer") < at("collect objects"), "{steps:?}");
    assert!(pulled.fetched[0].size > 4_500_000, "{pulled:?}");
    // The same by another name and as another release, at once.
    chunked.publish("other", &with_files("4", "old", contents()));
    let report = chunked.upgrade(Some("other"), Until::Stage).unwrap();
    assert_eq!((report.outcome, report.pulled.unwrap().fetched[0].way), (Outcome::Staged, Way::Partial));
}

#[test]
fn a_table_of_contents_that_was_looked_at_is_not_fetched_again() {
    let bytes = oci::noise(31 * EACH);
    let (old, new) = bytes.split_at(30 * EACH);
    let chunked = Chunked::new(&with_files("2", "old", old.chunks(EACH)));
    chunked.publish("stable", &with_files("3", "old", old.chunks(EACH).chain(std::iter::repeat_n(new, 20))));
    let relay = Relay::start(&chunked.registry.address, Odd::Gone(usize::MAX));
    let report = chunked.switch(&relay.address, "stable", &Arc::default()).unwrap();
    let layer = &report.pulled.unwrap().fetched[0];
    let mut ranges = relay.ranges();
    // The table comes first, and what was fetched for it counts.
    let table = ranges[0].clone();
    assert_eq!(ranges.iter().filter(|range| **range == table).count(), 1, "{ranges:?}");
    let asked: u64 = ranges.drain(..).map(|range| range.end() - range.start() + 1).sum();
    assert_eq!((layer.way, layer.bytes), (Way::Partial, asked));
}

#[test]
fn what_has_no_role_makes_room_where_an_update_is_larger_than_was_foreseen() {
    let bytes = oci::noise(30 * EACH);
    let chunked = Chunked::new(&with_files("2", "old", bytes.chunks(EACH)));
    let sysroot = chunked.temp.path().join("sysroot");
    // Half a megabyte in the layer, and four on the disk; a megabyte of what a pull that was cut has left.
    std::fs::remove_file(sysroot.join("other")).unwrap();
    let left = oci::tar(&oci::noise(4_000_000)[3_000_000..]);
    chunked.machine.host(&chunked.booted).store().unwrap().import_layer(&sha256(&left), &left[..]).unwrap();
    fill(&sysroot, 4_000_000);
    let word: Vec<u8> = bytes[..EACH / 2].iter().flat_map(|byte| [*byte; 80]).collect();
    chunked.publish("stable", &with_files("3", "old", bytes.chunks(EACH).chain(word.chunks(word.len() / 10))));
    let recorder = Arc::<Recorder>::default();
    let report = chunked.upgrade_with(None, Until::Stage, &recorder).unwrap();
    assert_eq!(report.outcome, Outcome::Staged);
    let again = |event: &Event| matches!(event, Event::Note { message, .. } if message.ends_with("and it is fetched again"));
    assert!(recorder.events().iter().any(again), "{:?}", recorder.events());
}

#[test]
fn an_update_of_which_not_even_the_parts_fit_is_not_fetched() {
    // 2.9 MB are new, and all would be 6 MiB.
    let bytes = oci::noise(59 * EACH);
    let chunked = Chunked::new(&with_files("2", "old", bytes[..30 * EACH].chunks(EACH)));
    chunked.publish("stable", &with_files("3", "new", bytes.chunks(EACH)));
    let before = chunked.machine.snapshot();
    let error = chunked.upgrade(None, Until::Stage).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    let numbers = "the root file system has 2 MiB free (expected at least 3 MiB: 3 MiB of layers that are not here yet, and 1 MiB for the file system images)";
    assert!(failure.message.starts_with("pulling ") && failure.message.ends_with(numbers), "{failure}");
    assert_eq!(chunked.machine.snapshot(), before);
    assert_unchanged(&chunked.machine, &chunked.booted);
    std::fs::remove_file(chunked.temp.path().join("sysroot/other")).unwrap();
    assert_eq!(chunked.upgrade(None, Until::Stage).unwrap().outcome, Outcome::Staged);
}

#[test]
fn an_update_that_fits_by_a_delta_is_taken() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "24m", "8m");
    let publish = |tag: &str, files: &Files| {
        machine.release(tag, files);
        let to = format!("oci:{}:{tag}", temp.path().join("zstd").display());
        copy(&["--dest-compress-format=zstd"], &machine.reference(tag), &to);
        to
    };
    let mut bytes = oci::noise(30 * EACH);
    let from = publish("from", &with_files("2", "old", bytes.chunks(EACH)));
    bytes[20 * EACH] ^= 1;
    let to = publish("to", &with_files("3", "old", bytes.chunks(EACH)));
    let booted = machine.upgrade(&first, Some(&from), Until::Stage).unwrap().staged.unwrap();
    machine.boot(&booted);
    fill(&temp.path().join("sysroot"), 1_500_000);
    let error = machine.upgrade(&booted, Some(&to), Until::Stage).unwrap_err();
    assert_eq!(
        Failure::find(&error).map(|f| f.kind),
        Some(FailureKind::NoSpace),
        "without a table or a delta, all of a layer counts: {error:#}"
    );
    let options = delta::Options {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        source: SourceOptions::default(),
        output: from.replace(":from", ":delta").parse().unwrap(),
        destination: OutputOptions::default(),
        scratch: machine.root.clone(),
    };
    delta::run(&options, &common::host::silent()).unwrap();
    let report = machine.upgrade(&booted, Some(&to), Until::Stage).unwrap();
    assert_eq!((report.outcome, report.pulled.unwrap().fetched[0].way), (Outcome::Staged, Way::Delta));
}
