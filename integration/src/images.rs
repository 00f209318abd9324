//! Building images with buildah, in a storage of the lab's own below `target/lab/containers`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{
    build,
    cli::LabOptions,
    command::Argv,
    lab::Lab,
    packages, registry,
    story::{Story, Teller},
};

/// The base that is made when none is named.
pub(crate) const OWN_BASE: &str = "localhost/debian-base";
/// selkie's files.
const DIST: &str = "localhost/selkie-dist";
/// Debian with selkie.
pub(crate) const DEBIAN: &str = "localhost/selkie-debian";
/// A web server derived from it.
const WEB: &str = "localhost/selkie-example-web";
/// Debian with selkie and a guest agent: what the lab's releases are made of.
pub(crate) const AGENT: &str = "localhost/lab-agent";
/// The web server as a machine of the lab.
pub(crate) const LAB_WEB: &str = "localhost/lab-web";
/// The releases of the lab's system.
pub(crate) const RELEASES: [&str; 3] = ["v1", "v2", "v3"];
/// What is measured: a server with a kernel and applications, in the versions v1, v2 and v2s.
pub(crate) const SERVER: &str = "localhost/bench";
/// The same, made in seconds, in the versions v1 and v2.
pub(crate) const SMALL_SERVER: &str = "localhost/bench-small";
/// Debian with a skopeo as current machines have it.
const SKOPEO: &str = "localhost/bench-skopeo";
/// What [`SERVER`] is built on, by version.
const SERVER_BASE: &str = "localhost/bench-base";
/// Where Debian's packages come from: the last point release, and what is newer.
const SOURCES: [&str; 3] = [
    "deb http://deb.debian.org/debian trixie main",
    "deb http://deb.debian.org/debian trixie-updates main",
    "deb http://deb.debian.org/debian-security trixie-security main",
];
/// Keeps the kernel of the point release.
const KEEP_KERNEL: &str = r#"--customize-hook=for suite in trixie-updates trixie-security; do printf 'Package: linux-image-amd64\nPin: release n=%s\nPin-Priority: -1\n\n' $suite; done > "$1"/etc/apt/preferences.d/kernel"#;
/// Releases that fail, each by its own Containerfile.
const BAD_RELEASES: [(&str, &str); 3] =
    [("bad-check", "bad-check.Containerfile"), ("bad-boot", "bad-boot.Containerfile"), ("bad-hang", "bad-hang.Containerfile")];

/// The name of a release in the local storage.
pub(crate) fn release(version: &str) -> String {
    format!("localhost/lab:{version}")
}

/// `cargo xtask images`.
pub(crate) fn run(options: &LabOptions) -> Result<()> {
    let lab = Lab::open()?;
    let mut story = Story::new("The images of selkie");
    story.step("installing what is missing", |tell| packages::install_missing(&lab, tell))?;
    let programs = story.step("building selkie", |_| build::release(&lab))?;
    let images = Images::new(&lab)?;
    story.step("making the Debian base image", |tell| images.base(options.base.as_deref(), tell).map(drop))?;
    story.step("building the images", |tell| {
        images.selkie(options.base.as_deref(), &programs, tell)?;
        images.releases(registry::choose_port(&lab)?, tell)?;
        images.example_web(WEB, DEBIAN, tell)
    })?;
    story.step("looking for what is wrong with them", |tell| images.lint(&programs, &[DEBIAN, WEB], tell))?;
    story.table();
    Ok(())
}

/// Image builds of one clone.
#[derive(Debug, Clone)]
pub(crate) struct Images<'lab> {
    lab: &'lab Lab,
    storage: Storage,
}

impl<'lab> Images<'lab> {
    /// Image builds in the storage of `lab`.
    pub(crate) fn new(lab: &'lab Lab) -> Result<Self> {
        Ok(Self { lab, storage: Storage { dir: lab.subdir("containers")? } })
    }

