//! `selkie fsck` on whole machines in temporary directories: each damage is found and named, and comes back.

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::host::{Machine, silent};
use common::layout;
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::fsck::{self, Damage, Fetched, Finding, Kind, Means, Options, Outcome, Remedy, Report, Target, Verdict};
use selkie::progress::{Progress, Recorder};
use selkie::store::{Content, Store};
use selkie::sys::dir;

/// A machine, and what is where in its repository.
struct Sick {
    temp: tempfile::TempDir,
    machine: Machine,
    id: ImageId,
}

impl Sick {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (machine, id) = Machine::install(temp.path());
        Self { temp, machine, id }
    }

    fn repository(&self) -> PathBuf {
        self.temp.path().join("sysroot/composefs")
    }

    fn store(&self) -> Store {
        Store::open(dir::open_path(self.temp.path().join("sysroot")).unwrap(), "composefs").unwrap()
    }

    /// The object of a file of the image.
    fn object(&self, path: &str) -> String {
        match self.store().tree(&self.id).unwrap().file(path).unwrap().unwrap().content {
            Content::Object(object) => object.hex().to_owned(),
            Content::Inline(_) => panic!("{path} is no object"),
        }
    }

    fn path(&self, object: &str) -> PathBuf {
        self.repository().join("objects").join(&object[..2]).join(&object[2..])
    }

    /// The name and the object of the only stream of a kind.
    fn stream(&self, kind: &str) -> (String, String) {
        let names = dir::names(dir::open_path(self.repository().join("streams")).unwrap()).unwrap();
        let name = names.into_iter().find(|name| name.to_str().unwrap().starts_with(kind)).unwrap().into_string().unwrap();
        let target = std::fs::read_link(self.repository().join("streams").join(&name)).unwrap();
        let target = target.to_str().unwrap().strip_prefix("../objects/").unwrap().replace('/', "");
        (name, target)
    }

    fn options(&self, repair: bool) -> Options {
        Options { repair, image: None, source: SourceOptions::default(), scratch: self.temp.path().to_owned() }
    }

    fn run(&self, repair: bool) -> Report {
        let target = Target::running(self.machine.host(&self.id));
        fsck::run(&target, &self.options(repair), &silent()).unwrap()
    }

    /// The layer of the image, as a repair tells that it was fetched.
    fn layer(&self, reason: &str) -> Fetched {
        let blobs = self.temp.path().join("images/blobs/sha256");
        let manifest = std::fs::read_dir(&blobs).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        let manifest = manifest.filter_map(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let manifest = manifest.into_iter().find(|json| json.get("layers").is_some()).unwrap();
        let layer = &manifest["layers"][0];
        Fetched {
            image: self.machine.reference("stable"),
            layer: layer["digest"].as_str().unwrap().to_owned(),
            means: Means::WholeLayer,
            bytes: layer["size"].as_u64().unwrap() + if reason == NO_TABLE { FOOTER } else { 0 },
            reason: Some(reason.to_owned()),
        }
    }

    /// A look finds these; a repair repairs them and fetches that; then all is clean, and composefs says so too.
    fn comes_back(&self, expected: &[Finding], fetched: &[Fetched]) {
        let report = self.run(false);
        assert_eq!((report.verdict, &*report.findings), (Verdict::Damaged, expected));
        assert_eq!(report.fetched, []);
        let report = self.run(true);
        assert_eq!(report.findings, expected.iter().map(repaired).collect::<Vec<_>>());
        assert_eq!((report.verdict, &*report.fetched), (Verdict::Repaired, fetched));
        self.is_clean();
    }

    fn is_clean(&self) {
        let report = self.run(false);
        assert_eq!((report.verdict, report.findings), (Verdict::Clean, vec![]));
        let repository = composefs_fsck(&self.repository());
        assert!(repository.is_empty(), "{repository:?}");
        self.store().check_objects(&self.id).unwrap();
    }
}

/// What composefs' own check says.
fn composefs_fsck(path: &Path) -> Vec<String> {
    use composefs::fsverity::Sha256HashValue;
    use composefs::repository::Repository;
    let repository = Repository::<Sha256HashValue>::open_path(rustix::fs::CWD, path).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(repository.fsck()).unwrap();
    result.errors().iter().map(|error| format!("{error:?}")).collect()
}

