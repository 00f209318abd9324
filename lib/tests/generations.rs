//! Many generations on one machine: `list`, `pin`, `rollback ID`, `boot-once`, on temporary directories.

mod common;

use common::host::Machine;
use common::layout;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::ImageId;
use selkie::ops::list::{self, Generation, List};
use selkie::ops::upgrade::{Outcome, Until};
use selkie::ops::{boot_once, gc, pin, rollback, status};
use selkie::progress::Silent;

/// A machine that was upgraded and rebooted so often, and kept everything; its roots, oldest first.
fn generations(count: usize) -> (tempfile::TempDir, Machine, Vec<ImageId>) {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    std::fs::create_dir(temp.path().join("firmware")).unwrap();
    let mut ids = vec![first];
    for version in 2..=count {
        let next = machine.next(ids.last().unwrap(), &version.to_string(), 99);
        machine.boot(&next);
        ids.push(next);
    }
    (temp, machine, ids)
}

fn listed(machine: &Machine, booted: &ImageId) -> List {
    list::run(&machine.host(booted))
}

/// Number and state of each generation, newest first, as people see them.
fn states(machine: &Machine, booted: &ImageId) -> Vec<String> {
    let list = listed(machine, booted);
    let line = |g: &Generation| {
        let state: Vec<&str> = g.state.iter().map(|state| state.name()).collect();
        format!("{} {}", g.number.unwrap(), state.join(" ")).trim_end().to_owned()
    };
    list.generations.iter().map(line).collect()
}

fn kind(error: &anyhow::Error) -> Option<FailureKind> {
    Failure::find(error).map(|f| f.kind)
}

fn variable(machine: &Machine) -> Option<Vec<u8>> {
    std::fs::read(machine.root.join("firmware/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")).ok()
}

