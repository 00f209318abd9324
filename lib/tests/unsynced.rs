//! Objects that a pull has linked and not brought to the disk are not believed by the next one, where no fs-verity tells.

#[path = "partial_common/killed.rs"]
mod killed;
mod partial_common;
#[path = "common/relay.rs"]
mod relay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use partial_common::oci::{Compression, Layout, flip, noise, tar};
use partial_common::registry::Registry;
use partial_common::{Release, pull_into};
use relay::{Odd, Relay};
use selkie::ops::pull::Pulled;
use selkie::progress::{Event, Recorder};
use selkie::store::{Store, Verity};

/// A repository without fs-verity.
struct Plain {
    temp: tempfile::TempDir,
    store: Store,
}

fn open(directory: &Path) -> Store {
    Store::open_or_init(selkie::sys::dir::open_path(directory).unwrap(), "r", None, Verity::Never).unwrap()
}

impl Plain {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        Self { store: open(temp.path()), temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join("r").join(name)
    }

    fn mark(&self) -> PathBuf {
        self.path("unsynced")
    }

    fn pull(&self, reference: &str) -> Pulled {
        self.pull_with(reference).0
    }

    /// The pull, and what was told.
    fn pull_with(&self, reference: &str) -> (Pulled, Vec<String>) {
        let recorder = Arc::<Recorder>::default();
        let pulled = pull_into(&self.store, reference, &recorder).unwrap();
        let note = |event| if let Event::Note { message } = event { Some(message) } else { None };
        (pulled, recorder.events().into_iter().filter_map(note).collect())
    }

    /// The objects with their bytes.
    fn objects(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let below = std::fs::read_dir(self.path("objects")).into_iter().flatten();
        let files = below.flat_map(|below| std::fs::read_dir(below.unwrap().path()).unwrap()).map(|entry| entry.unwrap().path());
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    }

    /// The object with this content.
    fn object(&self, content: &[u8]) -> PathBuf {
        self.objects().into_iter().find(|(_, found)| found == content).unwrap().0
    }

    /// What a name in the repository leads to.
    fn behind(&self, name: &str) -> PathBuf {
        self.path(name).canonicalize().unwrap()
    }
}

/// What [`killed_pull`] kills.
#[test]
fn child() {
    killed::child(open);
}

/// Pulls in a process of its own, and kills that once there are objects.
fn killed_pull(reference: &str) -> Plain {
    let plain = Plain::new();
    killed::kill_once(plain.temp.path(), reference, || plain.objects().len() >= 10);
    assert!(plain.objects().len() >= 10, "{} objects", plain.objects().len());
    plain
}

#[test]
fn objects_of_a_pull_that_was_killed_are_read_before_they_are_believed() {
    let registry = Registry::start();
    Release::first().push(&registry, "v1", &["--dest-compress-format=zstd"]);
    let relay = Relay::start(&registry.address, Odd::Stalls(1_600_000));
    let plain = killed_pull(&format!("{}/acme/os:v1", relay.address));
    assert!(plain.mark().exists());
    // What a power cut leaves of files whose bytes were still to be written.
    let left = plain.objects();
    left.keys().skip(1).for_each(|object| flip(object));
    let (pulled, told) = plain.pull_with(&registry.name("acme/os:v1"));
    plain.store.check_objects(&pulled.boot_image).unwrap();
    assert_eq!((pulled.objects_reused, told.len()), (1, 2), "{told:?}");
    assert!(told[1].starts_with(&format!("{} objects ", left.len() - 1)), "{told:?}");
    assert!(!plain.mark().exists());
}

/// Images of the same base, each with a file of its own.
fn images(count: usize) -> (Layout, Vec<Vec<u8>>) {
    let mut layout = Layout::new();
    let contents: Vec<Vec<u8>> = noise(50_000 * count).chunks(50_000).map(<[u8]>::to_vec).collect();
    for (n, content) in contents.iter().enumerate() {
        let image = layout.image("amd64", &[(Compression::Zstd, Release::first().tar()), (Compression::Zstd, tar(content))]);
        layout.publish(Some(&format!("v{n}")), &image);
    }
    (layout, contents)
}

#[test]
fn only_what_no_name_leads_to_is_in_doubt_and_after_a_good_pull_nothing_is() {
    let ((layout, contents), plain) = (images(3), Plain::new());
    plain.pull(&layout.reference(Some("v0")));
    let named = plain.object(&contents[0]);
    // What came and has no name.
    let content = vec![7; 50_000];
    let (_, diff_id) = layout.layer(Compression::None, &tar(&content));
    plain.store.import_layer(&diff_id, &tar(&content)[..]).unwrap();
    std::fs::remove_file(plain.path(&format!("streams/oci-layer-{diff_id}"))).unwrap();
    let stray = plain.object(&content);
    flip(&named);
    flip(&stray);
    let is_as_it_was = |path: &Path| std::fs::read(path).is_ok_and(|found| found.len() == 50_000);
    assert!(!plain.mark().exists());
    let (_, told) = plain.pull_with(&layout.reference(Some("v1")));
    assert!(is_as_it_was(&named) && is_as_it_was(&stray) && told.len() == 1, "{told:?}");
    std::fs::write(plain.mark(), "").unwrap();
    // No pull has made that.
    let foreign = plain.path("objects/ab").join("c".repeat(62));
    std::fs::create_dir_all(&foreign).unwrap();
    let (_, told) = plain.pull_with(&layout.reference(Some("v2")));
    assert!(foreign.exists() && is_as_it_was(&named) && !stray.exists() && told[1].starts_with("1 object "), "{told:?}");
    assert!(!plain.mark().exists());
}

#[test]
fn an_image_whose_commit_was_cut_is_made_again() {
    let ((layout, _), plain) = (images(1), Plain::new());
    let pulled = plain.pull(&layout.reference(Some("v0")));
    plain.store.untag("v0").unwrap();
    for name in std::fs::read_dir(plain.path("streams")).unwrap().map(|entry| entry.unwrap().path()) {
        if ["config", "manifest"].iter().any(|kind| name.to_string_lossy().contains(&format!("/oci-{kind}-"))) {
            std::fs::remove_file(name).unwrap();
        }
    }
    for image in [&pulled.image, &pulled.boot_image] {
        flip(&plain.behind(&format!("images/{image}")));
    }
    std::fs::write(plain.mark(), "").unwrap();
    let again = plain.pull(&layout.reference(Some("v0")));
    assert_eq!((&again.boot_image, again.layers_new), (&pulled.boot_image, 0));
    plain.store.check_objects(&again.image).unwrap();
    plain.store.check_objects(&again.boot_image).unwrap();
    assert!(!plain.mark().exists());
}
