//! A machine made of directories, for benchmarks of verbs that need one.
//!
//!     host make DIR COUNT LAYOUT DIGEST FOLLOWS   COUNT deployments of COUNT images: the one with this manifest, and others with one more file
//!     host status | check | gc | mount DIR        what the verb does there, without the mounts that the command makes first
#![expect(clippy::print_stdout, reason = "this is a program")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use openssl::sha::sha256;
use selkie::boot::{BootFiles, EntryRequest, Place};
use selkie::cmdline::{Cmdline, RootImage};
use selkie::deploy::Deployments;
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::host::Host;
use selkie::ops::setup_root::{self, setup_root};
use selkie::ops::{gc, prune, pull, status, upgrade};
use selkie::origin::Origin;
use selkie::progress::{Progress, Silent};
use selkie::store::{self, Store, Verity};
use selkie::sys::{dir, mount};
use serde_json::{Value, json};

const ARGUMENTS: &str = "rw quiet";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["make", dir, count, layout, digest, follows] => {
            let images = Images::new(Path::new(dir), Path::new(layout), digest)?;
            Machine(dir.into()).make(count.parse().context("reading COUNT")?, &images, follows)
        }
        ["status", dir] => answer(&status::run(&Machine(dir.into()).host()?)),
        ["check", dir] => {
            let source = SourceOptions { tls_verify: Some(false), ..Default::default() };
            let options = upgrade::Options { image: None, source, until: upgrade::Until::Check, keep: usize::MAX, retry: false };
            answer(&upgrade::run(&Machine(dir.into()).host()?, &options, &silent())?)
        }
        ["gc", dir] => answer(&gc::run(&Machine(dir.into()).host()?, gc::Options { keep: usize::MAX, dry_run: false }, &Silent)?),
        ["mount", dir] => Machine(dir.into()).mount(),
        _ => bail!("reading the arguments: {words:?} (expected make, status, check, gc or mount, with theirs)"),
    }
}

fn answer(report: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(report).context("printing the answer")?);
    Ok(())
}

fn silent() -> Arc<dyn Progress> {
    Arc::new(Silent)
}

/// Directories `sysroot`, `esp` and `run`, and a file with the name of the root that runs.
struct Machine(PathBuf);

impl Machine {
    fn make(&self, count: u32, images: &Images, follows: &str) -> Result<()> {
        for part in ["sysroot", "esp", "run"] {
            fs::create_dir_all(self.0.join(part)).with_context(|| format!("making {part}"))?;
        }
        let sysroot = || dir::open_path(self.0.join("sysroot"));
        let store = Store::open_or_init(sysroot()?, "composefs", None, Verity::IfPossible)?;
        let deployments = Deployments::open_or_create(sysroot()?)?;
        for number in 1..=count {
            let options = pull::Options {
                image: images.variant(number)?.parse().context("naming a variant")?,
                source: SourceOptions::default(),
                tag: Some("coming".into()),
            };
            let pulled = pull::run(&store, &options, &silent())?;
            let id = &pulled.boot_image;
            store.tag(&pulled.stored_manifest, &prune::tag(id))?;
            store.untag("coming")?;
            deployments.create(id, &origin(&pulled, number, follows))?;
            self.entry(&store, id, number)?;
            if number == 1 {
                fs::write(self.0.join("booted"), id.to_string()).context("noting what runs")?;
            }
        }
        Ok(())
    }

    fn entry(&self, store: &Store, id: &ImageId, number: u32) -> Result<()> {
        let tree = store.tree(id)?;
        let kernel = store::kernel(&tree)?;
        let request = EntryRequest {
            root: RootImage::new(id.clone(), store.is_sealed()),
            title: format!("Debian GNU/Linux {number}"),
            version: number.to_string(),
            arguments: Cmdline::parse(ARGUMENTS),
            serial: number.into(),
            tries: None,
        };
        let files = BootFiles::kernel(tree.read(&kernel.kernel)?, tree.read(&kernel.initrd)?);
        self.place()?.stage(&request, &files, &Silent)?.publish(&Silent)?;
        Ok(())
    }

    fn place(&self) -> Result<Place> {
        Ok(Place::new("first", dir::open_path(self.0.join("esp")).context("opening the ESP")?))
    }

    fn booted(&self) -> Result<ImageId> {
        fs::read_to_string(self.0.join("booted")).context("reading what runs")?.parse().context("reading what runs")
    }

