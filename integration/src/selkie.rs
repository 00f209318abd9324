//! selkie as its users run it: the command line on this machine and in guests, and what its JSON says.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{build::Programs, command::Argv, vm::Machine};

/// A directory of user `nobody`, with a copy of selkie next to it: a clone below a private home would be out of reach.
#[derive(Debug)]
pub(crate) struct Nobody {
    dir: PathBuf,
}

impl Nobody {
    /// Makes the directory.
    pub(crate) fn new(programs: &Programs) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("selkie-nobody-").tempdir().context("making a directory for nobody")?.keep();
        let nobody = Self { dir };
        fs::set_permissions(&nobody.dir, fs::Permissions::from_mode(0o755)).context("opening the directory for nobody")?;
        Argv::new(["install", "-m", "0755"]).with([&programs.selkie, &nobody.selkie()]).read()?;
        Argv::new(["install", "-d", "-o", "65534", "-g", "65534"]).with([nobody.home()]).by_root().read()?;
        Ok(nobody)
    }

    /// selkie, run by nobody in a directory of nobody's.
    pub(crate) fn argv(&self, words: &[&str]) -> Argv {
        let home = self.home().display().to_string();
        // podman makes /run/containers for root alone, and skopeo would look there for credentials.
        let runtime = format!("XDG_RUNTIME_DIR={home}");
        let env = [format!("--chdir={home}"), format!("HOME={home}"), format!("TMPDIR={home}"), runtime];
        Argv::new(["env"]).with(env).with([self.selkie()]).with(words).by_nobody()
    }

    /// A file of nobody's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home().join(name)
    }

    fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    fn selkie(&self) -> PathBuf {
        self.dir.join("selkie")
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        let _ = Argv::new(["rm", "-rf"]).with([&self.dir]).by_root().read();
    }
}

/// `selkie disk` for the lab: an image from the registry on loopback, for a machine that follows `target`.
pub(crate) fn disk(nobody: &Nobody, image: &str, target: &str, output: &Path) -> Argv {
    let output = output.display().to_string();
    let words = ["disk", image, "--tls-verify=false", "--output", &output, "--target-image", target];
    nobody.argv(&words).with(kargs())
}

/// Kernel arguments of the lab's machines: errors and systemd's status lines; more would cost seconds on an emulated serial line. Emulated on a machine that has
/// other things to do, it takes minutes until udev has found the disk, and by default systemd gives up after one and a half.
pub(crate) fn kargs() -> impl Iterator<Item = &'static str> {
    ["console=ttyS0", "quiet", "systemd.show_status=1", "systemd.default_device_timeout_sec=600"]
        .into_iter()
        .flat_map(|karg| ["--karg", karg])
}

/// `selkie status --json` of a guest.
#[derive(Debug, Clone)]
pub(crate) struct Status(Value);

impl Status {
    /// Asks the guest.
    pub(crate) fn of(machine: &mut Machine) -> Result<Self> {
        machine.json(&["selkie", "status", "--json"]).map(Self)
    }

    /// A value, by JSON pointer (RFC 6901).
    pub(crate) fn get(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A text, by JSON pointer.
    pub(crate) fn text(&self, pointer: &str) -> Result<&str> {
        self.get(pointer).as_str().with_context(|| format!("reading {pointer} of selkie status: no text in {}", self.0))
    }

    /// The id of the booted image.
    pub(crate) fn booted(&self) -> Result<&str> {
        self.text("/booted/id")
    }

    /// Fails unless exactly these of booted, staged and rollback are there, each with the release that the image's label names.
    /// `rollback` is where `selkie rollback` would go: while something is staged, that is the booted one.
    pub(crate) fn expect(&self, booted: &str, staged: Option<&str>, rollback: Option<&str>) -> Result<()> {
        for (slot, expected) in [("booted", Some(booted)), ("staged", staged), ("rollback", rollback)] {
            let found = self.get(&format!("/{slot}/os-version")).as_str();
            if found != expected {
                bail!("checking selkie status: {slot} is {found:?} (expected {expected:?})\n{:#}", self.0);
            }
        }
        Ok(())
    }
}
