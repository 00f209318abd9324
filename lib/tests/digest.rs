//! `selkie digest`: the same digests as a pull gives, for every input, and nothing left behind.

#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;
mod store_common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Compression, Damage, Layout, flip, halve, noise, remove};
use registry::{Registry, copy, push};
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::image_id::Algorithm;
use selkie::ops::{digest, pull, seal};
use selkie::progress::{Progress, Silent};
use selkie::store::{Keep, Measured, Scratch, Store, Verity};
use store_common::random::Random;
use store_common::{tar, *};

/// Fixed images and their digests.
///
/// If a digest changes here, a host computes another root for the same layers than the selkie that sealed them: every sealed image in the
/// field is refused from then on, and its hosts are locked out of upgrades. That is a new recipe (`store::RECIPE`), and the old one has to
/// stay beside it. Do not just write the new digests down.
const GOLDEN: [(&str, Algorithm, &str, &str); 4] = [
    (
        "system",
        Algorithm::Sha256,
        "95799c0413d557bd36aee89171f822cd8bdda2e972b7dbd9690f5d54e5d18bb8",
        "84e4cfd92dd3aecf8078387bb18cfa0fa7759484a9e385ac19caffba6af70e42",
    ),
    (
        "system",
        Algorithm::Sha512,
        "e79ba973e83a59ded64571933ccfcb3ae0bce827f394d00171f4f8b84467ab5c19b7bc93f17fa555952bf55440f3db66ea433b19b1e24fbcca694ef4fb774751",
        "3ef87c89557fd14b8c36325ff4b79abcd74784192569ab3b812ad2026ab6228b6f3bb821913d3c2e65cb5495712ed00a00d2b78d33ac62537fafa25924278c85",
    ),
    (
        "labelled",
        Algorithm::Sha256,
        "d43f2554f073dd9bde953907df8e682275327712af4aa4fe4488c0550475be40",
        "f88f9827a481dd465d49fe6a526344c37ad46397b2b5b2be2f36ca75fe6e7351",
    ),
    (
        "labelled",
        Algorithm::Sha512,
        "1c31ccbb1aca4da2cf8cfe3f33b0043f5ed70366ff6247f3aeec24e72d095b7a70ba98125c8c8b4e74e2d5c5452fc9238e43acab71dc17f0b281b4e0016afd72",
        "422f16139d2e31b64d41b0cc9ebf6450c5098d95d17db32466d697f2b9ea6cbf287c94bc5e4fbe95eccf4ad42c370b04a1aa0f5a46fb91df5c45f69ed79d94e3",
    ),
];

#[test]
fn golden_digests() {
    let found = GOLDEN.map(|(name, algorithm, ..)| {
        let layers = if name == "system" { system() } else { labelled() };
        (name, algorithm, measured(&layers, algorithm).unwrap())
    });
    let found: Vec<_> = found.iter().map(|(name, algorithm, ids)| (*name, *algorithm, ids.image.hex(), ids.boot_image.hex())).collect();
    assert_eq!(found, GOLDEN);
}

/// The split streams below a directory: the names of layers, and what each leads to.
fn streams(repository: &Path) -> Vec<(PathBuf, PathBuf)> {
    let listed = std::fs::read_dir(repository.join("streams")).unwrap().map(|entry| entry.unwrap().path());
    let mut streams: Vec<_> = listed
        .filter(|path| path.to_str().unwrap().contains("oci-layer-"))
        .map(|path| (path.file_name().unwrap().into(), std::fs::read_link(path).unwrap()))
        .collect();
    streams.sort();
    streams
}

/// The repository in the one scratch directory below `within`.
fn scratch_repository(within: &Path) -> PathBuf {
    let mut found = std::fs::read_dir(within).unwrap();
    let only = found.next().unwrap().unwrap().path();
    assert!(found.next().is_none());
    only.join("composefs")
}

