//! `upgrade`, `switch` and `rollback` on a machine made of temporary directories.

mod common;

use common::host::Machine;
use common::layout;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::ImageId;
use selkie::ops::status::Status;
use selkie::ops::upgrade::{Outcome, Until};
use selkie::ops::{rollback, status};
use selkie::progress::Silent;

fn installed() -> (tempfile::TempDir, Machine, ImageId) {
    let temp = tempfile::tempdir().unwrap();
    let (machine, id) = Machine::install(temp.path());
    (temp, machine, id)
}

fn status_of(machine: &Machine, booted: &ImageId) -> Status {
    status::run(&machine.host(booted))
}

fn kind(error: &anyhow::Error) -> Option<FailureKind> {
    Failure::find(error).map(|f| f.kind)
}

#[test]
fn a_new_release_boots_next_and_the_old_one_stays() {
    let (_temp, machine, first) = installed();
    machine.release("stable", &layout::bootable("2"));
    let report = machine.upgrade(&first, None, Until::Stage).unwrap();
    assert_eq!(report.outcome, Outcome::Staged);
    let second = report.staged.unwrap();
    assert_ne!(second, first);
    let status = status_of(&machine, &first);
    assert_eq!((status.booted.id, status.booted.os_version.as_deref()), (first.clone(), Some("1")));
    let staged = status.staged.unwrap();
    assert_eq!(
        (staged.id, staged.os_version.as_deref(), staged.kernel_arguments.as_deref()),
        (second.clone(), Some("2"), Some("rw quiet"))
    );
    assert_eq!(status.problems, [""; 0]);
    let status = status_of(&machine, &second);
    assert_eq!((status.booted.id, status.staged, status.rollback.map(|d| d.id)), (second, None, Some(first)));
}

#[test]
fn the_same_image_again_makes_no_deployment() {
    let (_temp, machine, first) = installed();
    let before = machine.snapshot();
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, Outcome::UpToDate);
    assert_eq!(machine.snapshot(), before);
    machine.release("stable", &layout::bootable("2"));
    machine.upgrade(&first, None, Until::Stage).unwrap();
    let before = machine.snapshot();
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, Outcome::UpToDate);
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn a_check_only_reads_even_when_the_image_is_here_already() {
    let (_temp, machine, first) = installed();
    assert_eq!(machine.upgrade(&first, None, Until::Check).unwrap().outcome, Outcome::UpToDate);
    machine.release("stable", &layout::bootable("2"));
    let before = machine.snapshot();
    assert_eq!(machine.upgrade(&first, None, Until::Check).unwrap().outcome, Outcome::Available);
    assert_eq!(machine.snapshot(), before);
    assert_eq!(machine.upgrade(&first, None, Until::Download).unwrap().outcome, Outcome::Downloaded);
    let before = machine.snapshot();
    assert_eq!(machine.upgrade(&first, None, Until::Check).unwrap().outcome, Outcome::Available);
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn a_download_changes_nothing_about_what_boots_and_saves_the_upgrade_the_bytes() {
    let (_temp, machine, first) = installed();
    machine.release("stable", &layout::bootable("2"));
    machine.upgrade(&first, None, Until::Download).unwrap();
    assert_eq!(status_of(&machine, &first).staged, None);
    let report = machine.upgrade(&first, None, Until::Stage).unwrap();
    assert_eq!((report.outcome, report.pulled.unwrap().bytes_fetched), (Outcome::Staged, 0));
}

#[test]
fn rollback_goes_back_and_a_second_one_forward_again() {
    let (_temp, machine, first) = installed();
    let error = rollback::run(&machine.host(&first), &Silent).unwrap_err();
    assert_eq!(kind(&error), Some(FailureKind::NotFound));
    machine.release("stable", &layout::bootable("2"));
    let second = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
    let undone = rollback::run(&machine.host(&first), &Silent).unwrap();
    assert_eq!((undone.staged, undone.instead_of), (first.clone(), Some(second.clone())));
    assert_eq!(status_of(&machine, &first).staged, None);
    let back = rollback::run(&machine.host(&second), &Silent).unwrap();
    assert_eq!(back.staged, second, "the first boots next, so rolling back means staying on the second");
    let there = rollback::run(&machine.host(&second), &Silent).unwrap();
    assert_eq!(there.staged, first);
}

#[test]
fn switch_follows_another_tag_from_then_on() {
    let (_temp, machine, first) = installed();
    machine.release("next", &layout::bootable("2"));
    let next = machine.reference("next");
    let report = machine.upgrade(&first, Some(&next), Until::Stage).unwrap();
    assert_eq!((report.outcome, &report.image), (Outcome::Staged, &next));
    assert_eq!(machine.upgrade(&first, None, Until::Check).unwrap().image, next);
    machine.release("same", &layout::bootable("2"));
    let same = machine.reference("same");
    let before = status_of(&machine, &first).staged.unwrap();
    assert_eq!(machine.upgrade(&first, Some(&same), Until::Stage).unwrap().outcome, Outcome::Followed);
    let after = status_of(&machine, &first).staged.unwrap();
    assert_eq!((after.image, after.id, after.serial), (Some(same), before.id, before.serial));
}

/// The reference of a tag with a path from the working directory of this test.
fn from_here(machine: &Machine, tag: &str) -> String {
    let up = "../".repeat(std::env::current_dir().unwrap().components().count() - 1);
    machine.reference(tag).replacen("oci:/", &format!("oci:{up}"), 1)
}

#[test]
fn paths_are_kept_from_the_root() {
    let (_temp, machine, first) = installed();
    let before = machine.snapshot();
    let same = machine.upgrade(&first, Some(&from_here(&machine, "stable")), Until::Stage).unwrap();
    assert_eq!((same.outcome, same.image), (Outcome::UpToDate, machine.reference("stable")));
    assert_eq!(machine.snapshot(), before);
    machine.release("next", &layout::bootable("2"));
    let report = machine.upgrade(&first, Some(&from_here(&machine, "next")), Until::Stage).unwrap();
    assert_eq!((report.outcome, report.image), (Outcome::Staged, machine.reference("next")));
    assert_eq!(status_of(&machine, &first).staged.unwrap().image, Some(machine.reference("next")));
}

/// As selkie kept them once.
#[test]
fn a_path_that_was_kept_from_a_working_directory_is_mended_or_told() {
    let (_temp, machine, first) = installed();
    let follow = |image: String| {
        let host = machine.host(&first);
        let origin = host.system().unwrap().origin(&first).unwrap().clone();
        host.deployments().unwrap().create(&first, &selkie::origin::Origin { image, ..origin }).unwrap();
    };
    follow(from_here(&machine, "stable"));
    assert_eq!(machine.upgrade(&first, None, Until::Check).unwrap().outcome, Outcome::UpToDate);
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, Outcome::Followed);
    assert_eq!(status_of(&machine, &first).booted.image, Some(machine.reference("stable")));
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, Outcome::UpToDate);
    follow("oci:nowhere/images:stable".into());
    let error = machine.upgrade(&first, None, Until::Stage).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NotFound, "{error:#}");
    let words = "this machine follows oci:nowhere/images:stable, a path that does not begin at the root";
    assert!(failure.message.contains(words) && failure.hint.unwrap().contains("selkie switch oci:/"), "{error:#}");
    let report = machine.upgrade(&first, Some(&machine.reference("stable")), Until::Stage).unwrap();
    assert_eq!(report.outcome, Outcome::Followed);
}

