//! Random stacks of layers: read alike by the store, by an independent reading and, where it follows the OCI rules, by the library.

mod store_common;

use composefs::erofs::format::FormatVersion;
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue};
use composefs::generic_tree::OciTransformOptions;
use composefs::repository::Repository;
use composefs_boot::BootOps;
use selkie::error::FailureKind;
use store_common::random::Random;
use store_common::{Entry, reference, *};

#[test]
fn random_layers_are_read_alike() {
    let temp = temporary();
    let repository = repository(&temp);
    let library = Repository::open_path(selkie::sys::dir::open_path(temp.path()).unwrap(), "repository").unwrap();
    let (mut random, mut good, mut equal) = (Random(0x5e1c_1e5e), 0, 0);
    for round in 0..600 {
        let stack = random.stack();
        let layers = with_base(stack.clone());
        let stored = store(&repository, &layers, None);
        match (&stored, reference::image(&layers)) {
            (Ok(stored), Ok(expected)) => {
                let found = flatten(&repository.tree(&stored.image).unwrap());
                assert_eq!(found, expected, "round {round}: {stack:#?}");
                good += 1;
            }
            (Err(error), Err(_)) => assert_eq!(failure(error).kind, FailureKind::Unsuitable, "round {round}: {error:#}"),
            (found, expected) => panic!("round {round}: {found:?} (expected {expected:?}): {stack:#?}"),
        }
        if let (Ok(stored), Ok(theirs)) = (&stored, theirs(&library, stored.as_ref().map_or("", |s| &s.config_digest))) {
            let same = theirs == [stored.image.hex(), stored.boot_image.hex()];
            assert!(same || stack.iter().any(|layer| has_late_whiteout(layer)), "round {round}: {theirs:?}: {stack:#?}");
            equal += usize::from(same);
        }
    }
    assert!(good > 200 && equal > 100, "{good} stacks make a tree, {equal} as the library's: the generator is too wild");
}

/// The ids that the library computes, where it accepts the layers.
fn theirs(repository: &Repository<Sha256HashValue>, config_digest: &str) -> anyhow::Result<[String; 2]> {
    let mut tree = composefs_oci::image::create_filesystem(repository, &config_digest.parse()?, None, &OciTransformOptions::default())?;
    let plain = tree.compute_image_id(FormatVersion::V1).to_hex();
    tree.transform_for_boot(repository)?;
    Ok([plain, tree.compute_image_id(FormatVersion::V1).to_hex()])
}

/// Whether a layer hides, by the library's reading, what it has itself: where the library does not follow the rules.
fn has_late_whiteout(layer: &[Entry]) -> bool {
    layer.iter().enumerate().any(|(at, entry)| {
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let Some((parent, hidden)) =
            path.trim_start_matches("./").rsplit_once(".wh.").map(|(parent, name)| (parent.to_owned(), name.to_owned()))
        else {
            return false;
        };
        let hidden = if hidden == ".opq" { parent.trim_end_matches(".wh.").to_owned() } else { format!("{parent}{hidden}") };
        layer[..at].iter().any(|earlier| earlier.path.starts_with(hidden.as_bytes()))
    })
}
