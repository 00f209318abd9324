//! A repository of no machine, and what is done to it.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use composefs::fsverity::Sha256HashValue;
use composefs::repository::Repository as Library;
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::ops::fsck::{self, Options, Report, Target, Verdict};
use selkie::ops::gc::{self, Swept};
use selkie::ops::pull::{self, Pulled, Repository};
use selkie::ops::standalone::{Standalone, Verb};
use selkie::ops::untag;
use selkie::progress::Silent;
use selkie::store::{Store, Verity};
use selkie::sys::dir;

use crate::common::host::silent;
use crate::common::layout;

/// A repository with two images that share files, pulled under their references.
pub(crate) struct Made {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) one: Pulled,
    pub(crate) two: Pulled,
}

/// What only one version has, too long to be inline.
pub(crate) fn own(version: &str) -> String {
    version.repeat(10_000)
}

impl Made {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        for version in ["1", "2"] {
            let files = layout::with(layout::bootable(version), "usr/own", &own(version));
            layout::write(&temp.path().join("images"), version, &files);
        }
        let [one, two] = ["1", "2"].map(|version| pull_into(temp.path(), version, None));
        Self { temp, one, two }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.temp.path().join("repo")
    }

    pub(crate) fn tag(&self, version: &str) -> String {
        reference(self.temp.path(), version)
    }

    pub(crate) fn open(&self, verb: Verb) -> anyhow::Result<Standalone> {
        Standalone::open(&self.path(), verb)
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(dir::open_path(self.temp.path()).unwrap(), "repo").unwrap()
    }

    pub(crate) fn fsck(&self, repair: bool) -> Report {
        let options = Options { repair, image: None, source: SourceOptions::default(), scratch: self.temp.path().to_owned() };
        fsck::run(&Target::standalone(self.open(Verb::Fsck).unwrap()), &options, &silent()).unwrap()
    }

    pub(crate) fn gc(&self, dry_run: bool) -> anyhow::Result<Swept> {
        gc::run_in(&self.open(Verb::Gc)?, dry_run, &Silent)
    }

    pub(crate) fn untag(&self, tag: &str) -> anyhow::Result<untag::Report> {
        untag::run(&self.open(Verb::Untag)?, tag, &Silent)
    }

    /// The stream of a kind of image one: no other has it.
    pub(crate) fn stream(&self, kind: &str) -> PathBuf {
        let digest = match kind {
            "config" => self.one.config_digest.clone(),
            "manifest" => self.one.stored_manifest.clone(),
            _ => {
                let config = self.temp.path().join("images/blobs").join(self.one.config_digest.replace(':', "/"));
                let config: serde_json::Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
                config["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned()
            }
        };
        self.path().join(format!("streams/oci-{kind}-{digest}"))
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.path().join("images").join(self.one.boot_image.hex())
    }

    /// The object of the file that only image one has.
    pub(crate) fn file(&self) -> PathBuf {
        self.object(&own("1"))
    }

    pub(crate) fn object(&self, content: &str) -> PathBuf {
        let files = content_of(&self.path());
        let (path, _) = files.into_iter().find(|(path, bytes)| path.starts_with("objects") && bytes == content.as_bytes()).unwrap();
        self.path().join(path)
    }

    pub(crate) fn is_clean(&self) {
        let report = self.fsck(false);
        assert_eq!((report.verdict, report.findings, report.unchecked), (Verdict::Clean, vec![], vec![]));
        let library = Library::<Sha256HashValue>::open_path(rustix::fs::CWD, self.path()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let errors: Vec<_> = runtime.block_on(library.fsck()).unwrap().errors().iter().map(|error| format!("{error:?}")).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

pub(crate) fn reference(directory: &Path, version: &str) -> String {
    format!("oci:{}:{version}", directory.join("images").display())
}

pub(crate) fn pull_into(directory: &Path, version: &str, tag: Option<&str>) -> Pulled {
    let repository = Repository { path: directory.join("repo"), algorithm: None, verity: Verity::IfPossible };
    let image = reference(directory, version).parse().unwrap();
    let options = pull::Options { image, source: SourceOptions::default(), tag: tag.map(str::to_owned) };
    pull::run_into(&repository, &options, &silent()).unwrap()
}

/// Every file by its path with its bytes, and every link with where it leads.
pub(crate) fn content_of(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let (path, kind) = entry.map(|e| (e.path(), e.file_type().unwrap())).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_symlink() {
                found.insert(name, std::fs::read_link(path).unwrap().into_os_string().into_encoded_bytes());
            } else {
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

/// The same of what is there for images.
pub(crate) fn images_of(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    content_of(root).into_iter().filter(|(path, _)| ["objects", "streams", "images"].iter().any(|part| path.starts_with(part))).collect()
}

pub(crate) fn failure<T: std::fmt::Debug>(result: anyhow::Result<T>) -> (FailureKind, String, String) {
    let error = result.unwrap_err();
    let failure = Failure::find(&error).unwrap();
    (failure.kind, format!("{error:#}"), failure.hint.unwrap_or_default())
}

pub(crate) fn remove_object(link: &Path) {
    std::fs::remove_file(std::fs::canonicalize(link).unwrap()).unwrap();
}

pub(crate) fn change(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}