#[test]
fn three_roots_are_kept_and_the_booted_one_always() {
    let (_temp, machine, first) = installed();
    let mut staged = Vec::new();
    for version in ["2", "3", "4", "5"] {
        machine.release("stable", &layout::bootable(version));
        staged.push(machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap());
    }
    let system = machine.host(&first).system().unwrap();
    let mut kept: Vec<&ImageId> = system.deployments.iter().map(|d| &d.id).collect();
    kept.sort();
    let mut expected = [&first, &staged[2], &staged[3]];
    expected.sort();
    assert_eq!(kept, expected);
    assert_eq!(system.entries.len(), 3);
    assert_eq!(system.problems, [""; 0]);
    let store = machine.host(&first).store().unwrap();
    for id in kept {
        store.tree(id).unwrap();
    }
    assert!(store.tree(&staged[0]).is_err(), "its image was collected");
}

#[test]
fn what_an_upgrade_that_was_cut_left_behind_makes_room_for_the_next() {
    let (temp, machine, first) = installed();
    let files = temp.path().join("esp/EFI/selkie");
    let orphan = format!("{}.linux", "0".repeat(64));
    std::fs::write(files.join(&orphan), "orphan").unwrap();
    std::fs::write(files.join(".selkie-tmp-x"), "half").unwrap();
    std::fs::create_dir(temp.path().join(format!("sysroot/state/deploy/.selkie-tmp-{}", "cd".repeat(32)))).unwrap();
    machine.release("stable", &layout::without(layout::bootable("2"), &["usr/lib/modules"]));
    machine.upgrade(&first, None, Until::Stage).unwrap_err();
    assert!(!files.join(orphan).exists() && !files.join(".selkie-tmp-x").exists());
    assert_eq!(std::fs::read_dir(temp.path().join("sysroot/state/deploy")).unwrap().count(), 1);
}

#[test]
fn the_booted_root_stays_whole_even_without_its_tag() {
    let (_temp, machine, first) = installed();
    let store = machine.host(&first).store().unwrap();
    for (tag, _) in store.tags().unwrap() {
        store.untag(&tag).unwrap();
    }
    drop(store);
    machine.release("stable", &layout::bootable("2"));
    machine.upgrade(&first, None, Until::Stage).unwrap();
    let tree = machine.host(&first).store().unwrap().tree(&first).unwrap();
    let kernel = selkie::store::kernel(&tree).unwrap();
    assert!(tree.read(&kernel.kernel).unwrap().starts_with(b"kernel 1 "));
}