fn found(kind: Kind, name: &str, damage: Damage, message: &str, remedy: Remedy) -> Finding {
    Finding::new(kind, name, damage, message, remedy)
}

fn repaired(finding: &Finding) -> Finding {
    Finding { outcome: Outcome::Repaired, ..finding.clone() }
}

fn digest(bytes: &[u8]) -> String {
    use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, compute_verity};
    compute_verity::<Sha256HashValue>(bytes).to_hex()
}

/// Flips the last bit of a file: its new digest and its size.
fn flip(path: &Path) -> (String, usize) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, &bytes).unwrap();
    (digest(&bytes), bytes.len())
}

fn changed(size: usize, digest: &str) -> String {
    format!("its {size} bytes have the digest {digest} (expected its name)")
}

const KERNEL: &str = "/usr/lib/modules/6.1/vmlinuz";
/// Where a table of contents would be announced, which is looked at first.
const FOOTER: u64 = 72;
const NO_TABLE: &str = "the layer has no table of contents";
const STREAM: &str = "its stream is damaged, which only the whole layer gives";
const NOT_THERE: &str = "it is not there, and is needed";

#[test]
fn a_machine_that_is_well_is_clean_and_untouched() {
    let sick = Sick::new();
    let before = sick.machine.snapshot();
    let report = sick.run(false);
    assert_eq!((report.verdict, report.findings, report.unchecked), (Verdict::Clean, vec![], vec![]));
    assert_eq!((report.checked.images, report.checked.streams, report.checked.tags), (1, 3, 1));
    assert!(report.checked.objects > 5 && report.checked.bytes > 14_000, "{:?}", report.checked);
    assert_eq!(sick.run(true).verdict, Verdict::Clean);
    assert_eq!(sick.machine.snapshot(), before);
}

#[test]
fn a_flipped_byte_in_an_object() {
    let sick = Sick::new();
    let object = sick.object(KERNEL);
    let (digest, size) = flip(&sick.path(&object));
    sick.comes_back(&[found(Kind::Object, &object, Damage::Changed, &changed(size, &digest), Remedy::Fetch)], &[sick.layer(NO_TABLE)]);
}

#[test]
fn a_deleted_object() {
    let sick = Sick::new();
    let object = sick.object(KERNEL);
    std::fs::remove_file(sick.path(&object)).unwrap();
    sick.comes_back(&[found(Kind::Object, &object, Damage::Missing, NOT_THERE, Remedy::Fetch)], &[sick.layer(NO_TABLE)]);
}

#[test]
fn a_truncated_image() {
    let sick = Sick::new();
    let path = sick.path(sick.id.hex());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..4096]).unwrap();
    let message = format!("object {}: {}", sick.id, changed(4096, &digest(&bytes[..4096])));
    sick.comes_back(&[found(Kind::Image, sick.id.hex(), Damage::Changed, &message, Remedy::Rebuild)], &[]);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_deleted_image_with_its_name() {
    let sick = Sick::new();
    std::fs::remove_file(sick.path(sick.id.hex())).unwrap();
    std::fs::remove_file(sick.repository().join("images").join(sick.id.hex())).unwrap();
    sick.comes_back(&[found(Kind::Image, sick.id.hex(), Damage::Missing, NOT_THERE, Remedy::Rebuild)], &[]);
}

#[test]
fn a_deleted_name_of_a_stream_is_made_again_and_nothing_fetched() {
    let sick = Sick::new();
    for kind in ["oci-layer-", "oci-config-"] {
        let (name, _) = sick.stream(kind);
        std::fs::remove_file(sick.repository().join("streams").join(&name)).unwrap();
        sick.comes_back(&[found(Kind::Stream, &name, Damage::Missing, NOT_THERE, Remedy::Rebuild)], &[]);
    }
}

#[test]
fn a_deleted_stream_with_its_object() {
    let sick = Sick::new();
    for kind in ["oci-layer-", "oci-config-"] {
        let (name, object) = sick.stream(kind);
        std::fs::remove_file(sick.repository().join("streams").join(&name)).unwrap();
        std::fs::remove_file(sick.path(&object)).unwrap();
        let fetched = if kind == "oci-layer-" { vec![sick.layer(STREAM)] } else { vec![] };
        sick.comes_back(&[found(Kind::Stream, &name, Damage::Missing, NOT_THERE, Remedy::Fetch)], &fetched);
    }
}

