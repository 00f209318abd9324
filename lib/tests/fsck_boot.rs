//! `selkie fsck` on machines whose deployments, boot entries or kernels are damaged: what it finds, what it makes of that, and what it leaves alone.

mod common;
mod fsck_common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::host::Machine;
use common::{layout, sealed};
use fsck_common::{Three, fsck, subject};
use selkie::boot::Tries;
use selkie::cmdline::Cmdline;
use selkie::finding::{Damage, Kind, Outcome, Remedy};
use selkie::image_id::ImageId;
use selkie::ops::fsck::{Options, Report, Target, Verdict};
use selkie::ops::upgrade::Until;
use selkie::ops::{fsck as verb, rollback};
use selkie::progress::Silent;

/// All findings, without their words.
fn subjects(report: &Report) -> Vec<(Kind, String, Damage, Remedy)> {
    report.findings.iter().map(|f| (f.kind, f.name.clone(), f.damage, f.remedy)).collect()
}

/// A look finds exactly this, a repair mends all of it, and the machine is as it was before.
fn mends(three: &Three, expected: &[(Kind, String, Damage, Remedy)]) -> Report {
    let found = three.look();
    assert_eq!((subjects(&found), found.verdict), (expected.to_vec(), Verdict::Damaged), "{found:#?}");
    let report = three.repair();
    assert_eq!((subjects(&report), report.verdict), (expected.to_vec(), Verdict::Repaired), "{report:#?}");
    assert!(report.findings.iter().all(|finding| finding.outcome == Outcome::Repaired));
    three.assert_clean();
    report
}

#[test]
fn a_whole_machine_is_clean_and_nothing_is_written() {
    let three = Three::new();
    let before = three.machine.snapshot();
    let report = three.repair();
    assert_eq!((report.verdict, report.findings, report.unchecked), (Verdict::Clean, vec![], vec![]));
    assert_eq!((report.checked.deployments, report.checked.entries), (3, 3));
    assert_eq!(three.machine.snapshot(), before);
}

#[test]
fn kernels_come_back_whatever_became_of_them() {
    type Damaging = fn(&Path);
    let ways: [(Damage, Damaging); 5] = [
        (Damage::Missing, |path| std::fs::remove_file(path).unwrap()),
        (Damage::Truncated, |path| std::fs::write(path, "kern").unwrap()),
        (Damage::Truncated, |path| std::fs::write(path, "").unwrap()),
        (Damage::Changed, |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[3] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }),
        (Damage::Unreadable, |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir_all(path.join("half")).unwrap();
        }),
    ];
    let three = Three::new();
    let entries = three.entries();
    for (damage, way) in ways {
        for line in ["linux ", "initrd "] {
            let path = three.kernel(&three.second, line);
            let file = three.esp().join(&path);
            let bytes = std::fs::read(&file).unwrap();
            way(&file);
            mends(&three, &[subject(Kind::Kernel, &path, damage, Remedy::Rebuild)]);
            assert_eq!(std::fs::read(&file).unwrap(), bytes);
        }
    }
    assert_eq!(three.entries(), entries);
}

#[test]
fn all_kernels_at_once_come_back() {
    let three = Three::new();
    let before = three.machine.snapshot();
    std::fs::remove_dir_all(three.esp().join("EFI/selkie")).unwrap();
    assert_eq!(three.repair().verdict, Verdict::Repaired);
    three.assert_clean();
    assert_eq!(three.machine.snapshot(), before);
}

