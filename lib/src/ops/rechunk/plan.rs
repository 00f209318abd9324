//! Which file goes into which layer. Pure, and stable before all: a package that comes, goes or changes may move its own files, and no others.
//!
//! A package's place follows from its name alone (a hash), not from what else there is. Only what is large has a layer to itself, because
//! then it moves by itself; how many such layers there are is bounded, as every layer costs a machine a request.

use std::collections::{BTreeMap, HashMap};

/// A package of so many bytes has a layer to itself, if there are not too many of them.
const LARGE_PACKAGE: u64 = 16 << 20;
/// So has a file of no package of so many: a kernel, an initramfs.
const LARGE_FILE: u64 = 4 << 20;

/// The least number of layers that can be asked for: with fewer, packages would hardly be apart.
pub(super) const FEWEST: usize = 16;
/// The largest number: overlay file systems of container engines take 128 at most, and an image that is derived needs some more.
pub(super) const MOST: usize = 110;
/// What is a good number for most images.
pub(super) const DEFAULT: usize = 64;

/// How many layers there may be besides those of packages and of large files: [`place`] has as many answers, and there are the directories.
const REST: usize = 6;

/// All that is no directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Its path, without a slash at the front.
    pub(super) path: Vec<u8>,
    /// Bytes of its content; 0 for what is no file.
    pub(super) size: u64,
    /// Equal for all names of one file.
    pub(super) inode: u64,
    /// The package that it came with, by the name of its source.
    pub(super) owner: Option<String>,
}

/// What makes one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// What is in it, for people.
    pub(super) name: String,
    /// Numbers of its leaves, ascending.
    pub(super) leaves: Vec<usize>,
}

/// What a group is, in the order of the layers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Package(String),
    Packages(u64),
    File(Vec<u8>),
    Rest(&'static str),
}

/// Shares of a number of layers.
struct Shares {
    packages: usize,
    files: usize,
    buckets: u64,
}

impl Shares {
    fn of(layers: usize) -> Self {
        let layers = layers.clamp(FEWEST, MOST);
        let (buckets, files) = (layers / 2, layers / 8);
        Self { packages: layers - REST - buckets - files, files, buckets: buckets as u64 }
    }
}

/// Divides the leaves among at most `layers` layers, one less than which may be used: the last is for directories.
pub(super) fn groups(leaves: &[Leaf], layers: usize) -> Vec<Group> {
    let shares = Shares::of(layers);
    let (owners, packaged) = (owners(leaves), leaves.iter().any(|leaf| leaf.owner.is_some()));
    let packages = largest(sizes(leaves, |leaf| owners[&leaf.inode].owner.clone()), LARGE_PACKAGE, shares.packages);
    let of_none = |leaf: &Leaf| owners[&leaf.inode].owner.is_none().then(|| owners[&leaf.inode].path.clone());
    let files = largest(sizes(leaves, of_none), LARGE_FILE, shares.files);
    let kind = |leaf: &Leaf| match owners[&leaf.inode] {
        Leaf { owner: Some(owner), .. } if packages.contains_key(owner) => Kind::Package(owner.clone()),
        Leaf { owner: Some(owner), .. } => Kind::Packages(bucket(owner.as_bytes(), shares.buckets)),
        Leaf { path, .. } if files.contains_key(path) => Kind::File(path.clone()),
        Leaf { path, .. } if !packaged && place(path) == "/usr" => Kind::Packages(bucket(neighbourhood(path), shares.buckets)),
        Leaf { path, .. } => Kind::Rest(place(path)),
    };
    let mut groups: BTreeMap<Kind, Vec<usize>> = BTreeMap::new();
    for (number, leaf) in leaves.iter().enumerate() {
        groups.entry(kind(leaf)).or_default().push(number);
    }
    // Most images leave some numbers unused, and people would miss them.
    let parts: Vec<u64> = groups.keys().filter_map(|kind| if let Kind::Packages(number) = kind { Some(*number) } else { None }).collect();
    let named = |(kind, leaves)| Group { name: name(&kind, &parts, packaged), leaves };
    groups.into_iter().map(named).collect()
}

/// The name of each file that decides for all of its names: they have to be in one layer. The first that a package owns, else the first.
fn owners(leaves: &[Leaf]) -> HashMap<u64, &Leaf> {
    let mut owners: HashMap<u64, &Leaf> = HashMap::with_capacity(leaves.len());
    for leaf in leaves {
        let chosen = owners.entry(leaf.inode).or_insert(leaf);
        if chosen.owner.is_none() && leaf.owner.is_some() {
            *chosen = leaf;
        }
    }
    owners
}

/// Bytes by key; each file counts once.
fn sizes<K: Ord>(leaves: &[Leaf], key: impl Fn(&Leaf) -> Option<K>) -> BTreeMap<K, u64> {
    let (mut sizes, mut seen) = (BTreeMap::new(), std::collections::HashSet::new());
    for leaf in leaves.iter().filter(|leaf| seen.insert(leaf.inode)) {
        if let Some(key) = key(leaf) {
            *sizes.entry(key).or_default() += leaf.size;
        }
    }
    sizes
}

/// Those of at least `least` bytes, but no more than the largest `most`.
fn largest<K: Ord>(sizes: BTreeMap<K, u64>, least: u64, most: usize) -> BTreeMap<K, u64> {
    let mut large: Vec<(K, u64)> = sizes.into_iter().filter(|(_, size)| *size >= least).collect();
    large.sort_by(|(a_key, a), (b_key, b)| b.cmp(a).then_with(|| a_key.cmp(b_key)));
    large.truncate(most);
    large.into_iter().collect()
}

/// A number below `buckets` that follows from `key` alone.
fn bucket(key: &[u8], buckets: u64) -> u64 {
    let digest = openssl::sha::sha256(key);
    digest[..8].iter().fold(0, |number, byte| (number << 8 | u64::from(*byte)) % buckets)
}

/// Where files of no package are kept apart: what a build makes anew each time is mostly in `/var` and `/etc`.
fn place(path: &[u8]) -> &'static str {
    let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    match first {
        b"usr" => "/usr",
        b"etc" => "/etc",
        b"var" => "/var",
        b"boot" => "/boot",
        _ => "/",
    }
}

/// The first three directories of a path: where nothing knows packages, what lies together changes together.
fn neighbourhood(path: &[u8]) -> &[u8] {
    let ends: Vec<usize> = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).collect();
    let end = ends.get(2).or(ends.last());
    end.map_or(path, |end| &path[..*end])
}

/// The name of a group, where there are these numbers of parts.
fn name(kind: &Kind, parts: &[u64], packaged: bool) -> String {
    let part = |number: &u64| format!("part {} of {}", parts.partition_point(|part| part <= number), parts.len());
    match kind {
        Kind::Package(name) => format!("package {name}"),
        Kind::Packages(number) if packaged => format!("packages, {}", part(number)),
        Kind::Packages(number) => format!("files below /usr, {}", part(number)),
        Kind::File(path) => format!("file /{}", String::from_utf8_lossy(path)),
        Kind::Rest(place) if packaged => format!("files of no package below {place}"),
        Kind::Rest(place) => format!("files below {place}"),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