#[test]
fn switch_repairs_a_machine_whose_origin_is_damaged() {
    let (temp, machine, first) = installed();
    std::fs::write(temp.path().join(format!("sysroot/state/deploy/{first}/origin.json")), "{").unwrap();
    machine.release("stable", &layout::bootable("2"));
    machine.upgrade(&first, None, Until::Stage).unwrap_err();
    let report = machine.upgrade(&first, Some(&machine.reference("stable")), Until::Stage).unwrap();
    assert_eq!((report.outcome, report.from_manifest, report.reboot_needed), (Outcome::Staged, None, true));
    let staged = status_of(&machine, &first).staged.unwrap();
    assert_eq!(staged.kernel_arguments.as_deref(), Some("rw quiet"), "they come from the boot entry");
}

#[test]
fn an_upgrade_brings_a_lost_initramfs_back() {
    let (temp, machine, first) = installed();
    for entry in std::fs::read_dir(temp.path().join("esp/EFI/selkie")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "initrd") {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert_ne!(status_of(&machine, &first).problems, [""; 0]);
    machine.upgrade(&first, None, Until::Stage).unwrap();
    assert_eq!(status_of(&machine, &first).problems, [""; 0]);
}

#[test]
fn a_root_that_waits_for_its_reboot_is_told_again() {
    let (_temp, machine, first) = installed();
    machine.release("stable", &layout::bootable("2"));
    assert!(machine.upgrade(&first, None, Until::Stage).unwrap().reboot_needed);
    let again = machine.upgrade(&first, None, Until::Stage).unwrap();
    assert_eq!((again.outcome, again.reboot_needed), (Outcome::UpToDate, true));
}

#[test]
fn one_at_a_time() {
    let (_temp, machine, first) = installed();
    machine.release("stable", &layout::bootable("2"));
    let host = machine.host(&first);
    let _held = host.lock().unwrap();
    assert_eq!(kind(&machine.upgrade(&first, None, Until::Stage).unwrap_err()), Some(FailureKind::Busy));
    assert_eq!(kind(&rollback::run(&host, &Silent).unwrap_err()), Some(FailureKind::Busy));
    assert_eq!(machine.upgrade(&first, None, Until::Check).unwrap().outcome, Outcome::Available, "a check needs no lock");
}

#[test]
fn an_image_that_cannot_boot_changes_nothing_about_what_boots() {
    let (_temp, machine, first) = installed();
    let modules = "usr/lib/modules/6.1";
    let cases = [
        ("no kernel", layout::without(layout::bootable("2"), &[&format!("{modules}/vmlinuz")])),
        ("two kernels", layout::with(layout::bootable("2"), "usr/lib/modules/6.2/vmlinuz", "another kernel")),
        ("no initramfs", layout::without(layout::bootable("2"), &[&format!("{modules}/initramfs.img")])),
        ("no usr", layout::without(layout::bootable("2"), &["usr"])),
        ("no init", layout::without(layout::bootable("2"), &["usr/lib/systemd/systemd"])),
        ("no proc", layout::without(layout::bootable("2"), &["proc"])),
        ("no etc and var", layout::without(layout::bootable("2"), &["etc", "var"])),
        ("var is a file", layout::with(layout::without(layout::bootable("2"), &["var"]), "var", "no directory")),
    ];
    for (name, files) in cases {
        machine.release("stable", &files);
        let error = machine.upgrade(&first, None, Until::Stage).unwrap_err();
        assert_eq!(kind(&error), Some(FailureKind::Unsuitable), "{name}: {error:#}");
        assert!(Failure::find(&error).unwrap().hint.is_some(), "{name}");
        let status = status_of(&machine, &first);
        assert_eq!((status.staged, status.rollback, status.problems), (None, None, vec![]), "{name}");
    }
    machine.release("stable", &layout::bootable("2"));
    assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().outcome, Outcome::Staged);
}

#[test]
fn an_unknown_tag_is_told_as_such() {
    let (_temp, machine, first) = installed();
    let nowhere = machine.reference("nowhere");
    let error = machine.upgrade(&first, Some(&nowhere), Until::Stage).unwrap_err();
    assert_eq!(kind(&error), Some(FailureKind::NotFound), "{error:#}");
}

#[test]
fn going_back_to_the_booted_image_by_tag_needs_no_reboot() {
    let (_temp, machine, first) = installed();
    machine.release("next", &layout::bootable("2"));
    machine.upgrade(&first, Some(&machine.reference("next")), Until::Stage).unwrap();
    let back = machine.upgrade(&first, Some(&machine.reference("stable")), Until::Stage).unwrap();
    assert_eq!((back.outcome, back.staged), (Outcome::Staged, Some(first.clone())));
    assert_eq!(status_of(&machine, &first).staged, None);
}
