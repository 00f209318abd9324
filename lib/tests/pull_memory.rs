//! Pulling takes no memory for the size of a file. Alone in its program, so that its memory can be told.

mod store_common;

use std::io::Read;
use std::sync::Arc;

use ocidir::OciDir;
use ocidir::cap_std::ambient_authority;
use ocidir::cap_std::fs::Dir;
use ocidir::oci_spec::image::{Arch, ImageConfigurationBuilder, ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder};
use selkie::image::SourceOptions;
use selkie::ops::pull;
use selkie::progress::{Progress, Silent};
use selkie::store::{Content, NodeKind, Verity};
use selkie::sys::memory;
use store_common::*;

/// More than what 32 bits count, and many times the memory that is allowed.
const SIZE: u64 = (4 << 30) + 1;
const ALLOWED: u64 = 96 << 20;

#[test]
fn a_file_much_larger_than_the_memory_that_a_pull_may_take() {
    memory::give_back();
    // Where the build has its room: the place for temporary files may be memory.
    let within = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (layout, repo) = (within.path().join("images"), within.path().join("repo"));
    write(&layout);
    let options =
        pull::Options { image: format!("oci:{}:big", layout.display()).parse().unwrap(), source: SourceOptions::default(), tag: None };
    let repository = pull::Repository { path: repo.clone(), algorithm: None, verity: Verity::IfPossible };
    let silent: Arc<dyn Progress> = Arc::new(Silent);
    let pulled = pull::run_into(&repository, &options, &silent).unwrap();
    let store = selkie::store::Store::open(selkie::sys::dir::open_path(within.path()).unwrap(), "repo").unwrap();
    let NodeKind::File(file) = store.tree(&pulled.image).unwrap().get("/usr/big").unwrap().unwrap().kind else { panic!("not a file") };
    assert_eq!(file.size, SIZE);
    let Content::Object(object) = file.content else { panic!("not an object") };
    assert_eq!(std::fs::metadata(repo.join("objects").join(object.path())).unwrap().len(), SIZE);
    assert!(peak_memory() < ALLOWED, "{} bytes of memory", peak_memory());
}

/// An image of two zstd layers, the second with one file of zeros, written as it is made.
fn write(layout: &std::path::Path) {
    std::fs::create_dir_all(layout).unwrap();
    let oci = OciDir::ensure(Dir::open_ambient_dir(layout, ambient_authority()).unwrap()).unwrap();
    let layer = |mut tar: Box<dyn Read>| {
        let mut blob = oci.create_layer_zstd(Some(1)).unwrap();
        std::io::copy(&mut tar, &mut blob).unwrap();
        blob.complete().unwrap()
    };
    let layers = [layer(Box::new(std::io::Cursor::new(tar(&base())))), layer(Box::new(zeros(SIZE)))];
    let diff_ids = layers.iter().map(|layer| layer.uncompressed_sha256_as_digest().to_string()).collect::<Vec<_>>();
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(diff_ids).build().unwrap();
    let config = ImageConfigurationBuilder::default().architecture(Arch::default()).os(Os::Linux).rootfs(rootfs).build().unwrap();
    let config = oci.write_config(config).unwrap();
    let layers: Vec<_> =
        layers.iter().map(|layer| layer.blob.descriptor().media_type(MediaType::ImageLayerZstd).build().unwrap()).collect();
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()
        .unwrap();
    let platform = PlatformBuilder::default().architecture(Arch::default()).os(Os::Linux).build().unwrap();
    oci.insert_manifest(manifest, Some("big"), platform).unwrap();
}
