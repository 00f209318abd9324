//! What the store tests share: layers written byte by byte, images made of them, and trees in a form to compare.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use selkie::error::Failure;
use selkie::image_id::Algorithm;
use selkie::store::{Commit, Keep, Known, Measured, NodeKind, Scratch, Store, StoredImage, Tree, Verity};
use sha2::{Digest, Sha256};

mod numbers;
pub mod random;
pub mod reference;

/// An entry of a layer.
#[derive(Clone, Debug)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (u64, u32),
    pub xattrs: Vec<(&'static str, Vec<u8>)>,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Dir,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
}

fn entry(path: impl AsRef<[u8]>, kind: Kind, mode: u32) -> Entry {
    Entry { path: path.as_ref().to_vec(), kind, mode, uid: 0, gid: 0, mtime: (1_700_000_000, 0), xattrs: vec![] }
}

pub fn dir(path: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::Dir, 0o755)
}

pub fn file(path: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::File(bytes.as_ref().to_vec()), 0o644)
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::Symlink(target.as_ref().to_vec()), 0o777)
}

pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry(path, Kind::Hardlink(target.as_ref().to_vec()), 0o644)
}

pub fn special(path: impl AsRef<[u8]>, kind: Kind) -> Entry {
    entry(path, kind, 0o600)
}

impl Entry {
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    pub fn owner(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    pub fn mtime(self, seconds: u64, nanoseconds: u32) -> Self {
        Self { mtime: (seconds, nanoseconds), ..self }
    }

    pub fn xattr(mut self, name: &'static str, value: &[u8]) -> Self {
        self.xattrs.push((name, value.to_vec()));
        self
    }

    fn write(&self, tar: &mut Vec<u8>) {
        let (flag, link, body, device): (u8, &[u8], &[u8], _) = match &self.kind {
            Kind::File(bytes) => (b'0', b"", bytes, (0, 0)),
            Kind::Hardlink(target) => (b'1', target, b"", (0, 0)),
            Kind::Symlink(target) => (b'2', target, b"", (0, 0)),
            Kind::Char(major, minor) => (b'3', b"", b"", (*major, *minor)),
            Kind::Block(major, minor) => (b'4', b"", b"", (*major, *minor)),
            Kind::Dir => (b'5', b"", b"", (0, 0)),
            Kind::Fifo => (b'6', b"", b"", (0, 0)),
        };
        let mut records = Vec::new();
        if self.path.len() > 100 {
            records.push(("path".to_owned(), self.path.clone()));
        }
        if link.len() > 100 {
            records.push(("linkpath".to_owned(), link.to_vec()));
        }
        if self.mtime.1 != 0 {
            records.push(("mtime".to_owned(), format!("{}.{:09}", self.mtime.0, self.mtime.1).into_bytes()));
        }
        records.extend(self.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.clone())));
        if !records.is_empty() {
            let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            block(tar, b'x', b"pax", b"", &records, 0o644, (0, 0), 0, (0, 0));
        }
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(100)].to_vec();
        block(tar, flag, &cut(&self.path), &cut(link), body, self.mode, (self.uid, self.gid), self.mtime.0, device);
    }
}

/// A PAX record: its own length in decimal, a space, key, `=`, value, newline.
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A ustar header with its body and padding.
#[allow(clippy::too_many_arguments, reason = "these are the fields of a header")]
pub fn block(
    tar: &mut Vec<u8>,
    flag: u8,
    name: &[u8],
    link: &[u8],
    body: &[u8],
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    device: (u32, u32),
) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0{:011o}\0{mtime:011o}\0        ", owner.0, owner.1, body.len()).as_bytes());
    put(156, &[flag]);
    put(157, link);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}\0{:07o}\0", device.0, device.1).as_bytes());
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend(header);
    tar.extend(body);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// A layer of entries.
pub fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut tar = Vec::new();
    entries.iter().for_each(|entry| entry.write(&mut tar));
    tar.resize(tar.len() + 1024, 0);
    tar
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Configuration and manifest of an image of these layers, with odd white space that must survive.
pub fn documents(layers: &[Vec<u8>]) -> (Vec<u8>, Vec<u8>) {
    documents_of(&layers.iter().map(|layer| (sha256(layer), layer.len())).collect::<Vec<_>>())
}

