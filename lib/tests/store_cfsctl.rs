//! `cfsctl`, the reference tool, accepts what the store writes, and computes the same ids from the same layers.

mod store_common;

use std::path::{Path, PathBuf};
use std::process::Command;

use selkie::image_id::Algorithm;
use selkie::store::{AllBytes, Store, Verity};
use store_common::*;

/// The tool: from the environment, else where cargo puts it, beside the directory of the test program.
fn cfsctl() -> PathBuf {
    let beside = || std::env::current_exe().ok()?.parent()?.parent().map(|target| target.join("cfsctl"));
    let path = std::env::var_os("SELKIE_CFSCTL").map(PathBuf::from).or_else(beside).unwrap();
    let how = "build it with `cargo build -p selkie-integration --features cfsctl --bin cfsctl`, or name it in SELKIE_CFSCTL";
    assert!(path.exists(), "{} is missing: {how}", path.display());
    path
}

fn run(repository: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(cfsctl()).arg("--repo").arg(repository).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// An OCI layout with one image, as `oci:DIR:TAG`.
fn layout(dir: &Path, layers: &[Vec<u8>]) -> String {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| std::fs::write(blobs.join(&sha256(bytes)[7..]), bytes).unwrap();
    let (manifest, config) = documents(layers);
    layers.iter().for_each(|layer| put(layer));
    put(&config);
    put(&manifest);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"v1"}}}}]}}"#,
        sha256(&manifest),
        manifest.len()
    );
    std::fs::write(dir.join("index.json"), index).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    format!("oci:{}:v1", dir.display())
}

#[test]
fn the_repository_is_accepted_and_the_ids_are_equal() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let temp = temporary();
        let parent = selkie::sys::dir::open_path(temp.path()).unwrap();
        let repository = Store::open_or_init(parent, "repository", Some(algorithm), Verity::IfPossible).unwrap();
        let layers = system();
        let tag = "quay.io/acme/os:v1";
        let stored = store(&repository, &layers, Some(tag)).unwrap();

        let path = temp.path().join("repository");
        run(&path, &["fsck"]).unwrap();
        run(&path, &["oci", "fsck"]).unwrap();
        let images = run(&path, &["oci", "images"]).unwrap();
        assert!(images.contains(tag) && images.contains("amd64"), "{images}");
        assert_eq!(run(&path, &["oci", "compute-id", tag]).unwrap(), stored.image.hex());
        assert_eq!(run(&path, &["oci", "compute-id", tag, "--bootable"]).unwrap(), stored.boot_image.hex());
        assert_eq!(measured(&layers, algorithm).unwrap(), ids(&stored), "measured without storing");
        let by_digest = format!("@{}", stored.config_digest);
        assert_eq!(run(&path, &["oci", "compute-id", &by_digest]).unwrap(), stored.image.hex(), "layers hash to their diff_ids");
        let manifest = run(&path, &["oci", "inspect", tag, "--manifest"]).unwrap();
        assert_eq!(manifest.as_bytes(), documents(&layers).0, "the manifest's own bytes");

        // A repository that only cfsctl wrote, from the same image.
        let other = temp.path().join("other");
        let hash = format!("fsverity-{}-12", algorithm.name());
        run(&other, &["init", "--insecure", "--erofs-version", "1", "--algorithm", &hash]).unwrap();
        let image = layout(&temp.path().join("layout"), &layers);
        run(&other, &["oci", "pull", &image, tag, "--bootable"]).unwrap();
        for id in [&stored.image, &stored.boot_image] {
            assert!(other.join("images").join(id.hex()).exists(), "{id}");
        }
        // And we understand it.
        let opened = Store::open(selkie::sys::dir::open_path(temp.path()).unwrap(), "other").unwrap();
        assert_eq!((opened.algorithm(), opened.is_sealed()), (algorithm, false));
        assert_eq!(opened.find(&stored.manifest_digest).unwrap().as_ref(), Some(&stored));
        assert_eq!(flatten(&opened.tree(&stored.boot_image).unwrap()), flatten(&repository.tree(&stored.boot_image).unwrap()));
    }
}

#[test]
fn selinux_labels_are_equal() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let temp = temporary();
        let parent = selkie::sys::dir::open_path(temp.path()).unwrap();
        let repository = Store::open_or_init(parent, "repository", Some(algorithm), Verity::IfPossible).unwrap();
        let layers = labelled();
        let stored = store(&repository, &layers, Some("labelled")).unwrap();
        let path = temp.path().join("repository");
        assert_eq!(run(&path, &["oci", "compute-id", "labelled", "--bootable"]).unwrap(), stored.boot_image.hex());
        assert_eq!(measured(&layers, algorithm).unwrap(), ids(&stored), "measured without storing");
        let tree = repository.tree(&stored.boot_image).unwrap();
        let label = |path: &str| {
            let node = tree.get(path).unwrap().unwrap();
            String::from_utf8(node.xattrs.iter().find(|(name, _)| name == "security.selinux").unwrap().1.clone()).unwrap()
        };
        assert_eq!(label("/usr/bin/a"), "system_u:object_r:bin_t:s0");
        assert_eq!(label("/etc/a"), "system_u:object_r:etc_t:s0");
    }
}

#[test]
fn a_content_index_and_a_mark_are_no_business_of_cfsctl() {
    let temp = temporary();
    let repository = repository(&temp);
    let layers = system();
    let (mut taken, known) = (selkie::store::Taken::default(), known(&repository));
    for layer in &layers {
        let arrival = repository.take_layer(&sha256(layer), AllBytes(&layer[..]), &known).unwrap();
        repository.name_layers(arrival.layer.as_slice()).unwrap();
        taken.append(arrival.taken);
    }
    let stored = store(&repository, &layers, Some("kept")).unwrap();
    assert!(repository.remember(taken.clone()).unwrap() && !repository.remember(taken).unwrap());
    // A collection waits until nobody has the repository open.
    drop((repository, known));
    let path = temp.path().join("repository");
    let mark = path.join(selkie::store::UNSYNCED);
    std::fs::write(&mark, "").unwrap();
    let index = path.join(selkie::store::CONTENT_INDEX);
    let before = std::fs::read(&index).unwrap();
    for args in [&["fsck"][..], &["oci", "fsck"], &["gc"], &["fsck"]] {
        run(&path, args).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
    assert!(std::fs::read(&index).unwrap() == before && mark.exists());
    assert_eq!(run(&path, &["oci", "compute-id", "kept"]).unwrap(), stored.image.hex());
}
