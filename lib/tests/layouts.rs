//! Layouts of one disk: an ESP alone, and an ESP with an XBOOTLDR partition, which gets what is new. Entries of other systems stay as they are, byte for
//! byte, on both.

mod common;

use std::path::{Path, PathBuf};

use common::host::Machine;
use common::layout;
use selkie::boot::Tries;
use selkie::image_id::ImageId;
use selkie::ops::upgrade::Until;
use selkie::ops::{esp, gc, rollback, status};
use selkie::progress::Silent;

/// A machine that was made with an ESP alone and has got an XBOOTLDR partition since.
fn with_xbootldr(root: &Path) -> (Machine, ImageId) {
    let (machine, id) = Machine::install(root);
    std::fs::create_dir(root.join("xbootldr-first")).unwrap();
    (machine, id)
}

fn names(directory: PathBuf) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// How many entries are on the ESP and on the other partition.
fn entries(machine: &Machine) -> (usize, usize) {
    let count = |place: &str| names(machine.root.join(place).join("loader/entries")).len();
    (count("esp"), count("xbootldr-first"))
}

fn upgrade(machine: &Machine, booted: &ImageId, version: &str) -> ImageId {
    machine.release("stable", &layout::bootable(version));
    let next = machine.upgrade(booted, None, Until::Stage).unwrap().staged.unwrap();
    machine.boot(&next);
    next
}

#[test]
fn new_entries_go_to_xbootldr_and_old_ones_stay_until_their_time_has_come() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_xbootldr(temp.path());
    assert_eq!(status::run(&machine.host(&first)).problems, [""; 0]);
    let second = upgrade(&machine, &first, "2");
    assert_eq!(entries(&machine), (1, 1));
    let system = machine.host(&second).system().unwrap();
    assert_eq!(system.problems, [""; 0]);
    let order: Vec<&ImageId> = system.entries.iter().map(|entry| &entry.image).collect();
    assert_eq!(order, [&second, &first]);
    assert!(system.entries.iter().all(|entry| system.can_boot(entry)), "each on its own partition");
    let third = upgrade(&machine, &second, "3");
    assert_eq!(entries(&machine), (1, 2), "one to go back to");
    let fourth = upgrade(&machine, &third, "4");
    assert_eq!(entries(&machine), (0, 3), "the ESP has nothing of ours any more");
    assert_eq!(names(temp.path().join("esp/EFI/selkie")), [""; 0]);
    // Kernel and initramfs of each; the initramfs is the same.
    assert_eq!(names(temp.path().join("xbootldr-first/EFI/selkie")).len(), 4);
    assert_eq!(machine.host(&fourth).system().unwrap().default_entry().unwrap().image, fourth);
    let list = esp::list(&machine.host(&fourth)).unwrap();
    assert_eq!((list.places.len(), list.places[0].xbootldr), (1, Some(true)));
}

/// The same root again: its new entry is on the other partition than the old one.
#[test]
fn an_entry_is_replaced_across_partitions() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_xbootldr(temp.path());
    let second = upgrade(&machine, &first, "2");
    rollback::run(&machine.host(&second), &Silent).unwrap();
    assert_eq!(entries(&machine), (0, 2));
    let system = machine.host(&second).system().unwrap();
    assert_eq!((system.default_entry().unwrap().image.clone(), system.default_entry().unwrap().serial), (first, 3));
}

#[test]
fn a_root_on_trial_that_is_given_up_goes_back_to_the_other_partition() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_xbootldr(temp.path());
    machine.release("stable", &layout::with(layout::bootable("2"), "usr/lib/systemd/systemd-bless-boot", "bless"));
    let second = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
    let directory = temp.path().join("xbootldr-first/loader/entries");
    let name = |counter: &str| directory.join(format!("selkie-{}-2{counter}.conf", second.short()));
    std::fs::rename(name("+3"), name("+0-3")).unwrap();
    let system = machine.host(&first).system().unwrap();
    assert_eq!(system.default_entry().unwrap().image, first);
    assert_eq!(system.entry(&second).unwrap().tries, Some(Tries { left: 0, done: 3 }));
    assert_eq!(system.failed.iter().map(|failed| &failed.id).collect::<Vec<_>>(), [&second]);
    gc::run(&machine.host(&first), gc::Options::default(), &Silent).unwrap();
    assert_eq!(entries(&machine), (1, 0));
}

