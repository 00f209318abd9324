//! Sealed images on a machine made of temporary directories: staged by their unified kernel image, mixed with plain ones, and refused where the
//! seal is not theirs.

mod common;

use common::host::Machine;
use common::layout::{self, Files, What};
use common::sealed;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::ImageId;
use selkie::ops::rollback;
use selkie::ops::status::{self, Deployment};
use selkie::ops::upgrade::{Outcome, Until};
use selkie::ops::verify::{self, KernelState, Options};
use selkie::progress::Silent;
use selkie::sys::dir;

fn installed() -> (tempfile::TempDir, Machine, ImageId) {
    let temp = tempfile::tempdir().unwrap();
    let (machine, id) = Machine::install(temp.path());
    (temp, machine, id)
}

/// Publishes and stages an image.
fn stage(machine: &Machine, booted: &ImageId, files: &Files) -> ImageId {
    machine.release("stable", files);
    let report = machine.upgrade(booted, None, Until::Stage).unwrap();
    assert_eq!(report.outcome, Outcome::Staged);
    report.staged.unwrap()
}

fn staged(machine: &Machine, booted: &ImageId) -> Deployment {
    let status = status::run(&machine.host(booted));
    assert_eq!(status.problems, [""; 0]);
    status.staged.unwrap()
}

fn entry(machine: &Machine, id: &ImageId) -> String {
    let file = machine.host(id).system().unwrap().entry(id).unwrap().file.clone();
    std::fs::read_to_string(machine.root.join("esp/loader/entries").join(file)).unwrap()
}

#[test]
fn plain_then_sealed_then_plain_again() {
    let (_temp, machine, first) = installed();
    let second = stage(&machine, &first, &sealed::sealed("2"));
    let found = staged(&machine, &first);
    assert_eq!((&found.id, found.sealed, found.verity_required), (&second, Some(true), Some(false)));
    assert_eq!(found.kernel_arguments.as_deref(), Some("root=gpt-auto rw sealed=yes"));
    let text = entry(&machine, &second);
    assert!(text.contains("\nefi /EFI/selkie/") && !text.contains("options") && !text.contains("linux"), "{text}");

    stage(&machine, &second, &layout::bootable("3"));
    let found = staged(&machine, &second);
    assert_eq!((found.sealed, found.kernel_arguments.as_deref()), (Some(false), Some("rw quiet")), "the machine's own arguments");
    let report = rollback::run(&machine.host(&second), &Silent).unwrap();
    assert_eq!(report.staged, second);
    let status = status::run(&machine.host(&second));
    assert_eq!((status.staged, status.booted.sealed), (None, Some(true)));
}

/// The running root with another seal: the entry that is known to boot stays until the new one has proven itself.
#[test]
fn the_same_root_can_get_another_seal() {
    let (_temp, machine, first) = installed();
    let files = with_blessing(layout::bootable("2"));
    let seal = |more: &str| {
        let id = sealed::boot_image(&files_of(&files));
        sealed::with_uki(files_of(&files), "selkie.efi", &format!("{} {more}", sealed::arguments(&id)))
    };
    let second = stage(&machine, &first, &seal("one"));
    let esp = machine.root.join("esp/loader/entries");
    let names = || std::fs::read_dir(&esp).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>();
    let counted = names().into_iter().find(|name| name.contains("+3")).unwrap();
    std::fs::rename(esp.join(&counted), esp.join(counted.replace("+3", ""))).unwrap();
    machine.release("stable", &seal("two"));
    let report = machine.upgrade(&second, None, Until::Stage).unwrap();
    assert_eq!((report.outcome, report.staged.as_ref(), report.reboot_needed), (Outcome::Staged, Some(&second), true));
    let entries = machine.host(&second).system().unwrap().entries;
    let of_second: Vec<_> = entries.iter().filter(|e| e.image == second).map(|e| e.arguments.to_string()).collect();
    assert!(of_second.len() == 2 && of_second[0].ends_with("two") && of_second[1].ends_with("one"), "{of_second:?}");
    assert_eq!(machine.upgrade(&second, None, Until::Stage).unwrap().outcome, Outcome::UpToDate);
}

fn with_blessing(files: Files) -> Files {
    layout::with(files, "usr/lib/systemd/systemd-bless-boot", "x")
}

fn files_of(files: &Files) -> Files {
    let copy = |what: &What| match what {
        What::Directory => What::Directory,
        What::File(bytes) => What::File(bytes.clone()),
        What::Fifo => What::Fifo,
        What::Device(major, minor) => What::Device(*major, *minor),
    };
    files.iter().map(|(path, what)| (path.clone(), copy(what))).collect()
}