    fn host(&self) -> Result<Host> {
        let open = |part: &str| dir::open_path(self.0.join(part)).with_context(|| format!("opening {part}"));
        Host::at(open("sysroot")?, vec![self.place()?], open("run")?, self.booted()?)
    }

    /// What the initramfs does, in a mount namespace that ends with this process.
    fn mount(&self) -> Result<()> {
        mount::enter_private_namespace()?;
        let booted = self.booted()?;
        let sealed = Store::open(dir::open_path(self.0.join("sysroot"))?, "composefs")?.is_sealed();
        let cmdline = Cmdline::parse(&RootImage::new(booted, sealed).to_string());
        let options = setup_root::Options { sysroot: self.0.join("sysroot"), run: self.0.join("run"), cmdline };
        setup_root(&options, &Silent).map(drop)
    }
}

fn origin(pulled: &pull::Pulled, number: u32, follows: &str) -> Origin {
    Origin {
        version: Origin::VERSION,
        image: follows.to_owned(),
        manifest_digest: pulled.manifest_digest.clone(),
        index_digest: None,
        config_digest: pulled.config_digest.clone(),
        kernel_arguments: ARGUMENTS.into(),
        image_arguments: vec![],
        os_version: Some(number.to_string()),
        os_name: Some(format!("Debian GNU/Linux {number}")),
        made_under: None,
        number: Some(number.into()),
        staged: Some(1_700_000_000 + u64::from(number)),
    }
}

/// A layout with the blobs of another one, and images that share all but the last layer.
struct Images {
    dir: PathBuf,
    manifest: Value,
    config: Value,
    digest: String,
    size: u64,
}

impl Images {
    fn new(machine: &Path, layout: &Path, digest: &str) -> Result<Self> {
        let dir = machine.join("images");
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).context("making a layout")?;
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).context("making a layout")?;
        for blob in fs::read_dir(layout.join("blobs/sha256")).context("listing blobs")? {
            let blob = blob.context("listing blobs")?;
            fs::hard_link(blob.path(), blobs.join(blob.file_name())).context("linking a blob")?;
        }
        let read = |digest: &str| fs::read(dir.join("blobs").join(digest.replace(':', "/"))).with_context(|| format!("reading {digest}"));
        let bytes = read(digest)?;
        let manifest: Value = serde_json::from_slice(&bytes).context("reading the manifest")?;
        let config = serde_json::from_slice(&read(manifest["config"]["digest"].as_str().context("looking for the configuration")?)?)?;
        Ok(Self { manifest, config, digest: digest.to_owned(), size: bytes.len() as u64, dir })
    }

    /// The reference of an image: the first is the one that was given.
    fn variant(&self, number: u32) -> Result<String> {
        let (digest, size) = if number == 1 { (self.digest.clone(), self.size) } else { self.write_variant(number)? };
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let index = json!({ "schemaVersion": 2, "manifests": [{ "mediaType": media_type, "digest": digest, "size": size }] });
        fs::write(self.dir.join("index.json"), index.to_string()).context("writing index.json")?;
        Ok(format!("oci:{}", self.dir.display()))
    }

    fn write_variant(&self, number: u32) -> Result<(String, u64)> {
        let (mut manifest, mut config) = (self.manifest.clone(), self.config.clone());
        let mut tar = tar::Builder::new(Vec::new());
        let content = format!("{number}\n").repeat(100);
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, "usr/lib/variant", content.as_bytes()).context("making a layer")?;
        let (layer, size) = self.blob(&tar.into_inner().context("making a layer")?)?;
        let layers = manifest["layers"].as_array_mut().context("looking for layers")?;
        layers.push(json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size }));
        config["rootfs"]["diff_ids"].as_array_mut().context("looking for diff_ids")?.push(json!(layer));
        let (digest, size) = self.blob(config.to_string().as_bytes())?;
        manifest["config"]["digest"] = json!(digest);
        manifest["config"]["size"] = json!(size);
        self.blob(manifest.to_string().as_bytes())
    }

    fn blob(&self, bytes: &[u8]) -> Result<(String, u64)> {
        let digest = hex::encode(sha256(bytes));
        fs::write(self.dir.join("blobs/sha256").join(&digest), bytes).context("writing a blob")?;
        Ok((format!("sha256:{digest}"), bytes.len() as u64))
    }
}
