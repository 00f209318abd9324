//! The Debian packages that building selkie and running the lab need; installs those that are missing.

use anyhow::{Context, Result, bail};

use crate::{
    command::{Argv, is_root},
    lab::Lab,
    story::Teller,
};

/// What is needed, and for what.
const NEEDED: &[(&str, &str)] = &[
    ("libc6-dev", "linking"),
    ("gcc", "linking, and C in crates"),
    ("g++", "libFuzzer, for cargo xtask fuzz"),
    ("pkg-config", "finding OpenSSL when building selkie"),
    ("libssl-dev", "selkie's hashes"),
    ("e2fsprogs", "mke2fs, debugfs, e2fsck: disk images and their checks"),
    ("fdisk", "sfdisk: looking at disk images"),
    ("gdisk", "sgdisk -v: checking partition tables"),
    ("dosfstools", "fsck.vfat: checking EFI system partitions"),
    ("mtools", "reading EFI system partitions without mounting"),
    ("fsverity", "a second opinion on fs-verity digests"),
    ("efitools", "lists of Secure Boot keys"),
    ("openssl", "keys and certificates"),
    ("util-linux", "setpriv: selkie disk as nobody"),
    ("mmdebstrap", "the Debian base image, without a registry"),
    ("gpg", "mmdebstrap's look at the keys of the archive"),
    ("debian-archive-keyring", "keys of the Debian archive"),
    ("ca-certificates", "TLS"),
    ("buildah", "building images"),
    ("podman", "another builder: its images have the same digests"),
    ("skopeo", "selkie's way to registries"),
    ("docker-registry", "a registry on the loopback interface"),
    ("qemu-system-x86", "virtual machines"),
    ("qemu-utils", "qemu-img: disk images in QEMU's format"),
    ("ovmf", "UEFI firmware for them"),
    ("systemd-boot-efi", "a stub and a boot loader: what is signed in tests"),
    ("binutils", "objdump: a second opinion on EFI binaries"),
    ("time", "what commands cost, for benchmarks"),
    ("zstd", "reading layers that selkie wrote; tar beside it, for benchmarks"),
    ("sbsigntool", "signing for Secure Boot"),
    ("rpm", "a database of packages as rpm writes it"),
    ("softhsm2", "a token in software: signing with PKCS#11"),
    ("libengine-pkcs11-openssl", "the way to tokens"),
];

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    install_missing(&Lab::open()?, &Teller::default())
}

/// Installs what is missing, and says so first. Packages from another archive than the machine's own can stand in the way of a new one, and
/// apt takes them away: what is missing then comes in the next round.
pub(crate) fn install_missing(lab: &Lab, tell: &Teller) -> Result<()> {
    const ROUNDS: usize = 3;
    for round in 0..ROUNDS {
        let query = Argv::new(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"]);
        let installed = query.read().context("asking dpkg which packages are installed (this needs Debian)")?;
        let missing = missing(&installed);
        if missing.is_empty() {
            tell.say("every package is there");
            return Ok(());
        }
        let how = if is_root() { "apt-get, as root" } else { "sudo apt-get" };
        tell.say(format!("installing with {how}:"));
        for (name, reason) in &missing {
            tell.say(format!("  {name:23} {reason}"));
        }
        if round == 0 {
            apt(["update"]).log(&lab.log("apt-update"))?;
        }
        apt(["install", "--yes", "--no-install-recommends"])
            .with(missing.iter().map(|(name, _)| name))
            .log(&lab.log(&format!("apt-install-{round}")))?;
    }
    bail!("installing packages: some are missing after {ROUNDS} rounds (expected each to stay; see the logs in {})", lab.log("").display())
}

fn apt<const N: usize>(words: [&str; N]) -> Argv {
    Argv::new(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]).with(words).by_root()
}

/// The needed packages that a `dpkg-query` listing does not show as installed.
fn missing(listing: &str) -> Vec<(&'static str, &'static str)> {
    let installed: Vec<_> = listing.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    NEEDED.iter().filter(|(name, _)| !installed.contains(name)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_packages_are_missing() {
        let all: String = NEEDED.iter().map(|(name, _)| format!("installed {name}\n")).collect();
        assert_eq!(missing(&all), []);
        let one = all.replace("installed skopeo\n", "config-files skopeo\n");
        assert_eq!(missing(&one), [("skopeo", "selkie's way to registries")]);
    }
}
