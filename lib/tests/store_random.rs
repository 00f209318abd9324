//! Random stacks of layers: read alike by the store, by an independent reading and, where it follows the OCI rules, by the library.

mod store_common;

use composefs::erofs::format::FormatVersion;
use composefs::fsverity::{FsVerityHashValue, Sha256HashValue};
use composefs::generic_tree::OciTransformOptions;
use composefs::repository::Repository;
use composefs_boot::BootOps;
use selkie::error::FailureKind;
use store_common::{Entry, Kind, reference, *};

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // xorshift64*, by Vigna.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A path of one to three of few names, so that layers meet.
    fn path(&mut self) -> String {
        let mut path = self.pick(&["a", "b", "usr/a", "c"]).to_owned();
        for _ in 0..self.below(3) {
            path = format!("{path}/{}", self.pick(&["a", "b", "d"]));
        }
        path
    }

    fn entry(&mut self, whiteouts: bool, links: bool) -> Entry {
        let path = self.path();
        let made = match self.below(if whiteouts { 13 } else { 10 }) {
            0..4 => dir(&path),
            4..6 => file(&path, vec![self.below(250) as u8; self.pick(&[0, 1, 64, 65, 600])]),
            6 if links => symlink(&path, self.pick(&["a", "../b", "/usr/a", "nowhere/at/all", ".."])),
            7 if links => symlink(&path, self.path()),
            8 => hardlink(&path, self.path()),
            9 => special(&path, Kind::Fifo),
            10 => file(format!("{path}/.wh..wh..opq"), ""),
            11 | 12 => {
                let (parent, name) = path.rsplit_once('/').unwrap_or((".", &path));
                file(format!("{parent}/.wh.{name}"), "")
            }
            _ => file(&path, "x"),
        };
        made.mode(self.pick(&[0o755, 0o644, 0o4711])).owner(self.below(3) as u32, 0).mtime(self.below(5) as u64, self.pick(&[0, 1]))
    }

    fn stack(&mut self) -> Vec<Vec<Entry>> {
        // A whiteout through a symbolic link of its layer is not in the plain reading: a layer has the one or the other.
        // Half of the stacks name all directories, as good builders do.
        let tidy = self.below(2) == 0;
        let layer = |random: &mut Self| {
            let links = random.below(2) == 0;
            let entries = (0..random.below(9)).map(|_| random.entry(!links, links));
            entries.collect::<Vec<_>>().into_iter().flat_map(|entry| if tidy { with_parents(entry) } else { vec![entry] }).collect()
        };
        (0..self.below(3) + 1).map(|_| layer(self)).collect()
    }
}

fn with_parents(entry: Entry) -> Vec<Entry> {
    let slashes = entry.path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let parents: Vec<_> = slashes.map(|at| dir(&entry.path[..at])).collect();
    parents.into_iter().chain([entry]).collect()
}

#[test]
fn random_layers_are_read_alike() {
    let (runtime, temp) = (runtime(), temporary());
    let repository = repository(&temp);
    let library = Repository::open_path(selkie::sys::dir::open_path(temp.path()).unwrap(), "repository").unwrap();
    let (mut random, mut good, mut equal) = (Random(0x5e1c_1e5e), 0, 0);
    for round in 0..600 {
        let stack = random.stack();
        let layers = with_base(stack.clone());
        let stored = store(&runtime, &repository, &layers, None);
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
