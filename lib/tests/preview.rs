//! What an update would cost and change, told before it is fetched, is what it costs and changes then.

mod common;
#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;

use common::host::Machine;
use common::layout::{self, Files, What};
use oci::noise;
use registry::copy;
use selkie::image::{OutputOptions, SourceOptions};
use selkie::image_id::ImageId;
use selkie::ops::changes::Reboot;
use selkie::ops::preview::{self, Preview};
use selkie::ops::pull::Way;
use selkie::ops::upgrade::{Outcome, Until};
use selkie::ops::{delta, diff, upgrade};
use selkie::packages::PackageChange;

const STATUS: &str = "var/lib/dpkg/status";

/// A release with much that stays from one to the next.
fn release(version: &str) -> Files {
    let status = format!(
        "Package: nginx\nStatus: install ok installed\nVersion: {version}\n\nPackage: bash\nStatus: install ok installed\nVersion: 5\n"
    );
    let mut files = layout::with_other(layout::bootable("1"), "var/lib/dpkg", What::Directory);
    let noise = noise(3_100_000);
    files.extend((0..30).map(|n| (format!("usr/lib/{n:02}"), What::File(noise[n * 100_000..][..90_000].to_vec()))));
    layout::with(files, STATUS, &status)
}

/// The release after it: a file and a package are others, one is new, one is gone, one that is small has another content of the same size.
fn next(kernel: bool) -> Files {
    let gone = ["etc/hostname", "usr/lib/07", "usr/version"];
    let mut files = layout::without(release("1.3"), &gone);
    files.push(("usr/lib/07".into(), What::File(noise(3_200_000)[3_100_000..][..90_000].to_vec())));
    if kernel {
        files = layout::with(
            layout::without(files, &["usr/lib/modules/6.1/vmlinuz"]),
            "usr/lib/modules/6.1/vmlinuz",
            &"another kernel".repeat(900),
        );
    }
    layout::with(layout::with(files, "usr/version", "2"), "usr/new", &"new".repeat(100))
}

/// A machine that runs the release, which came with a table of contents or without, and what it finds next.
struct Case {
    _temp: tempfile::TempDir,
    machine: Machine,
    booted: ImageId,
    to: String,
}

impl Case {
    fn new(first: &[&str], second: &[&str], kernel: bool) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (machine, id) = Machine::install(temp.path());
        let chunked = |name: &str, files: &Files, options: &[&str]| {
            machine.release(name, files);
            let to = format!("oci:{}:{name}", machine.root.join("chunked").display());
            copy(options, &machine.reference(name), &to);
            to
        };
        let first = chunked("first", &release("1.2"), first);
        let to = chunked("second", &next(kernel), second);
        let booted = machine.upgrade(&id, Some(&first), Until::Stage).unwrap().staged.unwrap();
        machine.boot(&booted);
        Self { _temp: temp, machine, booted, to }
    }

    fn preview(&self) -> Preview {
        let before = self.machine.snapshot();
        let report = self.machine.upgrade(&self.booted, Some(&self.to), Until::Preview).unwrap();
        assert_eq!(self.machine.snapshot(), before, "it only reads");
        assert_eq!((report.outcome, report.staged), (Outcome::Available, None));
        report.preview.unwrap()
    }

    fn upgrade(&self) -> (upgrade::Report, diff::Report) {
        let report = self.machine.upgrade(&self.booted, Some(&self.to), Until::Stage).unwrap();
        (report, diff::run(&self.machine.host(&self.booted), &diff::Options::default()).unwrap())
    }
}

const CHUNKED: &[&str] = &["--dest-compress-format=zstd:chunked"];