#[test]
fn an_entry_that_was_cut_or_is_garbage_comes_back_in_its_place() {
    let three = Three::new();
    for id in [&three.second, &three.third] {
        let path = three.entry(id);
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let whole = std::fs::read(&path).unwrap();
        let order = three.order();
        let text = std::str::from_utf8(&whole).unwrap();
        // Up to the last line a loader would not find a root; inside it, another one or none.
        let options = text.find("options ").unwrap() + "options composefs.digest=".len();
        for cut in
            [0, 5, 40, text.find("sort-key").unwrap(), text.find("linux").unwrap(), text.find("initrd").unwrap(), options, options + 20]
        {
            std::fs::write(&path, &whole[..cut]).unwrap();
            mends(&three, &[subject(Kind::Entry, &name, Damage::Unreadable, Remedy::Rebuild)]);
            assert_eq!((std::fs::read(&path).unwrap(), three.order()), (whole.clone(), order.clone()), "cut at {cut}");
        }
        for garbage in [b"\xff\xfe\x00garbage".to_vec(), vec![0; 512], [b"linux /x\n\xff".to_vec(), whole.clone()].concat()] {
            std::fs::write(&path, garbage).unwrap();
            mends(&three, &[subject(Kind::Entry, &name, Damage::Unreadable, Remedy::Rebuild)]);
            assert_eq!((std::fs::read(&path).unwrap(), three.order()), (whole.clone(), order.clone()));
        }
        // A flipped byte in the name of its kernel, and in its root.
        for (from, to) in [("EFI/selkie/", "EFI/selkja/"), (".linux", ".linuy"), (&id.hex()[..20], "00000000000000000000")] {
            std::fs::write(&path, text.replace(from, to)).unwrap();
            let damage = if from == &id.hex()[..20] { Damage::Dangling } else { Damage::Changed };
            mends(&three, &[subject(Kind::Entry, &name, damage, Remedy::Rebuild)]);
            assert_eq!((std::fs::read(&path).unwrap(), three.order()), (whole.clone(), order.clone()), "{from}");
        }
    }
}

