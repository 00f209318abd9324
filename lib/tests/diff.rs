//! `selkie diff` on temporary directories.

mod common;

use common::host::Machine;
use common::layout;
use selkie::error::{Failure, FailureKind};
use selkie::image_id::ImageId;
use selkie::ops::diff::{self, Options, Report};
use selkie::ops::upgrade::Until;
use selkie::packages::PackageChange;
use selkie::store::{Change, What};

const STATUS: &str = "var/lib/dpkg/status";

fn status(version: &str) -> String {
    format!("Package: nginx\nStatus: install ok installed\nVersion: {version}\n\nPackage: bash\nStatus: install ok installed\nVersion: 5\n")
}

/// A machine that runs version 1 with version 2 staged, both with a database of packages at `path`.
fn machine(path: &str) -> (tempfile::TempDir, Machine, ImageId, ImageId) {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    let image = |version: &str| {
        let files = layout::bootable(version);
        let directory = std::path::Path::new(path).parent().unwrap().to_str().unwrap().to_owned();
        let files = layout::with_other(files, &directory, layout::What::Directory);
        layout::with(files, path, &status(version))
    };
    let stage = |booted: &ImageId| machine.upgrade_keeping(booted, None, Until::Stage, 9).unwrap().staged.unwrap();
    machine.release("stable", &image("1.2"));
    let second = stage(&first);
    machine.boot(&second);
    machine.release("stable", &layout::with(layout::without(image("1.3"), &["etc/hostname"]), "usr/new", "new"));
    let third = stage(&second);
    (temp, machine, second, third)
}

fn compare(machine: &Machine, booted: &ImageId, from: Option<&str>, to: Option<&str>) -> anyhow::Result<Report> {
    diff::run(&machine.host(booted), &Options { from: from.map(str::to_owned), to: to.map(str::to_owned) })
}

fn paths(report: &Report) -> Vec<(String, What)> {
    report.changes.files.iter().map(|Change { path, what }| (path.display().to_string(), *what)).collect()
}

#[test]
fn an_update_is_told_by_packages_and_files() {
    let (_temp, machine, booted, staged) = machine(STATUS);
    let report = compare(&machine, &booted, None, None).unwrap();
    assert_eq!((&report.from.id, &report.to.id), (&booted, &staged));
    assert_eq!((report.from.number, report.to.number), (Some(2), Some(3)));
    assert_eq!((report.changes.kernel.before.as_deref(), report.to.os_version.as_deref()), (Some("6.1"), Some("1.3")));
    let nginx = PackageChange { name: "nginx".into(), before: Some("1.2".into()), after: Some("1.3".into()) };
    assert_eq!((report.changes.packages.as_slice(), &report.changes.packages_unread), ([nginx].as_slice(), &None));
    let expected = [
        ("/etc/hostname", What::Removed),
        ("/usr/lib/modules/6.1/vmlinuz", What::Changed),
        ("/usr/lib/os-release", What::Changed),
        ("/usr/new", What::Added),
        ("/usr/version", What::Changed),
        ("/var/lib/dpkg/status", What::Changed),
    ];
    assert_eq!(paths(&report), expected.map(|(path, what)| (path.to_owned(), what)));
    // The kernel and the database of packages: what is smaller is in the image itself. The initramfs and the boot loader are shared.
    assert_eq!((report.new_objects, report.shared_objects), (2, 2));
    assert_eq!(report.new_bytes, "kernel 1.3 ".len() as u64 + 5000 + status("1.3").len() as u64);
}

#[test]
fn any_two_roots_are_compared_by_name() {
    let (_temp, machine, booted, staged) = machine(STATUS);
    let back = compare(&machine, &booted, Some("3"), Some("2")).unwrap();
    assert_eq!((&back.from.id, &back.to.id), (&staged, &booted));
    assert_eq!(back.changes.count(What::Added), 1);
    let same = compare(&machine, &booted, Some("3"), Some(&staged.hex()[..8])).unwrap();
    assert_eq!((same.changes.files, same.changes.packages, same.new_objects), (vec![], vec![], 0));
    let error = compare(&machine, &booted, Some("77"), None).unwrap_err();
    assert_eq!(Failure::find(&error).map(|f| f.kind), Some(FailureKind::NotFound));
}

#[test]
fn nothing_staged_is_told() {
    let (_temp, machine, _, staged) = machine(STATUS);
    machine.boot(&staged);
    let error = compare(&machine, &staged, None, None).unwrap_err();
    assert_eq!(error.to_string(), "comparing roots: nothing waits for a reboot (expected a staged update, or two roots by name)");
}

#[test]
fn a_database_that_is_not_read_is_told() {
    for (path, expected) in [
        ("usr/lib/sysimage/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite: it is no SQLite database"),
        ("usr/lib/sysimage/rpm/Packages.db", "/usr/lib/sysimage/rpm/Packages.db is a database that selkie does not read"),
    ] {
        let (_temp, machine, booted, _) = machine(path);
        let report = compare(&machine, &booted, None, None).unwrap();
        let unread = report.changes.packages_unread.clone().unwrap();
        assert!(unread.starts_with(expected), "{unread}");
        assert!(paths(&report).iter().any(|(changed, _)| *changed == format!("/{path}")));
    }
}
