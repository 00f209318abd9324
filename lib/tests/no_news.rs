//! `selkie upgrade` where the tag still names what is here: one request for the manifest, to a real registry. And where it does not.

mod common;
#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;
#[path = "common/relay.rs"]
mod relay;

use std::sync::Arc;

use common::host::Machine;
use common::layout;
use registry::{Registry, push};
use relay::{Odd, Relay};
use selkie::image::SourceOptions;
use selkie::image_id::{Algorithm, ImageId};
use selkie::ops::pull;
use selkie::ops::upgrade::{self, Options, Outcome, Report, Until};
use selkie::progress::{Progress, Silent};
use selkie::store::Verity;

/// A machine that follows a tag of a registry behind a relay that listens.
struct Followed {
    temp: tempfile::TempDir,
    registry: Registry,
    relay: Relay,
    machine: Machine,
    id: ImageId,
}

impl Followed {
    fn new() -> Self {
        let (temp, registry) = (tempfile::tempdir().unwrap(), Registry::start());
        let relay = Relay::start(&registry.address, Odd::Ignored);
        let (machine, first) = Machine::install(temp.path());
        let mut this = Self { temp, registry, relay, machine, id: first };
        this.publish("2");
        let switch = Some(format!("{}/acme/os:stable", this.relay.address).parse().unwrap());
        let staged = this.run(&Options { image: switch, ..options(Until::Stage) });
        assert_eq!(staged.outcome, Outcome::Staged);
        this.id = staged.staged.unwrap();
        this.machine.boot(&this.id);
        this
    }

    fn publish(&self, version: &str) {
        self.machine.release("stable", &layout::bootable(version));
        push(&[], &self.temp.path().join("images"), "stable", &self.registry.name("acme/os:stable"));
    }

    fn run(&self, options: &Options) -> Report {
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        upgrade::run(&self.machine.host(&self.id), options, &silent).unwrap()
    }

    /// The requests of a call, and what came of it.
    fn asked(&self, options: &Options) -> (Vec<String>, Report) {
        let before = self.relay.seen().len();
        let report = self.run(options);
        let heads = self.relay.seen().split_off(before);
        (heads.into_iter().filter_map(|head| Some(head.split_once(" HTTP").or(head.split_once(" http"))?.0.to_owned())).collect(), report)
    }
}

fn options(until: Until) -> Options {
    let source = SourceOptions { tls_verify: Some(false), ..Default::default() };
    Options { image: None, source, until, keep: 0, retry: false }
}

#[test]
fn no_news_is_one_request_for_the_manifest() {
    let followed = Followed::new();
    for until in [Until::Check, Until::Download, Until::Stage] {
        let (heads, report) = followed.asked(&options(until));
        assert_eq!(heads, ["GET /v2/", "head /v2/acme/os/manifests/stable"], "{until:?}");
        assert_eq!((report.outcome, report.reboot_needed, report.version.as_deref()), (Outcome::UpToDate, false, Some("2")));
        assert_eq!(report.from_manifest, Some(report.to_manifest));
    }
}

#[test]
fn news_is_found_and_taken_as_ever() {
    let followed = Followed::new();
    followed.publish("3");
    assert_eq!(followed.run(&options(Until::Check)).outcome, Outcome::Available);
    let report = followed.run(&options(Until::Stage));
    assert_eq!(report.outcome, Outcome::Staged);
    // What waits for a reboot is no news, and is told.
    let (heads, report) = followed.asked(&options(Until::Stage));
    assert_eq!((heads.len(), report.outcome, report.reboot_needed), (2, Outcome::UpToDate, true));
}

#[test]
fn another_reference_is_resolved_although_it_names_the_same() {
    let followed = Followed::new();
    push(&[], &followed.temp.path().join("images"), "stable", &followed.registry.name("acme/os:other"));
    let other = Some(format!("{}/acme/os:other", followed.relay.address).parse().unwrap());
    let (heads, report) = followed.asked(&Options { image: other, ..options(Until::Stage) });
    assert_eq!(report.outcome, Outcome::Followed);
    assert!(heads.iter().any(|head| head == "GET /v2/acme/os/manifests/other"), "{heads:?}");
}

#[test]
fn an_image_that_decides_on_a_new_repository_is_resolved_once() {
    let followed = Followed::new();
    let asked = |name: &str, algorithm| {
        let before = followed.relay.seen().len();
        let repository = pull::Repository { path: followed.temp.path().join(name), algorithm, verity: Verity::IfPossible };
        let image = format!("{}/acme/os:stable", followed.relay.address).parse().unwrap();
        let options = pull::Options { image, source: options(Until::Stage).source, tag: None };
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        assert_eq!(pull::run_into(&repository, &options, &silent).unwrap().algorithm, Algorithm::Sha256);
        followed.relay.seen().split_off(before).iter().filter(|head| head.contains("/manifests/")).count()
    };
    assert_eq!(asked("undecided", None), asked("decided", Some(Algorithm::Sha256)));
}