    /// The Debian image to build on: `base`, or one made here by mmdebstrap and kept for the next time.
    pub(crate) fn base(&self, base: Option<&str>, tell: &Teller) -> Result<String> {
        if let Some(base) = base {
            tell.say(format!("building on {base}"));
            return Ok(base.to_owned());
        }
        if self.exists(OWN_BASE)? {
            tell.say(format!("{OWN_BASE} is there already"));
            return Ok(OWN_BASE.to_owned());
        }
        tell.say("mmdebstrap makes it from the Debian archive, so that no registry is needed (--base IMAGE takes another); that takes a minute or two, once");
        let tarball = self.lab.dir.join("debian-base.tar");
        mmdebstrap(&tarball, None).by_root().log(&self.lab.log("mmdebstrap"))?;
        self.import(&tarball, OWN_BASE)?;
        Ok(OWN_BASE.to_owned())
    }

    /// Builds the dist and debian images.
    pub(crate) fn selkie(&self, base: Option<&str>, programs: &build::Programs, tell: &Teller) -> Result<()> {
        let dist = build::dist_context(self.lab, programs)?;
        self.build(&Build::new(DIST, &dist), tell)?;
        let context = self.lab.file("containerfiles/debian");
        self.build(&Build::new(DEBIAN, &context).arg("BASE", base.unwrap_or(OWN_BASE)).arg("DIST", DIST), tell)
    }

    /// Builds the derived example on a base; the lab's own needs the guest agent in it.
    pub(crate) fn example_web(&self, tag: &str, base: &str, tell: &Teller) -> Result<()> {
        self.build(&Build::new(tag, &self.lab.file("containerfiles/example-web")).arg("BASE", base), tell)
    }

    /// Builds the lab's releases, whose machines reach a registry at `port` of this machine.
    pub(crate) fn releases(&self, port: u16, tell: &Teller) -> Result<()> {
        let context = self.lab.file("integration/images");
        let agent = Build::new(AGENT, &context).file("agent.Containerfile").arg("BASE", DEBIAN);
        self.build(&agent.arg("REGISTRY", &registry::guest_address(port)), tell)?;
        for version in RELEASES {
            let build = Build::new(&release(version), &context).file("release.Containerfile");
            self.build(&build.arg("BASE", AGENT).arg("VERSION", version), tell)?;
        }
        for (version, file) in BAD_RELEASES {
            self.build(&Build::new(&release(version), &context).file(file).arg("BASE", &release("v2")), tell)?;
        }
        Ok(())
    }

    /// Builds one of many small releases on top of v1.
    pub(crate) fn generation(&self, number: usize, tell: &Teller) -> Result<String> {
        let tag = release(&format!("g{number}"));
        let build = Build::new(&tag, &self.lab.file("integration/images")).file("generation.Containerfile");
        self.build(&build.arg("BASE", &release("v1")).arg("NUMBER", &number.to_string()), tell)?;
        Ok(tag)
    }

    /// Lets `selkie lint` look at local images; a warning is an error.
    pub(crate) fn lint(&self, programs: &build::Programs, images: &[&str], tell: &Teller) -> Result<()> {
        for image in images {
            tell.say(format!("linting {image}"));
            let scratch = self.lab.subdir("scratch")?;
            let argv = Argv::new([&programs.selkie]).with(["lint", "--fatal-warnings", "--progress", "none", "--scratch"]).with([&scratch]);
            let name = image.trim_start_matches("localhost/");
            argv.with([self.storage.reference(image)]).by_root().log(&self.lab.log(&format!("lint-{name}")))?;
        }
        Ok(())
    }

