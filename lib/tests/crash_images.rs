//! Verbs that write somewhere else than on a machine are stopped after every durable step: an image layout, an archive, a disk image (repositories: `crash_repositories.rs`).
//! Whatever is left is what was there before, or all of what is new; and the same command again ends the work.

mod common;
mod crash_common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::host::silent;
use common::layout;
use crash_common::{Job, Scene, kill_at_every_step};
use selkie::disk::Format;
use selkie::image::{Derived, LayerFile, NewLayer, OutputOptions, Source, SourceOptions, layer_tar, write};
use selkie::ops::delta;
use selkie::ops::disk;
use selkie::ops::rechunk;
use selkie::progress::{Progress, Silent};

#[test]
fn child() {
    crash_common::child(&[
        ("seal to the same layout", |job| seal(job, "oci", "images")),
        ("seal to a new layout", |job| seal(job, "oci", "new")),
        ("seal to an archive", |job| seal(job, "oci-archive", "new.tar")),
        ("rechunk to the same layout", |job| _ = rechunk(&job.directory, "oci", "images", &job.progress)),
        ("rechunk to a new layout", |job| _ = rechunk(&job.directory, "oci", "new", &job.progress)),
        ("rechunk to an archive", |job| _ = rechunk(&job.directory, "oci-archive", "new.tar", &job.progress)),
        ("delta to the same layout", |job| _ = delta(&job.directory, "oci", "images", &job.progress)),
        ("delta to an archive", |job| _ = delta(&job.directory, "oci-archive", "new.tar", &job.progress)),
        ("disk", |job| disk(&job.directory, &job.progress)),
    ]);
}

fn images(directory: &Path) -> PathBuf {
    directory.join("images")
}

/// Two versions of an image, under the tags `old` and `new`.
fn release(directory: &Path) {
    layout::write(&images(directory), "old", &layout::bootable("1"));
    layout::write(&images(directory), "new", &layout::bootable("2"));
}

/// What `selkie seal` and `selkie push` do in the end: an image with one layer more is written.
fn seal(job: &Job, transport: &str, name: &str) {
    let output = job.directory.join(name);
    if transport == "oci-archive" && output.exists() {
        // It is there whole, which the parent checks; an archive is never written over.
        return;
    }
    let output = format!("{transport}:{}:sealed", output.display()).parse().unwrap();
    block_on(async {
        let (source, derived) = derive(&job.directory).await;
        let options = OutputOptions::default();
        write(&source, &derived, &output, &options, &job.directory, &job.progress).await.unwrap();
        source.close().await.unwrap();
    });
}

async fn derive(directory: &Path) -> (Source, Derived) {
    let base = format!("oci:{}:old", images(directory).display()).parse().unwrap();
    let source = Source::open_to_copy(&base, &SourceOptions::default(), directory, &Silent).await.unwrap();
    let file = LayerFile { path: "boot/EFI/Linux/os.efi", bytes: b"a kernel", mode: 0o644 };
    let tar = layer_tar(&[file], &["boot/old"], &["boot"], 7).unwrap();
    let layer = NewLayer { tar, created_by: "a test".into(), comment: None };
    let derived = Derived::new(source.resolved(), &layer, &[], Some(1_700_000_000)).unwrap();
    (source, derived)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
}

/// A layout with an image, and where a derived one goes.
struct Sealed {
    directory: PathBuf,
    /// The directory or archive that the new image goes to, with its transport.
    output: (&'static str, PathBuf),
    digest: String,
}

impl Sealed {
    fn new(directory: &Path, transport: &'static str, name: &str) -> Self {
        release(directory);
        let digest = block_on(async {
            let (source, derived) = derive(directory).await;
            source.close().await.unwrap();
            derived.manifest_digest
        });
        Self { directory: directory.to_owned(), output: (transport, directory.join(name)), digest }
    }

    /// The same of an image whose layers are made anew.
    fn rechunked(directory: &Path, transport: &'static str, name: &str) -> Self {
        let other = crash_common::temporary();
        release(other.path());
        let digest = rechunk(other.path(), transport, name, &silent()).unwrap();
        release(directory);
        Self { directory: directory.to_owned(), output: (transport, directory.join(name)), digest }
    }