/// The same, from digests and sizes.
pub fn documents_of(layers: &[(String, usize)]) -> (Vec<u8>, Vec<u8>) {
    let quoted: Vec<String> = layers.iter().map(|(digest, _)| format!("{digest:?}")).collect();
    let config = format!(
        "{{ \"architecture\":\"amd64\",  \"os\":\"linux\", \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}, \"config\":{{}} }}\n",
        quoted.join(", ")
    );
    let descriptor = |media: &str, digest: &str, size: usize| {
        format!("{{\"mediaType\":\"application/vnd.oci.image.{media}\", \"digest\":\"{digest}\", \"size\":{size}}}")
    };
    let layers: Vec<String> = layers.iter().map(|(digest, size)| descriptor("layer.v1.tar", digest, *size)).collect();
    let config_descriptor = descriptor("config.v1+json", &sha256(config.as_bytes()), config.len());
    let manifest = format!(
        "{{\n  \"schemaVersion\": 2, \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n  \"config\": {config_descriptor},\n  \"layers\": [{}] }}",
        layers.join(", ")
    );
    (manifest.into_bytes(), config.into_bytes())
}

/// A directory on a file system where `syncfs` costs nothing, where there is one.
pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn repository(temp: &tempfile::TempDir) -> Store {
    let parent = selkie::sys::dir::open_path(temp.path()).unwrap();
    Store::open_or_init(parent, "repository", None, Verity::IfPossible).unwrap()
}

/// What the repository knows before a layer comes in whose contents are wanted.
pub fn known(store: &Store) -> Known {
    Known { contents: Arc::new(store.contents().unwrap()), digests: true, doubted: false }
}

/// Imports the layers and makes an image of them.
pub fn store(store: &Store, layers: &[Vec<u8>], tag: Option<&str>) -> anyhow::Result<StoredImage> {
    for layer in layers {
        store.import_layer(&sha256(layer), &layer[..])?;
    }
    let (manifest, config) = documents(layers);
    store.commit(&manifest, &config, tag)
}

/// Measures the layers, as often as it takes, and commits them.
pub fn measure(scratch: &Scratch, layers: &[Vec<u8>]) -> anyhow::Result<Measured> {
    let read = |layer: &Vec<u8>, keep| scratch.measure_layer(&sha256(layer), &layer[..], keep);
    for layer in layers {
        read(layer, Keep::Names(|_| false))?;
    }
    let (_, config) = documents(layers);
    let unread = match scratch.commit(&config)? {
        Commit::Done(measured) => return Ok(measured),
        Commit::Unread(unread) => unread,
    };
    for again in unread {
        let layer = layers.iter().find(|layer| sha256(layer) == again.diff_id).unwrap();
        read(layer, Keep::Sizes(again.sizes))?;
    }
    match scratch.commit(&config)? {
        Commit::Done(measured) => Ok(measured),
        Commit::Unread(unread) => panic!("still unread: {unread:?}"),
    }
}

/// The same in a scratch directory of its own.
pub fn measured(layers: &[Vec<u8>], algorithm: Algorithm) -> anyhow::Result<Measured> {
    let temp = temporary();
    measure(&Scratch::new(temp.path(), algorithm).unwrap(), layers)
}

/// The ids in short, to compare.
pub fn ids(stored: &StoredImage) -> Measured {
    Measured { image: stored.image.clone(), boot_image: stored.boot_image.clone() }
}

/// A thing in a tree, in the form in which trees are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flat {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub kind: FlatKind,
    /// The first of all names of this file, in byte order.
    pub same_as: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlatKind {
    Dir,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u64),
    Block(u64),
    Fifo,
}

pub type FlatTree = BTreeMap<Vec<u8>, Flat>;

/// A tree by path, without the slash at the front.
pub fn flatten(tree: &Tree) -> FlatTree {
    use std::os::unix::ffi::OsStrExt;
    let bytes = |name: &std::ffi::OsStr| name.as_bytes().to_vec();
    let mut flat = FlatTree::new();
    let mut first = BTreeMap::new();
    tree.walk("", |path, node| {
        let path = path.as_os_str().as_bytes().to_vec();
        let kind = match &node.kind {
            NodeKind::Directory => FlatKind::Dir,
            NodeKind::File(file) => FlatKind::File(tree.read(file)?),
            NodeKind::Symlink(target) => FlatKind::Symlink(bytes(target)),
            NodeKind::CharDevice(number) => FlatKind::Char(*number),
            NodeKind::BlockDevice(number) => FlatKind::Block(*number),
            NodeKind::Fifo => FlatKind::Fifo,
            NodeKind::Socket => panic!("no layer has sockets"),
        };
        if kind != FlatKind::Dir {
            first.entry(node.inode).and_modify(|first: &mut Vec<u8>| *first = path.clone().min(first.clone())).or_insert(path.clone());
        }
        let xattrs = node.xattrs.iter().map(|(name, value)| (bytes(name), value.clone())).collect();
        let same_as = node.inode.to_be_bytes().to_vec();
        flat.insert(path, Flat { mode: node.mode, owner: (node.uid, node.gid), mtime: node.mtime, xattrs, kind, same_as });
        Ok(())
    })
    .unwrap();
    for (path, node) in &mut flat {
        let inode = u64::from_be_bytes(node.same_as.clone().try_into().unwrap());
        node.same_as = first.get(&inode).cloned().unwrap_or_else(|| path.clone());
    }
    flat
}