#[test]
fn random_layers_give_the_digests_of_a_pull() {
    let temp = temporary();
    let repository = repository(&temp);
    let within = temporary();
    let scratch = Scratch::new(within.path(), Algorithm::Sha256).unwrap();
    let (mut random, mut good) = (Random(0xd1_9e57), 0);
    for round in 0..400 {
        let stack = random.stack();
        let layers = with_base(stack.clone());
        match (store(&repository, &layers, None), measure(&scratch, &layers)) {
            (Ok(stored), Ok(found)) => {
                assert_eq!(found, ids(&stored), "round {round}: {stack:#?}");
                good += 1;
            }
            (Err(stored), Err(found)) => {
                let [stored, found] = [failure(&stored), failure(&found)];
                assert_eq!(found, stored, "round {round}: {stack:#?}");
            }
            (stored, found) => panic!("round {round}: {found:?} (expected {stored:?}): {stack:#?}"),
        }
    }
    assert!(good > 150, "{good} stacks make a tree: the generator is too wild");
    // Equal objects: the two readings of a tar stream do not differ in a byte.
    let mine = streams(&scratch_repository(within.path()));
    assert!(mine.len() > 500);
    assert_eq!(mine, streams(&temp.path().join("repository")));
}

/// Headers as other programs write them, which the generator above does not.
fn odd_layers() -> Vec<(&'static str, Vec<u8>)> {
    let mut gnu = ::tar::Builder::new(Vec::new());
    for (size, name) in [(0, "usr/e"), (64, "usr/f"), (65, "usr/g"), (4096, "usr/h"), (70_000, "usr/i"), (131_072, "usr/j")] {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        let long = format!("{name}/{}", "n".repeat(size as usize % 300));
        gnu.append_data(&mut header, long, &vec![7; size as usize][..]).unwrap();
    }
    let gnu = gnu.into_inner().unwrap();

    let plain = |name: &[u8], body: &[u8]| {
        let mut tar = Vec::new();
        block(&mut tar, b'0', name, b"", body, 0o644, (0, 0), 0, (0, 0));
        tar
    };
    let global = || {
        let mut tar = Vec::new();
        block(&mut tar, b'g', b"pax_global_header", b"", &record("comment", &[b'c'; 600]), 0o644, (0, 0), 0, (0, 0));
        tar
    };
    let end = vec![0; 1024];
    let mut continuous = plain(b"usr/a", &[3; 1000]);
    continuous[156] = b'7';
    continuous[148..156].fill(b' ');
    let sum: u32 = continuous[..512].iter().map(|b| u32::from(*b)).sum();
    continuous[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut directory = Vec::new();
    block(&mut directory, b'5', b"usr/d", b"", &[1; 700], 0o755, (0, 0), 0, (0, 0));
    let xattrs = tar(&[file("usr/a", [1; 100]).xattr("security.capability", &[9; 5000]).mtime(1, 999_999_999)]);
    vec![
        ("GNU headers with long names and every size", gnu),
        ("a global header between entries", [global(), plain(b"usr/a", &[1; 100]), global(), plain(b"usr/b", b"2"), end.clone()].concat()),
        ("no end", plain(b"usr/a", &[1; 100])),
        ("half an end", [plain(b"usr/a", b""), vec![0; 512]].concat()),
        ("a zero block between entries", [plain(b"usr/a", &[1; 100]), vec![0; 512], plain(b"usr/b", &[2; 100]), end.clone()].concat()),
        ("bytes after the end", [plain(b"usr/a", &[1; 100]), end.clone(), plain(b"usr/b", &[2; 100]), vec![0; 9000]].concat()),
        ("a contiguous file", [continuous, end.clone()].concat()),
        ("a directory with content", [directory, plain(b"usr/a", &[1; 100]), end].concat()),
        ("a large header", xattrs),
        ("nothing", vec![]),
    ]
}

#[test]
fn odd_archives_give_the_digests_or_the_failures_of_a_pull() {
    let temp = temporary();
    let repository = repository(&temp);
    let mut good = 0;
    for (name, layer) in odd_layers() {
        for cut in [layer.len(), layer.len() / 2, layer.len().saturating_sub(700)] {
            let layers = vec![tar(&base()), layer[..cut].to_vec()];
            let stored = store(&repository, &layers, None).map(|stored| ids(&stored)).map_err(|e| failure(&e).kind);
            let found = measured(&layers, Algorithm::Sha256).map_err(|e| failure(&e).kind);
            assert_eq!(found, stored, "{name}, {cut} bytes");
            good += usize::from(found.is_ok());
        }
    }
    assert!(good >= odd_layers().len(), "{good}");
}

#[test]
fn what_would_take_all_memory_or_for_ever_is_refused() {
    let mut large = Vec::new();
    block(&mut large, b'5', b"usr/d", b"", &vec![1; (1 << 20) + 1], 0o755, (0, 0), 0, (0, 0));
    // A sparse file whose map has no end: the parser asks for what it has got.
    let mut endless = Vec::new();
    let records = [record("GNU.sparse.major", b"1"), record("GNU.sparse.minor", b"0"), record("GNU.sparse.realsize", b"9")].concat();
    block(&mut endless, b'x', b"pax", b"", &records, 0o644, (0, 0), 0, (0, 0));
    block(&mut endless, b'0', b"usr/x", b"", &[b'1'; 4096], 0o644, (0, 0), 0, (0, 0));
    for (layer, words) in [(large, "1048577 bytes of content and is no file"), (endless, "a header that does not end")] {
        let found = failure(&measured(&[tar(&base()), layer], Algorithm::Sha256).unwrap_err());
        assert!(found.kind == FailureKind::Unsuitable && found.message.contains(words), "{found}");
    }
}

/// A policy whose files are more than 64 bytes, `at` a directory of the archive.
fn policy(at: &str) -> Vec<Entry> {
    let directories = ["", "/targeted", "/targeted/contexts", "/targeted/contexts/files"].map(|below| dir(format!("{at}{below}")));
    let config = format!("# {}\nSELINUXTYPE=targeted\n", "x".repeat(100));
    let contexts = format!("# {}\n/.* system_u:object_r:default_t:s0\n", "y".repeat(100));
    directories
        .into_iter()
        .chain([file(format!("{at}/config"), config), file(format!("{at}/targeted/contexts/files/file_contexts"), contexts)])
        .collect()
}

#[test]
fn a_policy_is_found_under_other_names() {
    let temp = temporary();
    let repository = repository(&temp);
    let files = ["config", "targeted/contexts/files/file_contexts"];
    let links = |from: &str| files.map(|name| hardlink(format!("etc/selinux/{name}"), format!("{from}/{name}")));
    let table: [(&str, Vec<Vec<Entry>>); 4] = [
        ("by its name", vec![policy("etc/selinux")]),
        ("through a link of its layer", vec![[vec![symlink("alias", "etc"), dir("etc")], policy("alias/selinux")].concat()]),
        ("hard links in its layer", vec![policy("usr/share/selinux").into_iter().chain(links("usr/share/selinux")).collect()]),
        ("hard links to a layer below", vec![policy("opt/selinux"), vec![file("usr/x", [1; 100])], links("opt/selinux").into()]),
    ];
    for (name, stack) in table {
        let layers = with_base(stack);
        let stored = store(&repository, &layers, None).unwrap();
        let label = repository.tree(&stored.boot_image).unwrap().get("/usr").unwrap().unwrap().xattrs;
        assert_eq!(label.len(), 1, "{name}: labelled");
        assert_eq!(measured(&layers, Algorithm::Sha256).unwrap(), ids(&stored), "{name}");
    }
}

#[test]
fn contents_are_kept_on_demand() {
    let within = temporary();
    let scratch = Scratch::new(within.path(), Algorithm::Sha512).unwrap();
    let layers = with_base(vec![vec![file("usr/a", [1; 100]), file("usr/b", [2; 200])], vec![file("usr/c", [3; 200]), file("usr/d", "4")]]);
    for layer in &layers {
        let keep = Keep::Names(|name| name == Path::new("usr/a"));
        scratch.measure_layer(&sha256(layer), &layer[..], keep).unwrap();
    }
    let measured = measure_only(&scratch, &layers);
    let tree = scratch.tree(&measured.image).unwrap();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| tree.file(format!("/usr/{name}")).unwrap().unwrap());
    assert_eq!((tree.read(&a).unwrap(), tree.read(&d).unwrap()), (vec![1; 100], b"4".to_vec()));
    assert!(tree.read(&b).is_err());
    let (_, config) = documents(&layers);
    assert_eq!(scratch.unread(&config, &[&a, &d]).unwrap(), []);
    let unread = scratch.unread(&config, &[&a, &b]).unwrap();
    assert_eq!((unread.len(), unread[0].diff_id.as_str()), (1, sha256(&layers[1]).as_str()));
    scratch.measure_layer(&unread[0].diff_id, &layers[1][..], Keep::Sizes(unread[0].sizes.clone())).unwrap();
    assert_eq!(tree.read(&b).unwrap(), vec![2; 200]);
    assert!(tree.read(&c).is_err(), "of the same size, in another layer");
    drop(scratch);
    assert_eq!(std::fs::read_dir(within.path()).unwrap().count(), 0);
}

