//! Building selkie with cargo.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{command::Argv, lab::Lab};

/// Features that build what selkie is compared with and looked at with. All of cargo's tests are built with them, so that nothing is compiled twice.
pub(crate) const TOOLS: &str = "selkie-integration/cfsctl,selkie-integration/floor,selkie-integration/machine";

/// The programs that go into images and run on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The command.
    pub(crate) selkie: PathBuf,
    /// What the initramfs runs.
    pub(crate) initramfs: PathBuf,
}

/// Builds the release programs.
pub(crate) fn release(lab: &Lab) -> Result<Programs> {
    cargo(lab, ["build", "--release", "--package", "selkie-cli"]).show()?;
    let target = lab.file("target/release");
    Ok(Programs { selkie: target.join("selkie"), initramfs: target.join("selkie-initramfs") })
}

/// Builds what looks at disks that power cuts left, with the features of the tests, which are built already; see `src/bin/machine.rs`.
pub(crate) fn machine(lab: &Lab) -> Result<PathBuf> {
    cargo(lab, ["build", "--quiet", "--workspace", "--features", TOOLS, "--bin", "machine"]).show()?;
    Ok(lab.file("target/debug/machine"))
}

/// What selkie is measured beside, and the machine that it is measured on.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    /// composefs-ctl.
    pub(crate) cfsctl: PathBuf,
    /// What a pull cannot leave out.
    pub(crate) floor: PathBuf,
    /// The machine made of directories.
    pub(crate) host: PathBuf,
}

impl Peers {
    /// Those that were built into a directory.
    pub(crate) fn below(target: &Path) -> Self {
        Self { cfsctl: target.join("cfsctl"), floor: target.join("floor"), host: target.join("host") }
    }
}

/// Builds what selkie is measured beside as it would be shipped. Each by itself, so that none has what only another asks of a crate.
pub(crate) fn release_peers(lab: &Lab) -> Result<Peers> {
    for (program, features) in [("cfsctl", "cfsctl"), ("floor", "floor"), ("host", "machine")] {
        cargo(lab, ["build", "--release", "--package", "selkie-integration", "--bin", program, "--features", features]).show()?;
    }
    Ok(Peers::below(&lab.file("target/release")))
}

/// The same as the tests have it, which is built already.
pub(crate) fn debug_peers(lab: &Lab) -> Result<Peers> {
    cargo(lab, ["build", "--quiet", "--workspace", "--features", TOOLS]).show()?;
    Ok(Peers::below(&lab.file("target/debug")))
}

/// Makes the build context of `containerfiles/dist`: its files, and the programs next to them.
pub(crate) fn dist_context(lab: &Lab, programs: &Programs) -> Result<PathBuf> {
    let context = lab.fresh_subdir("dist-context")?;
    Argv::new(["cp", "-a"]).with([lab.file("containerfiles/dist").join("."), context.clone()]).read()?;
    for program in [&programs.selkie, &programs.initramfs] {
        let name = program.file_name().context("naming a program")?;
        fs::copy(program, context.join(name)).with_context(|| format!("copying {}", program.display()))?;
    }
    Ok(context)
}

/// Cargo in the clone, without the variables that `cargo run` set for this program.
pub(crate) fn cargo<const N: usize>(lab: &Lab, words: [&str; N]) -> Argv {
    let unset = ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"];
    let env = unset.iter().flat_map(|name| ["--unset", name]);
    Argv::new(["env"]).with(env).with(["--chdir"]).with([&lab.source]).with(["cargo"]).with(words)
}