/// A root that the boot loader has given up is no place to go back to, and gets a counter again where it is chosen.
#[test]
fn a_root_that_was_given_up_is_not_trusted_again() {
    let (_temp, machine, first) = installed();
    let second = stage(&machine, &first, &with_blessing(layout::bootable("2")));
    let esp = machine.root.join("esp/loader/entries");
    let counted = machine.host(&first).system().unwrap().entry(&second).unwrap().file.clone();
    std::fs::rename(esp.join(&counted), esp.join(counted.replace("+3", "+0-3"))).unwrap();
    let system = machine.host(&first).system().unwrap();
    assert_eq!((system.default_entry().map(|e| &e.image), system.previous()), (Some(&first), None));
    assert_eq!(system.next_serial(), 3);
    assert!(rollback::run(&machine.host(&first), &Silent).is_err());
}

#[test]
fn arguments_of_images_come_and_go() {
    let (_temp, machine, first) = installed();
    let with = |version: &str, argument: &str| {
        let mut files = layout::bootable(version);
        for path in ["usr/lib/bootc", "usr/lib/bootc/kargs.d"] {
            files.push((path.to_owned(), What::Directory));
        }
        layout::with(files, "usr/lib/bootc/kargs.d/10-x.toml", &format!("kargs = [\"{argument}\"]\n"))
    };
    let second = stage(&machine, &first, &with("2", "image=2"));
    assert_eq!(staged(&machine, &first).kernel_arguments.as_deref(), Some("rw quiet image=2"));
    let third = stage(&machine, &second, &with("3", "image=3"));
    assert_eq!(staged(&machine, &second).kernel_arguments.as_deref(), Some("rw quiet image=3"));
    stage(&machine, &third, &layout::bootable("4"));
    assert_eq!(staged(&machine, &third).kernel_arguments.as_deref(), Some("rw quiet"));
    machine.release("stable", &with("5", "two words"));
    let error = machine.upgrade(&third, None, Until::Stage).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Unsuitable, "{error:#}");
}

/// Each must be refused before anything becomes bootable.
#[test]
fn seals_that_are_not_of_this_image_are_refused() {
    let other = "cd".repeat(32);
    let id = |version: &str| sealed::boot_image(&layout::bootable(version));
    let changed = || layout::with(sealed::sealed("2"), "usr/changed-after-sealing", "x");
    let strict = sealed::arguments(&id("2")).replace('?', "");
    let table = [
        (changed(), FailureKind::Unsuitable, "seal it again"),
        (
            sealed::with_uki(layout::bootable("2"), "a.efi", &format!("composefs.digest=v1-sha256-12:{other}")),
            FailureKind::Unsuitable,
            "as the layers give it",
        ),
        (sealed::with_uki(sealed::sealed("2"), "b.efi", &sealed::arguments(&id("2"))), FailureKind::Unsuitable, "both name a root"),
        (
            sealed::with_uki(layout::bootable("2"), "a.efi", "composefs.digest=nonsense"),
            FailureKind::Unsuitable,
            "expected composefs.digest",
        ),
        (layout::with(sealed::sealed("2"), "boot/EFI/Linux/c.efi", "not a PE"), FailureKind::Unsuitable, "reading /boot/EFI/Linux/c.efi"),
        (sealed::with_uki(layout::bootable("2"), "a.efi", &strict), FailureKind::StoreMismatch, "no fs-verity"),
        (
            sealed::with_uki(
                layout::bootable("2"),
                "a.efi",
                &format!("{} composefs.digest=v1-sha256-12:{other}", sealed::arguments(&id("2"))),
            ),
            FailureKind::Unsuitable,
            "names 2 roots",
        ),
    ];
    for (files, kind, words) in table {
        let (_temp, machine, first) = installed();
        let before = status::run(&machine.host(&first));
        machine.release("stable", &files);
        let error = machine.upgrade(&first, None, Until::Stage).unwrap_err();
        let failure = Failure::find(&error).unwrap();
        let said = format!("{error:#} {:?}", failure.hint);
        assert!(failure.kind == kind && said.contains(words), "{said}: {words}");
        assert_eq!(status::run(&machine.host(&first)), before);
    }
}

#[test]
fn an_image_for_other_tools_stays_a_plain_one() {
    let (_temp, machine, first) = installed();
    stage(&machine, &first, &sealed::with_uki(layout::bootable("2"), "rescue.efi", "root=/dev/sda1"));
    assert_eq!(staged(&machine, &first).sealed, Some(false));
}