fn measure_only(scratch: &Scratch, layers: &[Vec<u8>]) -> Measured {
    match scratch.commit(&documents(layers).1).unwrap() {
        selkie::store::Commit::Done(measured) => measured,
        other => panic!("{other:?}"),
    }
}

fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

fn amd64() -> SourceOptions {
    SourceOptions { tls_verify: Some(false), architecture: Some("amd64".into()), ..Default::default() }
}

/// What `selkie digest` says, after which its directory must be empty.
fn digest_of(image: &str, algorithm: Option<Algorithm>) -> anyhow::Result<digest::Digests> {
    let temp = temporary();
    let options = digest::Options { image: image.parse().unwrap(), source: amd64(), algorithm, scratch: temp.path().to_owned() };
    let found = digest::run(&options, &silent());
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "something was left behind");
    found
}

/// What `selkie pull` says.
fn pull_of(image: &str, algorithm: Option<Algorithm>) -> anyhow::Result<pull::Pulled> {
    let temp = temporary();
    let parent = selkie::sys::dir::open_path(temp.path()).unwrap();
    let store = Store::open_or_init(parent, "repository", algorithm, Verity::IfPossible).unwrap();
    pull::run(&store, &pull::Options { image: image.parse().unwrap(), source: amd64(), tag: None }, &silent())
}