    /// The manifest digest of an image all of whose blobs were read and are right; `None` where there is no such image.
    fn read(reference: &str, when: &str) -> Option<String> {
        block_on(async {
            let source = Source::open(&reference.parse().unwrap(), &SourceOptions::default(), &Silent).await.ok()?;
            for index in 0..source.resolved().layers.len() {
                let mut layer = source.open_layer(index, silent()).await.unwrap();
                layer.read_to_end(&mut Vec::new()).unwrap_or_else(|e| panic!("{when}: {reference}: {e:#}"));
            }
            let digest = source.resolved().manifest_digest.clone();
            source.close().await.unwrap();
            Some(digest)
        })
    }

    fn sealed(&self, when: &str) -> Option<String> {
        Self::read(&format!("{}:{}:sealed", self.output.0, self.output.1.display()), when)
    }
}

impl Scene for Sealed {
    fn check(&self, when: &str) {
        for tag in ["old", "new"] {
            assert!(Self::read(&format!("oci:{}:{tag}", images(&self.directory).display()), when).is_some(), "{when}: {tag} is gone");
        }
        let sealed = self.sealed(when);
        assert!(sealed.is_none() || sealed.as_ref() == Some(&self.digest), "{when}: {sealed:?}");
        assert!(self.output.0 == "oci" || self.output.1.exists() == sealed.is_some(), "{when}: an archive that is not whole");
    }

    fn check_end(&self, when: &str) {
        assert_eq!(self.sealed(when).as_ref(), Some(&self.digest), "{when}");
    }
}

#[test]
fn writing_an_image_survives_a_stop_after_every_step() {
    kill_at_every_step("seal to the same layout", 4, |directory| Sealed::new(directory, "oci", "images"));
    kill_at_every_step("seal to a new layout", 5, |directory| Sealed::new(directory, "oci", "new"));
    kill_at_every_step("seal to an archive", 1, |directory| Sealed::new(directory, "oci-archive", "new.tar"));
}

/// Rechunks `old`; the manifest digest of what was written, unless an archive is there already.
fn rechunk(directory: &Path, transport: &str, name: &str, progress: &Arc<dyn Progress>) -> Option<String> {
    let output = directory.join(name);
    if transport == "oci-archive" && output.exists() {
        return None;
    }
    let options = rechunk::Options {
        image: format!("oci:{}:old", images(directory).display()).parse().unwrap(),
        source: SourceOptions::default(),
        output: format!("{transport}:{}:sealed", output.display()).parse().unwrap(),
        destination: OutputOptions::default(),
        layers: rechunk::LAYERS,
        scratch: directory.to_owned(),
    };
    Some(rechunk::run(&options, progress).unwrap().manifest_digest)
}

#[test]
fn rechunking_an_image_survives_a_stop_after_every_step() {
    kill_at_every_step("rechunk to the same layout", 8, |directory| Sealed::rechunked(directory, "oci", "images"));
    kill_at_every_step("rechunk to a new layout", 8, |directory| Sealed::rechunked(directory, "oci", "new"));
    kill_at_every_step("rechunk to an archive", 2, |directory| Sealed::rechunked(directory, "oci-archive", "new.tar"));
}

/// Makes a delta from `old` to `new`; its digest, unless an archive is there already.
fn delta(directory: &Path, transport: &str, name: &str, progress: &Arc<dyn Progress>) -> Option<String> {
    let output = directory.join(name);
    if transport == "oci-archive" && output.exists() {
        return None;
    }
    let image = |tag: &str| format!("oci:{}:{tag}", images(directory).display()).parse().unwrap();
    let options = delta::Options {
        from: image("old"),
        to: image("new"),
        source: SourceOptions::default(),
        output: format!("{transport}:{}:delta", output.display()).parse().unwrap(),
        destination: OutputOptions::default(),
        scratch: directory.to_owned(),
    };
    Some(delta::run(&options, progress).unwrap().delta_digest)
}

/// A layout with two images, and where a delta between them goes.
struct Made {
    directory: PathBuf,
    transport: &'static str,
    output: PathBuf,
    digest: String,
}

impl Made {
    fn new(directory: &Path, transport: &'static str, name: &str) -> Self {
        release(directory);
        let other = crash_common::temporary();
        release(other.path());
        let digest = delta(other.path(), transport, name, &silent()).unwrap();
        Self { directory: directory.to_owned(), transport, output: directory.join(name), digest }
    }

