//! A machine made of temporary directories: physical root, ESP, /run. Only what a kernel does is missing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use selkie::boot::{BootFiles, EntryRequest, Place};
use selkie::cmdline::{Cmdline, RootImage};
use selkie::deploy::Deployments;
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::host::Host;
use selkie::ops::upgrade::{self, Options, Report, Until};
use selkie::ops::{prune, pull};
use selkie::origin::Origin;
use selkie::progress::{Progress, Silent};
use selkie::store::{self, Store, Verity};
use selkie::sys::dir;

use super::layout;

/// The machine's directories and the layout that its image comes from.
pub struct Machine {
    pub root: PathBuf,
}

impl Machine {
    /// A machine below `root` that runs version 1 of an image and follows `oci:<root>/images:stable`.
    pub fn install(root: &Path) -> (Self, ImageId) {
        let machine = Self { root: root.to_owned() };
        for part in ["sysroot", "esp", "run"] {
            std::fs::create_dir_all(root.join(part)).unwrap();
        }
        machine.release("stable", &layout::bootable("1"));
        let store = Store::open_or_init(machine.sysroot(), "composefs", None, Verity::IfPossible).unwrap();
        let options = pull::Options {
            image: machine.reference("stable").parse().unwrap(),
            source: SourceOptions::default(),
            tag: Some("first".into()),
        };
        let pulled = pull::run(&store, &options, &silent()).unwrap();
        let id = pulled.boot_image.clone();
        store.tag(&pulled.stored_manifest, &prune::tag(&id)).unwrap();
        store.untag("first").unwrap();
        let origin = Origin {
            version: Origin::VERSION,
            image: machine.reference("stable"),
            manifest_digest: pulled.manifest_digest,
            index_digest: None,
            config_digest: pulled.config_digest,
            kernel_arguments: "rw quiet".into(),
            image_arguments: vec![],
            os_version: Some("1".into()),
            os_name: Some("Debian GNU/Linux 1".into()),
            made_under: None,
            number: Some(1),
            staged: Some(1_700_000_000),
        };
        Deployments::open_or_create(machine.sysroot()).unwrap().create(&id, &origin).unwrap();
        machine.first_entry(&store, &id);
        (machine, id)
    }

    fn first_entry(&self, store: &Store, id: &ImageId) {
        let tree = store.tree(id).unwrap();
        let kernel = store::kernel(&tree).unwrap();
        let request = EntryRequest {
            root: RootImage::new(id.clone(), store.is_sealed()),
            title: "Debian GNU/Linux 1".into(),
            version: "1".into(),
            arguments: Cmdline::parse("rw quiet"),
            serial: 1,
            tries: None,
        };
        let esp = Place::new("first", dir::open_path(self.root.join("esp")).unwrap());
        let files = BootFiles::kernel(tree.read(&kernel.kernel).unwrap(), tree.read(&kernel.initrd).unwrap());
        esp.stage(&request, &files, &Silent).unwrap().publish(&Silent).unwrap();
    }

    /// Pushes an image under a tag.
    pub fn release(&self, tag: &str, files: &layout::Files) {
        layout::write(&self.root.join("images"), tag, files);
    }

    /// Releases a version under the tag that is followed, and upgrades to it.
    pub fn next(&self, booted: &ImageId, version: &str, keep: usize) -> ImageId {
        self.release("stable", &layout::bootable(version));
        self.upgrade_keeping(booted, None, Until::Stage, keep).unwrap().staged.unwrap()
    }

    /// What the first boot of a root does to its deployment.
    pub fn boot(&self, id: &ImageId) {
        let deployment = self.root.join(format!("sysroot/state/deploy/{id}"));
        for part in ["etc/upper", "etc/work"] {
            std::fs::create_dir_all(deployment.join(part)).unwrap();
        }
        let _ = std::fs::remove_file(deployment.join("etc-from.json"));
    }

    /// The reference of a tag.
    pub fn reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.root.join("images").display())
    }

    /// The machine while `booted` runs. Where there is a directory `firmware`, that has its EFI variables.
    pub fn host(&self, booted: &ImageId) -> Host {
        let open = |part: &str| dir::open_path(self.root.join(part)).unwrap();
        let host = Host::at(open("sysroot"), vec![Place::new("first", open("esp"))], open("run"), booted.clone()).unwrap();
        if self.root.join("firmware").exists() { host.with_efivars(open("firmware")) } else { host }
    }

    /// Runs `upgrade`, or `switch` where `image` is given.
    pub fn upgrade(&self, booted: &ImageId, image: Option<&str>, until: Until) -> anyhow::Result<Report> {
        self.upgrade_keeping(booted, image, until, 0)
    }

    /// The same with a number of older roots that stay.
    pub fn upgrade_keeping(&self, booted: &ImageId, image: Option<&str>, until: Until, keep: usize) -> anyhow::Result<Report> {
        let image = image.map(|i| i.parse().unwrap());
        let options = Options { image, source: SourceOptions::default(), until, keep, retry: false };
        upgrade::run(&self.host(booted), &options, &silent())
    }

    /// Runs `upgrade --retry`.
    pub fn retry(&self, booted: &ImageId) -> anyhow::Result<Report> {
        let options = Options { image: None, source: SourceOptions::default(), until: Until::Stage, keep: 0, retry: true };
        upgrade::run(&self.host(booted), &options, &silent())
    }

    /// Every path on the machine with its size, but not the times: what a verb that only reads must not change.
    pub fn snapshot(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut open = vec![self.root.join("sysroot"), self.root.join("esp")];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.path().symlink_metadata().unwrap();
                if meta.is_dir() {
                    open.push(entry.path());
                }
                found.push((entry.path(), if meta.is_file() { meta.len() } else { 0 }));
            }
        }
        found.sort();
        found
    }

    fn sysroot(&self) -> std::os::fd::OwnedFd {
        dir::open_path(self.root.join("sysroot")).unwrap()
    }
}

/// Nobody listens.
pub fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}