    /// Builds the versions of [`SERVER`], each on a base of its own; the kernel of v2s is that of v1. They stay as they are until they are removed.
    pub(crate) fn servers(&self, tell: &Teller) -> Result<()> {
        for (version, sources, keep_kernel) in [("v1", 1, false), ("v2", SOURCES.len(), false), ("v2s", SOURCES.len(), true)] {
            let server = format!("{SERVER}:{version}");
            if self.exists(&server)? {
                tell.say(format!("{server} is there already"));
                continue;
            }
            tell.say(format!("making {server} from the Debian archive; that takes minutes, once"));
            let (tarball, base) = (self.lab.dir.join(format!("bench-base-{version}.tar")), format!("{SERVER_BASE}:{version}"));
            let argv = mmdebstrap(&tarball, keep_kernel.then_some(KEEP_KERNEL)).with(&SOURCES[..sources]);
            argv.by_root().log(&self.lab.log(&format!("mmdebstrap-{version}")))?;
            self.import(&tarball, &base)?;
            let build = Build::new(&server, &self.lab.file("integration/images")).file("bench.Containerfile");
            self.build(&build.arg("BASE", &base), tell)?;
        }
        Ok(())
    }

    /// Builds the versions of [`SMALL_SERVER`].
    pub(crate) fn small_servers(&self, base: Option<&str>, tell: &Teller) -> Result<()> {
        for version in ["v1", "v2"] {
            let build =
                Build::new(&format!("{SMALL_SERVER}:{version}"), &self.lab.file("integration/images")).file("bench-small.Containerfile");
            self.build(&build.arg("BASE", base.unwrap_or(OWN_BASE)).arg("VERSION", version), tell)?;
        }
        Ok(())
    }

    /// Sees to an image with a current skopeo: the one of this machine may be too old to write what is read today. Where [`DEBIAN`] is not there, one is built on
    /// `base` or what [`SERVER`] is built on.
    pub(crate) fn skopeo(&self, base: Option<&str>, tell: &Teller) -> Result<()> {
        let image = self.with_skopeo()?;
        if image == DEBIAN {
            return Ok(());
        }
        let newest = format!("{SERVER_BASE}:v2");
        let build = Build::new(image, &self.lab.file("integration/images")).file("skopeo.Containerfile");
        self.build(&build.arg("BASE", base.unwrap_or(&newest)), tell)
    }

    /// The image that has it.
    fn with_skopeo(&self) -> Result<&'static str> {
        Ok(if self.exists(DEBIAN)? { DEBIAN } else { SKOPEO })
    }

    /// Runs the skopeo of [`Self::skopeo`] with these words, where it sees `dir` under the name that it has here.
    pub(crate) fn run_skopeo(&self, dir: &Path, words: &[&str]) -> Result<()> {
        let container = self.read(["from", self.with_skopeo()?])?;
        let volume = format!("{0}:{0}", dir.display());
        let run = self.storage.buildah(["run", "--isolation", "chroot", "--volume", &volume, &container, "--", "skopeo"]);
        let done = run.with(words).by_root().read().context("running skopeo in a container");
        self.read(["rm", &container])?;
        done.map(drop)
    }

    /// A local image, as every program names it.
    pub(crate) fn reference(&self, image: &str) -> String {
        self.storage.reference(image)
    }

    /// Pushes a local image to a registry on loopback.
    pub(crate) fn push(&self, image: &str, to: &str) -> Result<()> {
        let log = self.lab.log(&format!("push-{}", to.rsplit('/').next().unwrap_or(to).replace(':', "-")));
        self.storage.buildah(["push", "--quiet", "--tls-verify=false", image]).with([format!("docker://{to}")]).by_root().log(&log)
    }

    /// Copies the kernel out of an image, to probe virtual machines with.
    pub(crate) fn kernel(&self, image: &str) -> Result<PathBuf> {
        let kernel = self.lab.dir.join("vmlinuz");
        let container = self.read(["from", image])?;
        let root = self.read(["mount", &container])?;
        let script = r#"install -m 0644 "$1"/usr/lib/modules/*/vmlinuz "$2""#;
        let copied = Argv::new(["sh", "-euc", script, "sh", &root]).with([&kernel]).by_root().read();
        self.read(["rm", &container])?;
        copied.map(|_| kernel)
    }

    fn build(&self, build: &Build, tell: &Teller) -> Result<()> {
        tell.say(format!("building {}", build.tag));
        let name = build.tag.trim_start_matches("localhost/").replace([':', '/'], "-");
        build.argv(&self.storage).by_root().log(&self.lab.log(&format!("build-{name}")))
    }

    fn import(&self, tarball: &Path, tag: &str) -> Result<()> {
        let container = self.read(["from", "scratch"])?;
        self.storage.buildah(["add", "--quiet", &container]).with([tarball]).with(["/"]).by_root().read()?;
        self.read(["commit", "--quiet", "--rm", &container, tag]).map(drop)
    }

    fn exists(&self, image: &str) -> Result<bool> {
        let names = self.read(["images", "--format", "{{.Name}}:{{.Tag}}", "--noheading"])?;
        Ok(names.lines().any(|name| name == image || name.strip_suffix(":latest") == Some(image)))
    }

    fn read<const N: usize>(&self, words: [&str; N]) -> Result<String> {
        let answer = self.storage.buildah(words).by_root().read().context("asking buildah")?;
        Ok(answer.trim().to_owned())
    }
}