    /// The digest of the delta all of whose blobs are there; `None` where there is none.
    fn found(&self, when: &str) -> Option<String> {
        if self.transport == "oci-archive" {
            let unpacked = crash_common::temporary();
            let archive = std::fs::File::open(&self.output).ok()?;
            tar::Archive::new(archive).unpack(unpacked.path()).unwrap_or_else(|e| panic!("{when}: {e}"));
            return Self::listed(unpacked.path(), when);
        }
        Self::listed(&self.output, when)
    }

    fn listed(layout: &Path, when: &str) -> Option<String> {
        let json = |path: PathBuf| serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).unwrap()).unwrap();
        let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
        let index = json(layout.join("index.json"));
        let entry = index["manifests"].as_array().unwrap().iter().find(|entry| entry["artifactType"].is_string())?;
        let digest = entry["digest"].as_str().unwrap();
        let manifest = json(blob(digest));
        for described in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            let name = described["digest"].as_str().unwrap();
            let bytes = std::fs::read(blob(name)).unwrap_or_else(|e| panic!("{when}: {name}: {e}"));
            assert_eq!(format!("sha256:{}", hex::encode(openssl::sha::sha256(&bytes))), name, "{when}");
        }
        Some(digest.to_owned())
    }
}

impl Scene for Made {
    fn check(&self, when: &str) {
        for tag in ["old", "new"] {
            let image = format!("oci:{}:{tag}", images(&self.directory).display());
            assert!(Sealed::read(&image, when).is_some(), "{when}: {tag} is gone");
        }
        let found = self.found(when);
        assert!(found.is_none() || found.as_ref() == Some(&self.digest), "{when}: {found:?}");
    }

    fn check_end(&self, when: &str) {
        assert_eq!(self.found(when).as_ref(), Some(&self.digest), "{when}");
    }
}

#[test]
fn making_a_delta_survives_a_stop_after_every_step() {
    kill_at_every_step("delta to the same layout", 7, |directory| Made::new(directory, "oci", "images"));
    kill_at_every_step("delta to an archive", 2, |directory| Made::new(directory, "oci-archive", "new.tar"));
}

fn disk(directory: &Path, progress: &Arc<dyn Progress>) {
    let output = directory.join("disk.raw");
    if output.exists() {
        // It is there whole, which the parent checks; a disk is never written over.
        return;
    }
    let options = disk::Options {
        image: format!("oci:{}:old", images(directory).display()).parse().unwrap(),
        target_image: Some("quay.io/acme/os:stable".parse().unwrap()),
        source: SourceOptions::default(),
        algorithm: None,
        output,
        format: Format::Raw,
        size: None,
        root_size: Some(64 << 20),
        esp_size: Some(40 << 20),
        arguments: vec![],
        secure_boot: None,
        mtime: 1_700_000_000,
    };
    disk::run(&options, progress).unwrap();
}

/// A disk image that is to be these bytes.
struct Disk {
    output: PathBuf,
    digest: [u8; 32],
}

impl Scene for Disk {
    fn check(&self, when: &str) {
        if self.output.exists() {
            self.check_end(when);
        }
    }

    fn check_end(&self, when: &str) {
        assert_eq!(openssl::sha::sha256(&std::fs::read(&self.output).unwrap()), self.digest, "{when}");
    }
}

#[test]
fn a_disk_image_survives_a_stop_after_every_step() {
    let other = crash_common::temporary();
    release(other.path());
    disk(other.path(), &silent());
    let digest = openssl::sha::sha256(&std::fs::read(other.path().join("disk.raw")).unwrap());
    kill_at_every_step("disk", 3, |directory| {
        release(directory);
        Disk { output: directory.join("disk.raw"), digest }
    });
}
