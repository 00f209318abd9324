//! Garbage collection keeps what the library keeps when it is told of every image, and reads those images only that tags do not keep.

mod store_common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use composefs::fsverity::{FsVerityHashValue, Sha256HashValue, compute_verity};
use composefs::repository::Repository;
use selkie::image_id::{Algorithm, ImageId};
use selkie::progress::Silent;
use selkie::store::{Store, StoredImage, Verity};
use store_common::*;

fn own(version: &str) -> String {
    version.repeat(500)
}

fn os(version: &str) -> Vec<Vec<u8>> {
    let first = vec![dir("usr"), dir("usr/lib"), file("usr/lib/shared", [9; 300])];
    vec![tar(&first), tar(&[file("usr/lib/version", own(version))])]
}

/// A repository with two images, and something that nobody needs.
struct Made {
    _temp: tempfile::TempDir,
    path: PathBuf,
    one: StoredImage,
    two: StoredImage,
}

impl Made {
    fn new() -> Self {
        let temp = temporary();
        let parent = selkie::sys::dir::open_path(temp.path()).unwrap();
        let repository = Store::open_or_init(parent, "repository", Some(Algorithm::Sha256), Verity::Never).unwrap();
        let one = store(&repository, &os("1"), Some("one")).unwrap();
        let two = store(&repository, &os("2"), Some("two")).unwrap();
        let stray = tar(&[file("usr/lib/stray", [7; 400])]);
        repository.import_layer(&sha256(&stray), &stray[..]).unwrap();
        Self { path: temp.path().join("repository"), _temp: temp, one, two }
    }

    fn store(&self) -> Store {
        Store::open(selkie::sys::dir::open_path(self.path.parent().unwrap()).unwrap(), "repository").unwrap()
    }

    fn stream(&self, name: &str) -> PathBuf {
        self.path.join("streams").join(name)
    }

    /// The stream of the layer that only image one has.
    fn layer(&self) -> PathBuf {
        self.stream(&format!("oci-layer-{}", sha256(&os("1")[1])))
    }

    fn config(&self) -> PathBuf {
        self.stream(&format!("oci-config-{}", self.one.config_digest))
    }

    fn manifest(&self) -> PathBuf {
        self.stream(&format!("oci-manifest-{}", self.one.manifest_digest))
    }

    fn image(&self) -> PathBuf {
        self.path.join("images").join(self.one.boot_image.hex())
    }

    /// Every file and link, by path.
    fn files(&self) -> BTreeSet<PathBuf> {
        let (mut files, mut open) = (BTreeSet::new(), vec![self.path.clone()]);
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => open.push(entry.path()),
                    false => drop(files.insert(entry.path().strip_prefix(&self.path).unwrap().to_owned())),
                }
            }
        }
        files
    }

    fn by_library(&self, keep: &[&ImageId]) -> Option<(u64, u64)> {
        let library = Repository::<Sha256HashValue>::open_path(rustix::fs::CWD, &self.path).unwrap();
        let roots: Vec<&str> = keep.iter().map(|id| id.hex()).collect();
        library.gc(&roots).ok().map(|swept| (swept.objects_removed, swept.objects_bytes))
    }
}

/// Exchanges the name of an object in the table of a stream for one that nothing has.
fn spoil_table(stream: &Path) {
    let named: Sha256HashValue = compute_verity(own("1").as_bytes());
    let named = hex::decode(named.to_hex()).unwrap();
    let mut bytes = std::fs::read(stream).unwrap();
    let at = bytes.windows(named.len()).position(|window| window == named).unwrap();
    bytes[at] ^= 0xff;
    std::fs::write(stream, bytes).unwrap();
}

fn remove_object(link: &Path) {
    std::fs::remove_file(std::fs::canonicalize(link).unwrap()).unwrap();
}