/// The tree of an image of these layers.
pub fn tree(repository: &Store, layers: &[Vec<u8>]) -> anyhow::Result<FlatTree> {
    let stored = store(repository, layers, None)?;
    Ok(flatten(&repository.tree(&stored.image)?))
}

/// What every image of these tests begins with.
pub fn base() -> Vec<Entry> {
    vec![dir("usr").mtime(1_600_000_000, 5), dir("boot"), dir("sysroot")]
}

pub fn with_base(mut layers: Vec<Vec<Entry>>) -> Vec<Vec<u8>> {
    layers.insert(0, base());
    layers.iter().map(|layer| tar(layer)).collect()
}

pub fn failure(error: &anyhow::Error) -> Failure {
    Failure::find(error).unwrap_or_else(|| panic!("not a failure: {error:#}"))
}

/// What an operating system has in miniature, in three layers that use every feature which the library follows.
pub fn system() -> Vec<Vec<u8>> {
    let first: Vec<Entry> = vec![
        dir("./").mode(0o700),
        dir("./usr").mtime(1_650_000_000, 999_999_999),
        dir("./usr/bin"),
        file("./usr/bin/tool", [7; 5000]).mode(0o4755).xattr("security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0]),
        hardlink("./usr/bin/other", "./usr/bin/tool"),
        file("./usr/bin/small", [1; 64]),
        file("./usr/bin/large", [1; 65]).xattr("user.comment", b"dropped"),
        symlink("./bin", "usr/bin"),
        dir("./boot"),
        file("./boot/vmlinuz", [3; 700]),
        dir("./sysroot"),
        dir("./run").mode(0o777),
        file("./run/left", [4; 100]),
        dir("./dev"),
        special("./dev/null", Kind::Char(1, 3)),
        special("./dev/pipe", Kind::Fifo).owner(1000, 65_534),
        dir("./etc"),
        file("./etc/gone", [5; 100]),
        file("./etc/empty", ""),
        dir("./opt"),
        dir("./opt/old"),
        file("./opt/old/x", "1"),
    ];
    let long = format!("usr/{}", "x".repeat(150));
    let second = vec![
        dir("etc").owner(0, 42),
        file("etc/.wh.gone", ""),
        dir("opt"),
        file("opt/.wh..wh..opq", ""),
        file("opt/new", [6; 100]).mtime(5, 1),
        file(&long, "long"),
        hardlink("usr/bin/third", "usr/bin/tool"),
        file(b"usr/\xff\xfe", "bytes"),
    ];
    let third = vec![file("bin", "no link any more"), dir("usr"), symlink("opt/new", "../etc")];
    [first, second, third].iter().map(|layer| tar(layer)).collect()
}

/// An image with a SELinux policy, in one layer that names all directories.
pub fn labelled() -> Vec<Vec<u8>> {
    let contexts = "/.* system_u:object_r:default_t:s0\n/usr/bin/.* -- system_u:object_r:bin_t:s0\n/etc(/.*)? system_u:object_r:etc_t:s0\n";
    let entries = [
        dir("usr"),
        dir("boot"),
        dir("sysroot"),
        dir("usr/bin"),
        file("usr/bin/a", [1; 100]),
        dir("etc"),
        hardlink("etc/a", "usr/bin/a"),
        dir("etc/selinux"),
        file("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n"),
        dir("etc/selinux/targeted"),
        dir("etc/selinux/targeted/contexts"),
        dir("etc/selinux/targeted/contexts/files"),
        file("etc/selinux/targeted/contexts/files/file_contexts", contexts),
    ];
    vec![tar(&entries)]
}

/// The header of a file of so many bytes.
pub fn sized(tar: &mut Vec<u8>, name: &[u8], size: u64) {
    let mut header = Vec::new();
    block(&mut header, b'0', name, b"", b"", 0o644, (0, 0), 0, (0, 0));
    // Eleven digits are 8 GiB; what is more is a number of twelve bytes, of which the first says so.
    let digits = [&[0x80, 0, 0, 0][..], &size.to_be_bytes()].concat();
    header[124..136].copy_from_slice(if size < 1 << 33 { format!("{size:011o}\0").into_bytes() } else { digits }.as_slice());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend(header);
}

/// A layer with one file of zeros, made while it is read.
pub fn zeros(size: u64) -> impl std::io::BufRead + Send {
    use std::io::Read;
    let mut header = Vec::new();
    sized(&mut header, b"usr/big", size);
    let padding = size.next_multiple_of(512) - size;
    std::io::BufReader::with_capacity(1 << 18, std::io::Cursor::new(header).chain(std::io::repeat(0).take(size + padding + 1024)))
}

/// The most memory that this process ever had.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
