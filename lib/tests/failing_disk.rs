//! A disk that does not write what it is given: nothing that it has lost is ever believed.
//!
//! It is a loop device on a file with holes, on a file system that is full: what is overwritten there is written, and what is new is not. Needs root.

mod common;
#[path = "common/oci.rs"]
mod oci;
mod space_common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci::{Compression, Layout, noise, plain_http};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use selkie::finding::Kind;
use selkie::ops::pull::{self, Pulled};
use selkie::progress::Silent;
use selkie::store::fsck::Inspect;
use selkie::store::{Store, UNSYNCED, Verity};
use selkie::sys::dir::open_path;
use selkie::sys::mount::enter_private_namespace;
use space_common::fill;

const MIB: usize = 1 << 20;
const SIZE: usize = 96 * MIB;

/// An ext4 file system on such a disk.
struct Disk {
    around: PathBuf,
    at: PathBuf,
    image: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Disk {
    fn new(root: &Path) -> Self {
        enter_private_namespace().expect("this test mounts file systems: run it as root");
        let (around, at) = (root.join("around"), root.join("disk"));
        space_common::mount(&around, &(SIZE + 8 * MIB).to_string(), MountFlags::empty());
        std::fs::create_dir_all(&at).unwrap();
        let image = around.join("image");
        std::fs::File::create(&image).unwrap().set_len(SIZE as u64).unwrap();
        run("mkfs.ext4", &["-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", text(&image)]);
        // Without holes: what mkfs has left out is zeros.
        let bytes = std::fs::read(&image).unwrap();
        std::io::Write::write_all(&mut std::fs::OpenOptions::new().write(true).open(&image).unwrap(), &bytes).unwrap();
        let disk = Self { around, at, image };
        disk.mount();
        disk
    }

    /// The device goes with the mount, however this process ends.
    fn mount(&self) {
        let device = run("losetup", &["--find", "--show", text(&self.image)]);
        let mounted = Command::new("mount").args(["-t", "ext4", "-o", "nodiscard", &device, text(&self.at)]).status();
        run("losetup", &["--detach", &device]);
        assert!(mounted.unwrap().success());
    }

    /// Mounts it anew, so that nothing is known but what the disk has.
    fn start_anew(&self) {
        let (begun, patience) = (Instant::now(), Duration::from_secs(300));
        // The thread of a pull that has ended may still be at its names.
        while let Err(error) = rustix::mount::unmount(&self.at, UnmountFlags::empty()) {
            assert!(error == Errno::BUSY && begun.elapsed() < patience, "{error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.mount();
    }

    /// Has it take no new bytes.
    fn fail(&self) {
        run("fstrim", &[text(&self.at)]);
        fill(&self.around, 0);
    }

    fn work_again(&self) {
        std::fs::remove_file(self.around.join("other")).unwrap();
    }

    fn store(&self) -> Store {
        Store::open_or_init(open_path(&self.at).unwrap(), "r", None, Verity::Never).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn pull(store: &Store, reference: &str) -> anyhow::Result<Pulled> {
    let options = pull::Options { image: reference.parse().unwrap(), source: plain_http(), tag: None };
    pull::run(store, &options, &(Arc::new(Silent) as _))
}

/// A layer with this in `/usr`.
fn layer(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut oci::header(tar::EntryType::Directory, 0), "usr/", &b""[..]).unwrap();
    for (n, piece) in content.chunks(100_000).enumerate() {
        builder.append_data(&mut oci::header(tar::EntryType::Regular, piece.len()), format!("usr/{name}{n:02}"), piece).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A disk that took one image, and of another all but its bytes; and where both are.
fn failed(root: &Path) -> (Disk, Layout) {
    let noise = noise(7_000_000);
    let disk = Disk::new(root);
    let mut layout = Layout::new();
    let (old, new) = noise.split_at(3_000_000);
    for (tag, layers) in [("v1", &[layer("old", old)][..]), ("v2", &[layer("old", old), layer("new", new)])] {
        let layers: Vec<_> = layers.iter().map(|layer| (Compression::Zstd, layer.clone())).collect();
        let image = layout.image("amd64", &layers);
        layout.publish(Some(tag), &image);
    }
    pull(&disk.store(), &layout.reference(Some("v1"))).unwrap();
    disk.fail();
    let error = pull(&disk.store(), &layout.reference(Some("v2"))).unwrap_err();
    assert!(format!("{error:#}").contains("syncing"), "{error:#}");
    disk.work_again();
    (disk, layout)
}

#[test]
fn what_a_disk_has_lost_is_fetched_again() {
    let temp = tempfile::tempdir().unwrap();
    // While all of it is in memory, and after the machine has started anew.
    for anew in [false, true] {
        let (disk, layout) = failed(&temp.path().join(anew.to_string()));
        if anew {
            disk.start_anew();
        }
        let pulled = pull(&disk.store(), &layout.reference(Some("v2"))).unwrap();
        disk.start_anew();
        disk.store().check_objects(&pulled.boot_image).unwrap();
        assert!(!disk.at.join("r").join(UNSYNCED).exists());
    }
}

#[test]
fn a_check_reads_the_disk_and_not_what_is_in_memory() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, _layout) = failed(temp.path());
    let found = disk.store().inspect(&Inspect { all_known: true, ..Inspect::default() }, None, &Silent).unwrap().findings;
    assert!(!found.is_empty() && found.iter().all(|finding| finding.kind == Kind::Object), "{found:#?}");
}