#[test]
fn what_is_told_before_is_what_happens() {
    // Where the first came without a table, its files are found by hashing them, and all of the second is fetched.
    for (first, way, kernel) in [(CHUNKED, Way::Partial, false), (CHUNKED, Way::Partial, true), (&[], Way::Whole, true)] {
        let case = Case::new(first, CHUNKED, kernel);
        let preview = case.preview();
        let (report, diff) = case.upgrade();
        let pulled = report.pulled.unwrap();
        assert_eq!((preview.fetch.as_slice(), preview.bytes), (pulled.fetched.as_slice(), pulled.bytes_fetched));
        assert_eq!(preview.fetch[0].way, way);
        assert!(preview.looked_at > 0 && preview.looked_at < preview.fetch[0].size / 10, "{preview:?}");
        let root = preview.root.unwrap();
        assert_eq!(root.changes, diff.changes);
        assert_eq!((root.objects_new, root.bytes_new), (diff.new_objects, diff.new_bytes));
        assert_eq!(root.objects_reused, diff.shared_objects);
        assert_eq!(root.changes.reboot, if kernel { Reboot::Full } else { Reboot::Soft });
        let nginx = PackageChange { name: "nginx".into(), before: Some("1.2".into()), after: Some("1.3".into()) };
        assert_eq!((root.changes.packages.as_slice(), &root.changes.packages_unread), ([nginx].as_slice(), &None));
        let count = |what| root.changes.count(what);
        use selkie::store::What;
        let changed = if kernel { 4 } else { 3 };
        assert_eq!((count(What::Added), count(What::Removed), count(What::Changed), count(What::Attributes)), (1, 1, changed, 0));
        assert!(preview.room.needed > root.bytes_new && preview.room.free > preview.room.needed, "{:?}", preview.room);
    }
}

#[test]
fn without_a_table_of_contents_bytes_are_told_and_the_rest_is_said_to_be_unknown() {
    let case = Case::new(CHUNKED, &[], true);
    let preview = case.preview();
    let (report, _) = case.upgrade();
    assert_eq!(preview.fetch, report.pulled.unwrap().fetched);
    assert_eq!((preview.bytes, preview.looked_at), (preview.fetch[0].size, 0));
    assert_eq!(preview.root, None);
    assert!(
        preview.unknown.as_ref().unwrap().ends_with("is not known before it is fetched: the layer has no table of contents"),
        "{preview:?}"
    );
    assert!(preview.room.needed > preview.bytes);
}

#[test]
fn a_delta_is_told_where_it_is_what_will_be_taken() {
    for options in [CHUNKED, &["--dest-compress-format=zstd"]] {
        let case = Case::new(options, options, false);
        // A file that changed a little is what deltas are good at.
        let mut files = next(false);
        let Some((_, What::File(large))) = files.iter_mut().find(|(path, _)| path == "usr/lib/08") else { panic!("it is there") };
        large[50_000] ^= 1;
        case.machine.release("second", &files);
        copy(options, &case.machine.reference("second"), &case.to);
        let delta = delta::Options {
            from: case.to.replace("second", "first").parse().unwrap(),
            to: case.to.parse().unwrap(),
            source: SourceOptions::default(),
            output: case.to.replace("second", "delta").parse().unwrap(),
            destination: OutputOptions::default(),
            scratch: case.machine.root.clone(),
        };
        delta::run(&delta, &common::host::silent()).unwrap();
        let preview = case.preview();
        let (report, _) = case.upgrade();
        assert_eq!((preview.fetch.as_slice(), preview.fetch[0].way), (report.pulled.unwrap().fetched.as_slice(), Way::Delta));
    }
}

#[test]
fn any_image_is_compared_with_any_root() {
    let case = Case::new(CHUNKED, CHUNKED, false);
    let host = case.machine.host(&case.booted);
    let options = |from: Option<&str>, image: &str| preview::Options {
        from: from.map(str::to_owned),
        image: image.parse().unwrap(),
        source: SourceOptions::default(),
    };
    let report = preview::run(&host, &options(None, &case.to), &common::host::silent()).unwrap();
    assert_eq!((&report.from.id, report.image.as_str()), (&case.booted, case.to.as_str()));
    let asked = case.preview();
    assert_eq!((report.preview.fetch, report.preview.root), (asked.fetch, asked.root));
    // What runs is no change, and nothing of it has to be fetched.
    let same = preview::run(&host, &options(Some("2"), &case.to.replace("second", "first")), &common::host::silent()).unwrap().preview;
    let root = same.root.unwrap();
    assert_eq!((same.bytes, same.looked_at, same.room.needed), (0, 0, 0));
    assert_eq!((root.changes.files, root.changes.reboot, root.objects_new), (vec![], Reboot::None, 0));
    assert!(preview::run(&host, &options(Some("77"), &case.to), &common::host::silent()).is_err());
}

#[test]
fn a_machine_without_its_index_is_told_the_truth_all_the_same() {
    let case = Case::new(CHUNKED, CHUNKED, true);
    std::fs::remove_file(case.machine.root.join("sysroot/composefs").join(selkie::store::CONTENT_INDEX)).unwrap();
    let preview = case.preview();
    let (report, diff) = case.upgrade();
    assert_eq!(preview.fetch, report.pulled.unwrap().fetched);
    assert_eq!(preview.root.unwrap().changes, diff.changes);
}