#[test]
fn an_entry_that_is_gone_comes_back_in_its_place() {
    let three = Three::new();
    let order = three.order();
    for id in [&three.first, &three.second, &three.third] {
        let path = three.entry(id);
        let whole = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        mends(&three, &[subject(Kind::Entry, id.hex(), Damage::Missing, Remedy::Rebuild)]);
        assert_eq!(three.order(), order);
        // The first was made by another hand, with another title.
        if *id != three.first {
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }
    std::fs::remove_dir_all(three.esp().join("loader/entries")).unwrap();
    let expected: Vec<_> = three.sorted().map(|id| subject(Kind::Entry, id.hex(), Damage::Missing, Remedy::Rebuild)).into();
    mends(&three, &expected);
    // With no entry at all nobody knows that the third was staged; all the same it is, and is counted.
    assert_eq!(three.order(), order);
}

#[test]
fn the_root_that_runs_boots_next_where_its_entry_is_gone_and_nothing_is_staged() {
    let three = Three::new();
    let host = three.machine.host(&three.first);
    rollback::to(&host, "1", &Silent).unwrap();
    three.machine.boot(&three.third);
    assert_eq!(three.order()[0].0, three.first);
    std::fs::remove_file(three.entry(&three.first)).unwrap();
    assert_eq!(fsck(&three.machine, &three.first, true).verdict, Verdict::Repaired);
    let system = three.machine.host(&three.first).system().unwrap();
    assert_eq!(system.default_entry().map(|e| (&e.image, e.tries)), Some((&three.first, None)));
    assert_eq!(system.entries.len(), 3);
}

#[test]
fn a_root_that_failed_never_comes_first_by_a_repair() {
    let given_up = Some(Tries { left: 0, done: 3 });
    for garbage in [false, true] {
        let three = Three::new();
        three.fail(&three.third);
        let path = three.entry(&three.third);
        std::fs::remove_file(&path).unwrap();
        if garbage {
            std::fs::write(three.esp().join(format!("loader/entries/selkie-{}-3.conf", three.third.short())), "x").unwrap();
        }
        assert_eq!(three.repair().verdict, Verdict::Repaired);
        let expected = [(three.second.clone(), 2, None), (three.first.clone(), 1, None), (three.third.clone(), 3, given_up)];
        assert_eq!(three.order(), expected, "garbage: {garbage}");
    }
}

#[test]
fn a_deployment_that_does_not_run_is_made_again() {
    let three = Three::new();
    for id in [&three.first, &three.third] {
        let directory = three.deployment(id);
        let before = three.machine.host(&three.second).deployments().unwrap().get(id).unwrap().unwrap().origin().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let report = mends(&three, &[subject(Kind::Deployment, id.hex(), Damage::Missing, Remedy::Rebuild)]);
        assert!(report.findings[0].message.contains("local changes of /etc"), "{report:#?}");
        let deployment = three.machine.host(&three.second).deployments().unwrap().get(id).unwrap().unwrap();
        let made = deployment.origin().unwrap();
        // What only the deployment knew is gone; its first boot carries the local changes of the root that runs.
        let expected = selkie::origin::Origin { made_under: Some(three.second.clone()), staged: None, ..before };
        assert_eq!((made, deployment.requested_etc().unwrap()), (expected, Some(three.second.clone())));
        three.machine.boot(id);
    }
}

#[test]
fn the_deployment_of_the_root_that_runs_is_told() {
    let three = Three::new();
    std::fs::remove_dir_all(three.deployment(&three.second)).unwrap();
    let report = three.repair();
    let lost = subject(Kind::Deployment, three.second.hex(), Damage::Missing, Remedy::None);
    let etc = subject(Kind::Deployment, &format!("{}/etc-from.json", three.third), Damage::Dangling, Remedy::Rebuild);
    assert!(subjects(&report).contains(&lost) && subjects(&report).contains(&etc), "{report:#?}");
    let told = &report.findings[0];
    assert!(told.message.contains("save what is in /etc now") && told.message.contains("selkie switch IMAGE"), "{told:#?}");
    assert_eq!(report.verdict, Verdict::Damaged);
    assert!(three.entry(&three.second).exists());
}

#[test]
fn an_origin_is_written_again_and_that_of_a_newer_selkie_is_left() {
    let three = Three::new();
    let path = three.deployment(&three.second).join("origin.json");
    let name = format!("{}/origin.json", three.second);
    let read = || selkie::record::read::<selkie::origin::Origin>(&std::fs::read(&path).unwrap()).unwrap();
    let before = read();
    std::fs::write(&path, "{").unwrap();
    mends(&three, &[subject(Kind::Deployment, &name, Damage::Unreadable, Remedy::Rebuild)]);
    assert_eq!(read(), selkie::origin::Origin { staged: None, made_under: None, ..before.clone() });
    std::fs::remove_file(&path).unwrap();
    mends(&three, &[subject(Kind::Deployment, &name, Damage::Missing, Remedy::Rebuild)]);
    let newer = serde_json::to_string(&before).unwrap().replacen("\"version\":1", "\"version\":2", 1);
    std::fs::write(&path, &newer).unwrap();
    let report = three.repair();
    assert_eq!(subjects(&report), [subject(Kind::Deployment, &name, Damage::Unreadable, Remedy::None)]);
    assert!(report.findings[0].message.contains("a newer selkie wrote it"), "{report:#?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
}

#[test]
fn an_origin_that_nothing_tells_of_needs_an_image() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    let path = machine.root.join(format!("sysroot/state/deploy/{first}/origin.json"));
    std::fs::remove_file(&path).unwrap();
    let report = fsck(&machine, &first, true);
    let Outcome::Left { reason } = &report.findings[0].outcome else { panic!("{report:#?}") };
    assert!(reason.contains("which image it followed is not known"), "{reason}");
    let options = Options { repair: true, image: Some("quay.io/acme/os:stable".parse().unwrap()), ..fsck_common::options(&machine, true) };
    let report = verb::run(&Target::running(machine.host(&first)), &options, &common::host::silent()).unwrap();
    assert_eq!(report.verdict, Verdict::Repaired, "{report:#?}");
    let origin = machine.host(&first).deployments().unwrap().get(&first).unwrap().unwrap().origin().unwrap();
    // Its arguments are those of its entry.
    assert_eq!((origin.image.as_str(), origin.kernel_arguments.as_str(), origin.number), ("quay.io/acme/os:stable", "rw quiet", Some(1)));
}

#[test]
fn etc_of_a_deployment_can_be_booted_again() {
    let three = Three::new();
    let etc = three.deployment(&three.first).join("etc");
    std::fs::create_dir_all(etc.join("work/work")).unwrap();
    std::fs::remove_dir(etc.join("upper")).unwrap();
    let report = mends(&three, &[subject(Kind::Deployment, &format!("{}/etc/upper", three.first), Damage::Missing, Remedy::Rebuild)]);
    assert!(report.findings[0].message.contains("without them"), "{report:#?}");
    assert_eq!(etc.join("upper").metadata().unwrap().permissions().mode() & 0o7777, 0o755);

    let request = three.deployment(&three.third).join("etc-from.json");
    let whole = std::fs::read(&request).unwrap();
    let name = format!("{}/etc-from.json", three.third);
    for (bytes, damage) in [("{".to_owned(), Damage::Unreadable), (format!("{{\"from\":\"{}\"}}", "ab".repeat(32)), Damage::Dangling)] {
        std::fs::write(&request, bytes).unwrap();
        mends(&three, &[subject(Kind::Deployment, &name, damage, Remedy::Rebuild)]);
        assert_eq!(std::fs::read(&request).unwrap(), whole);
    }
    // What an upgrade leaves that is stopped right after it made the deployment.
    std::fs::remove_file(&request).unwrap();
    mends(&three, &[subject(Kind::Deployment, &format!("{}/etc", three.third), Damage::Incomplete, Remedy::Rebuild)]);
    assert_eq!(std::fs::read(&request).unwrap(), whole);
}

#[test]
fn an_entry_of_a_root_that_is_not_here_goes_but_never_the_last() {
    let three = Three::new();
    let text = std::fs::read_to_string(three.entry(&three.third)).unwrap();
    let stranger = three.esp().join("loader/entries/selkie-abababababab-9.conf");
    let strange = text.replace(three.third.hex(), &"ab".repeat(32)).replace("9999999996", "9999999990");
    std::fs::write(&stranger, &strange).unwrap();
    let order = three.order();
    assert_eq!(order.len(), 4);
    mends(&three, &[subject(Kind::Entry, "selkie-abababababab-9.conf", Damage::Dangling, Remedy::Remove)]);
    assert!(!stranger.exists() && three.order() == order[1..]);

    let temp = tempfile::tempdir().unwrap();
    let (machine, _) = Machine::install(temp.path());
    let other: ImageId = "ab".repeat(32).parse().unwrap();
    let only = machine.root.join("esp/loader/entries/selkie-abababababab-9.conf");
    std::fs::remove_dir_all(machine.root.join("esp/loader/entries")).unwrap();
    std::fs::create_dir(machine.root.join("esp/loader/entries")).unwrap();
    std::fs::write(&only, &strange).unwrap();
    let report = fsck(&machine, &other, true);
    assert!(only.exists(), "{report:#?}");
    assert_eq!(report.verdict, Verdict::Damaged);
}

#[test]
fn of_two_entries_of_one_root_that_disagree_one_stays() {
    let three = Three::new();
    let path = three.entry(&three.second);
    let twin = three.esp().join(format!("loader/entries/selkie-{}-2+2-1.conf", three.second.short()));
    let order = three.order();
    std::fs::copy(&path, &twin).unwrap();
    mends(&three, &[subject(Kind::Entry, twin.file_name().unwrap().to_str().unwrap(), Damage::Leftover, Remedy::Remove)]);
    assert!(path.exists() && !twin.exists() && three.order() == order);

    // What an activation leaves that is stopped before it removes the entry that it replaces.
    let old = three.esp().join(format!("loader/entries/selkie-{}-0.conf", three.second.short()));
    let text = std::fs::read_to_string(&path).unwrap().replace("9999999997", "9999999999");
    std::fs::write(&old, text).unwrap();
    let kernel = three.esp().join(three.kernel(&three.second, "linux "));
    mends(&three, &[subject(Kind::Entry, old.file_name().unwrap().to_str().unwrap(), Damage::Leftover, Remedy::Remove)]);
    assert!(kernel.exists() && three.order() == order);
}

#[test]
fn a_counter_that_is_none_is_set_by_what_is_known_of_the_root() {
    let three = Three::new();
    let order = three.order();
    for id in [&three.second, &three.third] {
        let path = three.entry(id);
        let odd = three.esp().join(format!("loader/entries/selkie-{}-{}+x.conf", id.short(), if *id == three.second { 2 } else { 3 }));
        std::fs::rename(&path, &odd).unwrap();
        mends(&three, &[subject(Kind::Counter, odd.file_name().unwrap().to_str().unwrap(), Damage::Unreadable, Remedy::Rebuild)]);
        assert!(path.exists() && !odd.exists() && three.order() == order);
    }
}

#[test]
fn leftovers_go_and_nothing_else() {
    let three = Three::new();
    let before = three.machine.snapshot();
    let unused = format!("{}.linux", "ab".repeat(32));
    let addons = format!("{}.efi.extra.d", "ab".repeat(32));
    let put = |path: &str| {
        let path = three.machine.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    };
    let deploy = "sysroot/state/deploy";
    put(&format!("esp/EFI/selkie/{unused}"));
    put(&format!("esp/EFI/selkie/{addons}/a.addon.efi"));
    put("esp/EFI/selkie/.selkie-tmp-x.linux");
    put("esp/loader/entries/.selkie-tmp-x.conf");
    put(&format!("{deploy}/.selkie-tmp-{}/origin.json", three.first));
    put(&format!("{deploy}/{}/.selkie-tmp-pinned", three.first));
    mends(
        &three,
        &[
            subject(Kind::Deployment, &format!("state/deploy/.selkie-tmp-{}", three.first), Damage::Leftover, Remedy::Remove),
            subject(Kind::Deployment, &format!("state/deploy/{}/.selkie-tmp-pinned", three.first), Damage::Leftover, Remedy::Remove),
            subject(Kind::Kernel, &format!("EFI/selkie/{addons}"), Damage::Leftover, Remedy::Remove),
            subject(Kind::Kernel, &format!("EFI/selkie/{unused}"), Damage::Leftover, Remedy::Remove),
            subject(Kind::Kernel, "loader/entries/.selkie-tmp-x.conf", Damage::Leftover, Remedy::Remove),
            subject(Kind::Kernel, "EFI/selkie/.selkie-tmp-x.linux", Damage::Leftover, Remedy::Remove),
        ],
    );
    assert_eq!(three.machine.snapshot(), before);
}

#[test]
fn what_is_foreign_is_no_damage_and_stays() {
    let three = Three::new();
    let foreign = [
        ("loader/entries/debian.conf", "title Debian\nlinux /debian/vmlinuz\n".as_bytes()),
        ("loader/entries/garbage.conf", b"\xff\x00"),
        ("loader/entries/arch-fallback.conf", b"title Arch\nlinux /gone\n"),
        ("loader/loader.conf", b"timeout 3\n"),
        ("EFI/Linux/other.efi", b"MZ"),
        ("EFI/selkie/README", b"hello"),
        ("EFI/selkie/vmlinuz", b"mine"),
    ];
    for (path, bytes) in foreign {
        let path = three.esp().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    three.assert_clean();
    // Ours come back beside them; an entry that cannot be read may need what no other names.
    let unused = three.esp().join(format!("EFI/selkie/{}.initrd", "ab".repeat(32)));
    std::fs::write(&unused, "x").unwrap();
    std::fs::write(three.entry(&three.third), "").unwrap();
    std::fs::remove_file(three.esp().join(three.kernel(&three.second, "linux "))).unwrap();
    assert_eq!(three.repair().verdict, Verdict::Repaired);
    three.assert_clean();
    for (path, bytes) in foreign {
        assert_eq!(std::fs::read(three.esp().join(path)).unwrap(), bytes, "{path}");
    }
    assert!(unused.exists());
    // What looks like ours and starts something is told, and what is unknown in the state directory.
    std::fs::write(three.esp().join("loader/entries/selkie-mine.conf"), b"linux /debian/vmlinuz\n\xff").unwrap();
    std::fs::write(three.machine.root.join("sysroot/state/deploy/README"), "x").unwrap();
    std::fs::create_dir_all(three.machine.root.join("sysroot/state/failed")).unwrap();
    std::fs::write(three.machine.root.join(format!("sysroot/state/failed/{}.json", three.first)), "{").unwrap();
    let before = three.machine.snapshot();
    let expected = [
        subject(Kind::Deployment, "README", Damage::Unreadable, Remedy::None),
        subject(Kind::Deployment, &format!("failed/{}", three.first), Damage::Unreadable, Remedy::None),
        subject(Kind::Entry, "selkie-mine.conf", Damage::Unreadable, Remedy::None),
    ];
    assert_eq!(subjects(&three.repair()), expected);
    assert_eq!(three.machine.snapshot(), before);
    std::fs::write(three.esp().join("loader/entries/selkie-mine.conf"), b"title\xff").unwrap();
    assert_eq!(subjects(&three.look())[2], subject(Kind::Entry, "selkie-mine.conf", Damage::Unreadable, Remedy::Remove));
}

#[test]
fn choices_of_the_firmware_that_lead_nowhere_are_told() {
    let three = Three::new();
    let efivars = three.machine.root.join("firmware");
    std::fs::create_dir(&efivars).unwrap();
    let set = |name: &str, value: &str| {
        let text = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        let path = efivars.join(format!("{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"));
        std::fs::write(path, [7, 0, 0, 0].into_iter().chain(text).collect::<Vec<u8>>()).unwrap();
    };
    // Of others, and patterns: nobody knows what the boot loader makes of them.
    set("LoaderEntryDefault", "auto-windows");
    set("LoaderEntryOneShot", "selkie-*");
    three.assert_clean_but_for_choices();
    set("LoaderEntryDefault", "selkie-abababababab-9.conf");
    set("LoaderEntryOneShot", "selkie-abababababab-8.conf");
    let default = subject(Kind::Entry, "LoaderEntryDefault", Damage::Dangling, Remedy::None);
    let once = subject(Kind::Entry, "LoaderEntryOneShot", Damage::Dangling, Remedy::Remove);
    assert_eq!(subjects(&three.look()), [once, default.clone()]);
    let report = three.repair();
    assert_eq!(report.findings.iter().map(|f| f.outcome == Outcome::Repaired).collect::<Vec<_>>(), [true, false]);
    assert_eq!(subjects(&three.look()), [default]);
    // The entry that it names is made again under that very name.
    set("LoaderEntryDefault", &format!("selkie-{}-7.conf", three.first.short()));
    std::fs::remove_file(three.entry(&three.first)).unwrap();
    mends(&three, &[subject(Kind::Entry, three.first.hex(), Damage::Missing, Remedy::Rebuild)]);
    assert_eq!(three.machine.host(&three.second).system().unwrap().preferred, Some(three.first.clone()));
}

#[test]
fn an_esp_that_cannot_be_read_has_no_entries_that_are_missing() {
    let three = Three::new();
    let entries = three.esp().join("loader/entries");
    std::fs::rename(&entries, three.esp().join("kept")).unwrap();
    std::fs::write(&entries, "").unwrap();
    let report = three.repair();
    assert_eq!((report.findings.len(), report.unchecked.len(), report.verdict), (0, 1, Verdict::Unchecked), "{report:#?}");
    assert!(report.unchecked[0].contains("loader/entries"), "{report:#?}");
    std::fs::rename(three.esp(), three.machine.root.join("esp-before")).unwrap();
    std::fs::create_dir(three.esp()).unwrap();
    let report = three.repair();
    assert_eq!((report.findings.len(), report.unchecked.len(), report.verdict), (0, 1, Verdict::Unchecked), "{report:#?}");
    assert!(report.unchecked[0].contains("neither EFI nor loader"), "{report:#?}");
    assert_eq!(std::fs::read_dir(three.esp()).unwrap().count(), 0);
}

#[test]
fn a_kernel_that_does_not_fit_is_told_with_numbers_and_nothing_is_half_written() {
    use rustix::mount::{MountFlags, mount};
    selkie::sys::mount::enter_private_namespace().expect("this test mounts a file system: run it as root");
    let temp = tempfile::tempdir().unwrap();
    let esp = temp.path().join("esp");
    std::fs::create_dir_all(&esp).unwrap();
    mount("tmpfs", &esp, "tmpfs", MountFlags::empty(), c"size=4m").unwrap();
    let (machine, first) = Machine::install(temp.path());
    let system = machine.host(&first).system().unwrap();
    let kernels: Vec<_> = std::fs::read_dir(esp.join("EFI/selkie")).unwrap().map(|e| e.unwrap().path()).collect();
    std::fs::remove_file(&kernels[0]).unwrap();
    std::fs::write(esp.join("other"), vec![1; 3 << 20]).unwrap();
    let before = machine.snapshot();
    let report = fsck(&machine, &first, true);
    let Outcome::Left { reason } = &report.findings[0].outcome else { panic!("{report:#?}") };
    assert!(reason.contains("MiB free (expected at least"), "{reason}");
    assert_eq!((report.verdict, machine.snapshot()), (Verdict::Damaged, before));
    std::fs::remove_file(esp.join("other")).unwrap();
    assert_eq!(fsck(&machine, &first, true).verdict, Verdict::Repaired);
    assert_eq!(machine.host(&first).system().unwrap(), system);
}

#[test]
fn unified_kernel_images_and_addons_come_back_byte_by_byte() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    let mut files = sealed::sealed("2");
    files.push(("boot/EFI/Linux/selkie.efi.extra.d".to_owned(), layout::What::Directory));
    files.push(("boot/EFI/Linux/selkie.efi.extra.d/a.addon.efi".to_owned(), layout::What::File(sealed::addon("quiet"))));
    machine.release("stable", &files);
    let second = machine.upgrade(&first, None, Until::Stage).unwrap().staged.unwrap();
    machine.boot(&second);
    let entry = machine.host(&second).system().unwrap().entry(&second).unwrap().clone();
    let uki = machine.root.join("esp").join(entry.uki.as_ref().unwrap().path.trim_start_matches('/'));
    let name = format!("EFI/selkie/{}", uki.file_name().unwrap().to_str().unwrap());
    let addons = uki.with_file_name(format!("{}.extra.d", uki.file_name().unwrap().to_str().unwrap()));
    let before = machine.snapshot();
    type Damaging<'a> = (Damage, &'a dyn Fn());
    let ways: [Damaging<'_>; 6] = [
        (Damage::Missing, &|| std::fs::remove_file(&uki).unwrap()),
        (Damage::Truncated, &|| std::fs::write(&uki, "MZ").unwrap()),
        (Damage::Changed, &|| std::fs::remove_dir_all(&addons).unwrap()),
        (Damage::Changed, &|| std::fs::write(addons.join("a.addon.efi"), "").unwrap()),
        (Damage::Unreadable, &|| {
            std::fs::remove_dir_all(&addons).unwrap();
            std::fs::write(&addons, "").unwrap();
        }),
        (Damage::Missing, &|| std::fs::remove_dir_all(machine.root.join("esp/EFI/selkie")).unwrap()),
    ];
    for (damage, way) in ways {
        way();
        let found = fsck(&machine, &second, false);
        assert!(subjects(&found).contains(&subject(Kind::Kernel, &name, damage, Remedy::Rebuild)), "{found:#?}");
        let report = fsck(&machine, &second, true);
        assert_eq!(report.verdict, Verdict::Repaired, "{report:#?}");
        assert_eq!(machine.snapshot(), before);
        assert_eq!(machine.host(&second).system().unwrap().entry(&second), Some(&entry));
    }
    // Its entry, too: of a unified kernel image that is not there only its name tells the root.
    let path = machine.root.join("esp/loader/entries").join(&entry.file);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "title x\n").unwrap();
    std::fs::remove_file(&uki).unwrap();
    assert_eq!(fsck(&machine, &second, true).verdict, Verdict::Repaired);
    assert_eq!((std::fs::read(&path).unwrap(), machine.snapshot()), (whole, before));
}

