//! What the tests of `rechunk` share: images with packages, and what is in them.
#![allow(dead_code, reason = "each test program uses its own part")]

#[path = "../common/oci.rs"]
pub(crate) mod oci;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::{Compression, Layout, noise, plain_http};
use selkie::image::{OutputOptions, Source};
use selkie::image_id::Algorithm;
use selkie::ops::digest::{self, Digests};
use selkie::ops::rechunk::{self, Options, Report};
use selkie::progress::{Progress, Silent};
use selkie::store::{Node, NodeKind, Store, Tree, Verity};
use selkie::sys::dir;
use tar::{Builder, EntryType, Header};

/// The tar of a layer that is being put together.
pub(crate) struct Tar(Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(crate) fn header(kind: EntryType, size: usize) -> Header {
        let mut header = oci::header(kind, size);
        header.set_mtime(1_700_000_000);
        header
    }

    pub(crate) fn entry(mut self, path: &str, mut header: Header, content: &[u8]) -> Self {
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    /// Directories with this time.
    pub(crate) fn directories(self, paths: &[&str], mtime: u64) -> Self {
        let mut header = Self::header(EntryType::Directory, 0);
        header.set_mtime(mtime);
        paths.iter().fold(self, |tar, path| tar.entry(&format!("{path}/"), header.clone(), b""))
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path, Self::header(EntryType::Regular, content.len()), content)
    }

    pub(crate) fn file_at(self, path: &str, content: &[u8], mtime: u64) -> Self {
        let mut header = Self::header(EntryType::Regular, content.len());
        header.set_mtime(mtime);
        self.entry(path, header, content)
    }

    pub(crate) fn link_at(mut self, path: &str, target: &str, mtime: u64) -> Self {
        let mut header = Self::header(EntryType::Symlink, 0);
        header.set_mtime(mtime);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    pub(crate) fn link(mut self, kind: EntryType, path: &str, target: &str) -> Self {
        self.0.append_link(&mut Self::header(kind, 0), path, target).unwrap();
        self
    }

    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(crate) fn raw(mut self, header: &Header) -> Self {
        self.0.append(header, std::io::empty()).unwrap();
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Names and versions of the packages of an image.
pub(crate) type Packages<'a> = &'a [(&'a str, u32)];

pub(crate) const PACKAGES: [(&str, u32); 5] = [("bash", 1), ("coreutils", 1), ("glibc", 1), ("perl", 1), ("zlib", 1)];

/// A root with these packages, built at `time`, which is after 2023. As in a build, directories, the database, caches and some links bear that time;
/// one of the links has the name of a directory of packages, the other is listed by one that did not bring it.
pub(crate) fn root(packages: Packages<'_>, time: u64) -> Tar {
    let directories = [
        "boot",
        "dev",
        "etc",
        "proc",
        "run",
        "sys",
        "sysroot",
        "tmp",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/lib/modules",
        "usr/lib/modules/6.1",
        "var",
        "var/lib",
        "var/lib/dpkg",
        "var/lib/dpkg/info",
    ];
    let mut tar = Tar::new()
        .directories(&directories, time)
        .link_at("bin", "usr/bin", time)
        .link_at("usr/lib/bash.link", "bash", time)
        .file("usr/lib/os-release", b"ID=debian\nPRETTY_NAME=\"Debian\"\n")
        .file("etc/hostname", b"selkie\n")
        .file("usr/lib/modules/6.1/vmlinuz", &noise(5 << 20));
    let mut status = String::new();
    for (name, version) in packages {
        let binary = noise(100_000 + 1000 * *version as usize);
        tar = tar.file(&format!("usr/bin/{name}"), &[name.as_bytes(), &binary].concat());
        tar = tar.directories(&[&format!("usr/lib/{name}")], time).file(&format!("usr/lib/{name}/data"), &vec![b'd'; 70_000]);
        // Half of what is in /usr/bin is listed by its old name.
        let list = format!("/.\n/bin\n/bin/{name}\n/usr/lib/{name}\n/usr/lib/{name}/data\n");
        let list = if *name == "bash" { list + "/usr/lib/bash.link\n" } else { list };
        tar = tar.file_at(&format!("var/lib/dpkg/info/{name}.list"), list.as_bytes(), time);
        status += &format!("Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n");
    }
    tar.file_at("var/lib/dpkg/status", status.as_bytes(), time).file_at("var/lib/cache", b"made by the build", time)
}

/// A layout with images, and room to work.
pub(crate) struct Desk {
    pub(crate) layout: Layout,
    pub(crate) temp: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("scratch")).unwrap();
        Self { layout: Layout::new(), temp }
    }

    /// An image of these layers under a tag, with an annotation.
    pub(crate) fn image(&mut self, tag: &str, layers: Vec<Vec<u8>>) {
        let layers: Vec<_> = layers.into_iter().map(|tar| (Compression::Gzip, tar)).collect();
        let image = self.layout.image("amd64", &layers);
        let image = self.layout.annotated(&image, &[("example.kept", "yes")]);
        self.layout.publish(Some(tag), &image);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// `tag` of the layout with images.
    pub(crate) fn original(&self, tag: &str) -> String {
        self.layout.reference(Some(tag))
    }

    /// `tag` of the layout that new images go to.
    pub(crate) fn new_reference(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.path("out").display())
    }

    pub(crate) fn options(&self, tag: &str) -> Options {
        Options {
            image: self.original(tag).parse().unwrap(),
            source: plain_http(),
            output: self.new_reference(tag).parse().unwrap(),
            destination: OutputOptions { tls_verify: Some(false), ..Default::default() },
            layers: rechunk::LAYERS,
            scratch: self.path("scratch"),
        }
    }

    pub(crate) fn rechunk(&self, options: &Options) -> anyhow::Result<Report> {
        let report = rechunk::run(options, &silent());
        assert_eq!(std::fs::read_dir(self.path("scratch")).unwrap().count(), 0, "something is left behind");
        report
    }

    pub(crate) fn digests(&self, reference: &str) -> Digests {
        let options = digest::Options {
            image: reference.parse().unwrap(),
            source: plain_http(),
            algorithm: Some(Algorithm::Sha256),
            scratch: self.path("scratch"),
        };
        digest::run(&options, &silent()).unwrap()
    }

    /// The root as the layers of an image give it.
    pub(crate) fn tree(&self, reference: &str) -> Tree {
        block_on(async {
            let source = Source::open(&reference.parse().unwrap(), &plain_http(), &Silent).await.unwrap();
            let here = dir::open_path(self.temp.path()).unwrap();
            let store = Store::open_or_init(here, "repository", Some(Algorithm::Sha256), Verity::Never).unwrap();
            for (index, layer) in source.resolved().layers.iter().enumerate() {
                let reader = source.open_layer(index, silent()).await.unwrap();
                tokio::task::block_in_place(|| store.import_layer(&layer.diff_id, reader)).unwrap();
            }
            let tree = store.layers_tree(&source.resolved().config).unwrap();
            source.close().await.unwrap();
            tree
        })
    }
}

pub(crate) fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// All that is in a tree, with one name of each file instead of its number.
pub(crate) fn listed(tree: &Tree) -> BTreeMap<PathBuf, (Node, PathBuf)> {
    let (mut all, mut first) = (BTreeMap::new(), BTreeMap::new());
    tree.walk("/", |path: &Path, node: &Node| {
        let same = if node.kind == NodeKind::Directory { path } else { first.entry(node.inode).or_insert_with(|| path.to_owned()) };
        all.insert(path.to_owned(), (Node { inode: 0, ..node.clone() }, same.to_owned()));
        Ok(())
    })
    .unwrap();
    all
}
