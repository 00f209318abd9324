//! What a machine boots with, found in the tree of an image.

use anyhow::{Context, Result};

use super::tree::{File, NodeKind, Tree};
use super::unsuitable;
use crate::os_release::OsRelease;

/// Where an image keeps its kernels, each in a directory of its version.
const MODULES: &str = "/usr/lib/modules";
/// Where Debian and Fedora keep the boot loader that gets copied to the ESP.
const LOADERS: &str = "/usr/lib/systemd/boot/efi";

/// The kernel of an image with its initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its version, as `uname -r` says.
    pub version: String,
    /// The kernel.
    pub kernel: File,
    /// The initramfs.
    pub initrd: File,
}

/// The kernel of the image: exactly one `/usr/lib/modules/VERSION/vmlinuz`, with `initramfs.img` beside it.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where `/usr`, the kernel or the initramfs is missing, or
/// where there are two kernels.
pub fn kernel(tree: &Tree) -> Result<Kernel> {
    if !matches!(tree.get("/usr")?.map(|node| node.kind), Some(NodeKind::Directory)) {
        return Err(unsuitable("finding the kernel: the image has no /usr")
            .hint("the image must be an operating system: begin its Containerfile with a base image of one")
            .into());
    }
    let mut kernels = Vec::new();
    for (name, _) in tree.children(MODULES)? {
        let Some(version) = name.to_str() else { continue };
        if let Some(kernel) = tree.file(format!("{MODULES}/{version}/vmlinuz"))? {
            kernels.push((version.to_owned(), kernel));
        }
    }
    let (version, kernel) = match (kernels.pop(), kernels.is_empty()) {
        (Some(only), true) => only,
        (Some((last, _)), false) => return Err(too_many(kernels.into_iter().map(|(version, _)| version).chain([last])).into()),
        (None, _) => {
            return Err(unsuitable(format!("finding the kernel: the image has no {MODULES}/VERSION/vmlinuz"))
                .hint("install a kernel in the image; where the package puts it into /boot, copy it to /usr/lib/modules/VERSION/vmlinuz")
                .into());
        }
    };
    let initrd = tree.file(format!("{MODULES}/{version}/initramfs.img"))?.ok_or_else(|| {
        unsuitable(format!("finding the initramfs: the image has no {MODULES}/{version}/initramfs.img"))
            .hint(format!("run `dracut --force {MODULES}/{version}/initramfs.img {version}` in the Containerfile, after the kernel"))
    })?;
    Ok(Kernel { version, kernel, initrd })
}

fn too_many(versions: impl Iterator<Item = String>) -> crate::error::Failure {
    let versions: Vec<_> = versions.collect();
    unsuitable(format!("finding the kernel: the image has {} kernels: {} (expected one)", versions.len(), versions.join(", ")))
        .hint("remove all but one of them in the Containerfile, with their packages")
}

/// What the image says that it is: `/etc/os-release`, else `/usr/lib/os-release`, else nothing.
pub fn os_release(tree: &Tree) -> Result<OsRelease> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(file) = tree.file(path)? {
            let bytes = tree.read(&file).with_context(|| format!("reading {path}"))?;
            return Ok(OsRelease::parse(&String::from_utf8_lossy(&bytes)));
        }
    }
    Ok(OsRelease::default())
}

/// A boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// The EFI binary.
    pub file: File,
    /// The architecture as UEFI file names have it: `x64`, `aa64`…
    pub architecture: String,
}

/// The systemd-boot of the image for `architecture`, as OCI names it; the signed one where there is one.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where there is none.
pub fn systemd_boot(tree: &Tree, architecture: &str) -> Result<Loader> {
    let architecture = efi_architecture(architecture);
    let name = format!("systemd-boot{architecture}.efi");
    for suffix in [".signed", ""] {
        if let Some(file) = tree.file(format!("{LOADERS}/{name}{suffix}"))? {
            return Ok(Loader { file, architecture: architecture.to_owned() });
        }
    }
    Err(unsuitable(format!("finding the boot loader: the image has no {LOADERS}/{name}"))
        .hint("install systemd-boot-efi (Debian) or systemd-boot-unsigned (Fedora) in the image")
        .into())
}

/// The name that UEFI files have for an architecture of OCI.
fn efi_architecture(oci: &str) -> &str {
    match oci {
        "amd64" => "x64",
        "arm64" => "aa64",
        "386" => "ia32",
        "loong64" => "loongarch64",
        other => other,
    }
}