#[test]
fn a_garbage_stream_and_what_only_it_knew() {
    let sick = Sick::new();
    let (name, object) = sick.stream("oci-layer-");
    std::fs::write(sick.path(&object), b"garbage").unwrap();
    let message = format!("object {object}: {}", changed(7, &digest(b"garbage")));
    sick.comes_back(&[found(Kind::Stream, &name, Damage::Changed, &message, Remedy::Fetch)], &[sick.layer(STREAM)]);
}

#[test]
fn a_stream_and_an_object_of_it_together() {
    let sick = Sick::new();
    let (name, stream) = sick.stream("oci-layer-");
    let kernel = sick.object(KERNEL);
    std::fs::remove_file(sick.path(&stream)).unwrap();
    std::fs::remove_file(sick.path(&kernel)).unwrap();
    let message = format!("object {stream} is missing");
    sick.comes_back(
        &[
            found(Kind::Object, &kernel, Damage::Missing, NOT_THERE, Remedy::Fetch),
            found(Kind::Stream, &name, Damage::Missing, &message, Remedy::Fetch),
        ],
        &[sick.layer(STREAM)],
    );
}

#[test]
fn a_deleted_manifest() {
    let sick = Sick::new();
    let (name, object) = sick.stream("oci-manifest-");
    std::fs::remove_file(sick.path(&object)).unwrap();
    std::fs::remove_file(sick.repository().join("streams").join(&name)).unwrap();
    let tag = format!("deployment/{}", sick.id);
    let message = format!("it leads to {name}, which is not there");
    sick.comes_back(
        &[
            found(Kind::Stream, &name, Damage::Missing, NOT_THERE, Remedy::Fetch),
            found(Kind::Tag, &tag, Damage::Dangling, &message, Remedy::Follows),
        ],
        &[],
    );
}

#[test]
fn a_deployment_that_lost_its_tag() {
    let sick = Sick::new();
    std::fs::remove_file(sick.repository().join(format!("streams/refs/oci/deployment%2F{}", sick.id))).unwrap();
    let tag = format!("deployment/{}", sick.id);
    let message = "the image of this deployment has no name, and the next garbage collection would take it";
    sick.comes_back(&[found(Kind::Tag, &tag, Damage::Missing, message, Remedy::Rebuild)], &[]);
}

#[test]
fn a_name_that_leads_nowhere() {
    let sick = Sick::new();
    let target = format!("oci-manifest-sha256:{}", "0".repeat(64));
    symlink(format!("../../{target}"), sick.repository().join("streams/refs/oci/old")).unwrap();
    let message = format!("it leads to {target}, which is not there");
    sick.comes_back(&[found(Kind::Tag, "old", Damage::Dangling, &message, Remedy::Remove)], &[]);
    assert!(sick.repository().join("streams/refs/oci/old").symlink_metadata().is_err());
}

#[test]
fn spoiled_metadata_is_made_again_and_hides_nothing() {
    let sick = Sick::new();
    let meta = sick.repository().join("meta.json");
    let bytes = std::fs::read(&meta).unwrap();
    let object = sick.object(KERNEL);
    for spoil in ["{", ""] {
        std::fs::write(&meta, spoil).unwrap();
        std::fs::remove_file(sick.path(&object)).unwrap();
        let report = sick.run(false);
        assert_eq!(report.unchecked, ["the repository, as its meta.json is damaged"]);
        let seen: Vec<_> = report.findings.iter().map(|f| (f.kind, &*f.name, f.damage, f.remedy)).collect();
        assert_eq!(seen, [(Kind::Repository, "meta.json", Damage::Unreadable, Remedy::Rebuild)]);
        let report = sick.run(true);
        let seen: Vec<_> = report.findings.iter().map(|f| (f.kind, &*f.name, &f.outcome)).collect();
        assert_eq!(seen, [(Kind::Repository, "meta.json", &Outcome::Repaired), (Kind::Object, &*object, &Outcome::Repaired)]);
        assert_eq!(report.verdict, Verdict::Repaired);
        sick.is_clean();
        assert_eq!(std::fs::read(&meta).unwrap(), bytes);
    }
    std::fs::remove_file(&meta).unwrap();
    sick.comes_back(&[found(Kind::Repository, "meta.json", Damage::Missing, "it is not there", Remedy::Rebuild)], &[]);
}