#[test]
fn what_an_entry_starts_is_missing_or_damaged() {
    for damage in [None, Some(b"MZ".as_slice())] {
        let (_temp, machine, first) = installed();
        let second = stage(&machine, &first, &sealed::sealed("2"));
        let text = entry(&machine, &second);
        let path = text.lines().find_map(|line| line.strip_prefix("efi /")).unwrap();
        let path = machine.root.join("esp").join(path);
        match damage {
            None => std::fs::remove_file(&path).unwrap(),
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
        }
        let status = status::run(&machine.host(&first));
        assert!(status.problems.iter().any(|problem| problem.contains("missing or damaged")), "{:?}", status.problems);
        assert_eq!(machine.host(&first).system().unwrap().next_serial(), 3, "the boot loader sorts it all the same");
        // The same upgrade repairs it.
        assert_eq!(machine.upgrade(&first, None, Until::Stage).unwrap().staged, Some(second.clone()));
        assert_eq!(staged(&machine, &first).id, second);
    }
}

/// What a booted machine would tell of itself.
fn verified(machine: &Machine, booted: &ImageId, cmdline: &str, secure_boot: u8, options: &Options) -> verify::Report {
    let efivars = machine.root.join("efivars");
    std::fs::create_dir_all(&efivars).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(efivars.join(name), [&[6, 0, 0, 0], bytes].concat()).unwrap();
    };
    write("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[secure_boot]);
    // What the stub of the newest sealed entry would leave; a plain kernel has no stub.
    let stub = efivars.join("StubImageIdentifier-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
    let uki = machine.host(booted).system().unwrap().entry(booted).and_then(|entry| entry.uki.clone());
    match uki {
        Some(uki) => {
            let text = format!("{}\0", uki.path.replace('/', "\\"));
            let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            std::fs::write(stub, [&[6, 0, 0, 0], utf16.as_slice()].concat()).unwrap();
        }
        None => drop(std::fs::remove_file(stub)),
    }
    let host = machine.host(booted).with_efivars(dir::open_path(&efivars).unwrap());
    let mountinfo = format!("62 1 0:40 / / ro - overlay composefs:{booted} ro,metacopy=on,verity=require\n");
    verify::run(&host, &KernelState { cmdline: cmdline.to_owned(), mountinfo }, options, &common::host::silent()).unwrap()
}

fn broken(report: &verify::Report) -> Vec<&str> {
    report.links.iter().filter(|link| !link.holds).map(|link| link.name).collect()
}

/// All that needs no kernel with fs-verity and no signature (these break two links); the rest is for virtual machines.
#[test]
fn verify_names_the_link_that_is_broken() {
    let (_temp, machine, first) = installed();
    let second = stage(&machine, &first, &sealed::sealed("2"));
    let arguments = sealed::arguments(&second);
    let all = Options {
        against: Some(machine.reference("stable").parse().unwrap()),
        deep: true,
        scratch: std::env::temp_dir(),
        ..Options::default()
    };
    let report = verified(&machine, &second, &arguments, 1, &all);
    assert_eq!(broken(&report), ["loader", "fs-verity"], "{report:#?}");
    assert_eq!(report.links.len(), 8);
    let none = Options::default();
    assert_eq!(broken(&verified(&machine, &second, &arguments, 0, &none)), ["firmware", "loader", "fs-verity"]);
    let more = format!("{arguments} init=/bin/sh");
    assert_eq!(broken(&verified(&machine, &second, &more, 1, &none)), ["loader", "command-line", "fs-verity"]);
    let plain = format!("composefs.digest=v1-sha256-12:{first} rw quiet");
    assert_eq!(broken(&verified(&machine, &first, &plain, 1, &none)), ["loader", "command-line", "fs-verity"]);

    machine.release("stable", &layout::bootable("3"));
    assert_eq!(broken(&verified(&machine, &second, &arguments, 1, &all)), ["loader", "fs-verity", "against"]);
    // Somebody who can write to the disk writes another manifest into the origin.
    let origin = machine.root.join(format!("sysroot/state/deploy/{second}/origin.json"));
    let text = std::fs::read_to_string(&origin).unwrap();
    let digest = |name: &str| text.split(name).nth(1).unwrap().split('"').nth(2).unwrap().to_owned();
    let forged = text.replace(&digest("manifest-digest"), "sha256:forged").replace(&digest("config-digest"), "sha256:forged");
    std::fs::write(&origin, forged).unwrap();
    assert_eq!(broken(&verified(&machine, &second, &arguments, 1, &none)), ["loader", "fs-verity", "manifest"]);
    std::fs::write(&origin, &text).unwrap();
    let store = machine.host(&second).store().unwrap();
    let object = store.objects_of(&second).unwrap().into_iter().find(|object| object.id.hex() != second.hex()).unwrap();
    drop(store);
    let path = machine.root.join("sysroot/composefs/objects").join(object.id.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let deep = Options { deep: true, ..Options::default() };
    let report = verified(&machine, &second, &arguments, 1, &deep);
    assert!(broken(&report).contains(&"objects"), "{report:#?}");
}