#[test]
fn entries_and_files_of_other_systems_stay_byte_for_byte() {
    for xbootldr in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let (machine, first) = if xbootldr { with_xbootldr(temp.path()) } else { Machine::install(temp.path()) };
        let hex = "ab".repeat(32);
        let others = [
            ("loader/entries/6a9857a393724b7a981ebb5b8495b9ea-6.1.0.conf", "title Fedora\r\nsort-key fedora\r\nlinux /fedora/vmlinuz\r\n"),
            ("loader/entries/debian+3.conf", "title   Debian \n# a comment\nlinux /debian/vmlinuz\noptions composefs=junk\n"),
            ("loader/entries/selkie-not.conf", "title not ours, whatever its name\nlinux /x\n"),
            ("loader/entries/garbage.conf", "nonsense\n"),
            ("loader/entries/.hidden.conf", "title x\n"),
            ("loader/random-seed", "seed"),
            ("EFI/Linux/other.efi", "a unified kernel image of somebody else"),
            ("EFI/BOOT/BOOTX64.EFI", "shim"),
            ("EFI/selkie/readme.txt", "not a name of ours"),
            ("fedora/vmlinuz", "kernel"),
        ];
        let places = if xbootldr { &["esp", "xbootldr-first"][..] } else { &["esp"] };
        let kernel = format!("EFI/selkie/{hex}.linux");
        for place in places {
            for (path, text) in others {
                let path = temp.path().join(place).join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            std::fs::create_dir_all(temp.path().join(place).join("EFI/selkie")).unwrap();
            std::fs::write(temp.path().join(place).join(&kernel), "garbage of ours").unwrap();
        }
        let unchanged = |when: &str| {
            for place in places {
                for (path, text) in others {
                    assert_eq!(std::fs::read_to_string(temp.path().join(place).join(path)).unwrap(), text, "{when}: {place}/{path}");
                }
            }
        };
        let second = upgrade(&machine, &first, "2");
        unchanged("upgrade");
        assert!(temp.path().join("esp").join(&kernel).exists(), "an entry that cannot be read may need it");
        rollback::run(&machine.host(&second), &Silent).unwrap();
        unchanged("rollback");
        let third = upgrade(&machine, &first, "3");
        gc::run(&machine.host(&third), gc::Options::default(), &Silent).unwrap();
        unchanged("gc");
        let mut foreign = status::run(&machine.host(&third)).foreign_entries;
        foreign.dedup();
        assert_eq!(foreign.len(), 4, "{foreign:?}");
        for place in places {
            std::fs::remove_file(temp.path().join(place).join("loader/entries/garbage.conf")).unwrap();
        }
        gc::run(&machine.host(&third), gc::Options::default(), &Silent).unwrap();
        assert!(places.iter().all(|place| !temp.path().join(place).join(&kernel).exists()));
    }
}

/// A mirror on a disk that has both partitions, and the machine coming up from there.
#[test]
fn a_mirror_with_xbootldr_gets_kernels_there_and_its_loader_on_the_esp() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    for directory in ["esp/EFI/BOOT", "esp-second", "xbootldr-second"] {
        std::fs::create_dir_all(temp.path().join(directory)).unwrap();
    }
    let name = if cfg!(target_arch = "aarch64") { "BOOTAA64.EFI" } else { "BOOTX64.EFI" };
    std::fs::write(temp.path().join("esp/EFI/BOOT").join(name), "#### LoaderInfo: systemd-boot 257 ####").unwrap();
    esp::add(&machine.host(&first), &machine.place("second"), &Silent).unwrap();
    assert_eq!(names(temp.path().join("esp-second")), ["EFI", "loader"]);
    assert_eq!(names(temp.path().join("esp-second/EFI")), ["BOOT", "systemd"]);
    assert_eq!(names(temp.path().join("xbootldr-second/loader/entries")).len(), 1);
    let places = ["second", "first"];
    machine.release("stable", &layout::bootable("2"));
    let options = selkie::ops::upgrade::Options {
        image: None,
        source: selkie::image::SourceOptions::default(),
        until: Until::Stage,
        keep: 0,
        retry: false,
    };
    let report = selkie::ops::upgrade::run(&machine.host_from(&first, &places), &options, &common::host::silent()).unwrap();
    let second = report.staged.unwrap();
    assert_eq!((names(temp.path().join("xbootldr-second/loader/entries")).len(), entries(&machine).0), (2, 2));
    assert_eq!(machine.host_from(&second, &places).survey().problems, [""; 0]);
}
