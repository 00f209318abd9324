//! `selkie fsck --repair` from a real registry: single files by ranges where the layer allows it, else the whole layer.

#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;

use std::sync::Arc;

use oci::{Compression, Layout, header, noise, plain_http};
use registry::{Registry, push};
use selkie::deploy::Deployments;
use selkie::ops::fsck::{self, Damage, Fetched, Kind, Means, Options, Outcome, Remedy, Report, Target};
use selkie::ops::pull;
use selkie::progress::{Progress, Silent};
use selkie::store::{Content, Store, Verity};
use selkie::sys::dir;

const BIG: usize = 1_500_000;

/// A layer with `usr/wanted` of 20 000 bytes beside a large file.
fn layer() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, content: &[u8]| {
        builder.append_data(&mut header(kind, content.len()), path, content).unwrap();
    };
    add("usr/", tar::EntryType::Directory, b"");
    add("usr/big", tar::EntryType::Regular, &noise(BIG));
    add("usr/wanted", tar::EntryType::Regular, &noise(BIG + 20_000)[BIG..]);
    builder.into_inner().unwrap()
}

/// A machine of one repository, pulled from a registry that has its layer in this form.
struct Sick {
    temp: tempfile::TempDir,
    _registry: Registry,
    reference: String,
    object: String,
}

impl Sick {
    fn new(options: &[&str]) -> Self {
        let (registry, temp) = (Registry::start(), tempfile::tempdir().unwrap());
        let mut layout = Layout::new();
        let image = layout.image("amd64", &[(Compression::None, layer())]);
        layout.publish(Some("v1"), &image);
        push(options, layout.path(), "v1", &registry.name("acme/os:v1"));
        let reference = registry.name("acme/os:v1");
        for part in ["sysroot", "esp/loader/entries"] {
            std::fs::create_dir_all(temp.path().join(part)).unwrap();
        }
        let sysroot = dir::open_path(temp.path().join("sysroot")).unwrap();
        Deployments::open_or_create(&sysroot).unwrap();
        let store = Store::open_or_init(&sysroot, "composefs", None, Verity::IfPossible).unwrap();
        let pulled =
            pull::run(&store, &pull::Options { image: reference.parse().unwrap(), source: plain_http(), tag: None }, &silent()).unwrap();
        let wanted = store.tree(&pulled.boot_image).unwrap().file("/usr/wanted").unwrap().unwrap();
        let Content::Object(object) = wanted.content else { panic!("it is inline") };
        let object = object.hex().to_owned();
        // The image is pinned by what the repository says of its tag.
        let reference = format!("{}@{}", reference.strip_suffix(":v1").unwrap(), pulled.manifest_digest);
        Self { temp, _registry: registry, reference, object }
    }

    fn path(&self) -> std::path::PathBuf {
        self.temp.path().join("sysroot/composefs/objects").join(&self.object[..2]).join(&self.object[2..])
    }

    fn run(&self, repair: bool) -> Report {
        let target = Target::outside(&self.temp.path().join("sysroot"), Some(&self.temp.path().join("esp"))).unwrap();
        let options = Options { repair, image: None, source: plain_http(), scratch: self.temp.path().to_owned() };
        fsck::run(&target, &options, &silent()).unwrap()
    }

    /// Damages the object; a repair brings it back.
    fn comes_back(&self) -> Fetched {
        let mut bytes = std::fs::read(self.path()).unwrap();
        let right = bytes.clone();
        bytes[9999] ^= 1;
        std::fs::write(self.path(), bytes).unwrap();
        let report = self.run(true);
        // Nothing boots here: this is a repository, and no more of a machine.
        let [object, default] = &report.findings[..] else { panic!("{report:?}") };
        assert_eq!((object.kind, &object.name, object.damage, object.remedy), (Kind::Object, &self.object, Damage::Changed, Remedy::Fetch));
        assert_eq!(object.outcome, Outcome::Repaired);
        assert_eq!((default.kind, &*default.name, default.damage), (Kind::Entry, "default", Damage::Missing));
        assert_eq!(report.unchecked, [""; 0]);
        assert!(std::fs::read(self.path()).unwrap() == right);
        let again = self.run(false);
        assert_eq!(again.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::Entry]);
        let [fetched] = &report.fetched[..] else { panic!("{report:?}") };
        assert_eq!(fetched.image, self.reference);
        fetched.clone()
    }
}

fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

#[test]
fn one_file_of_a_chunked_layer_is_fetched_and_nothing_else() {
    let fetched = Sick::new(&["--dest-compress-format=zstd:chunked"]).comes_back();
    assert_eq!((fetched.means, fetched.reason), (Means::Ranges, None));
    // Below twice the size of what is damaged, with the table of contents.
    assert!(fetched.bytes > 20_000 && fetched.bytes < 40_000, "{}", fetched.bytes);
}

#[test]
fn a_layer_without_a_table_is_fetched_whole() {
    let fetched = Sick::new(&[]).comes_back();
    assert_eq!((fetched.means, fetched.reason.as_deref()), (Means::WholeLayer, Some("the layer has no table of contents")));
    assert!(fetched.bytes > BIG as u64, "{}", fetched.bytes);
}