#[test]
fn a_kernel_whose_object_is_damaged_too_comes_back_with_it() {
    let three = Three::new();
    let object = {
        let store = three.machine.host(&three.second).store().unwrap();
        let kernel = selkie::store::kernel(&store.tree(&three.third).unwrap()).unwrap().kernel;
        let selkie::store::Content::Object(object) = kernel.content else { panic!("{kernel:?}") };
        three.machine.root.join("sysroot/composefs/objects").join(object.path())
    };
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[7] ^= 0x80;
    std::fs::write(&object, bytes).unwrap();
    let before = three.entries();
    std::fs::remove_file(three.entry(&three.third)).unwrap();
    let path = three.esp().join(format!("EFI/selkie/{}", three.kernel(&three.first, "linux ").rsplit('/').next().unwrap()));
    std::fs::remove_file(path).unwrap();
    for name in std::fs::read_dir(three.esp().join("EFI/selkie")).unwrap() {
        std::fs::write(name.unwrap().path(), "half").unwrap();
    }
    let report = three.repair();
    assert_eq!(report.verdict, Verdict::Repaired, "{report:#?}");
    assert!(!report.fetched.is_empty() && report.findings.iter().any(|finding| finding.kind == Kind::Object), "{report:#?}");
    three.assert_clean();
    assert_eq!(three.entries(), before);
}