/// A layout with the same image under three names, of layers compressed in one way each, and another under `policy`.
fn published() -> Layout {
    let mut layout = Layout::new();
    let mut layers = system();
    layers.push(tar(&[file("usr/noise", noise(300_000))]));
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let image = layout.image("amd64", &layers.iter().map(|layer| (compression, layer.clone())).collect::<Vec<_>>());
        layout.publish(Some(&format!("{compression:?}").to_lowercase()), &image);
    }
    let links = ["config", "targeted/contexts/files/file_contexts"].map(|f| hardlink(format!("etc/selinux/{f}"), format!("usr/p/{f}")));
    let policy = with_base(vec![policy("usr/p"), vec![file("usr/x", [1; 100])], links.into(), vec![file("usr/x", [1; 100])]]);
    let image = layout.image("amd64", &policy.into_iter().map(|layer| (Compression::Gzip, layer)).collect::<Vec<_>>());
    let index = layout.index(&[&image]);
    layout.publish(Some("policy"), &index);
    layout
}

#[test]
fn all_five_digests_are_those_of_a_pull_by_the_same_names() {
    let layout = published();
    for (tag, algorithm) in [("gzip", None), ("none", Some(Algorithm::Sha512)), ("policy", Some(Algorithm::Sha256))] {
        let reference = layout.reference(Some(tag));
        let found = serde_json::to_value(digest_of(&reference, algorithm).unwrap()).unwrap();
        let pulled = serde_json::to_value(pull_of(&reference, algorithm).unwrap()).unwrap();
        for (name, value) in found.as_object().unwrap() {
            assert_eq!(Some(value), pulled.get(name), "{tag}: {name}");
        }
        let names: Vec<_> = found.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = ["reference", "index-digest", "manifest-digest", "config-digest", "image", "boot-image", "algorithm"];
        expected.sort_unstable();
        assert_eq!(names.len(), expected.len());
        assert!(names.iter().all(|name| expected.contains(name)), "{names:?}");
        assert_eq!(found["index-digest"].is_string(), tag == "policy");
    }
}

#[test]
fn a_sealed_image_says_how_it_is_measured() {
    let mut layout = Layout::new();
    let layers = system();
    let boot_image = measured(&layers, Algorithm::Sha512).unwrap().boot_image;
    let image = layout.image("amd64", &layers.into_iter().map(|layer| (Compression::Gzip, layer)).collect::<Vec<_>>());
    let sealed = format!("v1-sha512-12:{boot_image}");
    let recipe = selkie::store::RECIPE.to_string();
    layout.publish(Some("sealed"), &layout.annotated(&image, &[(seal::BOOT_IMAGE, &sealed), (seal::RECIPE, &recipe)]));
    layout.publish(Some("newer"), &layout.annotated(&image, &[(seal::BOOT_IMAGE, &sealed), (seal::RECIPE, "1000")]));
    let reference = layout.reference(Some("sealed"));
    let found = digest_of(&reference, None).unwrap();
    assert_eq!((found.algorithm, found.boot_image), (Algorithm::Sha512, boot_image));
    let kind = |error: anyhow::Error| failure(&error).kind;
    assert_eq!(digest_of(&reference, Some(Algorithm::Sha256)).unwrap().algorithm, Algorithm::Sha256);
    for asked in [None, Some(Algorithm::Sha256)] {
        assert_eq!(kind(digest_of(&layout.reference(Some("newer")), asked).unwrap_err()), FailureKind::Unsuitable);
    }
}

