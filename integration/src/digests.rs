//! One root, one digest: a small image from two builders, through every transport and compression, told by `selkie digest`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{build::Programs, command::Argv, lab::Lab, registry::Registry, scenarios::same, story::Teller};

/// The builders. Each has a storage of its own: in a common one, the second would take the layers of the first.
const BUILDERS: [&str; 2] = ["buildah", "podman"];
/// What skopeo is told, and how the media types of its layers then end.
const COMPRESSIONS: [(&str, &str, &[&str]); 3] = [
    ("gzip", "tar+gzip", &[]),
    ("zstd", "tar+zstd", &["--dest-compress-format", "zstd"]),
    ("plain", "tar", &["--dest-oci-accept-uncompressed-layers"]),
];
/// What is asked about one image; the same for all.
const ASKED: [&str; 3] = ["image", "boot-image", "algorithm"];

/// Builds, copies and compares.
pub(crate) fn check(lab: &Lab, programs: &Programs, registry: &Registry, tell: &Teller) -> Result<()> {
    let dir = lab.subdir("digests")?;
    // The builders' storages belong to root.
    Argv::new(["rm", "-rf"]).with([&dir]).by_root().read()?;
    context(&lab.subdir("digests/context")?)?;
    let bench = Bench { lab, selkie: &programs.selkie, registry, dir };
    let mut found = Vec::new();
    for builder in BUILDERS {
        let built = bench.build(builder)?;
        found.push(bench.digest(&built)?);
        for (name, ending, options) in COMPRESSIONS {
            bench.copies(builder, &built, (name, ending, options), &mut found)?;
        }
    }
    let (first, others) = found.split_first().context("comparing digests: there are none")?;
    for other in others {
        for name in ASKED {
            same(&format!("{name} of {}", other["reference"]), &other[name], &first[name])?;
        }
    }
    same("what a pull says", &bench.pull()?["boot-image"], &first["boot-image"])?;
    tell.say(format!("{} references by {}, one boot image: {}", found.len(), BUILDERS.join(" and "), first["boot-image"]));
    Argv::new(["rm", "-rf"]).with([&bench.dir]).by_root().read().map(drop)
}

struct Bench<'lab> {
    lab: &'lab Lab,
    selkie: &'lab Path,
    registry: &'lab Registry,
    dir: PathBuf,
}

impl Bench<'_> {
    /// Builds the image and returns its reference. Files bear one time, whatever the clock says.
    fn build(&self, builder: &str) -> Result<String> {
        let [root, run] = ["root", "run"].map(|part| self.dir.join(builder).join(part).display().to_string());
        let storage = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        let words = ["build", "--isolation", "chroot", "--network", "host", "--no-cache", "--timestamp", "0", "--format", "oci"];
        let file = self.lab.file("integration/images/digests.Containerfile");
        Argv::new([builder])
            .with(storage)
            .with(words)
            .with(["--tag", "localhost/digests:v1", "--file"])
            .with([file, self.dir.join("context")])
            .by_root()
            .log(&self.lab.log(&format!("digests-{builder}")))?;
        Ok(format!("containers-storage:[vfs@{root}+{run}]localhost/digests:v1"))
    }

    /// Copies a built image in one compression, and that copy again to everywhere else.
    fn copies(&self, builder: &str, built: &str, compression: (&str, &str, &[&str]), found: &mut Vec<Value>) -> Result<()> {
        let (name, ending, options) = compression;
        let layout = format!("oci:{}:{builder}-{name}", self.dir.join("layout").display());
        skopeo(options, built, &layout)?;
        require_layers(&layout, ending)?;
        let file = |kind: &str| format!("{kind}-archive:{}", self.dir.join(format!("{kind}-{builder}-{name}.tar")).display());
        let pushed = self.registry.here(&format!("digests:{builder}-{name}"));
        let mut references =
            vec![(layout.clone(), layout.clone()), (pushed.clone(), format!("docker://{pushed}")), (file("oci"), file("oci"))];
        if name != "zstd" {
            // Docker's archives have no zstd.
            references.push((file("docker"), file("docker")));
        }
        for (reference, target) in references {
            if target != layout {
                skopeo(options, &layout, &target)?;
            }
            found.push(self.digest(&reference)?);
        }
        Ok(())
    }

    /// As root, to whom the storages and the copies made of them belong.
    fn digest(&self, reference: &str) -> Result<Value> {
        let words = ["digest", reference, "--tls-verify=false", "--progress=none", "--json", "--scratch"];
        let argv = Argv::new([self.selkie]).with(words).with([self.lab.subdir("digests/tmp")?]).by_root();
        let text = argv.read()?;
        let left = fs::read_dir(self.dir.join("tmp")).context("looking into the scratch directory")?.count();
        same("what is left in the scratch directory", left, 0)?;
        serde_json::from_str(&text).with_context(|| format!("reading the output of {argv}: {text}"))
    }

    fn pull(&self) -> Result<Value> {
        let image = self.registry.here("digests:podman-zstd");
        let argv = Argv::new([self.selkie]).with(["pull", &image, "--tls-verify=false", "--json", "--repo"]).with([self.dir.join("repo")]);
        let text = argv.read()?;
        serde_json::from_str(&text).with_context(|| format!("reading the output of {argv}: {text}"))
    }
}

/// Copies an image as root.
fn skopeo(options: &[&str], from: &str, to: &str) -> Result<()> {
    let words = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"];
    Argv::new(words).with(options).with([from, to]).by_root().read().map(drop)
}

/// Fails unless the layers are what the test is about.
fn require_layers(layout: &str, ending: &str) -> Result<()> {
    let argv = Argv::new(["skopeo", "inspect", "--raw", layout]).by_root();
    let manifest: Value = serde_json::from_str(&argv.read()?).with_context(|| format!("reading the output of {argv}"))?;
    let layers = manifest["layers"].as_array().with_context(|| format!("looking for layers in {manifest}"))?;
    for layer in layers {
        let media_type = layer["mediaType"].as_str().unwrap_or_default();
        if !media_type.ends_with(ending) {
            bail!("copying to {layout}: a layer is {media_type} (expected one that ends in {ending})");
        }
    }
    Ok(())
}

/// The build context: files on both sides of the size that EROFS keeps in itself, links, a directory that the boot image empties.
fn context(dir: &Path) -> Result<()> {
    let [first, second] = ["first", "second"].map(|name| dir.join(name));
    for name in ["usr/bin", "boot", "sysroot", "etc", "run", "var"] {
        fs::create_dir_all(first.join(name)).context("making the build context")?;
    }
    fs::create_dir_all(second.join("usr/share")).context("making the build context")?;
    let files: [(PathBuf, usize); 6] = [
        (first.join("usr/bin/tool"), 5000),
        (first.join("etc/empty"), 0),
        (first.join("etc/small"), 64),
        (first.join("etc/large"), 65),
        (first.join("boot/vmlinuz"), 700),
        (second.join("usr/share/data"), 3_000_000),
    ];
    for (path, size) in files {
        fs::write(&path, vec![b'x'; size]).with_context(|| format!("writing {}", path.display()))?;
    }
    fs::set_permissions(first.join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).context("making the build context")?;
    fs::hard_link(first.join("usr/bin/tool"), first.join("usr/bin/other")).context("making the build context")?;
    symlink("usr/bin", first.join("bin")).context("making the build context")
}