#[test]
fn a_kernel_that_is_nowhere_else_stays_while_its_image_is_damaged() {
    let three = Three::new();
    let path = three.esp().join(three.kernel(&three.third, "linux "));
    let kernel = std::fs::read(&path).unwrap();
    let object = {
        let store = three.machine.host(&three.second).store().unwrap();
        let kernel = selkie::store::kernel(&store.tree(&three.third).unwrap()).unwrap().kernel;
        let selkie::store::Content::Object(object) = kernel.content else { panic!("{kernel:?}") };
        three.machine.root.join("sysroot/composefs/objects").join(object.path())
    };
    std::fs::write(&object, "half").unwrap();
    std::fs::remove_file(three.entry(&three.third)).unwrap();
    std::fs::rename(three.machine.root.join("images"), three.machine.root.join("away")).unwrap();
    let report = three.repair();
    assert_eq!(report.verdict, Verdict::Damaged, "{report:#?}");
    assert!(report.findings.iter().all(|finding| finding.kind != Kind::Kernel), "{report:#?}");
    assert_eq!(std::fs::read(&path).unwrap(), kernel);
    std::fs::rename(three.machine.root.join("away"), three.machine.root.join("images")).unwrap();
    assert_eq!(three.repair().verdict, Verdict::Repaired);
    three.assert_clean();
}

