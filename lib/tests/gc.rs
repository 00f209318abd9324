//! `gc`: what is planned is what is done, and nothing that something needs is in it.

mod common;

use common::host::Machine;
use common::layout;
use selkie::image_id::ImageId;
use selkie::ops::gc::{self, Options, Report};
use selkie::ops::pin;
use selkie::ops::upgrade::Until;
use selkie::progress::Silent;

/// A machine with five generations, of which the last runs.
fn five() -> (tempfile::TempDir, Machine, Vec<ImageId>) {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    let mut ids = vec![first];
    for version in ["2", "3", "4", "5"] {
        // What only this version has, too long to be inline.
        let files = layout::with(layout::bootable(version), "usr/own", &version.repeat(10_000));
        machine.release("stable", &files);
        ids.push(machine.upgrade_keeping(ids.last().unwrap(), None, Until::Stage, 9).unwrap().staged.unwrap());
        machine.boot(ids.last().unwrap());
    }
    (temp, machine, ids)
}

fn run(machine: &Machine, booted: &ImageId, keep: usize, dry_run: bool) -> Report {
    gc::run(&machine.host(booted), Options { keep, dry_run }, &Silent).unwrap()
}

fn objects(machine: &Machine, booted: &ImageId) -> (u64, u64) {
    let objects = machine.host(booted).store().unwrap().objects().unwrap();
    (objects.len() as u64, objects.iter().map(|object| object.size).sum())
}

#[test]
fn the_plan_is_what_is_done() {
    for (keep, pinned, gone) in [(0, None, 3), (1, None, 2), (9, None, 0), (0, Some("1"), 2), (0, Some("4"), 3)] {
        let (_temp, machine, ids) = five();
        let booted = &ids[4];
        pinned.map(|id| pin::run(&machine.host(booted), Some(id), true, &Silent).unwrap());
        let before = (machine.snapshot(), objects(&machine, booted));
        let plan = run(&machine, booted, keep, true);
        assert_eq!((machine.snapshot(), objects(&machine, booted)), before, "a plan changes nothing");
        assert!(plan.dry_run && plan.deployments.len() == gone && plan.entries.len() == gone && plan.tags.len() == gone, "{plan:#?}");
        let done = run(&machine, booted, keep, false);
        assert_eq!(Report { dry_run: false, ..plan }, done, "keep {keep}, pinned {pinned:?}");
        let (count, bytes) = objects(&machine, booted);
        assert_eq!((before.1.0 - count, before.1.1 - bytes), (done.objects, done.bytes));
        assert_eq!(done.objects > 0, gone > 0);
        let nothing = run(&machine, booted, keep, true);
        assert_eq!((nothing.entries.len(), nothing.deployments.len(), nothing.objects), (0, 0, 0));
        let system = machine.host(booted).system().unwrap();
        assert_eq!((system.entries.len(), system.problems), (5 - gone, vec![]));
        let store = machine.host(booted).store().unwrap();
        for entry in &system.entries {
            store.check_objects(&entry.image).unwrap();
        }
    }
}

#[test]
fn what_a_cut_pull_left_goes_and_what_has_a_name_stays() {
    let (_temp, machine, ids) = five();
    let booted = &ids[4];
    let store = machine.host(booted).store().unwrap();
    machine.release("other", &layout::with(layout::bootable("6"), "usr/own", &"6".repeat(10_000)));
    let options = |tag: &str| selkie::ops::pull::Options {
        image: machine.reference("other").parse().unwrap(),
        source: selkie::image::SourceOptions::default(),
        tag: Some(tag.to_owned()),
    };
    let pulled = selkie::ops::pull::run(&store, &options("mine"), &common::host::silent()).unwrap();
    drop(store);
    run(&machine, booted, 9, false);
    let store = machine.host(booted).store().unwrap();
    store.check_objects(&pulled.boot_image).unwrap();
    store.untag("mine").unwrap();
    drop(store);
    let plan = run(&machine, booted, 9, true);
    assert!(plan.objects > 0 && plan.bytes > 10_000 && plan.deployments.is_empty(), "{plan:#?}");
    assert_eq!(run(&machine, booted, 9, false).objects, plan.objects);
}
