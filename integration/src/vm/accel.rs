//! Whether guests run on the hardware: found out by starting one, because `/dev/kvm` may exist and not work.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{cli::AccelChoice, command::Argv, lab::Lab};

/// The processor that is emulated: one that has all that QEMU can do, except
///
/// - CMPXCHG16B, which QEMU 7.2 emulates wrongly: guests die early in the kernel's allocator, now and then. Without it they use a lock;
/// - what is fast on hardware and slow here, a sixth of a boot in all: string instructions that promise to be fast byte by byte (ERMS, FSRM), vectors (AVX), a
///   fifth level of page tables, and checks at each access to a program's memory (SMAP, PKU).
const EMULATED: &str = "max,-cx16,-erms,-fsrm,-avx,-avx2,-la57,-smap,-pku";

/// How guests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    /// On the hardware.
    Kvm,
    /// Emulated.
    Tcg,
}

impl Accel {
    /// Decides, with a kernel to probe with.
    pub(crate) fn choose(lab: &Lab, choice: AccelChoice, kernel: &Path) -> Result<Self> {
        match choice {
            AccelChoice::Tcg => Ok(Self::Tcg),
            AccelChoice::Auto => Ok(if kvm_works(lab, kernel)? { Self::Kvm } else { Self::Tcg }),
            AccelChoice::Kvm if kvm_works(lab, kernel)? => Ok(Self::Kvm),
            AccelChoice::Kvm => bail!("probing KVM: a guest did not start; see {}", lab.log("probe-kvm").display()),
        }
    }

    /// The words that QEMU takes.
    pub(crate) fn words(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", EMULATED],
        }
    }

    /// How much longer things may take than on hardware.
    pub(crate) fn patience(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 5,
        }
    }
}

impl std::fmt::Display for Accel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "hardware virtualisation",
            Self::Tcg => "emulation (KVM is missing, or no guest starts with it)",
        })
    }
}

/// Starts the kernel without a root file system. Getting as far as missing it is success; that takes a second or two.
fn kvm_works(lab: &Lab, kernel: &Path) -> Result<bool> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(false);
    }
    let serial = lab.dir.join("probe-serial.log");
    fs::write(&serial, "").with_context(|| format!("writing {}", serial.display()))?;
    let argv = Argv::new(["qemu-system-x86_64", "-machine", "q35", "-m", "512", "-display", "none", "-nodefaults", "-no-reboot"])
        .with(Accel::Kvm.words())
        .with(["-append", "console=ttyS0 panic=-1", "-kernel"])
        .with([kernel])
        .with(["-serial".to_owned(), format!("file:{}", serial.display())])
        .dying_with_us();
    let log = fs::File::create(lab.log("probe-kvm")).context("creating the probe's log")?;
    let mut child = argv.command().stderr(log).spawn().with_context(|| format!("starting {argv}"))?;
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut works = false;
    while !works && Instant::now() < deadline {
        let ended = child.try_wait().context("looking at the probe")?.is_some();
        works = String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).contains("Unable to mount root");
        if ended {
            break;
        }
        sleep(Duration::from_millis(100));
    }
    let _ = child.kill();
    let _ = child.wait();
    Ok(works)
}