#[test]
fn arguments_that_only_an_entry_has_stay() {
    let three = Three::new();
    let path = three.entry(&three.second);
    let text = std::fs::read_to_string(&path).unwrap().replace(" quiet", " quiet debug");
    let lines: String = text.lines().filter(|line| !line.starts_with("initrd")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, lines).unwrap();
    mends(&three, &[subject(Kind::Entry, path.file_name().unwrap().to_str().unwrap(), Damage::Changed, Remedy::Rebuild)]);
    let system = three.machine.host(&three.second).system().unwrap();
    assert_eq!(system.entry(&three.second).unwrap().arguments, Cmdline::parse("rw quiet debug"));
}

#[test]
fn from_outside_everything_is_there_but_the_root_that_runs() {
    let three = Three::new();
    let root = &three.machine.root;
    let run = |repair: bool| {
        let target = Target::outside(&root.join("sysroot"), Some(&root.join("esp"))).unwrap();
        verb::run(&target, &fsck_common::options(&three.machine, repair), &common::host::silent()).unwrap()
    };
    assert_eq!(run(true).verdict, Verdict::Clean);
    let order = three.order();
    std::fs::remove_dir_all(three.deployment(&three.first)).unwrap();
    std::fs::remove_file(three.entry(&three.second)).unwrap();
    std::fs::remove_file(three.esp().join(three.kernel(&three.third, "linux "))).unwrap();
    let report = run(true);
    assert_eq!(report.verdict, Verdict::Repaired, "{report:#?}");
    // Nothing runs, so nothing says that the second has ever gone well: it does not boot next, and so is not counted either.
    assert_eq!(three.order(), order);
    three.assert_clean();
}