#[test]
fn every_transport_and_compression_gives_the_same_images() {
    let (layout, registry, temp) = (published(), Registry::start(), tempfile::tempdir().unwrap());
    let digests = digest_of(&layout.reference(Some("gzip")), None).unwrap();
    let expected = (digests.image, digests.boot_image);
    for tag in ["none", "gzip", "zstd"] {
        let from = format!("oci:{}:{tag}", layout.path().display());
        let [archive, docker] = ["oci", "docker"].map(|kind| format!("{kind}-archive:{}/{kind}-{tag}.tar", temp.path().display()));
        let name = registry.name(&format!("acme/os:{tag}"));
        push(&[], layout.path(), tag, &name);
        copy(&[], &from, &archive);
        let mut references = vec![from.clone(), name, archive];
        if tag != "zstd" {
            // Docker's archives have no zstd.
            copy(&[], &from, &docker);
            references.push(docker);
        }
        for reference in references {
            let found = digest_of(&reference, None).unwrap_or_else(|e| panic!("{reference}: {e:#}"));
            assert_eq!((found.image, found.boot_image), expected, "{reference}");
        }
    }
    // And a policy that takes a second reading, which a registry serves as well.
    let name = registry.name("acme/policy:v1");
    push(&[], layout.path(), "policy", &name);
    let (here, there) = (digest_of(&layout.reference(Some("policy")), None).unwrap(), digest_of(&name, None).unwrap());
    assert_eq!((here.image, here.boot_image), (there.image, there.boot_image));
}

#[test]
fn what_is_wrong_with_an_image_is_said_as_by_pull() {
    let good = tar(&[base(), vec![file("usr/a", noise(100_000))]].concat());
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for damage in [&flip as Damage, &halve, &remove] {
            let mut layout = Layout::new();
            let (layer, diff_id) = layout.layer(compression, &good);
            let image = layout.image_of("amd64", vec![layer.clone()], vec![diff_id]);
            layout.publish(None, &image);
            damage(&layout.blob(layer.digest().as_ref()));
            assert_eq!(same_failure(&layout.reference(None)).kind, FailureKind::Corrupt, "{compression:?}");
        }
        let mut layout = Layout::new();
        let (layer, _) = layout.layer(compression, &good);
        let image = layout.image_of("amd64", vec![layer], vec![format!("sha256:{}", "0".repeat(64))]);
        layout.publish(None, &image);
        assert!(same_failure(&layout.reference(None)).message.contains("diff_id of the uncompressed bytes is"), "{compression:?}");
    }
    let truncated = &good[..good.len() - 2000];
    for (layers, words) in [(vec![truncated.to_vec()], "tar"), (vec![tar(&[dir("etc")])], "no /usr")] {
        let mut layout = Layout::new();
        let image = layout.image("amd64", &layers.into_iter().map(|layer| (Compression::Gzip, layer)).collect::<Vec<_>>());
        layout.publish(None, &image);
        let found = same_failure(&layout.reference(None));
        assert!(found.kind == FailureKind::Unsuitable && found.message.contains(words), "{found}");
    }
}

/// How both verbs fail.
fn same_failure(reference: &str) -> Failure {
    let [digest, pull] = [digest_of(reference, None).map(drop).unwrap_err(), pull_of(reference, None).map(drop).unwrap_err()];
    let [digest, pull] = [failure(&digest), failure(&pull)];
    assert_eq!(digest, pull);
    digest
}

#[test]
fn one_crate_reads_tar_for_pull_and_digest() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock")).unwrap();
    assert_eq!(lock.matches("name = \"tar-core\"\n").count(), 1, "use the version that composefs-oci uses");
}