#[test]
fn leftovers_are_swept() {
    let sick = Sick::new();
    let left = ["objects/.tmp-object-abc", "objects/00/.selkie-tmp-x", "streams/.selkie-tmp-y", ".symlink-z"];
    std::fs::create_dir_all(sick.repository().join("objects/00")).unwrap();
    for path in left {
        std::fs::write(sick.repository().join(path), "half").unwrap();
    }
    let mut left = left.map(|path| found(Kind::Leftover, path, Damage::Leftover, "a write that was stopped has left it", Remedy::Remove));
    left.sort_by(|a, b| a.name.cmp(&b.name));
    let mut report = sick.run(false);
    report.findings.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(report.findings, left);
    let mut report = sick.run(true);
    report.findings.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(report.findings, left.iter().map(repaired).collect::<Vec<_>>());
    sick.is_clean();
}

#[test]
fn what_nothing_needs_and_is_damaged_goes() {
    let sick = Sick::new();
    let name = "ab".repeat(32);
    std::fs::create_dir_all(sick.path(&name).parent().unwrap()).unwrap();
    std::fs::write(sick.path(&name), [7; 100]).unwrap();
    sick.comes_back(&[found(Kind::Object, &name, Damage::Changed, &changed(100, &digest(&[7; 100])), Remedy::Remove)], &[]);
}

#[test]
fn what_cannot_be_fetched_stays_and_says_what_to_do() {
    let sick = Sick::new();
    let object = sick.object(KERNEL);
    let path = sick.path(&object);
    flip(&path);
    let damaged = std::fs::read(&path).unwrap();
    std::fs::rename(sick.temp.path().join("images"), sick.temp.path().join("elsewhere")).unwrap();
    let report = sick.run(true);
    let Outcome::Left { reason } = &report.findings[0].outcome else { panic!("{report:?}") };
    assert!(reason.contains("images") && reason.contains("--image"), "{reason}");
    assert_eq!((report.verdict, report.findings.len(), report.fetched), (Verdict::Damaged, 1, vec![]));
    assert_eq!(std::fs::read(&path).unwrap(), damaged);

    // An image with other layers is of no use, and that is said.
    layout::write(&sick.temp.path().join("other"), "x", &layout::bootable("2"));
    let image = |path: &str, tag: &str| Some(format!("oci:{}:{tag}", sick.temp.path().join(path).display()).parse().unwrap());
    let target = Target::running(sick.machine.host(&sick.id));
    let options = Options { image: image("other", "x"), ..sick.options(true) };
    let report = fsck::run(&target, &options, &silent()).unwrap();
    let Outcome::Left { reason } = &report.findings[0].outcome else { panic!("{report:?}") };
    assert!(reason.contains("has nothing of what is damaged"), "{reason}");
    assert_eq!(std::fs::read(&path).unwrap(), damaged);

    let options = Options { image: image("elsewhere", "stable"), ..sick.options(true) };
    assert_eq!(fsck::run(&target, &options, &silent()).unwrap().verdict, Verdict::Repaired);
    sick.is_clean();
}

#[test]
fn a_source_that_lies_changes_nothing() {
    let sick = Sick::new();
    let object = sick.object(KERNEL);
    std::fs::remove_file(sick.path(&object)).unwrap();
    let layer = sick.layer("").layer;
    let blob = sick.temp.path().join("images/blobs/sha256").join(layer.strip_prefix("sha256:").unwrap());
    let half = std::fs::read(&blob).unwrap();
    std::fs::write(&blob, [&half[..200], &vec![0; half.len() - 200]].concat()).unwrap();
    let report = sick.run(true);
    assert!(matches!(&report.findings[..], [Finding { outcome: Outcome::Left { .. }, .. }]), "{report:?}");
    assert_eq!(report.fetched, []);
    assert!(!sick.path(&object).exists());
}

