//! A machine in a temporary directory: an unsealed composefs repository with small images, and deployments.
//! Boots happen in mount namespaces of their own, so that nothing of them stays.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use composefs::erofs::format::{FormatConfig, FormatVersion};
use composefs::fsverity::{Algorithm, FsVerityHashValue, Sha256HashValue};
use composefs::generic_tree::{Directory, Inode, LeafContent, Stat};
use composefs::repository::{Repository, RepositoryConfig};
use composefs::tree::{FileSystem, RegularFile};
use rustix::mount::MountFlags;
use selkie::cmdline::{Cmdline, RootImage};
use selkie::deploy::{Deployment, Deployments};
use selkie::image_id::ImageId;
use selkie::ops::setup_root::{Options, setup_root};
use selkie::origin::Origin;
use selkie::progress::{Progress, Recorder};
use selkie::sys::dir;

pub(crate) struct Machine {
    directory: PathBuf,
    /// Removes the directory in the end, where that is this machine's to do.
    _temp: Option<tempfile::TempDir>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::new_on(|_| ())
    }

    /// A machine on what `mount` puts at the path of its physical root.
    pub(crate) fn new_on(mount: impl FnOnce(&Path)) -> Self {
        // The kernel mounts no image from a tmpfs, which /tmp may be.
        let temp = tempfile::tempdir_in("/var/tmp").unwrap();
        let machine = Self::install(temp.path(), mount);
        Self { _temp: Some(temp), ..machine }
    }

    /// A machine that is in `directory` already.
    pub(crate) fn at(directory: &Path) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts file systems: run it as root, on Linux 6.12 or newer");
        Self { directory: directory.to_owned(), _temp: None }
    }

    /// A new machine in `directory`, on what `mount` puts at the path of its physical root.
    pub(crate) fn install(directory: &Path, mount: impl FnOnce(&Path)) -> Self {
        let machine = Self::at(directory);
        std::fs::create_dir(machine.root()).unwrap();
        mount(&machine.root());
        let format = FormatConfig::single(FormatVersion::V1);
        let mut config = RepositoryConfig::new(Algorithm::SHA256).set_insecure();
        config.erofs_formats = format;
        Repository::<Sha256HashValue>::init_path(rustix::fs::CWD, machine.root().join("composefs"), config).unwrap();
        Deployments::open_or_create(dir::open_path(machine.root()).unwrap()).unwrap();
        machine
    }

    /// The physical root; in a boot, the new root covers it.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("sysroot")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.directory.join("run")
    }

    pub(crate) fn deployments(&self) -> Deployments {
        Deployments::open(dir::open_path(self.root()).unwrap()).unwrap()
    }

    /// Where the object with these bytes lies on disk.
    pub(crate) fn object(&self, text: &str) -> PathBuf {
        let id: Sha256HashValue = composefs::fsverity::compute_verity(text.as_bytes());
        self.root().join("composefs/objects").join(id.to_object_pathname())
    }

    /// Where a deployment lies on disk.
    pub(crate) fn state(&self, id: &ImageId) -> PathBuf {
        self.root().join("state/deploy").join(id.hex())
    }

    pub(crate) fn deploy(&self, id: &ImageId) -> Deployment {
        self.deployments().create(id, &origin()).unwrap()
    }

    /// An image of the words in `tree`: `d/` is a directory, `f=text` a file, `f=*text` one that is an object of its own, `l->t` a link,
    /// and `!600` behind a word its mode. The directories that every root has come by themselves.
    pub(crate) fn image(&self, tree: &str) -> ImageId {
        self.bare_image(&format!("usr/ usr/file=*usr sysroot/ var/ etc/ {tree}"))
    }

    pub(crate) fn bare_image(&self, tree: &str) -> ImageId {
        let repository = Arc::new(Repository::<Sha256HashValue>::open_path(rustix::fs::CWD, self.root().join("composefs")).unwrap());
        let mut filesystem = FileSystem::new(stat(0o755));
        for word in tree.split_whitespace() {
            insert(&mut filesystem, &repository, word);
        }
        let id = filesystem.commit_image_version(&repository, FormatVersion::V1, None).unwrap();
        id.to_hex().parse().unwrap()
    }

    /// Boots `id` and runs `check` with the path of the new root. Returns what the boot noted.
    pub(crate) fn boot(&self, id: &ImageId, check: impl FnOnce(&Path) + Send) -> Vec<String> {
        let (root, notes) = self.boot_with(&RootImage::new(id.clone(), false).to_string(), check);
        root.unwrap();
        notes
    }

    /// Boots with these kernel arguments; `check` runs whatever comes of it.
    pub(crate) fn boot_with(&self, cmdline: &str, check: impl FnOnce(&Path) + Send) -> (anyhow::Result<RootImage>, Vec<String>) {
        let progress = Recorder::default();
        let result = self.boot_telling(cmdline, &progress, check);
        let note = |event| if let selkie::progress::Event::Note { message } = event { Some(message) } else { None };
        (result, progress.events().into_iter().filter_map(note).collect())
    }

    /// The same, with somebody who listens.
    pub(crate) fn boot_telling(
        &self,
        cmdline: &str,
        progress: &dyn Progress,
        check: impl FnOnce(&Path) + Send,
    ) -> anyhow::Result<RootImage> {
        let options = Options { sysroot: self.root(), run: self.run(), cmdline: Cmdline::parse(cmdline) };
        let boot = || {
            selkie::sys::mount::enter_private_namespace().unwrap();
            // A mount of its own and `nodev`, as systemd mounts what it finds by partition type.
            rustix::mount::mount_bind(&options.sysroot, &options.sysroot).unwrap();
            rustix::mount::mount_remount(&options.sysroot, MountFlags::BIND | MountFlags::NODEV, "").unwrap();
            let result = setup_root(&options, progress);
            check(&options.sysroot);
            result
        };
        std::thread::scope(|scope| scope.spawn(boot).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

pub(crate) fn origin() -> Origin {
    Origin {
        version: Origin::VERSION,
        image: "quay.io/acme/os:stable".into(),
        manifest_digest: "sha256:aa".into(),
        index_digest: None,
        config_digest: "sha256:bb".into(),
        kernel_arguments: "rw".into(),
        image_arguments: vec![],
        os_version: None,
        os_name: None,
        made_under: None,
        number: None,
        staged: None,
    }
}

/// What an object of an image holds: too long to be inline.
pub(crate) fn long(text: &str) -> String {
    format!("{text}{}", ".".repeat(100))
}

fn stat(mode: u32) -> Stat {
    Stat { st_mode: mode, st_mtim_sec: 1_000_000_000, ..Stat::uninitialized() }
}

fn insert(filesystem: &mut FileSystem<Sha256HashValue>, repository: &Arc<Repository<Sha256HashValue>>, word: &str) {
    let (word, mode) = word.split_once('!').map_or((word, None), |(w, m)| (w, Some(u32::from_str_radix(m, 8).unwrap())));
    let file_mode = stat(mode.unwrap_or(0o644));
    let (path, inode) = if let Some(path) = word.strip_suffix('/') {
        (path, Inode::Directory(Box::new(Directory::new(stat(mode.unwrap_or(0o755))))))
    } else if let Some((path, target)) = word.split_once("->") {
        (path, Inode::leaf(filesystem.push_leaf(stat(0o777), LeafContent::Symlink(OsStr::new(target).into()))))
    } else {
        let (path, text) = word.split_once('=').unwrap();
        let content = match text.strip_prefix('*') {
            Some(text) => {
                let text = long(text);
                RegularFile::External(repository.ensure_object(text.as_bytes()).unwrap(), text.len() as u64)
            }
            None => RegularFile::Inline(text.as_bytes().into()),
        };
        (path, Inode::leaf(filesystem.push_leaf(file_mode, LeafContent::Regular(content))))
    };
    let (parent, name) = filesystem.root.split_mut(OsStr::new(path)).unwrap();
    parent.insert(name, inode);
}
