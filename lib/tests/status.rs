//! `status` on machines that have lost a part: it tells what is left and what is wrong, where verbs that write refuse.

mod common;

use std::path::Path;

use anyhow::Context;
use common::host::Machine;
use selkie::boot::Place;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::ImageId;
use selkie::ops::host::Host;
use selkie::ops::rollback;
use selkie::ops::status::{self, Status};
use selkie::progress::Silent;
use selkie::sys::dir;

/// A machine whose ESP could not be mounted for a reason like that of a real one.
fn without_esp(machine: &Machine, booted: &ImageId, reason: anyhow::Error) -> Host {
    let open = |part: &str| dir::open_path(machine.root.join(part)).unwrap();
    Host::partly_at(open("sysroot"), Err(reason), open("run"), booted.clone())
}

fn partly(machine: &Machine, booted: &ImageId) -> Host {
    let open = |part: &str| dir::open_path(machine.root.join(part)).unwrap();
    Host::partly_at(open("sysroot"), Ok(vec![Place::new("first", open("esp"))]), open("run"), booted.clone())
}

fn installed() -> (tempfile::TempDir, Machine, ImageId) {
    let temp = tempfile::tempdir().unwrap();
    let (machine, id) = Machine::install(temp.path());
    (temp, machine, id)
}

fn only_problem(status: &Status) -> &str {
    assert_eq!(status.problems.len(), 1, "{:#?}", status.problems);
    &status.problems[0]
}

#[test]
fn a_whole_machine_has_no_problems() {
    let (_temp, machine, id) = installed();
    let status = status::run(&partly(&machine, &id));
    assert_eq!(status, status::run(&machine.host(&id)));
    assert_eq!(status.problems, [""; 0]);
}

#[test]
fn an_esp_that_cannot_be_mounted_hides_entries_only() {
    let (_temp, machine, id) = installed();
    let input_output = || std::io::Error::from_raw_os_error(5);
    let busy = || Failure::new(FailureKind::Busy, "mounting /dev/vda1: in use");
    for (reason, kind, words) in [
        (
            anyhow::Error::new(input_output()).context("mounting /dev/vda1"),
            FailureKind::NotAHost,
            "opening this machine: mounting /dev/vda1: Input",
        ),
        (anyhow::Error::new(busy()), FailureKind::Busy, "mounting /dev/vda1: in use"),
    ] {
        let host = without_esp(&machine, &id, reason);
        let status = status::run(&host);
        assert!(only_problem(&status).starts_with(words), "{:?}", status.problems);
        assert_eq!((status.booted.id, status.booted.os_version.as_deref(), status.booted.entry), (id.clone(), Some("1"), None));
        assert_eq!((status.staged, status.rollback, status.other), (None, None, vec![]));
        let error = rollback::run(&host, &Silent).unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.kind, kind);
        assert!(failure.message.starts_with(words), "{}", failure.message);
    }
}

#[test]
fn no_deployments_hide_origins_only() {
    let (_temp, machine, id) = installed();
    std::fs::rename(machine.root.join("sysroot/state"), machine.root.join("sysroot/gone")).unwrap();
    let host = partly(&machine, &id);
    let status = status::run(&host);
    assert!(only_problem(&status).contains("state/deploy"), "{:?}", status.problems);
    assert_eq!((status.booted.image, status.booted.serial), (None, Some(1)));
    assert_eq!(Failure::find(&host.system().unwrap_err()).unwrap().kind, FailureKind::NotAHost);
    let open = |part: &str| dir::open_path(machine.root.join(part)).unwrap();
    let error = Host::at(open("sysroot"), vec![Place::new("first", open("esp"))], open("run"), id).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::NotAHost);
}

#[test]
fn parts_that_are_there_and_cannot_be_read_are_problems_too() {
    let (_temp, machine, id) = installed();
    replace_by_a_file(&machine.root.join("esp/loader/entries"));
    let host = partly(&machine, &id);
    let status = status::run(&host);
    assert!(only_problem(&status).starts_with("opening loader/entries on the ESP: "), "{:?}", status.problems);
    assert!(status.booted.image.is_some());
    host.system().context("nothing may be decided on this").unwrap_err();
}

#[test]
fn all_at_once_still_tells_what_runs() {
    let (_temp, machine, id) = installed();
    std::fs::remove_dir_all(machine.root.join("sysroot/state")).unwrap();
    let status = status::run(&without_esp(&machine, &id, anyhow::anyhow!("no UEFI")));
    assert_eq!(status.booted.id, id);
    assert_eq!(status.problems.len(), 2, "{:#?}", status.problems);
}

#[test]
fn what_the_firmware_prefers_is_a_problem_where_it_is_another_entry() {
    let (temp, machine, id) = installed();
    let efivars = temp.path().join("efivars");
    std::fs::create_dir(&efivars).unwrap();
    let ours = machine.host(&id).system().unwrap().entries[0].file.clone();
    let set = |name: &str, value: &str| {
        let text = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
        let path = efivars.join(format!("{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"));
        std::fs::write(path, [7, 0, 0, 0].into_iter().chain(text).collect::<Vec<u8>>()).unwrap();
    };
    let problems = || status::run(&machine.host(&id).with_efivars(dir::open_path(&efivars).unwrap())).problems;
    assert_eq!(problems(), [""; 0]);
    set("LoaderEntryDefault", &ours);
    set("LoaderEntryOneShot", "selkie-*");
    assert_eq!(problems(), [""; 0]);
    set("LoaderEntryDefault", "debian.conf");
    set("LoaderEntryOneShot", "auto-windows");
    let told = problems();
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].contains("LoaderEntryOneShot names auto-windows") && told[0].contains("selkie boot-once --cancel"), "{told:#?}");
    assert!(told[1].contains("LoaderEntryDefault names debian.conf") && told[1].contains("bootctl set-default ''"), "{told:#?}");
    std::fs::write(efivars.join("LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"), "odd").unwrap();
    assert!(problems()[1].starts_with("reading EFI variable LoaderEntryDefault: 3 bytes"), "{:#?}", problems());
}

fn replace_by_a_file(directory: &Path) {
    std::fs::remove_dir_all(directory).unwrap();
    std::fs::write(directory, "").unwrap();
}