#[test]
fn from_outside_and_odd_directories() {
    let sick = Sick::new();
    let object = sick.object(KERNEL);
    flip(&sick.path(&object));
    let sysroot = sick.temp.path().join("sysroot");
    let esp = sick.temp.path().join("esp");
    let target = Target::outside(&sysroot, Some(&esp)).unwrap();
    assert_eq!(fsck::run(&target, &sick.options(true), &silent()).unwrap().verdict, Verdict::Repaired);
    drop(target);
    // The ESP beside it is found.
    let target = Target::outside(&sysroot, None).unwrap();
    assert_eq!(fsck::run(&target, &sick.options(false), &silent()).unwrap().verdict, Verdict::Clean);
    let refused = |path: &Path| Failure::find(&Target::outside(path, None).unwrap_err()).unwrap();
    let file = sick.temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(refused(&file).kind, FailureKind::NotFound);
    assert!(refused(&file).message.ends_with("it is no directory"), "{}", refused(&file).message);
    assert_eq!(refused(&sick.temp.path().join("nowhere")).kind, FailureKind::NotFound);
    assert_eq!(refused(sick.temp.path()).kind, FailureKind::NotAHost);
}

#[test]
fn a_repair_that_this_kernel_cannot_make_is_refused_before_it_looks() {
    let sick = Sick::new();
    let object = sick.object(KERNEL);
    flip(&sick.path(&object));
    if sick.store().is_sealed() {
        return;
    }
    // The entry boots only with fs-verity, which this file system has not.
    let entries = sick.temp.path().join("esp/loader/entries");
    let entry = std::fs::read_dir(&entries).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&entry).unwrap().replace("=?", "=");
    std::fs::write(&entry, text).unwrap();
    let before = sick.machine.snapshot();
    let target = Target::running(sick.machine.host(&sick.id));
    let refused = fsck::run(&target, &sick.options(true), &silent()).unwrap_err();
    let failure = Failure::find(&refused).unwrap();
    assert_eq!(failure.kind, FailureKind::StoreMismatch, "{refused:#}");
    assert!(failure.message.starts_with("repairing the repository: it requires fs-verity"), "{}", failure.message);
    assert_eq!(sick.machine.snapshot(), before);
}

#[test]
fn each_step_of_a_repair_is_told() {
    let sick = Sick::new();
    let (_, stream) = sick.stream("oci-layer-");
    let kernel = sick.object(KERNEL);
    for object in [&stream, &kernel, &sick.id.hex().to_owned()] {
        std::fs::remove_file(sick.path(object)).unwrap();
    }
    std::fs::write(sick.repository().join(".selkie-tmp-x"), "").unwrap();
    let recorder = Arc::new(Recorder::default());
    let progress: Arc<dyn Progress> = recorder.clone();
    let target = Target::running(sick.machine.host(&sick.id));
    fsck::run(&target, &sick.options(true), &progress).unwrap();
    assert_eq!(recorder.steps(), ["restore stream", "name stream", "restore image", "name image", "remove leftover", "restore object"]);
    sick.is_clean();
}

/// Two names in a folder of the repository, the first of which is made to lead to where the second leads.
fn led_astray(sick: &Sick, folder: &str, kind: &str) -> String {
    let folder = sick.repository().join(folder);
    let names = dir::names(dir::open_path(&folder).unwrap()).unwrap();
    let names: Vec<_> = names.iter().filter_map(|name| name.to_str()).filter(|name| name.starts_with(kind) && *name != "refs").collect();
    let other = std::fs::read_link(folder.join(names[1])).unwrap();
    std::fs::remove_file(folder.join(names[0])).unwrap();
    symlink(other, folder.join(names[0])).unwrap();
    names[0].to_owned()
}

#[test]
fn what_has_the_content_of_another_is_found_and_led_back() {
    for (folder, kind, expected) in
        [("streams", "oci-layer-", Kind::Stream), ("streams", "oci-config-", Kind::Stream), ("images", "", Kind::Image)]
    {
        let sick = Sick::new();
        sick.machine.next(&sick.id, "2", 9);
        let name = led_astray(&sick, folder, kind);
        let report = sick.run(false);
        let found: Vec<_> = report.findings.iter().map(|f| (f.kind, f.name.as_str(), f.damage)).collect();
        assert_eq!((report.verdict, &*found), (Verdict::Damaged, [(expected, &*name, Damage::Changed)].as_slice()), "{folder} {kind}");
        assert_eq!(sick.run(true).verdict, Verdict::Repaired, "{folder} {kind}");
        sick.is_clean();
    }
}
