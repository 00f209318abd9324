//! The words of `cargo xtask`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows and tests selkie on real images and virtual machines.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Tell the whole story: Containerfile, registry, disk image, boot, upgrade, rollback
    Demo(DemoOptions),
    /// Run all tests, or some of them
    Test(TestOptions),
    /// Build the images of containerfiles/ and of the lab
    Images(LabOptions),
    /// Boot a copy of a disk image that has the guest agent, and run commands in it
    Vm(VmOptions),
    /// Measure pulls and updates beside composefs-ctl, podman, skopeo and tar
    Bench(BenchOptions),
    /// Search for bytes that one of selkie's readers does not bear (needs a minute or more a target)
    Fuzz(FuzzOptions),
    /// Install the Debian packages that the other verbs need
    Packages,
}

/// What every verb that builds images or starts machines takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct LabOptions {
    /// The Debian image to build on; without it, one is made with mmdebstrap, which needs no registry
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Option<String>,
    /// How virtual machines run
    #[arg(long, value_enum, default_value_t = AccelChoice::Auto)]
    pub(crate) accel: AccelChoice,
    /// Keep machines' disks, logs and the registry's content
    #[arg(long)]
    pub(crate) keep: bool,
}

/// The arguments of `demo`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoOptions {
    #[command(flatten)]
    pub(crate) lab: LabOptions,
}

/// The arguments of `test`.
#[derive(Debug, Clone, Args)]
pub(crate) struct TestOptions {
    /// Which tests to run
    #[arg(value_enum, default_value_t = Suite::All)]
    pub(crate) suite: Suite,
    /// Run only this scenario (implies `vm`); may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) scenario: Vec<String>,
    #[command(flatten)]
    pub(crate) lab: LabOptions,
}

/// The arguments of `vm`.
#[derive(Debug, Clone, Args)]
pub(crate) struct VmOptions {
    /// The disk image; the machine gets a copy
    pub(crate) disk: PathBuf,
    /// Shell commands, each run as root to its end; `reboot` and `power-cut` are done by the lab
    pub(crate) command: Vec<String>,
    /// How long a command may take; one that takes longer is an error
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) limit: u64,
    /// Emulate, or run on the hardware
    #[arg(long, value_enum, default_value_t = AccelChoice::Tcg)]
    pub(crate) accel: AccelChoice,
}

/// The arguments of `bench`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchOptions {
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) runs: usize,
    /// Write the result to docs/benchmarks.md
    #[arg(long)]
    pub(crate) write: bool,
    /// Measure a small pair of images that is made in seconds: shows that measuring works, and little more
    #[arg(long)]
    pub(crate) small: bool,
    /// Use the layouts of the last run instead of making them anew; deltas that are not among them are made
    #[arg(long, conflicts_with = "small")]
    pub(crate) reuse: bool,
    /// Measure the release programs as they lie there
    #[arg(long)]
    pub(crate) no_build: bool,
    /// Let contestants write below this directory, and remove what they wrote at once; on a tmpfs, the disk is not in the figures
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Measure only contests whose title has this in it
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// The Debian image that the small pair is built on; without it, one is made with mmdebstrap, which needs no registry
    #[arg(long, value_name = "IMAGE", requires = "small")]
    pub(crate) base: Option<String>,
}

/// The arguments of `fuzz`.
#[derive(Debug, Clone, Args)]
pub(crate) struct FuzzOptions {
    /// Search only with these targets; all of them, without any
    pub(crate) target: Vec<String>,
    /// How long each target searches
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) seconds: u64,
}

/// Which tests to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Format, lints, unit and integration tests: no images, no virtual machines
    Unit,
    /// Images and the scenarios in virtual machines
    Vm,
    /// Both
    All,
}

/// How virtual machines run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccelChoice {
    /// Hardware virtualisation where a test guest really starts with it, else emulation
    Auto,
    /// Hardware virtualisation, or fail
    Kvm,
    /// Emulation
    Tcg,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn test_without_words_is_everything() {
        let Verb::Test(options) = Cli::parse_from(["cargo xtask", "test"]).verb else { panic!("not a test") };
        assert_eq!((options.suite, options.scenario.len(), options.lab.accel), (Suite::All, 0, AccelChoice::Auto));
    }
}