fn cut(link: &Path) {
    let bytes = std::fs::read(link).unwrap();
    std::fs::write(link, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn what_is_kept_is_what_the_library_keeps_that_is_told_of_every_image() {
    type Damage = fn(&Made);
    let table: [(&str, Damage); 13] = [
        ("nothing", |_| {}),
        ("the tag is gone", |made| assert!(made.store().untag("one").unwrap())),
        ("both tags are gone", |made| assert!(made.store().untag("one").unwrap() && made.store().untag("two").unwrap())),
        ("the manifest has no name", |made| std::fs::remove_file(made.manifest()).unwrap()),
        ("the configuration has no name", |made| std::fs::remove_file(made.config()).unwrap()),
        ("the configuration is gone", |made| remove_object(&made.config())),
        ("the configuration is cut", |made| cut(&made.config())),
        ("a layer has no name", |made| std::fs::remove_file(made.layer()).unwrap()),
        ("a layer is gone", |made| remove_object(&made.layer())),
        ("a layer is cut", |made| cut(&made.layer())),
        ("a layer names another object", |made| spoil_table(&made.layer())),
        ("the image has no name", |made| std::fs::remove_file(made.image()).unwrap()),
        ("the image is gone", |made| remove_object(&made.image())),
    ];
    let mut removed = 0;
    for (what, damage) in table {
        let made = [(); 3].map(|()| Made::new());
        made.iter().for_each(damage);
        let before = made[0].files();
        let one = [&made[0].one.boot_image, &made[0].two.boot_image];
        for keep in [&one[..1], &one[..], &[]] {
            let expected = made[0].by_library(keep);
            let planned = made[1].store().garbage(&[], keep).ok();
            let swept = made[1].store().alone(&Silent).unwrap().gc(keep).ok();
            assert_eq!(swept.map(|swept| (swept.objects, swept.bytes)), expected, "{what}");
            assert_eq!(made[1].files(), made[0].files(), "{what}");
            if let (Some(planned), Some(swept)) = (planned, swept) {
                assert_eq!((planned.objects, planned.bytes), (swept.objects, swept.bytes), "{what}: planned");
            }
            removed += swept.map_or(0, |swept| swept.objects);
        }
        // The file that only image one has, however it is kept.
        let kept = made[2].store().alone(&Silent).unwrap().gc(&one).is_ok();
        let object = made[2].path.join("objects").join(compute_verity::<Sha256HashValue>(own("1").as_bytes()).to_object_pathname());
        assert!(object.exists(), "{what}");
        assert!(kept || made[2].files() == before, "{what}: what fails changes nothing");
    }
    assert!(removed > 0);
}

/// What cannot be read is not read: so it is seen that tags are enough.
#[test]
fn images_that_tags_keep_are_not_read() {
    let [made, spoiled] = [(); 2].map(|()| Made::new());
    let keep = [&made.one.boot_image, &made.two.boot_image];
    for made in [&made, &spoiled] {
        std::fs::write(made.image(), "no image").unwrap();
    }
    assert_eq!(made.by_library(&keep), None);
    let swept = spoiled.store().alone(&Silent).unwrap().gc(&keep).unwrap();
    assert_eq!(spoiled.store().garbage(&[], &keep).unwrap().objects, 0);
    assert_eq!(swept.objects, 2, "the stray layer and its file");
    assert!(spoiled.store().untag("one").unwrap());
    spoiled.store().alone(&Silent).unwrap().gc(&keep).unwrap_err();
    spoiled.store().garbage(&["two".to_owned()], &keep[1..]).unwrap();
}

#[test]
fn what_a_stopped_write_has_left_beside_the_objects_goes() {
    let made = Made::new();
    let left = made.path.join(format!("{}ab", selkie::sys::dir::TEMPORARY));
    std::fs::write(&left, "an object").unwrap();
    made.store().alone(&Silent).unwrap().gc(&[&made.one.boot_image, &made.two.boot_image]).unwrap();
    assert!(!left.exists());
}

/// The plan for tags that go reads those images that the tags which stay do not keep.
#[test]
fn a_plan_knows_which_tags_go() {
    for keep_one in [true, false] {
        let made = Made::new();
        let keep = [&made.two.boot_image, &made.one.boot_image];
        let keep = &keep[..if keep_one { 2 } else { 1 }];
        let planned = made.store().garbage(&["one".to_owned()], keep).unwrap();
        assert!(made.store().untag("one").unwrap());
        let swept = made.store().alone(&Silent).unwrap().gc(keep).unwrap();
        assert_eq!((planned.objects, planned.bytes), (swept.objects, swept.bytes), "{keep_one}");
        made.store().check_objects(&made.two.boot_image).unwrap();
        assert_eq!(made.store().check_objects(&made.one.boot_image).is_ok(), keep_one);
    }
}