/// buildah's storage.
#[derive(Debug, Clone)]
struct Storage {
    dir: PathBuf,
}

impl Storage {
    /// An image of this storage, as every program names it.
    fn reference(&self, image: &str) -> String {
        format!("containers-storage:[overlay@{}+{}]{image}", self.dir.join("root").display(), self.dir.join("run").display())
    }

    /// buildah on this storage. The overlay driver needs root, which `vfs` would too; it does not copy a tree per layer.
    fn buildah<const N: usize>(&self, words: [&str; N]) -> Argv {
        let (root, run) = (self.dir.join("root"), self.dir.join("run"));
        Argv::new(["buildah", "--root"]).with([root]).with(["--runroot"]).with([run]).with(["--storage-driver", "overlay"]).with(words)
    }
}

/// One `buildah build`.
#[derive(Debug, Clone)]
struct Build {
    tag: String,
    context: PathBuf,
    file: &'static str,
    args: Vec<String>,
}

impl Build {
    fn new(tag: &str, context: &Path) -> Self {
        Self { tag: tag.to_owned(), context: context.to_owned(), file: "Containerfile", args: Vec::new() }
    }

    fn file(mut self, file: &'static str) -> Self {
        self.file = file;
        self
    }

    fn arg(mut self, name: &str, value: &str) -> Self {
        self.args.push(format!("{name}={value}"));
        self
    }

    /// No container runtime (chroot), no network name space, one cached layer per instruction.
    fn argv(&self, storage: &Storage) -> Argv {
        let args = self.args.iter().flat_map(|arg| ["--build-arg", arg]);
        storage
            .buildah(["build", "--isolation", "chroot", "--network", "host", "--layers", "--format", "oci"])
            .with(args)
            .with(["--tag", &self.tag, "--file"])
            .with([self.context.join(self.file), self.context.clone()])
    }
}

/// The base: packages marked essential, and nothing of this machine (mmdebstrap copies its host name and resolver). Without sources as further words,
/// it has the updates of today.
fn mmdebstrap(tarball: &Path, more: Option<&str>) -> Argv {
    let hook = r#"--customize-hook=rm -f "$1"/etc/hostname "$1"/etc/resolv.conf"#;
    Argv::new(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", hook]).with(more).with(["trixie"]).with([tarball])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_says_all_that_it_depends_on() {
        let build = Build::new("localhost/x:v1", Path::new("/c")).file("release.Containerfile").arg("BASE", "b").arg("VERSION", "v1");
        let expected = "buildah --root /s/root --runroot /s/run --storage-driver overlay build --isolation chroot --network host --layers \
                        --format oci --build-arg BASE=b --build-arg VERSION=v1 --tag localhost/x:v1 --file /c/release.Containerfile /c";
        assert_eq!(build.argv(&Storage { dir: PathBuf::from("/s") }).to_string(), expected);
    }
}