#[test]
fn every_generation_is_listed_newest_first() {
    let (_temp, machine, ids) = generations(4);
    assert_eq!(states(&machine, &ids[3]), ["4 booted next", "3 previous", "2", "1"]);
    let list = listed(&machine, &ids[3]);
    let first = &list.generations[3];
    assert_eq!((first.id.clone(), first.os_version.as_deref()), (ids[0].clone(), Some("1")));
    assert_eq!(first.date.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert!(list.generations[0].date.as_deref() > Some("2024"));
    assert_eq!(list.problems, [""; 0]);
}

#[test]
fn the_boot_menu_tells_them_apart() {
    let (_temp, machine, ids) = generations(2);
    let system = machine.host(&ids[1]).system().unwrap();
    let origin = system.origin(&ids[1]).unwrap();
    let date = selkie::calendar::rfc3339(origin.staged.unwrap()).unwrap();
    let title = &system.entry(&ids[1]).unwrap().title;
    assert_eq!(*title, format!("2: Debian GNU/Linux 2, 2, {}, {}", &date[..10], ids[1].short()));
}

#[test]
fn a_damaged_generation_does_not_hide_the_others() {
    let (temp, machine, ids) = generations(3);
    std::fs::write(temp.path().join(format!("sysroot/state/deploy/{}/origin.json", ids[1])), "{").unwrap();
    std::fs::remove_dir_all(temp.path().join(format!("sysroot/state/deploy/{}", ids[0]))).unwrap();
    assert_eq!(states(&machine, &ids[2]), ["3 booted next", "2 previous", "1 broken"]);
    assert_eq!(listed(&machine, &ids[2]).problems.len(), 2);
    std::fs::remove_dir_all(temp.path().join("esp/loader")).unwrap();
    let list = listed(&machine, &ids[2]);
    assert_eq!(list.generations.iter().map(|g| g.number).collect::<Vec<_>>(), [Some(3), None]);
}

#[test]
fn a_number_of_older_roots_stays() {
    let (_temp, machine, ids) = generations(6);
    let next = machine.next(&ids[5], "7", 2);
    assert_eq!(states(&machine, &ids[5]), ["7 next", "6 booted", "5 previous", "4", "3"]);
    gc::run(&machine.host(&ids[5]), gc::Options { keep: 1, dry_run: false }, &Silent).unwrap();
    assert_eq!(states(&machine, &ids[5]), ["7 next", "6 booted", "5 previous", "4"]);
    machine.boot(&next);
    machine.next(&next, "8", 0);
    assert_eq!(states(&machine, &next), ["8 next", "7 booted", "6 previous"]);
}

#[test]
fn a_pinned_root_survives_ten_upgrades_and_still_boots() {
    let (_temp, machine, ids) = generations(1);
    let first = &ids[0];
    let report = pin::run(&machine.host(first), None, true, &Silent).unwrap();
    assert_eq!((report.id, report.number, report.changed), (first.clone(), Some(1), true));
    assert!(!pin::run(&machine.host(first), Some("1"), true, &Silent).unwrap().changed);
    let mut booted = first.clone();
    for version in 2..=11 {
        let next = machine.next(&booted, &version.to_string(), 0);
        machine.boot(&next);
        gc::run(&machine.host(&next), gc::Options::default(), &Silent).unwrap();
        booted = next;
    }
    assert_eq!(states(&machine, &booted), ["11 booted next", "10 previous", "1 pinned"]);
    let host = machine.host(&booted);
    let tree = host.store().unwrap().tree(first).unwrap();
    let kernel = selkie::store::kernel(&tree).unwrap();
    assert!(tree.read(&kernel.kernel).unwrap().starts_with(b"kernel 1 "));
    // Garbage collection waits for everybody who has the repository open.
    drop(tree);
    let back = rollback::to(&host, "1", &Silent).unwrap();
    assert_eq!((back.staged, back.instead_of), (first.clone(), Some(booted.clone())));
    assert_eq!(states(&machine, &booted), ["11 booted", "10 previous", "1 next pinned"]);
    pin::run(&host, Some("1"), false, &Silent).unwrap();
    rollback::to(&host, "11", &Silent).unwrap();
    gc::run(&host, gc::Options::default(), &Silent).unwrap();
    assert_eq!(listed(&machine, &booted).generations.len(), 2);
}

#[test]
fn a_pin_and_a_number_survive_staging_again() {
    let (_temp, machine, ids) = generations(3);
    pin::run(&machine.host(&ids[2]), Some(&ids[0].hex()[..4]), true, &Silent).unwrap();
    assert_eq!(machine.next(&ids[2], "1", 9), ids[0]);
    assert_eq!(states(&machine, &ids[2]), ["3 booted", "2 previous", "1 next pinned"]);
}

#[test]
fn what_cannot_be_pinned_is_told() {
    let (temp, machine, ids) = generations(2);
    assert_eq!(kind(&pin::run(&machine.host(&ids[1]), Some("7"), true, &Silent).unwrap_err()), Some(FailureKind::NotFound));
    std::fs::remove_dir_all(temp.path().join(format!("sysroot/state/deploy/{}", ids[0]))).unwrap();
    assert_eq!(kind(&pin::run(&machine.host(&ids[1]), Some("1"), true, &Silent).unwrap_err()), Some(FailureKind::NotFound));
}

#[test]
fn rollback_goes_to_any_generation() {
    let (_temp, machine, ids) = generations(4);
    let host = machine.host(&ids[3]);
    for (asked, expected) in [("1", 0), (&ids[1].hex()[..6], 1), (ids[2].hex(), 2), ("4", 3)] {
        assert_eq!(rollback::to(&host, asked, &Silent).unwrap().staged, ids[expected], "{asked}");
        let system = host.system().unwrap();
        assert_eq!(system.default_entry().unwrap().image, ids[expected]);
        assert_eq!((system.entries.len(), system.problems), (4, vec![]));
    }
    assert_eq!(states(&machine, &ids[3]), ["4 booted next", "3 previous", "2", "1"]);
    let error = rollback::to(&host, "5", &Silent).unwrap_err();
    assert!(kind(&error) == Some(FailureKind::NotFound) && error.to_string().contains("expected one of 4 ("), "{error:#}");
}

#[test]
fn one_boot_of_an_old_root_leaves_the_default() {
    let (_temp, machine, ids) = generations(4);
    let host = machine.host(&ids[3]);
    let report = boot_once::run(&host, "1", &Silent).unwrap();
    assert_eq!((report.once, report.default), (Some(ids[0].clone()), Some(ids[3].clone())));
    let expected = format!("selkie-{}.conf\0", ids[0].short());
    let written = variable(&machine).unwrap();
    let units: Vec<u16> = written[4..].chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    assert_eq!(written[..4], [7, 0, 0, 0]);
    let id = String::from_utf16(&units).unwrap();
    assert!(id.starts_with(&expected[..19]) && id.ends_with(".conf\0"), "{id:?}");
    let entries: Vec<String> = host.system().unwrap().entries.iter().map(|e| e.id()).collect();
    assert!(entries.contains(&id.trim_end_matches('\0').to_owned()), "{id:?} {entries:?}");

    assert_eq!(states(&machine, &ids[3]), ["4 booted next", "3 previous", "2", "1 once"]);
    let told = status::run(&host);
    assert_eq!((told.once.map(|d| d.id), told.staged, told.problems), (Some(ids[0].clone()), None, vec![]));
    gc::run(&host, gc::Options::default(), &Silent).unwrap();
    assert_eq!(states(&machine, &ids[3]), ["4 booted next", "3 previous", "1 once"], "it is not removed before it has run");
}

#[test]
fn an_old_root_that_runs_once_is_not_removed_and_the_default_stays() {
    let (_temp, machine, ids) = generations(4);
    boot_once::run(&machine.host(&ids[3]), "1", &Silent).unwrap();
    // The boot loader takes the variable away before it starts the entry.
    std::fs::remove_dir_all(machine.root.join("firmware")).unwrap();
    let told = status::run(&machine.host(&ids[0]));
    assert_eq!((told.booted.id, told.staged.map(|d| d.id)), (ids[0].clone(), Some(ids[3].clone())));
    assert_eq!((told.rollback.map(|d| d.id), told.problems), (Some(ids[0].clone()), vec![]));
    assert_eq!(states(&machine, &ids[0]), ["4 next", "3 previous", "2", "1 booted"]);
    let report = machine.upgrade(&ids[0], None, Until::Stage).unwrap();
    assert_eq!((report.outcome, report.reboot_needed), (Outcome::UpToDate, true));
    gc::run(&machine.host(&ids[0]), gc::Options::default(), &Silent).unwrap();
    assert_eq!(states(&machine, &ids[0]), ["4 next", "3 previous", "1 booted"]);
    machine.next(&ids[0], "5", 0);
    assert_eq!(states(&machine, &ids[0]), ["5 next", "4 previous", "1 booted"]);
    let whole = machine.host(&ids[0]).store().unwrap().tree(&ids[0]);
    assert!(whole.is_ok());
}

#[test]
fn one_boot_is_replaced_and_cancelled() {
    let (_temp, machine, ids) = generations(3);
    let host = machine.host(&ids[2]);
    boot_once::run(&host, "1", &Silent).unwrap();
    boot_once::run(&host, "2", &Silent).unwrap();
    assert_eq!(host.system().unwrap().once, Some(ids[1].clone()));
    assert_eq!(boot_once::cancel(&host, &Silent).unwrap().once, None);
    boot_once::cancel(&host, &Silent).unwrap();
    assert_eq!((variable(&machine), host.system().unwrap().once), (None, None));
}

#[test]
fn what_cannot_boot_is_not_booted_once() {
    let (temp, machine, ids) = generations(3);
    let entry = machine.host(&ids[2]).system().unwrap().entry(&ids[0]).unwrap().file.clone();
    std::fs::remove_file(temp.path().join("esp/loader/entries").join(entry)).unwrap();
    let error = boot_once::run(&machine.host(&ids[2]), "1", &Silent).unwrap_err();
    assert_eq!(kind(&error), Some(FailureKind::NotFound), "{error:#}");
    assert_eq!(variable(&machine), None);
    rollback::to(&machine.host(&ids[2]), "1", &Silent).unwrap();
    boot_once::run(&machine.host(&ids[2]), "1", &Silent).unwrap();
}

#[test]
fn every_verb_takes_the_lock() {
    let (_temp, machine, ids) = generations(2);
    let host = machine.host(&ids[1]);
    let _held = host.lock().unwrap();
    let busy = Some(FailureKind::Busy);
    assert_eq!(kind(&rollback::to(&host, "1", &Silent).unwrap_err()), busy);
    assert_eq!(kind(&pin::run(&host, None, true, &Silent).unwrap_err()), busy);
    assert_eq!(kind(&boot_once::run(&host, "1", &Silent).unwrap_err()), busy);
    assert_eq!(kind(&boot_once::cancel(&host, &Silent).unwrap_err()), busy);
    assert_eq!(kind(&gc::run(&host, gc::Options::default(), &Silent).unwrap_err()), busy);
    gc::run(&host, gc::Options { dry_run: true, keep: 0 }, &Silent).unwrap();
    assert_eq!(listed(&machine, &ids[1]).generations.len(), 2);
}

#[test]
fn a_machine_from_before_there_were_numbers() {
    let (temp, machine, ids) = generations(3);
    for id in &ids {
        let path = temp.path().join(format!("sysroot/state/deploy/{id}/origin.json"));
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json.as_object_mut().unwrap().retain(|key, _| key != "number" && key != "staged");
        std::fs::write(path, json.to_string()).unwrap();
    }
    assert_eq!(states(&machine, &ids[2]), ["3 booted next", "2 previous", "1"]);
    assert_eq!(listed(&machine, &ids[2]).generations[0].date, None);
    machine.release("stable", &layout::bootable("4"));
    machine.upgrade_keeping(&ids[2], None, Until::Stage, 9).unwrap();
    assert_eq!(states(&machine, &ids[2]), ["4 next", "3 booted", "2 previous", "1"]);
}
