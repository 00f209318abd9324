//! The tree that an image will be, foretold while some of its layers are not here: by the very merge that makes the image, with the entries of tables of
//! contents in the place of those layers.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};

use anyhow::{Context, Result};
use composefs::INLINE_CONTENT_MAX_V0;
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::{LeafContent, Stat};
use composefs::repository::Repository;
use composefs::tree::{FileSystem, RegularFile};
use composefs_oci::layer_content_id;
use rustix::fs::makedev;

use super::changeset::{Change, Changeset};
use super::content::digest;
use super::layers::parse_digest;
use super::merkle::PIECE;
use super::sha256::sha256;
use super::tree::{Content, NodeKind, Tree};
use super::{ContentDigest, ObjectId, Store, hash, merge, tree_image, unsuitable, with_repository};
use crate::image_id::Algorithm;
use crate::listing::{Listed, ListedKind};

/// A layer of an image that is foretold.
#[derive(Debug, Clone, Copy)]
pub enum ForetoldLayer<'a> {
    /// It is here, under this diff_id.
    Here(&'a str),
    /// It is not here, and has these entries.
    Listed(&'a [Listed]),
}

/// A tree that is foretold.
#[derive(Debug, Clone)]
pub struct Foretold {
    /// The tree, as [`Store::layers_tree`] will make it. Files that are not here have objects that do not exist.
    pub tree: Tree,
    missing: HashMap<ObjectId, ContentDigest>,
}

impl Foretold {
    /// The SHA-256 of the content of an object that is not here; `None` for one that is.
    pub fn missing(&self, object: &ObjectId) -> Option<&ContentDigest> {
        self.missing.get(object)
    }

    /// The objects that would be stored, and those that are here, with their sizes in bytes. Small files are in the image and no objects.
    pub fn objects(&self) -> (Vec<u64>, Vec<u64>) {
        let all = self.tree.objects();
        let (new, here): (Vec<_>, Vec<_>) = all.into_iter().partition(|(object, _)| self.missing(object).is_some());
        let sizes =
            |of: Vec<(ObjectId, u64)>| of.into_iter().map(|(_, size)| size).filter(|size| *size > INLINE_CONTENT_MAX_V0 as u64).collect();
        (sizes(new), sizes(here))
    }
}

impl Store {
    /// Foretells the tree that `layers`, lowest first, make. Nothing is written. Files that are not in the content index are compared with those at the
    /// same paths in `before`, which is a tree of this repository.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where the layers make no tree, or a file has no digest.
    pub fn foretell(&self, layers: &[ForetoldLayer<'_>], before: &Tree) -> Result<Foretold> {
        let known = Known::new(self, before)?;
        with_repository!(self, repository => foretell(self, repository, layers, known)).context("foretelling the root file system")
    }
}

fn foretell<H: FsVerityHashValue>(
    store: &Store,
    repository: &Repository<H>,
    layers: &[ForetoldLayer<'_>],
    mut known: Known<'_>,
) -> Result<Foretold> {
    let mut tree: FileSystem<H> = FileSystem::new(Stat::uninitialized());
    for layer in layers {
        match layer {
            ForetoldLayer::Here(diff_id) => {
                let stream = repository.has_stream(&layer_content_id(&parse_digest(diff_id)?))?;
                let stream = stream.with_context(|| format!("layer {diff_id} is not in the repository"))?;
                merge::add_layer(repository, &mut tree, &stream).with_context(|| format!("applying layer {diff_id}"))?;
            }
            ForetoldLayer::Listed(entries) => add_listed(&mut tree, entries, &mut known)?,
        }
    }
    tree.compact();
    Ok(Foretold { tree: tree_image::from_filesystem(store, &tree)?, missing: known.missing })
}

fn add_listed<H: FsVerityHashValue>(tree: &mut FileSystem<H>, entries: &[Listed], known: &mut Known<'_>) -> Result<()> {
    let mut changes = Changeset::default();
    for entry in entries {
        let change = change(entry, known).with_context(|| format!("entry {}", entry.path))?;
        let added = changes.add(tree, OsStr::new(&entry.path), stat(entry), change);
        added.map_err(|e| unsuitable(format!("entry {}: {e}", entry.path)))?;
    }
    changes.apply(tree);
    Ok(())
}

fn stat(entry: &Listed) -> Stat {
    let xattr = |(name, value): &(String, Vec<u8>)| (OsStr::new(name).into(), value.as_slice().into());
    Stat {
        st_mode: entry.mode,
        st_uid: entry.uid,
        st_gid: entry.gid,
        xattrs: entry.xattrs.iter().map(xattr).collect(),
        ..Stat::uninitialized()
    }
}

fn change<H: FsVerityHashValue>(entry: &Listed, known: &mut Known<'_>) -> Result<Change<RegularFile<H>>> {
    let leaf = match &entry.kind {
        ListedKind::Directory => return Ok(Change::Directory),
        ListedKind::Hardlink(target) => return Ok(Change::Hardlink(OsString::from(target))),
        ListedKind::File { size: 0, .. } => LeafContent::Regular(RegularFile::Inline(Box::default())),
        ListedKind::File { size, sha256 } => {
            let content = sha256.ok_or_else(|| unsuitable("its table of contents does not say its digest"))?;
            LeafContent::Regular(match known.file(&entry.path, *size, &content)? {
                Content::Inline(bytes) => RegularFile::Inline(bytes.into()),
                Content::Object(object) => RegularFile::External(hash(object.hex())?, *size),
            })
        }
        ListedKind::Symlink(target) => LeafContent::Symlink(OsStr::new(target).into()),
        ListedKind::CharDevice(major, minor) => LeafContent::CharacterDevice(makedev(*major, *minor)),
        ListedKind::BlockDevice(major, minor) => LeafContent::BlockDevice(makedev(*major, *minor)),
        ListedKind::Fifo => LeafContent::Fifo,
    };
    Ok(Change::Leaf(leaf))
}

/// Which contents are here.
struct Known<'t> {
    before: &'t Tree,
    contents: super::Contents,
    /// Small files of the tree before, which are in its image.
    small: HashMap<ContentDigest, Vec<u8>>,
    /// Objects of which the digests of the contents are known.
    indexed: HashSet<ObjectId>,
    /// Objects that were read here.
    read: HashMap<ContentDigest, ObjectId>,
    missing: HashMap<ObjectId, ContentDigest>,
}

impl<'t> Known<'t> {
    fn new(store: &Store, before: &'t Tree) -> Result<Self> {
        let small = before.leaves.iter().filter_map(|leaf| match &leaf.kind {
            NodeKind::File(file) => match &file.content {
                Content::Inline(bytes) => Some((sha256(bytes), bytes.clone())),
                Content::Object(_) => None,
            },
            _ => None,
        });
        let contents = store.contents()?;
        Ok(Self {
            before,
            small: small.collect(),
            indexed: contents.objects().collect(),
            contents,
            read: HashMap::new(),
            missing: HashMap::new(),
        })
    }

    /// The content of a file that will be at `path`; an object that does not exist for one that is not here.
    fn file(&mut self, path: &str, size: u64, content: &ContentDigest) -> Result<Content> {
        let small = self.small.get(content).map(Vec::as_slice).filter(|bytes| bytes.len() as u64 == size);
        if let Some(bytes) = small.or_else(|| self.contents.small(content, size)) {
            return Ok(Content::Inline(bytes.to_vec()));
        }
        if let Some(object) = self.contents.object(content, size).or_else(|| self.read.get(content).cloned()) {
            return Ok(Content::Object(object));
        }
        if let Some(object) = self.same_path(path, size, content)? {
            return Ok(Content::Object(object));
        }
        let object = nowhere(self.before.store.algorithm(), content);
        self.missing.insert(object.clone(), *content);
        Ok(Content::Object(object))
    }

    /// The object at this path of the tree before, if it has this content: layers that came without a table of contents are not in the index.
    fn same_path(&mut self, path: &str, size: u64, content: &ContentDigest) -> Result<Option<ObjectId>> {
        let node = self.before.get_link(path).ok().flatten();
        let Some(NodeKind::File(file)) = node.map(|node| node.kind) else { return Ok(None) };
        let Content::Object(object) = &file.content else { return Ok(None) };
        if file.size != size || !self.indexed.insert(object.clone()) {
            return Ok(None);
        }
        let (found, _) = digest(self.before.open(&file)?, &mut vec![0; PIECE]).with_context(|| format!("reading object {object}"))?;
        self.read.insert(found, object.clone());
        Ok((found == *content).then(|| object.clone()))
    }
}

/// The name of an object that does not exist: no file has its own SHA-256 as its fs-verity digest. Equal for equal contents.
fn nowhere(algorithm: Algorithm, content: &ContentDigest) -> ObjectId {
    let digest = hex::encode(content);
    ObjectId::named(match algorithm {
        Algorithm::Sha256 => digest,
        Algorithm::Sha512 => digest.repeat(2),
    })
}
